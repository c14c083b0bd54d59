//! The core with a tape on it: the only way by which the driver can change the core, so that nothing is done to it that a
//! recording would miss. While nobody records, a call costs one look at an empty list.
//!
//! Each recording has a queue with a bound. The driver never waits for a reader: one that lets its queue run full is cut
//! off, with a last line that says so.

use super::{Conclusion, End, Entry, Header, Sample, Told, line, state_lines};
use axum::body::Bytes;
use probe_core::command::Command;
use probe_core::event::Event;
use probe_core::finding::Finding;
use probe_core::monitor::Monitor;
use probe_core::snapshot::Series;
use probe_core::termination::Termination;
use probe_core::time::Mono;
use serde::Serialize;
use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{mpsc, watch};

/// Recordings at a time; each costs the driver the writing of its lines.
pub const RECORDINGS: usize = 2;
/// Lines and bytes that wait for one reader: some seconds of a busy node.
const QUEUE_LINES: usize = 65_536;
const QUEUE_BYTES: usize = 16 << 20;
/// Lines are handed to the network in pieces of about this size.
const PIECE: usize = 64 << 10;

/// The core and those who record it.
#[derive(Debug)]
pub struct Taped {
    monitor: Monitor,
    readers: Vec<Reader>,
}

/// For everything that does not change it.
impl Deref for Taped {
    type Target = Monitor;

    fn deref(&self) -> &Monitor {
        &self.monitor
    }
}

/// Whoever records is told that there is no more to come.
impl Drop for Taped {
    fn drop(&mut self) {
        self.cut(End::AgentEnded);
    }
}

impl Taped {
    /// Nobody records yet.
    #[must_use]
    pub fn new(monitor: Monitor) -> Self {
        Self { monitor, readers: Vec::new() }
    }

    /// Begins a recording; `None` if there are [`RECORDINGS`] already.
    pub fn record(&mut self, at: Mono, unix_ns: i64) -> Option<Recording> {
        self.readers.retain(|reader| !reader.lines.is_closed());
        if self.readers.len() >= RECORDINGS {
            return None;
        }
        let state = self.monitor.save();
        let header = Header::new(self.monitor.node(), self.monitor.limits(), at, unix_ns, &state);
        let (lines, receiver) = mpsc::channel(QUEUE_LINES);
        let (open, is_open) = watch::channel(());
        let waiting = Arc::new(AtomicUsize::new(0));
        self.readers.push(Reader { lines, waiting: Arc::clone(&waiting), _open: open });
        // The first entry: whoever records sees that the state is complete.
        self.handle_timeout(at);
        Some(Recording { header, state, lines: Lines { lines: receiver, waiting }, open: is_open })
    }

    /// Somebody records.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        !self.readers.is_empty()
    }

    /// [`Monitor::handle`].
    pub fn handle(&mut self, event: Event) {
        self.write(|| Entry::Event(Cow::Borrowed(&event)));
        self.monitor.handle(event);
    }

    /// [`Monitor::handle_timeout`].
    pub fn handle_timeout(&mut self, now: Mono) {
        self.write(|| Entry::Until(now));
        self.monitor.handle_timeout(now);
    }

    /// [`Monitor::scraped`]: a snapshot was served beside the agent's own series.
    pub fn scraped(&mut self, at: Mono, own: &[Series]) {
        self.write(|| Entry::Scraped(own.iter().filter_map(Sample::of).collect()));
        self.monitor.scraped(at);
    }

    /// [`Monitor::poll_command`].
    pub fn poll_command(&mut self) -> Option<Command> {
        let command = self.monitor.poll_command()?;
        self.told(Conclusion::Command, &command);
        Some(command)
    }

    /// [`Monitor::poll_ended`].
    pub fn poll_ended(&mut self) -> Option<Termination> {
        let termination = self.monitor.poll_ended()?;
        self.told(Conclusion::Ended, &termination);
        Some(termination)
    }

    /// [`Monitor::poll_finding`].
    pub fn poll_finding(&mut self) -> Option<Finding> {
        let finding = self.monitor.poll_finding()?;
        self.told(Conclusion::Finding, &finding);
        Some(finding)
    }

    /// The core itself, for what has no entry in a log: recordings end here.
    pub fn unrecorded(&mut self) -> &mut Monitor {
        self.cut(End::NotWritten);
        &mut self.monitor
    }

    fn told(&mut self, what: Conclusion, said: &impl Serialize) {
        self.write(|| Entry::Told(Told::new(what, said)));
    }

    fn write<'a>(&mut self, entry: impl FnOnce() -> Entry<'a>) {
        if self.readers.is_empty() {
            return;
        }
        match entry().line() {
            Some(line) => self.readers.retain(|reader| reader.take(&line)),
            None => self.cut(End::NotWritten),
        }
    }

    fn cut(&mut self, why: End) {
        for reader in self.readers.drain(..) {
            reader.end(why);
        }
    }
}

/// Who records, as the driver sees it.
#[derive(Debug)]
struct Reader {
    lines: mpsc::Sender<Bytes>,
    /// Bytes in the queue.
    waiting: Arc<AtomicUsize>,
    /// Closes with it.
    _open: watch::Sender<()>,
}

impl Reader {
    /// False if it takes no more. One place in the queue is kept for the last line.
    fn take(&self, line: &Bytes) -> bool {
        if self.lines.is_closed() {
            return false;
        }
        let fits = self.lines.capacity() > 1
            && self.waiting.load(Ordering::Relaxed).saturating_add(line.len()) <= QUEUE_BYTES;
        if !fits {
            self.end(End::SlowReader);
            return false;
        }
        self.put(line.clone());
        true
    }

    fn end(&self, why: End) {
        if let Some(line) = Entry::End(why).line() {
            self.put(line);
        }
    }

    fn put(&self, line: Bytes) {
        self.waiting.fetch_add(line.len(), Ordering::Relaxed);
        // Its reader may be gone; the next entry finds that out.
        drop(self.lines.try_send(line));
    }
}

/// A recording, as its reader sees it.
#[derive(Debug)]
pub struct Recording {
    header: Header,
    state: Vec<u8>,
    lines: Lines,
    /// Closed once there is no more to come than what waits.
    pub open: watch::Receiver<()>,
}

impl Recording {
    /// All of it, in pieces of whole lines.
    pub fn pieces(self) -> impl futures::Stream<Item = Bytes> {
        use futures::StreamExt as _;
        let Self { header, state, lines, .. } = self;
        let mut offset = 0;
        let begin = std::iter::once_with(move || line(&header).unwrap_or_default());
        let state = std::iter::from_fn(move || {
            let part = state_lines(state.get(offset..)?).next()?;
            offset += super::STATE_PART;
            Some(part)
        });
        let rest = futures::stream::unfold(lines, async |mut lines| Some((lines.next().await?, lines)));
        futures::stream::iter(begin.chain(state)).chain(rest)
    }
}

#[derive(Debug)]
struct Lines {
    lines: mpsc::Receiver<Bytes>,
    waiting: Arc<AtomicUsize>,
}

impl Lines {
    /// What waits, up to about [`PIECE`]; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut piece = self.lines.recv().await?.to_vec();
        while piece.len() < PIECE {
            let Ok(more) = self.lines.try_recv() else { break };
            piece.extend_from_slice(&more);
        }
        self.waiting.fetch_sub(piece.len(), Ordering::Relaxed);
        Some(piece.into())
    }
}
