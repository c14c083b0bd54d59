//! The service proxy stand-in: endpoint slices in, nftables rules in the node's network namespace out, a settable time late.
//!
//! Each update is one atomic transaction, so that no packet sees half of it. Connections that exist stay where they are (their address
//! translation is conntrack's), as with the real proxy. Its delay is the demo's endpoint delay. No session affinity, no node ports, TCP only.

mod ruleset;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::Context as _;
use serde_json::Value;

use crate::apiserver::{Kind, Store, Verb};
use crate::controllers::{Delay, DelayedWatch, Delivery};
use crate::kubelet::{Journal, Step, monotonic_ns};
use crate::node::{Node, run_with_input};
use ruleset::{Key, Rules, skeleton};

/// The running proxy; dropping it stops it and leaves the rules as they are.
#[derive(Debug)]
pub struct ServiceProxy {
    stop: Arc<AtomicBool>,
    failures: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl ServiceProxy {
    /// Writes the empty rules and starts. Each change of a service or slice takes `delay` to reach it; commits are at least `min_sync` apart.
    pub fn start(
        node: Arc<Node>,
        store: &Store,
        journal: &Journal,
        delay: &Delay,
        min_sync: &Delay,
    ) -> anyhow::Result<Self> {
        run_with_input(node.network(), &node.programs().nft, &["-f", "-"], &skeleton())
            .context("write the proxy's tables")?;
        let stop = Arc::new(AtomicBool::new(false));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let mut state = State {
            node,
            journal: journal.clone(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            programmed: Rules::default(),
            changed: false,
        };
        let mut watch = DelayedWatch::start(store, delay);
        let (store, min_sync) = (store.clone(), min_sync.clone());
        let (stopped, failed) = (Arc::clone(&stop), Arc::clone(&failures));
        let run = move || {
            let mut next_commit = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                match watch.next(state.changed.then_some(next_commit)) {
                    Some(Delivery::Resync) => state.resync(&store),
                    Some(Delivery::Change(change)) => {
                        state.apply(
                            change.kind,
                            change.verb,
                            &change.namespace,
                            &change.name,
                            &change.object,
                        );
                    }
                    // Nothing more has come yet: now is the time to commit.
                    None if state.changed && Instant::now() >= next_commit => {
                        if let Err(error) = state.commit() {
                            let failure = format!("service proxy: {error:#}");
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                        }
                        next_commit = Instant::now() + min_sync.get();
                    }
                    None => {}
                }
            }
        };
        let thread =
            thread::Builder::new().name("proxy".to_owned()).spawn(run).context("start the service proxy")?;
        Ok(Self { stop, failures, thread: Some(thread) })
    }

    /// Transactions that nft refused, in words; empty when all is well.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for ServiceProxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What the proxy has learned so far, and what it has programmed.
struct State {
    node: Arc<Node>,
    journal: Journal,
    services: BTreeMap<Key, Arc<Value>>,
    slices: BTreeMap<Key, Arc<Value>>,
    programmed: Rules,
    changed: bool,
}

impl State {
    fn resync(&mut self, store: &Store) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key =
            |object: &Value| (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let all = |kind| store.list(kind).1.into_iter().map(|object| (key(&object), object)).collect();
        (self.services, self.slices) = (all(Kind::Services), all(Kind::EndpointSlices));
        self.changed = true;
    }

    fn apply(&mut self, kind: Kind, verb: Verb, namespace: &str, name: &str, object: &Arc<Value>) {
        let objects = match kind {
            Kind::Services => &mut self.services,
            Kind::EndpointSlices => &mut self.slices,
            Kind::Pods | Kind::Events | Kind::Nodes | Kind::Namespaces => return,
        };
        let key = (namespace.to_owned(), name.to_owned());
        match verb {
            Verb::Deleted => objects.remove(&key),
            Verb::Added | Verb::Modified => objects.insert(key, Arc::clone(object)),
        };
        self.changed = true;
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        self.changed = false;
        let rules = Rules::of(&self.services, &self.slices);
        if rules == self.programmed {
            return Ok(());
        }
        let began_ns = monotonic_ns();
        let transaction = rules.transaction(&self.programmed)?;
        run_with_input(self.node.network(), &self.node.programs().nft, &["-f", "-"], &transaction)?;
        let changes = [
            (false, self.programmed.used.difference(&rules.used)),
            (true, rules.used.difference(&self.programmed.used)),
        ];
        for (used, pods) in changes {
            for (service, uid, address) in pods {
                self.journal
                    .record(uid, Step::Rules { service: service.clone(), address: *address, used, began_ns });
            }
        }
        self.programmed = rules;
        Ok(())
    }
}
