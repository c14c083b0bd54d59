//! What the agent asked the API server, and when endpoints were written, by the API server's audit log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::Value;

/// Verb and resource; a request about one namespace has it as `NAMESPACE`, one about a single object carries that too.
pub(crate) type Requests = BTreeMap<(String, String), u64>;

/// Whose requests are counted; the other one's are those of the controller.
const AGENT: &str = "system:serviceaccount:drainscope:drainscope";

/// Counts the agent's; a watch has two lines.
pub(crate) fn requests(state: &Path) -> anyhow::Result<Requests> {
    let mut seen = BTreeSet::new();
    let mut counts = Requests::new();
    for entry in entries(state)? {
        let entry = entry?;
        if entry["user"]["username"] == AGENT && seen.insert(entry["auditID"].to_string()) {
            *counts.entry(kind(&entry)).or_default() += 1;
        }
    }
    Ok(counts)
}

/// A write of an EndpointSlice of this Service.
pub(crate) struct SliceWrite {
    /// When the API server got it: nobody can have known of it before.
    pub(crate) received: Timestamp,
    /// Addresses that are ready in it.
    pub(crate) ready: BTreeSet<String>,
}

/// The writes of a Service's slices, in their order.
pub(crate) fn slice_writes(state: &Path, service: &str) -> anyhow::Result<Vec<SliceWrite>> {
    let mut writes = Vec::new();
    for entry in entries(state)? {
        let entry = entry?;
        let object = &entry["requestObject"];
        if entry["user"]["username"] == AGENT
            || object["metadata"]["labels"]["kubernetes.io/service-name"] != service
        {
            continue;
        }
        let endpoints = object["endpoints"].as_array().into_iter().flatten();
        let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
        let addresses = ready.filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned));
        let received = entry["requestReceivedTimestamp"].as_str().context("a request has a moment")?;
        writes.push(SliceWrite { received: received.parse()?, ready: addresses.collect() });
    }
    writes.sort_by_key(|write| write.received);
    Ok(writes)
}

fn entries(state: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Value>>> {
    let log = File::open(state.join("logs/audit.jsonl")).context("open the audit log")?;
    let lines = BufReader::new(log).lines();
    Ok(lines.map(|line| serde_json::from_str(&line?).context("a line of the audit log")))
}

fn kind(entry: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &entry["objectRef"];
    let mut resource = text(&object["resource"]);
    if resource.is_empty() {
        resource = text(&entry["requestURI"]);
    } else if !object["namespace"].is_null() {
        resource = format!("{resource} of a namespace");
    } else if text(&entry["requestURI"]).contains("fieldSelector=spec.nodeName") {
        resource += " of the node";
    }
    // What RBAC does not allow, or a token that is none any more.
    if let Some(code @ (401 | 403)) = entry["responseStatus"]["code"].as_u64() {
        resource = format!("{resource}, refused with {code}");
    }
    (text(&entry["verb"]), resource)
}

/// Requests that the agent has no business to make, or no right to.
pub(crate) fn excessive(requests: &Requests) -> Vec<String> {
    const ALLOWED: [&str; 3] =
        ["pods of the node", "services of a namespace", "endpointslices of a namespace"];
    let unwanted = |((verb, resource), count): (&(String, String), &u64)| {
        let is_event =
            ["create", "patch"].contains(&verb.as_str()) && resource.as_str() == "events of a namespace";
        let fine =
            is_event || ["list", "watch"].contains(&verb.as_str()) && ALLOWED.contains(&resource.as_str());
        (!fine).then(|| format!("{count} requests {verb} {resource}"))
    };
    let none = requests.is_empty().then(|| "no request of the agent's ServiceAccount".to_owned());
    requests.iter().filter_map(unwanted).chain(none).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_of_the_whole_cluster_and_single_reads_are_excessive() {
        let object = |resource: &str, namespace: Option<&str>, uri: &str, verb: &str| {
            kind(
                &json!({"verb": verb, "requestURI": uri, "objectRef": {"resource": resource, "namespace": namespace}}),
            )
        };
        let refused = kind(&json!({"verb": "list", "requestURI": "/apis/x", "responseStatus": {"code": 403},
                "objectRef": {"resource": "endpointslices", "namespace": "shop"}}));
        for (fine, request) in [
            (
                true,
                object("pods", None, "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1&watch=1", "watch"),
            ),
            (true, object("endpointslices", Some("shop"), "/apis/x", "list")),
            (true, object("events", Some("shop"), "/api/v1/namespaces/shop/events", "create")),
            (false, object("events", None, "/api/v1/events", "create")),
            (false, object("events", Some("shop"), "/api/v1/namespaces/shop/events", "list")),
            (false, object("endpointslices", None, "/apis/x", "list")),
            (false, object("pods", None, "/api/v1/pods", "list")),
            (false, object("pods", Some("shop"), "/api/v1/namespaces/shop/pods/a", "get")),
            (false, kind(&json!({"verb": "get", "requestURI": "/apis"}))),
            (false, refused),
        ] {
            let requests = Requests::from([(request.clone(), 1)]);
            assert_eq!(excessive(&requests).is_empty(), fine, "{request:?}");
        }
        assert!(!excessive(&Requests::new()).is_empty(), "none at all is another's log");
    }
}
