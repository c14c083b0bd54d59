//! Lists: one answer, or pages of one consistent state.
//!
//! The state behind a continue token is kept (at most [`SNAPSHOT_LIMIT`] of them, the oldest goes first), so later pages show what the first one saw.
//! A token whose state is gone, or older than the history, is answered 410 like in the real server after a compaction.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::kind::Kind;
use super::query::{From, Match, Query};
use super::status::Failure;
use super::store::Store;

/// Paged lists under way at once.
const SNAPSHOT_LIMIT: usize = 64;

#[derive(Debug)]
struct Snapshot {
    id: u64,
    revision: u64,
    objects: Arc<Vec<Arc<Value>>>,
}

/// The states behind the continue tokens.
#[derive(Debug, Default)]
pub(super) struct Pages {
    state: Mutex<(u64, VecDeque<Snapshot>)>,
}

impl Pages {
    /// The answer to a list request: the list object.
    pub(super) fn list(
        &self,
        store: &Store,
        kind: Kind,
        namespace: Option<&str>,
        query: &Query,
    ) -> Result<Value, Failure> {
        let (id, revision, objects, start) = match &query.continue_token {
            Some(token) => self.resume(store, token)?,
            None => {
                let (revision, objects) = newest(store, kind, namespace, query)?;
                (None, revision, Arc::new(objects), 0)
            }
        };
        let end = query.limit.map_or(objects.len(), |limit| objects.len().min(start.saturating_add(limit)));
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if end < objects.len() {
            let id = id.unwrap_or_else(|| self.keep(revision, &objects));
            metadata["continue"] = json!(format!("{id}:{end}"));
            metadata["remainingItemCount"] = json!(objects.len() - end);
        }
        let items: Vec<Value> =
            objects.get(start..end).unwrap_or_default().iter().map(|object| item_of(object)).collect();
        let list_kind = format!("{}List", kind.object_kind());
        Ok(json!({"kind": list_kind, "apiVersion": kind.api_version(), "metadata": metadata, "items": items}))
    }

    fn keep(&self, revision: u64, objects: &Arc<Vec<Arc<Value>>>) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        let id = state.0;
        if state.1.len() == SNAPSHOT_LIMIT {
            state.1.pop_front();
        }
        state.1.push_back(Snapshot { id, revision, objects: Arc::clone(objects) });
        id
    }

    #[expect(
        clippy::type_complexity,
        reason = "the four parts of a page's place are taken apart at once by the one caller"
    )]
    fn resume(
        &self,
        store: &Store,
        token: &str,
    ) -> Result<(Option<u64>, u64, Arc<Vec<Arc<Value>>>, usize), Failure> {
        let parts = token.split_once(':').and_then(|(id, at)| Some((id.parse().ok()?, at.parse().ok()?)));
        let Some((id, start)) = parts else {
            return Err(Failure::bad_request("continue key is not valid"));
        };
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.1.iter().find(|snapshot| snapshot.id == id) {
            Some(snapshot) if snapshot.revision >= store.oldest() => {
                Ok((Some(id), snapshot.revision, Arc::clone(&snapshot.objects), start))
            }
            Some(_) | None => Err(Failure::expired("The provided continue parameter is too old")),
        }
    }
}

/// The newest state, if it satisfies the wanted version.
fn newest(
    store: &Store,
    kind: Kind,
    namespace: Option<&str>,
    query: &Query,
) -> Result<(u64, Vec<Arc<Value>>), Failure> {
    let (revision, objects) = store.list_keyed(kind);
    if let From::Version(wanted) = query.from {
        if wanted > revision {
            let message = format!("Too large resource version: {wanted}, current: {revision}");
            return Err(Failure { retry_after: Some(1), ..Failure::new(504, "Timeout", message) });
        }
        // Only the newest state is kept, so an exact older one is gone as after a compaction.
        if query.version_match == Match::Exact && wanted < revision {
            return Err(Failure::expired("The resourceVersion for the provided list is too old."));
        }
    }
    let wanted = objects.into_iter().filter(|((object_namespace, _), object)| {
        namespace.is_none_or(|namespace| namespace == object_namespace) && query.selector.matches(object)
    });
    Ok((revision, wanted.map(|(_, object)| object).collect()))
}

/// The items of a typed list carry no kind and apiVersion of their own.
fn item_of(object: &Value) -> Value {
    let mut item = object.clone();
    if let Some(fields) = item.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    item
}
