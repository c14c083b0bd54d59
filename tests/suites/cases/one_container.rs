//! A worker of one probe and the pod that it looks at: one container, which runs since the epoch. Has no cases of its own.

use probe_core::probes::ProbeType;
use probe_core::probes::worker::{Worker, WorkerConfig};
use probe_core::rules::facts::{ContainerState, ContainerStatus, Phase, PodStatus, Restarts};
use probe_core::wallclock::Timestamp;

/// Fails and succeeds at the first attempt, without a delay.
pub(crate) fn one_container(kind: ProbeType, is_sidecar: bool) -> (Worker, PodStatus) {
    let worker = Worker::new(WorkerConfig {
        kind,
        container: "c".to_owned(),
        is_sidecar,
        restarts: Restarts::default(),
        initial_delay_seconds: 0,
        success_threshold: 1,
        failure_threshold: 1,
        deleted: false,
        manager_started: Timestamp(0),
    });
    let status = ContainerStatus {
        name: "c".to_owned(),
        id: "c1".to_owned(),
        state: ContainerState::Running { since: Timestamp(0) },
        started: Some(kind != ProbeType::Startup),
        ready: true,
    };
    let pod = PodStatus { phase: Phase::Running, containers: vec![status], init_containers: Vec::new() };
    (worker, pod)
}
