//! A pod as far as its probes need it: where it is, what its containers' status says, and the probes themselves.
//!
//! In: the API's object. Out: small facts with the API's defaults set. Not here: who probes it, and when.

use super::ProbeType;
use super::expand;
use super::spec::{Handler, Probe};
use crate::event::{Key, Workload};
use crate::rules::facts::{ContainerState, ContainerStatus, PodStatus, Restarts};
use crate::rules::object::{self, EnvVar};
use crate::wallclock::Timestamp;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// Most containers of a pod that are probed.
const CONTAINERS_MAX: usize = 256;
/// Most ports of a container whose names a probe can use.
const PORTS_MAX: usize = 256;

/// A pod and its probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbedPod {
    /// Uid.
    pub uid: String,
    /// Namespace and name.
    pub key: Key,
    /// Its workload.
    pub workload: Workload,
    /// It has a deletion timestamp.
    pub is_deleted: bool,
    /// Its first address: the one that the kubelet probes. Empty until there is one.
    pub address: String,
    /// What its status says; the worker steps by it.
    pub status: PodStatus,
    /// Containers that have a probe, sidecars among them.
    pub containers: Vec<Arc<ProbedContainer>>,
}

/// A container and its probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbedContainer {
    /// Name.
    pub name: String,
    /// A restartable init container.
    pub is_sidecar: bool,
    /// When it starts again.
    pub restarts: Restarts,
    /// Its ports' names (which may be empty) and numbers.
    pub ports: Vec<(String, i32)>,
    /// Those of its variables that a command of its probes names.
    pub env: Vec<EnvVar>,
    /// Its probes with the API's defaults.
    pub probes: Vec<(ProbeType, Probe)>,
}

impl ProbedContainer {
    /// The probe of this kind.
    pub fn probe(&self, kind: ProbeType) -> Option<&Probe> {
        self.probes.iter().find(|(of, _)| *of == kind).map(|(_, probe)| probe)
    }
}

/// What kind of handler a probe has, as labels name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandlerKind {
    /// HTTP.
    Http,
    /// HTTP in TLS.
    Https,
    /// A connection.
    Tcp,
    /// The gRPC health protocol.
    Grpc,
    /// A command.
    Exec,
}

impl HandlerKind {
    /// That of a probe; one without any handler cannot be run and is none.
    pub fn of(probe: &Probe) -> Option<Self> {
        Some(match probe.handler()? {
            Handler::Exec(_) => Self::Exec,
            Handler::HttpGet(get) if get.scheme.eq_ignore_ascii_case("https") => Self::Https,
            Handler::HttpGet(_) => Self::Http,
            Handler::TcpSocket(_) => Self::Tcp,
            Handler::Grpc(_) => Self::Grpc,
        })
    }

    /// In lower case.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Tcp => "tcp",
            Self::Grpc => "grpc",
            Self::Exec => "exec",
        }
    }
}

impl ProbedPod {
    /// What the API's object says. The workload is the caller's to find: it follows from owners, which the rules do not read.
    pub fn reduce(pod: &object::Pod, workload: Workload) -> Self {
        let sidecars = pod.spec.init_containers.iter().filter(|container| container.is_sidecar());
        let of = |is_sidecar| move |container| probed(container, is_sidecar, pod);
        let containers =
            sidecars.filter_map(of(true)).chain(pod.spec.containers.iter().filter_map(of(false)));
        Self {
            uid: pod.metadata.uid.clone(),
            key: Key { namespace: pod.metadata.namespace.clone(), name: pod.metadata.name.clone() },
            workload,
            is_deleted: pod.metadata.deletion_timestamp.is_some(),
            // A name would be looked up, and lead anywhere.
            address: pod.status.pod_ip.parse().map_or_else(|_| String::new(), |ip: IpAddr| ip.to_string()),
            status: PodStatus {
                phase: pod.status.phase,
                containers: statuses(pod.status.container_statuses.as_deref()),
                init_containers: statuses(pod.status.init_container_statuses.as_deref()),
            },
            containers: containers.take(CONTAINERS_MAX).map(Arc::new).collect(),
        }
    }
}

fn probed(container: &object::Container, is_sidecar: bool, pod: &object::Pod) -> Option<ProbedContainer> {
    let kinds = [
        (ProbeType::Startup, &container.startup_probe),
        (ProbeType::Liveness, &container.liveness_probe),
        (ProbeType::Readiness, &container.readiness_probe),
    ];
    let probes: Vec<_> = kinds
        .into_iter()
        .filter_map(|(kind, probe)| Some((kind, probe.clone()?.with_defaults())))
        .filter(|(_, probe)| probe.handler().is_some())
        .collect();
    let ports = container.ports.iter().take(PORTS_MAX);
    let commands = probes.iter().filter_map(|(_, probe)| match probe.handler() {
        Some(Handler::Exec(exec)) => Some(exec.command.as_slice()),
        Some(Handler::HttpGet(_) | Handler::TcpSocket(_) | Handler::Grpc(_)) | None => None,
    });
    let env = expand::named(commands, &container.env);
    (!probes.is_empty()).then(|| ProbedContainer {
        name: container.name.clone(),
        is_sidecar,
        restarts: Restarts { pod: pod.spec.restart_policy, own: container.restart_policy, rules: Vec::new() },
        ports: ports.map(|port| (port.name.clone(), port.container_port)).collect(),
        env,
        probes,
    })
}

fn statuses(all: Option<&[object::ContainerStatus]>) -> Vec<ContainerStatus> {
    let of = |status: &object::ContainerStatus| ContainerStatus {
        name: status.name.clone(),
        id: status.container_id.clone(),
        state: match (&status.state.running, &status.state.terminated) {
            // A start that cannot be read is long ago: no delay is waited for.
            (Some(running), _) => ContainerState::Running { since: running.since().unwrap_or(Timestamp(0)) },
            (None, Some(terminated)) => ContainerState::Terminated { exit_code: terminated.exit_code },
            (None, None) => ContainerState::Waiting,
        },
        started: status.started,
        ready: status.ready,
    };
    all.unwrap_or_default().iter().take(CONTAINERS_MAX).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_workers_need_is_kept_with_the_defaults_set() {
        let pod: object::Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u", "deletionTimestamp": "2026-11-22T00:00:00Z"},
            "spec": {
                "restartPolicy": "OnFailure",
                "initContainers": [
                    {"name": "init", "livenessProbe": {"tcpSocket": {"port": 1}}},
                    {"name": "side", "restartPolicy": "Always", "readinessProbe": {"tcpSocket": {"port": "own"}},
                     "ports": [{"name": "own", "containerPort": 81}]},
                ],
                "containers": [
                    {"name": "web", "startupProbe": {"httpGet": {"port": 80, "scheme": "HTTPS"}, "periodSeconds": 3},
                     "livenessProbe": {"exec": {"command": ["test", "$(FILE)$(OF)"]}}, "readinessProbe": {},
                     "env": [{"name": "FILE", "value": "/x"}, {"name": "KEY", "value": "k"},
                             {"name": "OF", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
                    {"name": "plain"},
                ],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.7",
                "containerStatuses": [
                    {"name": "web", "containerID": "containerd://a", "started": false,
                     "state": {"running": {"startedAt": "1970-01-01T00:00:09Z"}}},
                    {"name": "plain", "state": {"terminated": {"exitCode": 3}}},
                ],
            },
        }))
        .expect("a pod");
        let reduced = ProbedPod::reduce(&pod, Workload::default());
        assert!(reduced.is_deleted);
        assert_eq!((reduced.address.as_str(), reduced.uid.as_str()), ("10.0.0.7", "u"));
        let names: Vec<_> = reduced.containers.iter().map(|c| (c.name.as_str(), c.is_sidecar)).collect();
        assert_eq!(
            names,
            [("side", true), ("web", false)],
            "an init container and one without probes are not"
        );
        let web = &reduced.containers[1];
        let handlers: Vec<_> =
            web.probes.iter().map(|(kind, probe)| (*kind, HandlerKind::of(probe))).collect();
        let expected =
            [(ProbeType::Startup, Some(HandlerKind::Https)), (ProbeType::Liveness, Some(HandlerKind::Exec))];
        assert_eq!(handlers, expected, "a probe without a handler is none");
        let env: Vec<_> = web.env.iter().map(|it| (it.name.as_str(), it.value.as_str())).collect();
        assert_eq!(env, [("FILE", "/x"), ("OF", "")], "what no command names is not kept");
        let startup = web.probe(ProbeType::Startup).expect("it has one");
        assert_eq!((startup.period_seconds, startup.timeout_seconds, startup.failure_threshold), (3, 1, 3));
        let status = &reduced.status.containers[0];
        assert_eq!(status.state, ContainerState::Running { since: Timestamp(9_000_000_000) });
        assert_eq!((status.id.as_str(), status.started), ("containerd://a", Some(false)));
        assert_eq!(reduced.status.containers[1].state, ContainerState::Terminated { exit_code: 3 });
        let mut elsewhere = pod;
        elsewhere.status.pod_ip = "db.example".to_owned();
        assert_eq!(ProbedPod::reduce(&elsewhere, Workload::default()).address, "", "a name is no address");
    }
}
