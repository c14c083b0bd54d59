//! The two messages of `runtime.v1.RuntimeService/ExecSync`, the container runtime's way to run a command. No I/O.
//!
//! The answer is read as it comes, up to the runtime's 16 MiB, and as much of it kept as an output may have.

use crate::protobuf::{push_bytes, push_varint, varint};

/// What is kept of standard output and standard error together (kubelet: `maxReadLength`).
const OUTPUT_BYTES: usize = 10 << 10;

/// Longest start of a field: two numbers.
const HEAD_BYTES: usize = 20;

/// An `ExecSyncRequest`.
pub(crate) fn request(container: &str, command: &[String], timeout_seconds: u64) -> Vec<u8> {
    let mut message = Vec::new();
    push_bytes(&mut message, 1, container.as_bytes());
    for word in command {
        push_bytes(&mut message, 2, word.as_bytes());
    }
    // Field 3, a number.
    message.push(3 << 3);
    push_varint(&mut message, timeout_seconds);
    message
}

/// An `ExecSyncResponse` that is coming in.
#[derive(Debug, Default)]
pub(crate) struct Response {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    exit_code: i32,
    /// The start of a field, as far as it is here.
    head: Vec<u8>,
    /// The field whose bytes are coming, and how many are to come.
    field: u64,
    left: u64,
    broken: bool,
}

impl Response {
    /// Reads on.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.broken {
            let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            if here > 0 {
                let (of_field, rest) = bytes.split_at(here);
                self.keep(of_field);
                self.left -= here as u64;
                bytes = rest;
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            match head(&self.head) {
                Some((tag, value)) => {
                    self.head.clear();
                    self.start(tag >> 3, tag & 7, value);
                }
                None => self.broken = self.head.len() >= HEAD_BYTES,
            }
        }
    }

    fn start(&mut self, field: u64, wire_type: u64, value: u64) {
        match wire_type {
            0 if field == 3 => {
                let [a, b, c, d, ..] = value.to_le_bytes();
                self.exit_code = i32::from_le_bytes([a, b, c, d]);
            }
            0 => {}
            1 | 2 | 5 => {
                (self.field, self.left) = (field, value);
                // Of a field that comes again the last one counts.
                if let Some(kept) = self.kept() {
                    kept.clear();
                }
            }
            _ => self.broken = true,
        }
    }

    fn kept(&mut self) -> Option<&mut Vec<u8>> {
        match self.field {
            1 => Some(&mut self.stdout),
            2 => Some(&mut self.stderr),
            _ => None,
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(kept) = self.kept() {
            let room = OUTPUT_BYTES - kept.len();
            kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// Exit code and output, standard error behind standard output; none if it is no message.
    pub(crate) fn finish(mut self) -> Option<(i32, Vec<u8>)> {
        if self.broken || self.left > 0 || !self.head.is_empty() {
            return None;
        }
        self.stdout.append(&mut self.stderr);
        self.stdout.truncate(OUTPUT_BYTES);
        Some((self.exit_code, self.stdout))
    }
}

/// A field's tag, and its number or how many bytes follow; none if more is to come or if it is none.
fn head(mut bytes: &[u8]) -> Option<(u64, u64)> {
    let tag = varint(&mut bytes)?;
    let value = match tag & 7 {
        0 | 2 => varint(&mut bytes)?,
        1 => 8,
        5 => 4,
        _ => 0,
    };
    Some((tag, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_container_command_and_timeout() {
        let command = ["ls".to_owned(), String::new()];
        assert_eq!(request("ab", &command, 300), *b"\x0a\x02ab\x12\x02ls\x12\x00\x18\xac\x02");
    }

    #[test]
    fn answers_are_the_same_in_whatever_pieces_they_come() {
        let other_fields = [0x22, 1, 9, 0x2d, 0, 0, 0, 0, 0x31, 0, 0, 0, 0, 0, 0, 0, 0, 0x38, 1];
        let minus_one = [0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        for (message, expected) in [
            (vec![], Some((0, ""))),
            (b"\x0a\x02ab\x12\x01c\x18\x03".to_vec(), Some((3, "abc"))),
            (b"\x18\x03\x12\x01c\x0a\x02ab".to_vec(), Some((3, "abc"))),
            (b"\x0a\x02ab\x0a\x01d".to_vec(), Some((0, "d"))),
            ([&b"\x0a\x01a"[..], &other_fields, &minus_one].concat(), Some((-1, "a"))),
            (b"\x0a".to_vec(), None),
            (b"\x0a\x02a".to_vec(), None),
            (b"\x0b".to_vec(), None),
            (vec![0xff; 30], None),
        ] {
            for size in [1, 2, 1000] {
                let mut response = Response::default();
                message.chunks(size).for_each(|piece| response.take(piece));
                let expected = expected.map(|(code, text)| (code, text.as_bytes().to_vec()));
                assert_eq!(response.finish(), expected, "{message:?} by {size}");
            }
        }
    }

    #[test]
    fn no_more_is_kept_than_an_output_may_have() {
        let mut message = Vec::new();
        push_bytes(&mut message, 1, &[b'a'; OUTPUT_BYTES - 1]);
        push_bytes(&mut message, 2, &[b'b'; 1 << 20]);
        let mut response = Response::default();
        message.chunks(16 << 10).for_each(|piece| response.take(piece));
        assert!(response.stderr.len() <= OUTPUT_BYTES);
        let (_, output) = response.finish().expect("a message");
        assert_eq!((output.len(), &output[OUTPUT_BYTES - 2..]), (OUTPUT_BYTES, &b"ab"[..]));
    }
}
