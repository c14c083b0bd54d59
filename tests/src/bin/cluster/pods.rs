//! Pods of the test's image, as objects, and what the API says of them.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use world::controllers::PodRef;

use crate::kubectl;

/// The namespace of everything.
pub(crate) const NAMESPACE: &str = "shop";
/// For what Kubernetes does by itself, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const IMAGE: &str = "drainscope.test/app:1";

/// A container of the image: clients come to 8080, probes to 8081.
pub(crate) fn container(term_mode: &str) -> Value {
    json!({
        "name": "app", "image": IMAGE, "imagePullPolicy": "Never",
        "env": [{"name": "TERM_MODE", "value": term_mode}],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8081}, "periodSeconds": 1, "failureThreshold": 1},
        "resources": {"requests": {"cpu": "20m", "memory": "16Mi"}, "limits": {"memory": "128Mi"}},
    })
}

/// A pod's spec with this one container.
pub(crate) fn spec(container: Value, grace_seconds: u64) -> Value {
    // Pods resolve no names here.
    json!({"dnsPolicy": "Default", "terminationGracePeriodSeconds": grace_seconds, "containers": [container]})
}

/// A pod of its own, labelled with its name.
pub(crate) fn pod(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}}, "spec": spec})
}

/// A Deployment (or StatefulSet) whose pods carry its name as label.
pub(crate) fn workload(kind: &str, name: &str, replicas: u32, spec: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec}}});
    // On two nodes, on both: those of one rollout as evenly as their number allows.
    object["spec"]["template"]["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": name}}, "matchLabelKeys": ["pod-template-hash"]}]);
    if kind == "StatefulSet" {
        object["spec"]["serviceName"] = name.into();
    } else {
        object["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    }
    object
}

/// A Service of the pods with that label; `kind` is `ClusterIP` or `NodePort`.
pub(crate) fn service(name: &str, kind: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"type": kind, "selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}})
}

/// The pods with that label, those on their way out included.
pub(crate) fn labelled(app: &str) -> anyhow::Result<Vec<Value>> {
    let mut list = kubectl::get(&["pods", "-n", NAMESPACE, "-l", &format!("app={app}")])?;
    serde_json::from_value(list["items"].take()).context("a list of pods")
}

/// Which pod an object is.
pub(crate) fn reference(pod: &Value) -> anyhow::Result<PodRef> {
    let text = |key: &str| pod["metadata"][key].as_str().map(str::to_owned).context("a pod's identity");
    Ok(PodRef { namespace: text("namespace")?, name: text("name")?, uid: text("uid")? })
}

/// Whether a condition of a pod is true.
pub(crate) fn condition(pod: &Value, kind: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|it| it["type"] == kind && it["status"] == "True"))
}

/// The pod of that name once it is in the wanted state.
pub(crate) fn wait_pod(name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    kubectl::wait(&format!("{name} {what}"), PATIENCE, || {
        let list =
            kubectl::get(&["pods", "-n", NAMESPACE, "--field-selector", &format!("metadata.name={name}")])?;
        Ok(list["items"].get(0).filter(|pod| wanted(pod)).cloned())
    })
}
