//! Which requests the server has seen, counted: what an assertion on the agent's API load reads.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Distinct rows kept; requests beyond them are counted in one row whose resource is `~other`.
const ROW_LIMIT: usize = 1024;

/// One row: how often one kind of request came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestSeen {
    /// `list`, `watch`, `get`, `create`, `patch`, or the lower-case method for what is not served.
    pub verb: String,
    /// The resource (`pods`), or the path for what is no resource.
    pub resource: String,
    /// The namespace that the path names; `None` for cluster-wide requests.
    pub namespace: Option<String>,
    /// Field and label selector as they were written, joined by `;`.
    pub selector: String,
    /// How often.
    pub count: u64,
}

type Row = (String, String, Option<String>, String);

#[derive(Debug, Default)]
pub(super) struct Audit {
    rows: Mutex<BTreeMap<Row, u64>>,
}

impl Audit {
    pub(super) fn record(&self, verb: &str, resource: &str, namespace: Option<&str>, selector: &str) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut row =
            (verb.to_owned(), resource.to_owned(), namespace.map(str::to_owned), selector.to_owned());
        if rows.len() >= ROW_LIMIT && !rows.contains_key(&row) {
            row = (String::new(), "~other".to_owned(), None, String::new());
        }
        *rows.entry(row).or_default() += 1;
    }

    pub(super) fn rows(&self) -> Vec<RequestSeen> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = rows.iter().map(|((verb, resource, namespace, selector), count)| RequestSeen {
            verb: verb.clone(),
            resource: resource.clone(),
            namespace: namespace.clone(),
            selector: selector.clone(),
            count: *count,
        });
        seen.collect()
    }
}
