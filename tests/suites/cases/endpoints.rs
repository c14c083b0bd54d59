//! Group G: endpoints of one pod by the rules alone, and slices of many by the test world's endpoint controller.

use std::collections::BTreeMap;

use anyhow::Result;
use probe_core::rules::endpoint::{
    Endpoint, Family, belongs, changed, endpoint_of, is_same, ports_of, sets_hostname, target_port,
};
use probe_core::rules::object::{Node, Pod, Service, ServicePort};
use probe_core::rules::slices::service_key;
use serde::Deserialize;
use serde_json::{Value, json};
use world::apiserver::{Kind, Store};
use world::controllers::EndpointController;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Given {
    Endpoints(Vec<OnePod>),
    Belong { pods: Vec<Pod>, include_terminating: bool },
    Hostnames { service: Box<Service>, pods: Vec<Pod> },
    Updates(Vec<(Pod, Pod)>),
    Same(Vec<(Endpoint, Endpoint)>),
    TargetPorts { pod: Box<Pod>, ports: Vec<ServicePort> },
    Ports { service: Box<Service>, pod: Box<Pod> },
    ServiceKeys(Vec<Option<Labelled>>),
    World(Cluster),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OnePod {
    #[serde(default)]
    service: Service,
    pod: Pod,
    node: Option<Node>,
    family: Family,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labelled {
    namespace: String,
    labels: BTreeMap<String, String>,
}

/// A service, its pods and the nodes that there are.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    pods: usize,
    /// Every so-manieth is unready, the first among them.
    #[serde(default)]
    unready_every: Option<usize>,
    /// Numbers behind the pods' port `http`, in turn.
    #[serde(default)]
    numbers: Vec<u16>,
    #[serde(default)]
    publish_not_ready: bool,
    /// Bounds of a slice, each in a cluster of its own.
    max_endpoints: Vec<usize>,
    /// Their nodes are removed after the first round.
    #[serde(default)]
    nodes_vanish: bool,
}

/// What comes of a case of this group.
pub(crate) fn run(given: &Value) -> Result<Value> {
    Ok(match Given::deserialize(given)? {
        Given::Endpoints(pods) => pods
            .iter()
            .map(|one| json!(endpoint_of(&one.service, &one.pod, one.node.as_ref(), one.family)))
            .collect(),
        Given::Belong { pods, include_terminating } => {
            pods.iter().map(|pod| json!(belongs(pod, include_terminating))).collect()
        }
        Given::Hostnames { service, pods } => {
            pods.iter().map(|pod| json!(sets_hostname(&service, pod))).collect()
        }
        Given::Updates(updates) => {
            let seen = updates.iter().map(|(old, new)| {
                let seen = changed(old, new);
                json!({"endpoint": seen.endpoint, "membership": seen.membership})
            });
            seen.collect()
        }
        Given::Same(pairs) => pairs.iter().map(|(one, other)| json!(is_same(one, other))).collect(),
        Given::TargetPorts { pod, ports } => {
            ports.iter().map(|port| json!(target_port(&pod, port))).collect()
        }
        Given::Ports { service, pod } => json!(ports_of(&service, &pod)),
        Given::ServiceKeys(slices) => {
            let key = |slice: &Labelled| service_key(&slice.namespace, &slice.labels);
            slices.iter().map(|slice| json!(slice.as_ref().and_then(key))).collect()
        }
        Given::World(cluster) => cluster
            .max_endpoints
            .iter()
            .map(|max_endpoints| cluster.settled(*max_endpoints))
            .collect::<Result<Value>>()?,
    })
}

impl Cluster {
    /// The slices after the last of two rounds of the controller.
    fn settled(&self, max_endpoints: usize) -> Result<Value> {
        let store = Store::new();
        store.create(Kind::Nodes, json!({"metadata": {"name": "node-1"}}))?;
        let target = if self.numbers.is_empty() { json!(80) } else { json!("http") };
        store.create(
            Kind::Services,
            json!({
                "metadata": {"name": "web", "namespace": "n"},
                "spec": {
                    "selector": {"app": "web"}, "ipFamilies": ["IPv4"], "publishNotReadyAddresses": self.publish_not_ready,
                    "ports": [{"name": "http", "port": 80, "targetPort": target, "protocol": "TCP"}],
                },
            }),
        )?;
        for index in 0..self.pods {
            store.create(Kind::Pods, self.pod(index))?;
        }
        let mut errors = EndpointController::settle(&store, max_endpoints).len();
        let first = store.list(Kind::EndpointSlices).1;
        if self.nodes_vanish {
            store.remove(Kind::Nodes, "", "node-1")?;
        }
        errors += EndpointController::settle(&store, max_endpoints).len();
        let slices = store.list(Kind::EndpointSlices).1;
        let list = |slice: &Value, field: &str| slice[field].as_array().cloned().unwrap_or_default();
        let mut lengths: Vec<_> = slices.iter().map(|slice| list(slice, "endpoints").len()).collect();
        lengths.sort_unstable_by(|one, other| other.cmp(one));
        let mut ports: Vec<_> = slices
            .iter()
            .map(|slice| list(slice, "ports").iter().map(|port| port["port"].as_u64()).collect::<Vec<_>>())
            .collect();
        ports.sort();
        let endpoints: Vec<_> = slices.iter().flat_map(|slice| list(slice, "endpoints")).collect();
        let ready = endpoints.iter().filter(|endpoint| endpoint["conditions"]["ready"] == true).count();
        let names = |slices: &[std::sync::Arc<Value>]| -> Vec<Value> {
            slices.iter().map(|slice| slice["metadata"]["name"].clone()).collect()
        };
        Ok(json!({
            "lengths": lengths, "ports": ports, "ready": ready, "errors": errors,
            "written_again": first != slices, "same_names": names(&first) == names(&slices),
        }))
    }

    fn pod(&self, index: usize) -> Value {
        let is_unready = self.unready_every.is_some_and(|every| index.is_multiple_of(every));
        let number = self.numbers.get(index % self.numbers.len().max(1)).copied().unwrap_or(80);
        json!({
            "metadata": {"name": format!("pod-{index}"), "namespace": "n", "labels": {"app": "web"}},
            "spec": {
                "nodeName": "node-1",
                "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": number, "protocol": "TCP"}]}],
            },
            "status": {
                "phase": "Running",
                "podIP": format!("10.0.{}.{}", index / 250, index % 250),
                "podIPs": [{"ip": format!("10.0.{}.{}", index / 250, index % 250)}],
                "conditions": [{"type": "Ready", "status": if is_unready { "False" } else { "True" }}],
            },
        })
    }
}
