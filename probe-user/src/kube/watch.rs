//! One watch: list, then follow, for as long as the agent runs. Facts go to the driver's bounded queue; its health goes
//! there too, and into the table. Every failure is retried with backoff and jitter; an expired resource version leads to
//! a new list, whose difference to what was known is reported as facts.

use crate::clock::mono_now;
use crate::kube::client::Api;
use crate::kube::page::{Page, WatchEvent, watch_event};
use crate::kube::probed::Source;
use crate::kube::retry::{Backoff, Timing, WatchError, random};
use crate::kube::store::Known;
use crate::kube::stream::{LINE_MAX, Line, next_line};
use crate::kube::table::{WatchTable, kind_name};
use futures::io::AsyncReadExt as _;
use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use probe_core::event::{Anomaly, Event, Fact, Key, WatchHealth, WatchKind};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Objects per page of a list: bounds what is held at a time.
const PAGE_LIMIT: u32 = 100;
/// Longest page: a hundred objects of etcd's largest size would be longer, and then the list fails and says so.
const PAGE_BYTES_MAX: u64 = 64 << 20;
/// Most pages of one list: ten times what a watch remembers.
pub(super) const PAGES_MAX: usize = 1000;
/// Room for lines that is kept between events; a longer one is given back.
const LINE_KEPT: usize = 64 << 10;

/// What every watch needs.
#[derive(Clone)]
pub struct Shared {
    /// The API.
    pub api: Api,
    /// The driver's queue.
    pub sink: mpsc::Sender<Event>,
    /// Health of all watches.
    pub table: Arc<WatchTable>,
    /// Waits.
    pub timing: Timing,
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
    /// The last failure that was logged as a warning.
    warned: Option<String>,
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

    /// The core knows these objects from before the agent began: the first list tells which of them are gone.
    #[must_use]
    pub fn remembering(mut self, objects: impl IntoIterator<Item = (Key, String)>) -> Self {
        for (key, uid) in objects {
            self.known.remember(key, uid);
        }
        self
    }

    /// Of pods: has the mirror told of each.
    #[must_use]
    pub fn probing(mut self, probed: Source) -> Self {
        self.known.tell(probed);
        self
    }

    fn new(shared: Shared, kind: WatchKind, namespace: &str, path: String) -> Self {
        shared.table.started(kind, namespace);
        let backoff = Backoff::new(shared.timing);
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
            warned: None,
            facts: Vec::new(),
        }
    }

    /// Runs until `stop` says so or its sender is gone; then everything that it has reported is gone too.
    pub async fn run_until(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            () = self.keep_on() => return,
            _ = stop.wait_for(|stop| *stop) => {}
        }
        self.known.listed(&BTreeSet::new(), &mut self.facts);
        // An error means that the driver has gone: nobody needs to know any more.
        drop(self.health(WatchHealth::Ended, None).await);
    }

    /// Runs until the driver's queue is closed.
    pub async fn run(mut self) {
        self.keep_on().await;
    }

    async fn keep_on(&mut self) {
        let mut version: Option<String> = None;
        loop {
            let began = Instant::now();
            let followed = version.is_some();
            let result = match version.as_mut() {
                None => self.list().await.map(|listed| version = Some(listed)),
                Some(version) => self.follow(version).await,
            };
            match result {
                // A server that ends each watch at once must not be asked without a pause.
                Ok(()) if followed && began.elapsed() < self.shared.timing.quiet => {
                    tokio::time::sleep(self.backoff.failed()).await;
                }
                Ok(()) => {}
                Err(WatchError::Closed) => return,
                Err(error) => {
                    if error.needs_list() {
                        version = None;
                    }
                    if self.broken(if followed { "watch" } else { "list" }, &error).await.is_err() {
                        return;
                    }
                    if error.is_unauthorized() {
                        self.shared.api.renew().await;
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
        let stream = self.shared.api.client().request_stream(request).await?;
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
        let client = self.shared.api.client();
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
        self.warned = None;
        tracing::info!(watch = kind_name(self.kind), namespace = self.namespace, "watch in sync");
        self.health(WatchHealth::Synced, None).await
    }

    /// `verb`: what was asked for, as RBAC calls it.
    async fn broken(&mut self, verb: &str, error: &WatchError) -> Result<(), WatchError> {
        let (watch, namespace) = (kind_name(self.kind), &self.namespace);
        let why = format!("cannot {verb}: {error}");
        let news = std::mem::take(&mut self.synced);
        // Each reason once, also of a watch that never stood: nobody else says which verb it lacks.
        if news || self.warned.as_ref() != Some(&why) {
            tracing::warn!(watch, namespace, verb, %error, "watch broke");
            self.warned = Some(why.clone());
        } else {
            tracing::debug!(watch, namespace, verb, %error, "watch still broken");
        }
        self.shared.table.health(self.kind, &self.namespace, WatchHealth::Broken, Some(why));
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
