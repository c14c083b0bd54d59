//! Ends that begin at the API server: deletions in their forms, evictions, and pods that were never, or only by hand, ready.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{check, delete, ended, running};
use crate::kubectl;
use crate::pods::{self, NAMESPACE, PATIENCE};
use crate::site::Site;

/// A plain deletion of a server that exits at SIGTERM: every step is there, in order.
pub(super) fn deletion(site: &Site) -> anyhow::Result<String> {
    kubectl::apply(&pods::service("plain", "ClusterIP"))?;
    let (pod, request) = running("plain", pods::spec(pods::container("exit"), 20))?;
    wait_endpoint("plain", true)?;
    delete("plain", &[])?;
    let end = ended(&site.agent, &pod)?;
    let said = check(&end, "delete", "exited", false)?;
    for step in [
        "requested",
        "seen",
        "slice_not_ready",
        "stop_signal",
        "listener_closed",
        "exited",
        "slice_gone",
        "gone",
    ] {
        ensure!(end.step(step).is_some(), "no step {step}: {:?}", end.timeline);
    }
    let codes: Vec<_> = end.containers.iter().map(|container| container.exit_code).collect();
    ensure!(codes == [Some(0)], "exit codes {codes:?}");
    Ok(format!("{said}, {}", request.lost(&end, "stopping")?))
}

/// Grace 0: the object goes at once, the process lives for two seconds more.
pub(super) fn force_delete(site: &Site) -> anyhow::Result<String> {
    let (pod, request) = running("force", pods::spec(pods::container("ignore"), 20))?;
    delete("force", &["--grace-period=0", "--force"])?;
    let end = ended(&site.agent, &pod)?;
    Ok(format!("{}, {}", check(&end, "delete", "forced", false)?, request.lost(&end, "stopping")?))
}

/// `kubectl drain` does no more than this to each pod.
pub(super) fn eviction(site: &Site) -> anyhow::Result<String> {
    let (pod, request) = running("evicted", pods::spec(pods::container("exit"), 20))?;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "evicted", "namespace": NAMESPACE}});
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/evicted/eviction");
    kubectl::run_with(&["create", "--raw", &path, "-f", "-"], &eviction.to_string())?;
    let end = ended(&site.agent, &pod)?;
    Ok(format!("{}, {}", check(&end, "eviction", "exited", false)?, request.lost(&end, "stopping")?))
}

/// The next pod has the same name: the ends of both must not be mixed.
pub(super) fn stateful_set(site: &Site) -> anyhow::Result<String> {
    kubectl::apply(&pods::workload("StatefulSet", "ordered", 1, pods::spec(pods::container("exit"), 20)))?;
    let ready = |pod: &Value| pods::condition(pod, "Ready");
    let first = pods::reference(&pods::wait_pod("ordered-0", "is ready", ready)?)?;
    delete("ordered-0", &[])?;
    let other = |pod: &Value| ready(pod) && pod["metadata"]["uid"] != first.uid.as_str();
    let second = pods::reference(&pods::wait_pod("ordered-0", "is replaced", other)?)?;
    let end = ended(&site.agent, &first)?;
    let said = check(&end, "delete", "exited", false)?;
    let known = site.agent.terminations()?;
    ensure!(!known.iter().any(|it| it.pod.uid == second.uid), "the new pod has an end too");
    kubectl::run(&["scale", "-n", NAMESPACE, "statefulset/ordered", "--replicas=0"])?;
    let end = ended(&site.agent, &second)?;
    check(&end, "delete", "exited", false)?;
    Ok(format!("{said}; its successor of the same name apart"))
}

/// A rollout stands still at a pod that never becomes ready, and is taken back.
pub(super) fn never_ready(site: &Site) -> anyhow::Result<String> {
    kubectl::apply(&pods::service("stuck", "ClusterIP"))?;
    kubectl::apply(&pods::workload("Deployment", "stuck", 1, pods::spec(pods::container("exit"), 20)))?;
    let rollout = |what: &str| kubectl::run(&["rollout", what, "-n", NAMESPACE, "deployment/stuck"]);
    rollout("status")?;
    let old = pods::labelled("stuck")?.first().map(pods::reference).context("a pod")??;
    let mut container = pods::container("exit");
    container["readinessProbe"] = json!({"tcpSocket": {"port": 9}, "periodSeconds": 1});
    kubectl::apply(&pods::workload("Deployment", "stuck", 1, pods::spec(container, 20)))?;
    let new = kubectl::wait("the new pod runs", PATIENCE, || {
        let runs = |pod: &&Value| {
            pod["metadata"]["uid"] != old.uid.as_str()
                && pod["status"]["containerStatuses"][0]["started"] == true
        };
        pods::labelled("stuck")?.iter().find(runs).map(pods::reference).transpose()
    })?;
    rollout("undo")?;
    let end = ended(&site.agent, &new)?;
    let said = check(&end, "delete", "exited", false)?;
    ensure!(end.lost_total() == 0, "lost {:?}", end.lost);
    ensure!(!site.agent.terminations()?.iter().any(|it| it.pod.uid == old.uid), "the old pod has an end");
    Ok(format!("{said}, nothing lost; the old pod untouched"))
}

/// Ready only by a PATCH of its status; then deleted.
pub(super) fn readiness_gate(site: &Site) -> anyhow::Result<String> {
    kubectl::apply(&pods::service("gated", "ClusterIP"))?;
    let mut spec = pods::spec(pods::container("exit"), 20);
    spec["readinessGates"] = json!([{"conditionType": "drainscope.io/gate"}]);
    kubectl::apply(&pods::pod("gated", spec))?;
    let pod = pods::wait_pod("gated", "has ready containers", |pod| pods::condition(pod, "ContainersReady"))?;
    ensure!(!pods::condition(&pod, "Ready"), "ready before its gate");
    let patch =
        json!({"status": {"conditions": [{"type": "drainscope.io/gate", "status": "True"}]}}).to_string();
    kubectl::run(&["patch", "pod", "-n", NAMESPACE, "gated", "--subresource=status", "-p", &patch])?;
    wait_endpoint("gated", true)?;
    delete("gated", &[])?;
    let end = ended(&site.agent, &pods::reference(&pod)?)?;
    let said = check(&end, "delete", "exited", false)?;
    ensure!(end.step("slice_not_ready").is_some(), "it was an endpoint: {:?}", end.timeline);
    Ok(format!("{said}, an endpoint from the PATCH on"))
}

/// Until the Service's one endpoint is ready, or is not.
pub(super) fn wait_endpoint(service: &str, ready: bool) -> anyhow::Result<()> {
    let label = format!("kubernetes.io/service-name={service}");
    kubectl::wait("the endpoint's state", PATIENCE, || {
        let slices = kubectl::get(&["endpointslices", "-n", NAMESPACE, "-l", &label])?;
        Ok((slices["items"][0]["endpoints"][0]["conditions"]["ready"] == ready).then_some(()))
    })
}
