//! Watches: one task per open watch turns the store's changes into lines of JSON, one chunk each.
//!
//! In: the cursor, the request's options, the faults. Out: frames in a bounded channel that is the response's body; a slow client slows its
//! task, and falls out of the history like in the real server. An object that begins or ceases to match the selector is ADDED or DELETED.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::connection::Tear;
use super::faults::{EventFault, Faults, Gone};
use super::history::{Change, Expired, Verb, Watch};
use super::kind::Kind;
use super::query::{From, Query};
use super::status::Failure;
use super::store::Store;

/// How long a watch lasts that names no `timeoutSeconds`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(290);

/// Lines waiting for a slow client before its task waits too.
pub(super) const LINES_AHEAD: usize = 16;

/// What a body consists of.
pub(super) type Line = Result<Frame<Bytes>, io::Error>;

/// One open watch.
pub(super) struct Watcher {
    pub(super) store: Store,
    pub(super) faults: Faults,
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
    pub(super) query: Query,
    pub(super) bookmark_interval: Duration,
    pub(super) tear: Tear,
    pub(super) lines: mpsc::Sender<Line>,
}

/// Why a watch stops; nobody is told, the body just ends or breaks.
enum Stop {
    /// The stream ends as it should.
    Clean,
    /// The stream breaks off.
    Broken,
}

#[derive(Serialize)]
struct Event<'a> {
    r#type: &'static str,
    object: &'a Value,
}

impl Watcher {
    /// Runs until the client is gone, the time is up, or a fault ends it.
    pub(super) async fn run(mut self, gone: Option<Gone>) {
        let lines = self.lines.clone();
        let (mut cuts, stalled) = (self.faults.cuts(), self.faults.stalled());
        let stop = tokio::select! {
            () = lines.closed() => return,
            _ = cuts.changed() => Stop::Broken,
            result = self.serve(gone.is_some(), stalled) => result.err().unwrap_or(Stop::Clean),
        };
        if matches!(stop, Stop::Broken) {
            // The client may be gone as well; then there is nobody to break off from.
            drop(lines.send(Err(io::ErrorKind::ConnectionAborted.into())).await);
        }
    }

    async fn serve(&mut self, gone: bool, mut stalled: watch::Receiver<bool>) -> Result<(), Stop> {
        if gone {
            let failure = Failure::expired("The resourceVersion for the provided watch is too old.");
            return self.error(&failure).await;
        }
        let mut changes = match self.begin().await? {
            Ok(changes) => changes,
            Err(expired) => return self.error(&expired.into()).await,
        };
        let timeout = self.query.timeout_seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        let deadline = Instant::now() + timeout;
        let mut bookmarks = self.bookmarks();
        let mut held: Option<Bytes> = None;
        loop {
            // An error means that the server is gone, and this task with it.
            if stalled.wait_for(|stalled| !*stalled).await.is_err() {
                return Err(Stop::Broken);
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(deadline) => {
                    self.release(&mut held).await?;
                    if self.query.bookmarks {
                        self.bookmark(changes.seen(), false).await?;
                    }
                    return Ok(());
                }
                _ = bookmarks.tick() => if self.query.bookmarks && held.is_none() {
                    self.bookmark(changes.seen(), false).await?;
                },
                _ = stalled.changed() => {}
                change = changes.next() => match change {
                    Ok(change) => self.event(&change, &mut held).await?,
                    Err(expired) => return self.error(&expired.into()).await,
                },
            }
        }
    }

    fn bookmarks(&self) -> Interval {
        let mut bookmarks =
            tokio::time::interval_at(Instant::now() + self.bookmark_interval, self.bookmark_interval);
        bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        bookmarks
    }

    /// The cursor to follow, after the initial events that the request asks for.
    async fn begin(&self) -> Result<Result<Watch, Expired>, Stop> {
        let initial = match self.query.from {
            From::Newest | From::Any => true,
            From::Version(_) => self.query.initial_events,
        };
        if !initial {
            let From::Version(version) = self.query.from else { return Err(Stop::Broken) };
            return Ok(self.store.watch_from(version));
        }
        let (revision, objects) = self.store.list_keyed(self.kind);
        for ((namespace, _), object) in &objects {
            if self.in_namespace(namespace) && self.query.selector.matches(object) {
                self.send(line("ADDED", object)).await?;
            }
        }
        if self.query.initial_events {
            self.bookmark(revision, true).await?;
        }
        Ok(self.store.watch_from(revision))
    }

    async fn event(&self, change: &Change, held: &mut Option<Bytes>) -> Result<(), Stop> {
        let Some(event) = self.seen_as(change) else { return Ok(()) };
        if let Some(before) = held.take() {
            self.send(event).await?;
            return self.send(before).await;
        }
        match self.faults.next_event(self.kind) {
            EventFault::None => self.send(event).await,
            EventFault::Duplicate => {
                self.send(event.clone()).await?;
                self.send(event).await
            }
            EventFault::Swap => {
                *held = Some(event);
                Ok(())
            }
            EventFault::Truncate => {
                self.tear.after_all_but(event.len() / 2);
                self.send(event).await?;
                // The torn connection ends this task from outside: its body is dropped with it.
                std::future::pending().await
            }
            EventFault::Garbage(text) => {
                self.send(Bytes::from(text + "\n")).await?;
                self.send(event).await
            }
        }
    }

    /// The change as this watch's selector sees it, as a line; `None` if it does not concern this watch.
    fn seen_as(&self, change: &Change) -> Option<Bytes> {
        if change.kind != self.kind || !self.in_namespace(&change.namespace) {
            return None;
        }
        let matches = |object: &Arc<Value>| self.query.selector.matches(object);
        let before = change.previous.as_ref().filter(|previous| matches(previous));
        let now = change.verb != Verb::Deleted && matches(&change.object);
        match (before, now) {
            (None, false) => None,
            (None, true) => Some(line("ADDED", &change.object)),
            (Some(_), true) => Some(line("MODIFIED", &change.object)),
            (Some(_), false) if change.verb == Verb::Deleted => Some(line("DELETED", &change.object)),
            // What the client knew, under the version of the change that hides it.
            (Some(previous), false) => {
                let mut last = Value::clone(previous);
                if let Some(metadata) = last.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.insert("resourceVersion".to_owned(), json!(change.resource_version.to_string()));
                }
                Some(line("DELETED", &last))
            }
        }
    }

    fn in_namespace(&self, namespace: &str) -> bool {
        self.namespace.as_ref().is_none_or(|wanted| wanted == namespace)
    }

    async fn bookmark(&self, revision: u64, initial_end: bool) -> Result<(), Stop> {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": self.kind.object_kind(), "apiVersion": self.kind.api_version(), "metadata": metadata});
        self.send(line("BOOKMARK", &object)).await
    }

    async fn release(&self, held: &mut Option<Bytes>) -> Result<(), Stop> {
        match held.take() {
            Some(event) => self.send(event).await,
            None => Ok(()),
        }
    }

    async fn error(&self, failure: &Failure) -> Result<(), Stop> {
        self.send(line("ERROR", &failure.body())).await
    }

    async fn send(&self, line: Bytes) -> Result<(), Stop> {
        self.lines.send(Ok(Frame::data(line))).await.or(Err(Stop::Broken))
    }
}

fn line(event: &'static str, object: &Value) -> Bytes {
    let mut line =
        serde_json::to_vec(&Event { r#type: event, object }).expect("a JSON value is always serializable");
    line.push(b'\n');
    Bytes::from(line)
}
