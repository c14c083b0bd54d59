//! One connection: bytes in, requests one after another, answers out. It does not know the event loop; it says what it waits for.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use crate::http::{self, Parsed, Request, Route};

/// Bytes of a request head, and of one read.
const INPUT_SIZE: usize = 16 * 1024;
/// Bodies up to this size are written in one piece with the head.
const SMALL_BODY: usize = 4096;
/// What large bodies are written from.
static FILLER: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    Readable,
    Writable,
    /// For the moment when its answer is due.
    Until(Instant),
    /// For nothing: it is over.
    Closed,
}

/// What one read brought.
enum Received {
    /// Bytes, and perhaps there are more.
    Some,
    /// Bytes or none, and nothing more now.
    Last,
    /// The end of the connection.
    End,
}

/// The server's state that answers depend on.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) hello: Vec<u8>,
    pub(crate) ready: bool,
    /// Each answer closes its connection.
    pub(crate) closing: bool,
    /// Requests are read and never answered.
    pub(crate) stalled: bool,
}

/// The buffers of a connection, kept for the next one when it closes.
#[derive(Debug)]
pub(crate) struct Buffers {
    input: Box<[u8]>,
    output: Vec<u8>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { input: vec![0; INPUT_SIZE].into_boxed_slice(), output: Vec::with_capacity(SMALL_BODY + 256) }
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffers: Buffers,
    /// Received and not yet used: `input[start..end]`.
    start: usize,
    end: usize,
    /// The request whose body or due time is awaited.
    request: Option<(Request, Option<Instant>)>,
    body_left: u64,
    written: usize,
    filler_left: u64,
    close_after_answer: bool,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, buffers: Buffers) -> Self {
        Self {
            stream,
            buffers,
            start: 0,
            end: 0,
            request: None,
            body_left: 0,
            written: 0,
            filler_left: 0,
            close_after_answer: false,
        }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Closes the connection and gives its buffers back.
    pub(crate) fn into_buffers(mut self) -> Buffers {
        self.buffers.output.clear();
        self.buffers
    }

    /// Nothing of a request has been read and nothing of an answer is left to write.
    pub(crate) fn is_idle(&self) -> bool {
        self.request.is_none() && self.start == self.end && self.answered()
    }

    /// Goes on as far as it can without blocking. `readable`: reading may bring something; else a read is not even tried.
    pub(crate) fn drive(&mut self, answers: &mut Answers, mut readable: bool) -> Waits {
        loop {
            if answers.stalled {
                (self.start, self.end) = (0, 0);
            } else if !self.answered() {
                match self.flush() {
                    None => continue,
                    Some(waits) => return waits,
                }
            } else if let Some((request, due)) = self.request
                && self.body_left == 0
            {
                if let Some(due) = due
                    && Instant::now() < due
                {
                    return Waits::Until(due);
                }
                if request.route == Route::Drop {
                    return Waits::Closed;
                }
                self.request = None;
                self.answer(request, answers);
                continue;
            } else if self.request.is_none() && self.start < self.end {
                match http::parse(&self.buffers.input[self.start..self.end]) {
                    Parsed::Request(request) => {
                        self.take(request);
                        continue;
                    }
                    Parsed::Incomplete if self.end - self.start < INPUT_SIZE => {}
                    Parsed::Incomplete | Parsed::Malformed => {
                        self.refuse();
                        continue;
                    }
                }
            }
            if !readable {
                return Waits::Readable;
            }
            match self.receive() {
                Received::Some => {}
                Received::Last => readable = false,
                Received::End => return Waits::Closed,
            }
            self.skip_body();
        }
    }

    fn answered(&self) -> bool {
        self.written == self.buffers.output.len() && self.filler_left == 0
    }

    fn take(&mut self, request: Request) {
        let due = (!request.delay.is_zero()).then(|| Instant::now() + request.delay);
        self.start += request.head_length;
        self.body_left = request.body_length;
        self.request = Some((request, due));
        self.skip_body();
    }

    fn skip_body(&mut self) {
        let here = u64::try_from(self.end - self.start).unwrap_or(u64::MAX).min(self.body_left);
        self.body_left -= here;
        self.start += usize::try_from(here).unwrap_or(0);
    }

    fn receive(&mut self) -> Received {
        if self.start > 0 {
            self.buffers.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = &mut self.buffers.input[self.end..];
        let wanted = room.len();
        match self.stream.read(room) {
            Ok(0) => Received::End,
            Ok(length) => {
                self.end += length;
                if length < wanted { Received::Last } else { Received::Some }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Received::Last
            }
            Err(_) => Received::End,
        }
    }

    /// Answers rubbish, after which nothing on the connection can be understood.
    fn refuse(&mut self) {
        (self.start, self.end) = (0, 0);
        self.close_after_answer = true;
        self.written = 0;
        let output = &mut self.buffers.output;
        output.clear();
        http::write_head(output, http::BAD_REQUEST, 0, true);
    }

    fn answer(&mut self, request: Request, answers: &mut Answers) {
        let close = request.close || answers.closing;
        self.close_after_answer = close;
        self.written = 0;
        let output = &mut self.buffers.output;
        output.clear();
        let (status, body): (&str, &[u8]) = match request.route {
            Route::Exit(code) => std::process::exit(code),
            Route::Hello { bytes: Some(bytes) } => {
                http::write_head(output, "200 OK", bytes, close);
                match usize::try_from(bytes) {
                    // A small body goes out with its head.
                    Ok(small) if small <= SMALL_BODY => output.resize(output.len() + small, b'x'),
                    _ => self.filler_left = bytes,
                }
                return;
            }
            Route::Hello { bytes: None } => ("200 OK", &answers.hello),
            Route::Healthz => ("200 OK", b"ok\n"),
            Route::SetReady(ready) => {
                answers.ready = ready;
                ("200 OK", b"ok\n")
            }
            Route::Readyz if answers.ready => ("200 OK", b"ok\n"),
            Route::Readyz => ("503 Service Unavailable", b"not ready\n"),
            Route::Status(line) => (line, b"as asked\n"),
            // Closed before it comes to an answer.
            Route::Drop => return,
        };
        http::write_head(output, status, u64::try_from(body.len()).unwrap_or(0), close);
        output.extend_from_slice(body);
    }

    /// Writes what is left of the answer. `None`: all is written and the connection goes on.
    fn flush(&mut self) -> Option<Waits> {
        while !self.answered() {
            let head = &self.buffers.output[self.written..];
            let filler = usize::try_from(self.filler_left).unwrap_or(usize::MAX).min(FILLER.len());
            let pending = if head.is_empty() { &FILLER[..filler] } else { head };
            let in_head = !head.is_empty();
            match self.stream.write(pending) {
                Ok(length) if in_head => self.written += length,
                Ok(length) => self.filler_left -= u64::try_from(length).unwrap_or(0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(Waits::Writable),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Some(Waits::Closed),
            }
        }
        self.close_after_answer.then_some(Waits::Closed)
    }
}
