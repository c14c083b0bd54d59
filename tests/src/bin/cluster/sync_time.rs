//! How long kube-proxy's syncs take with an agent that listens for its rules and with one that does not, by kube-proxy's own metrics: the same changes
//! of a Service's endpoints, to and fro. Shown, not judged: most of a sync is nft's and the machine's other work.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::pods::{NAMESPACE, PATIENCE};
use crate::release::{self, OTHER_TAG};
use crate::site::Site;
use crate::{kubectl, syncs};

/// The chart's values without `agent.proxyRules`.
const DEAF: &str = "agent.conntrack=true,events.enabled=true";
/// A Service whose endpoints only this test says.
const LISTED: &str = "listed";
/// Changes on each side; kube-proxy gathers what comes within a second.
const CHANGES: u8 = 16;
/// Endpoints before and after each.
const ENDPOINTS: u8 = 100;

/// The agent listens, and goes on without.
pub(crate) fn compared(site: &mut Site) -> anyhow::Result<String> {
    kubectl::apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": LISTED, "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }))?;
    let heard = changed()?;
    site.release.upgrade(&format!("image.tag={OTHER_TAG},{DEAF}"))?;
    site.agent = release::ports()?;
    let status = site.agent.api("/status")?["proxy_rules"].take();
    ensure!(status["state"] == "disabled", "{status}");
    let unheard = changed()?;
    Ok(format!("{CHANGES} changes of {ENDPOINTS} endpoints: heard {heard}; not heard {unheard}"))
}

/// All endpoints are replaced, again and again.
fn changed() -> anyhow::Result<String> {
    let mut lengths = Vec::new();
    for change in 0..CHANGES {
        let before = syncs::read()?;
        kubectl::apply(&slice(change % 2))?;
        let after = kubectl::wait("kube-proxy syncs", PATIENCE, || {
            let now = syncs::read()?;
            Ok((now.count > before.count).then_some(now))
        })?;
        lengths.push((after.sum - before.sum) / (after.count - before.count) * 1e3);
    }
    lengths.sort_by(f64::total_cmp);
    let of = |part: usize| lengths[(lengths.len() - 1) * part / 4];
    Ok(format!("{:.1} ms a sync (median; quartiles {:.1} and {:.1})", of(2), of(1), of(3)))
}

/// One of two sets of addresses that nobody has (RFC 5737).
fn slice(set: u8) -> Value {
    let net = if set == 0 { "192.0.2" } else { "198.51.100" };
    let endpoints: Vec<Value> = (1..=ENDPOINTS)
        .map(|host| json!({"addresses": [format!("{net}.{host}")], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": LISTED, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": LISTED}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    })
}
