//! The socket below a connection of HTTP/2. It notes which streams have gone out and how the connection ended: h2 says neither.
//!
//! What passes through is not changed. Only heads of frames on their way out are looked at.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::attempt::ErrorKind;

/// What a client of HTTP/2 begins with (RFC 9113 3.4), and the head of each frame (4.1).
const PREFACE: usize = 24;
const HEAD: usize = 9;
/// The frame that opens a stream.
const HEADERS: u8 = 1;

/// What has been noted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Noted {
    /// The last stream that was opened: a later one has not left this machine. Streams are opened in order.
    pub(super) opened: u32,
    /// How the connection ended, and the system call's error.
    pub(super) end: Option<(ErrorKind, Option<i32>)>,
}

/// A connected socket and what is noted of it.
#[derive(Debug)]
pub(super) struct Wire {
    socket: TcpStream,
    frames: Frames,
    noted: watch::Sender<Noted>,
}

impl Wire {
    /// Nothing has been sent yet.
    pub(super) fn new(socket: TcpStream) -> (Self, watch::Receiver<Noted>) {
        let (noted, reader) = watch::channel(Noted::default());
        (Self { socket, frames: Frames::new(), noted }, reader)
    }

    /// The first end is the one that counts.
    fn ended(&self, kind: ErrorKind, errno: Option<i32>) {
        self.noted.send_modify(|noted| noted.end = noted.end.or(Some((kind, errno))));
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.socket).poll_read(context, buffer));
        match &result {
            Ok(()) if buffer.filled().len() == before => self.ended(ErrorKind::Eof, None),
            Ok(()) => {}
            Err(error) => self.ended(ErrorKind::Reset, error.raw_os_error()),
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.socket).poll_write(context, bytes));
        match &result {
            Ok(count) => {
                if let Some(stream) = self.frames.pass(bytes.get(..*count).unwrap_or_default()) {
                    self.noted.send_modify(|noted| noted.opened = stream);
                }
            }
            Err(error) => {
                let is_reset = error.kind() == io::ErrorKind::ConnectionReset;
                let kind = if is_reset { ErrorKind::Reset } else { ErrorKind::SendError };
                self.ended(kind, error.raw_os_error());
            }
        }
        Poll::Ready(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// A walk over the frames that go out, in whatever pieces.
#[derive(Debug)]
struct Frames {
    /// Bytes up to the next head.
    skip: usize,
    head: [u8; HEAD],
    /// Bytes of the head so far.
    length: usize,
}

impl Frames {
    fn new() -> Self {
        Self { skip: PREFACE, head: [0; HEAD], length: 0 }
    }

    /// The last stream that these bytes open.
    fn pass(&mut self, mut bytes: &[u8]) -> Option<u32> {
        let mut opened = None;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let [byte, rest @ ..] = bytes else { return opened };
            if let Some(place) = self.head.get_mut(self.length) {
                *place = *byte;
            }
            self.length += 1;
            bytes = rest;
            if self.length == HEAD {
                let [high, middle, low, kind, _flags, stream @ ..] = self.head;
                self.length = 0;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                if kind == HEADERS {
                    opened = Some(u32::from_be_bytes(stream) & 0x7fff_ffff);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u8, length: u8) -> Vec<u8> {
        let head = [0, 0, length, kind, 4, 0, 0, 0, stream];
        // A payload that looks like a head of its own.
        head.into_iter().chain(std::iter::repeat_n(HEADERS, usize::from(length))).collect()
    }

    #[test]
    fn streams_are_seen_in_whatever_pieces_they_go_out() {
        let settings = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 12)].concat();
        let all =
            [settings, frame(HEADERS, 1, 40), frame(0, 1, 5), frame(HEADERS, 3, 0), frame(8, 3, 4)].concat();
        for size in 1..=all.len() {
            let mut frames = Frames::new();
            let seen: Vec<u32> = all.chunks(size).filter_map(|piece| frames.pass(piece)).collect();
            assert!(seen == [1, 3] || seen == [3], "{size}: {seen:?}");
            assert_eq!((frames.skip, frames.length), (0, 0), "{size}");
        }
        let mut frames = Frames::new();
        assert_eq!(frames.pass(&all[..24 + 21 + 8]), None, "a head that is not all there opens nothing");
    }
}
