//! Group I: the endpoints that kube-proxy uses.

use anyhow::{Result, bail};
use probe_core::rules::endpoint::EndpointConditions;
use probe_core::rules::proxy::{Backend, Policy, Refusal, choose, ends_tracked};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Given {
    /// One after the other.
    Choices(Vec<Node>),
    Tracked(Vec<Tracked>),
}

/// A node and what its proxy knows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    node: String,
    #[serde(default)]
    zone: String,
    /// Each in words: its conditions (`ready`, `unready`, `serving` while it terminates, `unsaid`), `local`, and the names that it is
    /// meant for, `zone-…` and `node-…`.
    endpoints: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tracked {
    protocol: String,
    backend_serves: bool,
    any_serves: bool,
}

/// What comes of a case of this group.
pub(crate) fn run(given: &Value) -> Result<Value> {
    match Given::deserialize(given)? {
        Given::Choices(nodes) => nodes.iter().map(chosen).collect(),
        Given::Tracked(all) => {
            let ends = |t: &Tracked| json!(ends_tracked(&t.protocol, t.backend_serves, t.any_serves));
            Ok(all.iter().map(ends).collect())
        }
    }
}

fn chosen(node: &Node) -> Result<Value> {
    let backends = node.endpoints.iter().map(|words| backend_of(words)).collect::<Result<Vec<_>>>()?;
    let choice = choose(&backends, node.policy, &node.node, &node.zone);
    let refusal = |by_local| {
        choice.refusal(by_local).map(|refusal| match refusal {
            Refusal::Reject => "reject",
            Refusal::Drop => "drop",
        })
    };
    Ok(json!({
        "cluster": choice.cluster, "local": choice.local, "all": choice.all, "any": choice.any,
        "refusal": {"cluster": refusal(false), "local": refusal(true)},
    }))
}

fn backend_of(words: &str) -> Result<Backend> {
    let mut backend = Backend::default();
    let said = |ready, serving, terminating| EndpointConditions {
        ready: Some(ready),
        serving: Some(serving),
        terminating: Some(terminating),
    };
    for word in words.split_whitespace() {
        match word {
            "ready" => backend.conditions = said(true, true, false),
            "unready" => backend.conditions = said(false, false, false),
            "serving" => backend.conditions = said(false, true, true),
            "unsaid" => backend.conditions = EndpointConditions::default(),
            "local" => backend.local = true,
            hint if hint.starts_with("zone-") => backend.zones.push(hint.to_owned()),
            hint if hint.starts_with("node-") => backend.nodes.push(hint.to_owned()),
            other => bail!("what is `{other}`?"),
        }
    }
    Ok(backend)
}
