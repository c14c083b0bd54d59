//! `drainscope record`: asks an agent for its event log and keeps what comes, whole lines only, until the agent ends it, a
//! signal comes or the time is over. It does not look into the entries.

use super::{End, Entry, LINE_MAX};
use crate::args::RecordArgs;
use anyhow::{Context as _, bail, ensure};
use axum::body::{Body, Bytes};
use futures::StreamExt as _;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// For the connection, and again for the head of the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest refusal that is shown.
const REFUSAL: usize = 4096;

/// What was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Lines, header and end included.
    pub lines: u64,
    /// Bytes.
    pub bytes: u64,
    /// Why nothing follows; `None`: the agent went without a word.
    pub end: Option<End>,
}

/// Records into the file. An error if there is no agent, it refuses, or the file cannot be written; the file is made only
/// once the agent answers, and never replaces one.
pub async fn record(args: &RecordArgs) -> anyhow::Result<Kept> {
    let duration = args.duration.map(Duration::try_from).transpose().context("--duration")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("signals")?;
    let mut pieces = ask(args.api).await?.into_data_stream();
    let mut keeper = Keeper::new(open(&args.file)?);
    let mut end = None;
    let stopped = loop {
        tokio::select! {
            piece = pieces.next() => match piece {
                Some(Ok(piece)) => keeper.take(&piece)?,
                // What came so far is kept; that it has no end says the rest.
                Some(Err(_)) | None => break false,
            },
            () = over(end) => break true,
            _ = interrupt.recv() => break true,
            _ = terminate.recv() => break true,
        }
        if end.is_none() && keeper.has_state() {
            end = duration.and_then(|duration| Instant::now().checked_add(duration));
        }
    };
    ensure!(keeper.has_state(), "it ended before the log had begun: what is in the file cannot be replayed");
    keeper.end(stopped)
}

async fn over(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// The agent's answer, once it has begun.
async fn ask(api: SocketAddr) -> anyhow::Result<Body> {
    let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect(api)).await;
    let stream = connecting
        .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
        .with_context(|| format!("no agent answers at {api} (its --api-listen; pass --api)"))?;
    let (mut sender, connection) = http1::handshake::<_, Body>(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/api/v1/record").header(header::HOST, api.to_string()).body(Body::empty())?;
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
    let answer =
        answer.with_context(|| format!("no answer within {PATIENCE:?} from {api}"))?.context("the agent")?;
    let (head, body) = (answer.status(), Body::new(answer.into_body()));
    if head != StatusCode::OK {
        let said = axum::body::to_bytes(body, REFUSAL).await.unwrap_or_default();
        bail!("the agent at {api} refuses: {head}: {}", String::from_utf8_lossy(&said));
    }
    Ok(body)
}

/// Standard output for `-`, else a new file that only its owner can read: it has clients' addresses.
fn open(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdout()));
    }
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    Ok(Box::new(file.with_context(|| format!("{}", path.display()))?))
}

struct Keeper<W> {
    out: W,
    kept: Kept,
    /// The line that has not come whole.
    rest: Vec<u8>,
    /// The last whole one, as far as an end goes.
    last: Vec<u8>,
}

impl<W: Write> Keeper<W> {
    fn new(out: W) -> Self {
        Self { out, kept: Kept { lines: 0, bytes: 0, end: None }, rest: Vec::new(), last: Vec::new() }
    }

    fn take(&mut self, piece: &Bytes) -> anyhow::Result<()> {
        let Some(last) = piece.iter().rposition(|byte| *byte == b'\n') else {
            self.rest.extend_from_slice(piece);
            ensure!(self.rest.len() <= LINE_MAX, "the agent sends a line of more than {LINE_MAX} bytes");
            return Ok(());
        };
        let (whole, rest) = piece.split_at(last + 1);
        self.rest.extend_from_slice(whole);
        let lines = std::mem::replace(&mut self.rest, rest.to_vec());
        self.write(&lines)
    }

    fn write(&mut self, lines: &[u8]) -> anyhow::Result<()> {
        self.out.write_all(lines).context("write the log")?;
        self.kept.bytes += u64::try_from(lines.len())?;
        self.kept.lines += u64::try_from(lines.iter().filter(|byte| **byte == b'\n').count())?;
        self.last = lines.split_inclusive(|byte| *byte == b'\n').next_back().unwrap_or_default().to_vec();
        Ok(())
    }

    /// Header and state are there: an entry came.
    fn has_state(&self) -> bool {
        let begins = |begin: &str| self.last.starts_with(begin.as_bytes());
        !self.last.is_empty() && !begins("{\"drainscope_log\"") && !begins("{\"state\"")
    }

    /// `stopped`: it is this side that has enough.
    fn end(mut self, stopped: bool) -> anyhow::Result<Kept> {
        self.kept.end = match serde_json::from_slice(&self.last) {
            Ok(Entry::End(end)) => Some(end),
            _ => None,
        };
        if stopped && self.kept.end.is_none() {
            let line = Entry::End(End::Stopped).line().context("the last line")?;
            self.write(&line)?;
            self.kept.end = Some(End::Stopped);
        }
        self.out.flush().context("write the log")?;
        Ok(self.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_are_kept_and_the_end_is_seen() {
        for (pieces, stopped, kept, end) in [
            (&["a\nb", "\n", "c"][..], true, "a\nb\n{\"end\":\"stopped\"}\n", Some(End::Stopped)),
            (&["a\nb", "c\nto"], false, "a\nbc\n", None),
            (
                &["a\n{\"end\":", "\"slow_reader\"}\n"],
                false,
                "a\n{\"end\":\"slow_reader\"}\n",
                Some(End::SlowReader),
            ),
            (&["{\"end\":\"agent_ended\"}\n"], true, "{\"end\":\"agent_ended\"}\n", Some(End::AgentEnded)),
            (&[], true, "{\"end\":\"stopped\"}\n", Some(End::Stopped)),
        ] {
            let mut out = Vec::new();
            let mut keeper = Keeper::new(&mut out);
            for piece in pieces {
                keeper.take(&Bytes::from_static(piece.as_bytes())).expect("memory takes it");
            }
            let said = keeper.end(stopped).expect("memory takes it");
            assert_eq!(said.end, end, "{pieces:?}");
            assert_eq!(
                (said.bytes, said.lines),
                (out.len() as u64, kept.lines().count() as u64),
                "{pieces:?}"
            );
            assert_eq!(String::from_utf8_lossy(&out), kept, "{pieces:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut keeper = Keeper::new(io::sink());
        let piece = Bytes::from(vec![b'x'; LINE_MAX / 2 + 1]);
        keeper.take(&piece).expect("half of it");
        keeper.take(&piece).expect_err("more than a line can have");
    }
}
