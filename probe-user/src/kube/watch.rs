//! One watch: list, then follow, for as long as the agent runs. Facts go to the driver's bounded queue; its health goes
//! there too, and into the table. Every failure is retried with backoff and jitter; an expired resource version leads to
//! a new list, whose difference to what was known is reported as facts.

use crate::clock::mono_now;
use crate::kube::page::{Page, WatchEvent, watch_event};
use crate::kube::store::Known;
use crate::kube::stream::{LINE_MAX, Line, next_line};
use crate::kube::table::{WatchTable, kind_name};
use futures::io::AsyncReadExt as _;
use kube::Client;
use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use probe_core::event::{Anomaly, Event, Fact, WatchHealth, WatchKind};
use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Objects per page of a list: bounds what is held at a time.
const PAGE_LIMIT: u32 = 100;
/// Longest page: a hundred objects of etcd's largest size would be longer, and then the list fails and says so.
const PAGE_BYTES_MAX: u64 = 64 << 20;
/// Most pages of one list: ten times what a watch remembers.
const PAGES_MAX: usize = 1000;
/// Room for lines that is kept between events; a longer one is given back.
const LINE_KEPT: usize = 64 << 10;

/// How long a watch waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For the response's head, and for each page of a list.
    pub request: Duration,
    /// For the next event or bookmark. The API server sends a bookmark about every minute: two of them and some.
    pub idle: Duration,
    /// After this long of an open but silent stream, a broken watch counts as in sync again.
    pub quiet: Duration,
    /// First pause after a failure; doubled each time.
    pub backoff_min: Duration,
    /// Longest pause after a failure.
    pub backoff_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(30),
            idle: Duration::from_secs(130),
            quiet: Duration::from_secs(1),
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(10),
        }
    }
}

/// What every watch needs.
#[derive(Clone)]
pub struct Shared {
    /// The API.
    pub client: Client,
    /// The driver's queue.
    pub sink: mpsc::Sender<Event>,
    /// Health of all watches.
    pub table: Arc<WatchTable>,
    /// Waits.
    pub timing: Timing,
}

/// Why a watch has to start anew; each is retried.
#[derive(Debug, Error)]
enum WatchError {
    /// The API refused or could not be reached: pause, then again.
    #[error("{}", brief(.0))]
    Api(#[from] kube::Error),
    /// The stream broke: pause, then resume.
    #[error("the stream broke: {0}")]
    Stream(#[from] io::Error),
    /// No answer in time: pause, then again.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Nothing came for too long: resume on a new connection.
    #[error("neither event nor bookmark within {0:?}")]
    Idle(Duration),
    /// The resource version is expired: list anew.
    #[error("the resource version is expired")]
    Expired,
    /// The server ended the watch by an ERROR event: list anew.
    #[error("the server ended the watch with code {0}")]
    Ended(u16),
    /// An answer that is no list: pause, then again.
    #[error("the answer is no list: {0}")]
    NoList(#[from] serde_json::Error),
    /// A list without an end: pause, then again.
    #[error("the list has more than {PAGES_MAX} pages")]
    Endless,
    /// The agent is ending.
    #[error("the agent is ending")]
    Closed,
}

impl WatchError {
    /// Following on from the same version makes no sense.
    fn needs_list(&self) -> bool {
        match self {
            Self::Expired | Self::Ended(_) => true,
            // Expired, or a version that the server does not take (400, 422) or does not know yet (504).
            Self::Api(kube::Error::Api(status)) => matches!(status.code, 400 | 410 | 422 | 504),
            Self::Api(_)
            | Self::Stream(_)
            | Self::Timeout(_)
            | Self::Idle(_)
            | Self::NoList(_)
            | Self::Endless
            | Self::Closed => false,
        }
    }

    /// How long the server asks to be left alone.
    fn retry_after(&self) -> Duration {
        let Self::Api(kube::Error::Api(status)) = self else { return Duration::ZERO };
        let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        Duration::from_secs(seconds.into())
    }
}

/// The message of an API error without the whole Status behind it.
fn brief(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("the API answered {}: {}", status.code, status.message);
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// Pauses between failures: doubled each time, with jitter, so that the agents of a cluster do not return all at once.
struct Backoff {
    next: Duration,
    timing: Timing,
}

impl Backoff {
    fn reset(&mut self) {
        self.next = self.timing.backoff_min;
    }

    fn failed(&mut self) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(self.timing.backoff_max);
        base / 2 + base.mul_f64(f64::from(random()) / f64::from(u32::MAX) / 2.0)
    }
}

/// Different on each call and node: the seed of the standard library's hash tables is random.
fn random() -> u32 {
    u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(0)
}

/// One watch.
pub struct Watch {
    shared: Shared,
    kind: WatchKind,
    namespace: String,
    path: String,
    fields: Option<String>,
    known: Known,
    /// Set for pods: where the namespaces that have one here are published.
    namespaces: Option<watch::Sender<Option<BTreeSet<String>>>>,
    backoff: Backoff,
    synced: bool,
    facts: Vec<Fact>,
}

impl Watch {
    /// Watches the pods of `node`; the namespaces that have one are published once the first list is in.
    #[must_use]
    pub fn pods(shared: Shared, node: &str, namespaces: watch::Sender<Option<BTreeSet<String>>>) -> Self {
        let mut watch = Self::new(shared, WatchKind::Pods, "", "/api/v1/pods".into());
        watch.fields = Some(format!("spec.nodeName={node}"));
        watch.namespaces = Some(namespaces);
        watch
    }

    /// Watches the Services of a namespace.
    #[must_use]
    pub fn services(shared: Shared, namespace: &str) -> Self {
        Self::new(shared, WatchKind::Services, namespace, format!("/api/v1/namespaces/{namespace}/services"))
    }

    /// Watches the EndpointSlices of a namespace.
    #[must_use]
    pub fn endpoint_slices(shared: Shared, namespace: &str) -> Self {
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        Self::new(shared, WatchKind::EndpointSlices, namespace, path)
    }

    fn new(shared: Shared, kind: WatchKind, namespace: &str, path: String) -> Self {
        shared.table.started(kind, namespace);
        let backoff = Backoff { next: shared.timing.backoff_min, timing: shared.timing };
        Self {
            shared,
            kind,
            namespace: namespace.to_owned(),
            path,
            fields: None,
            known: Known::new(kind),
            namespaces: None,
            backoff,
            synced: false,
            facts: Vec::new(),
        }
    }

    /// Runs until the driver's queue is closed.
    pub async fn run(mut self) {
        let mut version: Option<String> = None;
        loop {
            let began = Instant::now();
            let result = match version.as_mut() {
                None => self.list().await.map(|listed| version = Some(listed)),
                Some(version) => self.follow(version).await,
            };
            match result {
                // A server that ends each watch at once must not be asked without a pause.
                Ok(()) if began.elapsed() < self.shared.timing.backoff_min => {
                    tokio::time::sleep(self.shared.timing.backoff_min / 4).await;
                }
                Ok(()) => {}
                Err(WatchError::Closed) => return,
                Err(error) => {
                    if error.needs_list() {
                        version = None;
                    }
                    if self.broken(&error).await.is_err() {
                        return;
                    }
                    let wait =
                        self.backoff.failed().max(error.retry_after().min(self.shared.timing.backoff_max));
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Lists all objects, reports what is new and what is gone, and returns the version to follow from.
    async fn list(&mut self) -> Result<String, WatchError> {
        let mut params = ListParams::default().limit(PAGE_LIMIT);
        params.field_selector = self.fields.clone();
        let mut seen = BTreeSet::new();
        for _ in 0..PAGES_MAX {
            let limit = self.shared.timing.request;
            let body =
                timeout(limit, self.page(&params)).await.map_err(|_elapsed| WatchError::Timeout(limit))??;
            let page: Page<'_> = serde_json::from_slice(&body)?;
            for item in page.items.unwrap_or_default() {
                seen.extend(self.known.changed(item.get(), &mut self.facts));
                self.flush().await?;
            }
            if let Some(token) = page.metadata.next.filter(|token| !token.is_empty()) {
                params = params.continue_token(&token);
                continue;
            }
            self.known.listed(&seen, &mut self.facts);
            self.flush().await?;
            self.shared.table.touched(self.kind, &self.namespace);
            self.in_sync().await?;
            return Ok(page.metadata.resource_version);
        }
        Err(WatchError::Endless)
    }

    async fn page(&self, params: &ListParams) -> Result<Vec<u8>, WatchError> {
        let request = Request::new(&self.path).list(params).map_err(kube::Error::BuildRequest)?;
        let stream = self.shared.client.request_stream(request).await?;
        let mut body = Vec::new();
        pin!(stream).take(PAGE_BYTES_MAX).read_to_end(&mut body).await?;
        Ok(body)
    }

    /// Follows all changes after `version`, which it moves on, until the stream ends.
    async fn follow(&mut self, version: &mut String) -> Result<(), WatchError> {
        // The server ends a watch after this many seconds; spread, so that a node's watches do not end together.
        let seconds = 200 + random() % 90;
        let mut params = WatchParams::default().timeout(seconds);
        params.field_selector = self.fields.clone();
        let request = Request::new(&self.path).watch(&params, version).map_err(kube::Error::BuildRequest)?;
        let timing = self.shared.timing;
        let client = self.shared.client.clone();
        let opened = timeout(timing.request, client.request_stream(request)).await;
        let mut stream = pin!(opened.map_err(|_elapsed| WatchError::Timeout(timing.request))??);
        let mut line = Vec::new();
        loop {
            let next = {
                let mut read = pin!(next_line(&mut stream, &mut line, LINE_MAX));
                let early = if self.synced { None } else { timeout(timing.quiet, &mut read).await.ok() };
                if early.is_none() {
                    // An open stream that says nothing has nothing to catch up with.
                    self.in_sync().await?;
                }
                match early {
                    Some(next) => next?,
                    None => timeout(timing.idle, read)
                        .await
                        .map_err(|_elapsed| WatchError::Idle(timing.idle))??,
                }
            };
            match next {
                Line::End => return Ok(()),
                Line::TooLong => self.bad_object(),
                Line::Whole => self.event(&line, version)?,
            }
            self.backoff.reset();
            self.flush().await?;
            self.in_sync().await?;
            line.shrink_to(LINE_KEPT);
        }
    }

    /// Takes one line of the stream.
    fn event(&mut self, line: &[u8], version: &mut String) -> Result<(), WatchError> {
        match watch_event(line) {
            None => {
                self.bad_object();
                return Ok(());
            }
            Some(WatchEvent::Error(410)) => return Err(WatchError::Expired),
            Some(WatchEvent::Error(code)) => return Err(WatchError::Ended(code)),
            // Only the server's own word moves the watch on: an object with an odd version could take it past all changes
            // to come. What is sent again after a break is known already and makes no facts.
            Some(WatchEvent::Bookmark(newer)) => *version = newer,
            Some(WatchEvent::Changed(object)) => drop(self.known.changed(object, &mut self.facts)),
            Some(WatchEvent::Deleted(object)) => self.known.deleted(object, &mut self.facts),
        }
        self.shared.table.touched(self.kind, &self.namespace);
        Ok(())
    }

    fn bad_object(&mut self) {
        self.facts.push(Fact::Anomaly { kind: Anomaly::BadObject, count: 1 });
    }

    /// Sends what was found, and the namespaces if they changed.
    async fn flush(&mut self) -> Result<(), WatchError> {
        let at = mono_now();
        for fact in self.facts.drain(..) {
            self.shared.sink.send(Event { at, fact }).await.map_err(|_gone| WatchError::Closed)?;
        }
        Ok(())
    }

    async fn in_sync(&mut self) -> Result<(), WatchError> {
        if let Some(namespaces) = &self.namespaces {
            let now = self.known.namespaces();
            namespaces.send_if_modified(|published| {
                let changed = published.as_ref() != Some(&now);
                *published = Some(now);
                changed
            });
        }
        if self.synced {
            return Ok(());
        }
        self.synced = true;
        tracing::info!(watch = kind_name(self.kind), namespace = self.namespace, "watch in sync");
        self.health(WatchHealth::Synced, None).await
    }

    async fn broken(&mut self, error: &WatchError) -> Result<(), WatchError> {
        let (watch, namespace) = (kind_name(self.kind), &self.namespace);
        if self.synced {
            tracing::warn!(watch, namespace, %error, "watch broke");
        } else {
            tracing::debug!(watch, namespace, %error, "watch still broken");
        }
        let news = std::mem::take(&mut self.synced);
        self.shared.table.health(self.kind, &self.namespace, WatchHealth::Broken, Some(error.to_string()));
        // What was read before it broke stays true; a failure before the first list breaks nothing that stood.
        self.flush().await?;
        if news { self.send_health(WatchHealth::Broken).await } else { Ok(()) }
    }

    async fn health(&mut self, health: WatchHealth, error: Option<String>) -> Result<(), WatchError> {
        self.shared.table.health(self.kind, &self.namespace, health, error);
        self.send_health(health).await
    }

    async fn send_health(&mut self, health: WatchHealth) -> Result<(), WatchError> {
        self.facts.push(Fact::Watch { watch: self.kind, namespace: self.namespace.clone(), health });
        self.flush().await
    }
}
