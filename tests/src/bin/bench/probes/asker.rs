//! Who asks blackbox_exporter for its probes: it makes one only when it is scraped, as Prometheus does, over kept connections.
//!
//! Asks are due at even distances. Without an answer the next ask of a connection waits, so a prober that is too slow is
//! asked less often, not ever more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

/// Connections that are kept; at the rates of the benchmark most of them rest.
const CONNECTIONS: usize = 32;
/// Most of an answer that is read.
const ANSWER_BYTES: usize = 1 << 20;

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asks {
    pub(crate) server: SocketAddr,
    /// How many a second.
    pub(crate) rate: u32,
    /// Paths, in turn.
    pub(crate) paths: Vec<String>,
    /// What a good answer has in it.
    pub(crate) good: &'static str,
}

#[derive(Debug, Default)]
struct State {
    next: AtomicU64,
    answered: AtomicU64,
    bad: AtomicU64,
    over: AtomicBool,
}

/// The running asker.
#[derive(Debug)]
pub(crate) struct Asker {
    state: Arc<State>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Asker {
    /// Begins to ask.
    pub(crate) fn start(asks: Asks) -> anyhow::Result<Self> {
        let state = Arc::new(State::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (shared, asks) = (Arc::clone(&state), Arc::new(asks));
        let ask_all = async move {
            let began = Instant::now();
            let connections = (0..CONNECTIONS)
                .map(|_| tokio::spawn(ask_in_turn(Arc::clone(&asks), Arc::clone(&shared), began)));
            for connection in connections.collect::<Vec<_>>() {
                connection.await??;
            }
            Ok(())
        };
        let thread =
            thread::Builder::new().name("asker".to_owned()).spawn(move || runtime.block_on(ask_all))?;
        Ok(Self { state, thread: Some(thread) })
    }

    /// Good answers so far.
    pub(crate) fn answered(&self) -> u64 {
        self.state.answered.load(Ordering::Relaxed)
    }

    /// Answers so far that were not good.
    pub(crate) fn bad(&self) -> u64 {
        self.state.bad.load(Ordering::Relaxed)
    }

    /// Asks no more; an error if a connection to the prober has failed.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.state.over.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), |thread| thread.join().ok().context("the asker panicked")?)
    }
}

async fn ask_in_turn(asks: Arc<Asks>, state: Arc<State>, began: Instant) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(asks.server).await.context("connect to the prober")?;
    stream.set_nodelay(true)?;
    while !state.over.load(Ordering::Relaxed) {
        let number = state.next.fetch_add(1, Ordering::Relaxed);
        sleep_until(began + due(number, asks.rate)).await;
        let path = &asks.paths[usize::try_from(number)? % asks.paths.len()];
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", asks.server);
        stream.write_all(request.as_bytes()).await?;
        let answer = read_answer(&mut stream).await?;
        let count = if answer.contains(asks.good) { &state.answered } else { &state.bad };
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// When the ask of this number is due.
fn due(number: u64, rate: u32) -> Duration {
    Duration::from_nanos(number * 1_000_000_000 / u64::from(rate))
}

/// The body of the next answer.
async fn read_answer(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut answer = Vec::with_capacity(8192);
    loop {
        if let Some(body) = body_of(&answer) {
            return Ok(String::from_utf8_lossy(&body).into_owned());
        }
        if stream.read_buf(&mut answer).await? == 0 || answer.len() > ANSWER_BYTES {
            bail!("the prober's answer has no end: {}", String::from_utf8_lossy(&answer));
        }
    }
}

/// The body of an answer that is complete: by its length if it has one, else in chunks.
fn body_of(answer: &[u8]) -> Option<Vec<u8>> {
    let end = find(answer, b"\r\n\r\n")?;
    let (head, mut rest) = (String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase(), &answer[end + 4..]);
    if let Some(length) = head.lines().find_map(|line| line.strip_prefix("content-length:")) {
        return rest.get(..length.trim().parse().ok()?).map(<[u8]>::to_vec);
    }
    let mut body = Vec::new();
    loop {
        let line = find(rest, b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
        let data = rest.get(line + 2..line + 2 + size)?;
        rest = rest.get(line + 2 + size..)?.strip_prefix(b"\r\n")?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(data);
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_length_or_its_last_chunk() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nokay".as_slice();
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n2\r\nay\r\n0\r\n\r\n"
            .as_slice();
        for answer in [whole, chunked] {
            assert_eq!(body_of(answer).as_deref(), Some(b"okay".as_slice()));
            for cut in 0..answer.len() {
                assert_eq!(body_of(&answer[..cut]), None, "{cut}");
            }
        }
    }

    #[test]
    fn asks_are_due_at_even_distances() {
        assert_eq!([0, 1, 2000].map(|number| due(number, 1000).as_millis()), [0, 1, 2000]);
    }
}
