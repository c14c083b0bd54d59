//! An uneventful termination for unit tests, to be changed where a test needs it.

use crate::event::Workload;
use crate::termination::{
    BySource, Connections, ContainerEnd, Lost, Outcome, PodName, Requests, State, Termination, Trigger,
};
use crate::time::Mono;
use crate::wallclock::Timestamp;

pub(crate) fn termination(change: impl FnOnce(&mut Termination)) -> Termination {
    let mut item = Termination {
        pod: PodName { namespace: "shop".to_owned(), name: "api-1".to_owned(), uid: "u1".to_owned() },
        workload: Workload { kind: "Deployment".to_owned(), name: "api".to_owned() },
        node: "n1".to_owned(),
        trigger: Trigger::Delete,
        outcome: Outcome::Exited,
        silent: false,
        state: State::Ended,
        timeline: Vec::new(),
        containers: vec![ContainerEnd {
            name: "app".to_owned(),
            signal: Some(15),
            signal_ignored: false,
            exit_code: Some(0),
            exited_at: None,
            killed: false,
        }],
        connections: Connections::default(),
        requests: Requests::default(),
        lost: Lost::default(),
        lost_inferred: 0,
        lost_stale_entries: 0,
        service_refused: 0,
        services_without_endpoints: Vec::new(),
        by_source: BySource::default(),
        expected: 0,
        probes_excluded: 0,
        tail_seconds: None,
        tail_censored: false,
        prestop_sleep_seconds: None,
        grace_seconds: 30,
        exit_seconds: None,
        evidence: Vec::new(),
        evidence_dropped: 0,
        evidence_refused: 0,
        complete: true,
        anomalies: Vec::new(),
        began: Mono(0),
        began_wall: Timestamp(0),
    };
    change(&mut item);
    item
}
