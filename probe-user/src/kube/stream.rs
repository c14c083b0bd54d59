//! Lines of a watch's response, read with a bound: a line beyond it is skipped and reported, and the stream goes on.

use futures::io::{AsyncBufRead, AsyncBufReadExt as _};
use std::io;

/// Longest line that is read. etcd refuses objects beyond 1.5 MiB; their JSON may be a little longer.
pub const LINE_MAX: usize = 8 << 20;

/// What came next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A whole line is in the buffer.
    Whole,
    /// A line beyond the bound was skipped.
    TooLong,
    /// The stream ended.
    End,
}

/// Reads the next line into `line`, without its end. A stream that ends within a line is an error: it was cut. Not
/// cancel-safe on its own; `line` keeps what was read, so dropping the future loses nothing only if the stream is dropped
/// too.
pub async fn next_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    max: usize,
) -> io::Result<Line> {
    line.clear();
    let mut too_long = false;
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            let within = too_long || !line.is_empty();
            return if within { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Line::End) };
        }
        let newline = available.iter().position(|byte| *byte == b'\n');
        let part = available.get(..newline.unwrap_or(available.len())).unwrap_or_default();
        if line.len() + part.len() > max {
            too_long = true;
            line.clear();
            line.shrink_to_fit();
        }
        if !too_long {
            line.extend_from_slice(part);
        }
        let used = part.len() + usize::from(newline.is_some());
        reader.consume_unpin(used);
        if newline.is_some() {
            return Ok(if too_long { Line::TooLong } else { Line::Whole });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_a_cut_one_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let input = b"one\n\ntoo long a line\ntwo\ncut";
            for chunk in [1, 3, 100] {
                let mut reader =
                    futures::io::BufReader::with_capacity(chunk, futures::io::Cursor::new(input));
                let mut line = Vec::new();
                let mut seen = Vec::new();
                let error = loop {
                    match next_line(&mut reader, &mut line, 5).await {
                        Ok(what) => seen.push((what, String::from_utf8_lossy(&line).into_owned())),
                        Err(error) => break error,
                    }
                };
                let whole = |text: &str| (Line::Whole, text.to_owned());
                assert_eq!(seen, [whole("one"), whole(""), (Line::TooLong, String::new()), whole("two")]);
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            }
            let mut empty = futures::io::Cursor::new(b"");
            assert_eq!(next_line(&mut empty, &mut Vec::new(), 5).await.expect("no error"), Line::End);
        });
    }
}
