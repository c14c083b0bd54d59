//! The object store behind the API server stand-in: create, update, remove, list and watch in the process, with the API's metadata rules.
//!
//! Cheap to clone, thread-safe, usable from sync and async code (no call blocks for longer than a map operation, except the bounded waits that say
//! so). The test world's kubelet, endpoint controller and workload controller write here directly; the agent reads it over HTTP.
//! Objects are plain JSON: nothing is validated beyond name and namespace, and [`Store::put_raw`] stores garbage as it is.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::history::{Change, Expired, History, Verb, Watch};
use super::kind::Kind;

/// The store's first resource version: lists of the empty store have it ("0" and "" mean something else in the protocol).
const FIRST_REVISION: u64 = 1;

/// Why the store refused a call; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// An object of that name exists.
    #[error("{} \"{name}\" already exists", kind.resource())]
    AlreadyExists {
        /// The kind.
        kind: Kind,
        /// `namespace/name`.
        name: String,
    },
    /// No object of that name exists.
    #[error("{} \"{name}\" not found", kind.resource())]
    NotFound {
        /// The kind.
        kind: Kind,
        /// `namespace/name`.
        name: String,
    },
    /// The object's identity is missing, wrong for its kind, or changed by an update.
    #[error("invalid {}: {reason}", kind.object_kind())]
    Invalid {
        /// The kind.
        kind: Kind,
        /// What is wrong.
        reason: String,
    },
}

/// Namespace (empty for cluster-scoped kinds) and name.
type Key = (String, String);

#[derive(Debug)]
struct Inner {
    revision: u64,
    objects: BTreeMap<Kind, BTreeMap<Key, Arc<Value>>>,
    history: History,
    /// Of its clock, against this machine's.
    clock_ahead: SignedDuration,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    revision: watch::Sender<u64>,
}

/// The object store; clones share the same objects.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// An empty store.
    pub fn new() -> Self {
        let inner = Inner {
            revision: FIRST_REVISION,
            objects: BTreeMap::new(),
            history: History::starting_at(FIRST_REVISION),
            clock_ahead: SignedDuration::ZERO,
        };
        let (revision, _) = watch::channel(FIRST_REVISION);
        Self { shared: Arc::new(Shared { inner: Mutex::new(inner), changed: Condvar::new(), revision }) }
    }

    /// The API server's clock is so far ahead of this machine's from now on.
    pub fn set_clock_ahead(&self, ahead: SignedDuration) {
        self.lock().clock_ahead = ahead;
    }

    /// The time by the API server's clock.
    pub(super) fn now(&self) -> Timestamp {
        let ahead = self.lock().clock_ahead;
        Timestamp::now().saturating_add(ahead).unwrap_or_else(|_| Timestamp::now())
    }

    /// Adds an object named by its `metadata.name` (and `metadata.namespace`). Sets kind, apiVersion, uid, resourceVersion, creationTimestamp and generation.
    pub fn create(&self, kind: Kind, mut object: Value) -> Result<Arc<Value>, StoreError> {
        let key = key_of(kind, &object)?;
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.object_kind());
        object["metadata"]["uid"] = json!(random_uid());
        object["metadata"]["generation"] = json!(1);
        object["metadata"]["creationTimestamp"] = json!(whole_seconds(self.now()));
        let mut inner = self.lock();
        if inner.objects.get(&kind).is_some_and(|objects| objects.contains_key(&key)) {
            return Err(StoreError::AlreadyExists { kind, name: printed(&key) });
        }
        Ok(self.commit(&mut inner, kind, Verb::Added, key, object))
    }

    /// Changes an object in place under a new resource version; a change that changes nothing is no event. `generation` grows when anything
    /// outside metadata and status changed. The closure runs under the store's lock: it must not call the store.
    pub fn update(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Arc<Value>, StoreError> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut inner = self.lock();
        let old = inner.get(kind, &key)?;
        let mut object = Value::clone(&old);
        change(&mut object);
        if object == *old {
            return Ok(old);
        }
        if key_of(kind, &object)? != key || object["metadata"]["uid"] != old["metadata"]["uid"] {
            return Err(StoreError::Invalid {
                kind,
                reason: "an update must not change name, namespace or uid".to_owned(),
            });
        }
        if spec_of(&object) != spec_of(&old)
            && let Some(generation) = old["metadata"]["generation"].as_u64()
        {
            object["metadata"]["generation"] = json!(generation + 1);
        }
        Ok(self.commit(&mut inner, kind, Verb::Modified, key, object))
    }

    /// Removes an object at once. The DELETED event carries its last state with the removal's resource version, which is also returned.
    pub fn remove(&self, kind: Kind, namespace: &str, name: &str) -> Result<Arc<Value>, StoreError> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut inner = self.lock();
        let last = Value::clone(&*inner.get(kind, &key)?);
        Ok(self.commit(&mut inner, kind, Verb::Deleted, key, last))
    }

    /// Stores `object` under that name exactly as it is, whatever is missing or wrong in it (its resourceVersion too): for fault tests.
    pub fn put_raw(&self, kind: Kind, namespace: &str, name: &str, object: Value) -> Arc<Value> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut inner = self.lock();
        let verb = if inner.get(kind, &key).is_ok() { Verb::Modified } else { Verb::Added };
        self.commit_raw(&mut inner, kind, verb, key, object)
    }

    /// One object.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Arc<Value>, StoreError> {
        self.lock().get(kind, &(namespace.to_owned(), name.to_owned()))
    }

    /// All objects of a kind in order of namespace and name, and the resource version of that state.
    pub fn list(&self, kind: Kind) -> (u64, Vec<Arc<Value>>) {
        let inner = self.lock();
        let objects = inner.objects.get(&kind).map(|objects| objects.values().map(Arc::clone).collect());
        (inner.revision, objects.unwrap_or_default())
    }

    /// The objects of a kind in one namespace, and the resource version of that state.
    pub fn list_namespace(&self, kind: Kind, namespace: &str) -> (u64, Vec<Arc<Value>>) {
        let (revision, objects) = self.list_keyed(kind);
        (
            revision,
            objects.into_iter().filter(|(key, _)| key.0 == namespace).map(|(_, object)| object).collect(),
        )
    }

    /// The resource version of the last change.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// A cursor for every change from now on, and the resource version it starts at.
    pub fn watch(&self) -> (u64, Watch) {
        let revision = self.revision();
        (revision, self.cursor(revision))
    }

    /// A cursor for every change after `revision`, or the news that the history does not reach back so far.
    pub fn watch_from(&self, revision: u64) -> Result<Watch, Expired> {
        self.change_after(revision)?;
        Ok(self.cursor(revision))
    }

    /// Waits on this thread until `condition` holds, looking again after each change; whether it held before `timeout` had passed.
    pub fn wait_until(&self, timeout: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let revision = self.revision();
            if condition(self) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.wait_beyond(revision, left);
        }
    }

    /// Forgets the history: every watch that resumes from before now learns that its resource version is expired.
    pub fn compact(&self) {
        self.lock().history.compact();
    }

    pub(super) fn list_keyed(&self, kind: Kind) -> (u64, Vec<(Key, Arc<Value>)>) {
        let inner = self.lock();
        let pairs = |objects: &BTreeMap<Key, Arc<Value>>| {
            objects.iter().map(|(key, object)| (key.clone(), Arc::clone(object))).collect()
        };
        (inner.revision, inner.objects.get(&kind).map(pairs).unwrap_or_default())
    }

    /// The oldest revision from which a watch can start.
    pub(super) fn oldest(&self) -> u64 {
        self.lock().history.oldest()
    }

    pub(super) fn change_after(&self, revision: u64) -> Result<Option<Arc<Change>>, Expired> {
        self.lock().history.after(revision)
    }

    /// Waits until the store is beyond `revision` or the time has passed.
    pub(super) fn wait_beyond(&self, revision: u64, timeout: Duration) {
        let inner = self.lock();
        drop(
            self.shared
                .changed
                .wait_timeout_while(inner, timeout, |inner| inner.revision <= revision)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Runs `change` on an object and commits the verbs it asks for, all under one lock: the pod deletion's two steps must not be torn apart.
    pub(super) fn transact(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&Value) -> (Option<Value>, bool),
    ) -> Result<Arc<Value>, StoreError> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut inner = self.lock();
        let mut last = inner.get(kind, &key)?;
        let (modified, remove) = change(&last);
        if let Some(object) = modified {
            last = self.commit(&mut inner, kind, Verb::Modified, key.clone(), object);
        }
        if remove {
            let object = Value::clone(&last);
            last = self.commit(&mut inner, kind, Verb::Deleted, key, object);
        }
        Ok(last)
    }

    fn cursor(&self, revision: u64) -> Watch {
        Watch::new(self.clone(), revision, self.shared.revision.subscribe())
    }

    /// A panic inside an update's closure leaves the store as it was, so its poison says nothing about the objects.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&self, inner: &mut Inner, kind: Kind, verb: Verb, key: Key, mut object: Value) -> Arc<Value> {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), json!((inner.revision + 1).to_string()));
        }
        self.commit_raw(inner, kind, verb, key, object)
    }

    fn commit_raw(&self, inner: &mut Inner, kind: Kind, verb: Verb, key: Key, object: Value) -> Arc<Value> {
        inner.revision += 1;
        let object = Arc::new(object);
        let objects = inner.objects.entry(kind).or_default();
        let previous = match verb {
            Verb::Added | Verb::Modified => objects.insert(key.clone(), Arc::clone(&object)),
            Verb::Deleted => objects.remove(&key),
        };
        let (namespace, name) = key;
        let resource_version = inner.revision;
        inner.history.push(Arc::new(Change {
            kind,
            verb,
            namespace,
            name,
            object: Arc::clone(&object),
            previous,
            resource_version,
        }));
        self.shared.revision.send_replace(inner.revision);
        self.shared.changed.notify_all();
        object
    }
}

impl Inner {
    fn get(&self, kind: Kind, key: &Key) -> Result<Arc<Value>, StoreError> {
        let found = self.objects.get(&kind).and_then(|objects| objects.get(key));
        found.map(Arc::clone).ok_or_else(|| StoreError::NotFound { kind, name: printed(key) })
    }
}

/// `deletionTimestamp` and its like have whole seconds in the API.
pub(super) fn whole_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn printed(key: &Key) -> String {
    if key.0.is_empty() { key.1.clone() } else { format!("{}/{}", key.0, key.1) }
}

fn key_of(kind: Kind, object: &Value) -> Result<Key, StoreError> {
    let invalid = |reason: &str| StoreError::Invalid { kind, reason: reason.to_owned() };
    let field = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (field("namespace"), field("name"));
    if name.is_empty() {
        return Err(invalid("metadata.name is missing"));
    }
    match (kind.namespaced(), namespace.is_empty()) {
        (true, true) => Err(invalid("metadata.namespace is missing")),
        (false, false) => Err(invalid("metadata.namespace is set on a cluster-scoped object")),
        (true, false) | (false, true) => Ok((namespace, name)),
    }
}

/// Everything but metadata and status: what `generation` counts the changes of.
fn spec_of(object: &Value) -> Vec<(&String, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    fields.filter(|(field, _)| !matches!(field.as_str(), "metadata" | "status")).collect()
}

fn random_uid() -> String {
    let uid =
        std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("Linux makes random version 4 UUIDs");
    uid.trim_end().to_owned()
}
