//! Explanations of small pods: what is said first, and what is found wrong.

use super::*;
use serde_json::{Value, json};

fn told(change: impl FnOnce(&mut Value), endpoint: &Value) -> Explanation {
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "shop", "uid": "u", "labels": {"app": "web"}},
        "spec": {"containers": [{
            "name": "c",
            "startupProbe": {"tcpSocket": {"port": 80}},
            "readinessProbe": {"httpGet": {"port": 80}, "initialDelaySeconds": 10},
        }]},
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
            "containerStatuses": [{
                "name": "c", "containerID": "x://1", "started": true, "ready": true,
                "state": {"running": {"startedAt": "2026-03-01T10:00:00Z"}},
            }],
            "conditions": [{"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": "True"}],
        },
    });
    change(&mut pod);
    let service =
        json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"selector": {"app": "web"}}});
    let slice = json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": endpoint,
    });
    let now = Timestamp::parse("2026-03-01T10:00:05Z").unwrap();
    explain(
        &serde_json::from_value(pod).unwrap(),
        &[serde_json::from_value(service).unwrap()],
        &[serde_json::from_value(slice).unwrap()],
        now,
    )
}

fn endpoint(ready: bool, serving: bool, terminating: bool) -> Value {
    let conditions = json!({"ready": ready, "serving": serving, "terminating": terminating});
    json!({"targetRef": {"kind": "Pod", "uid": "u"}, "conditions": conditions})
}

fn activities(told: &Explanation) -> Vec<(ProbeType, Activity)> {
    told.probes.iter().map(|probe| (probe.kind, probe.state)).collect()
}

#[test]
fn nothing_is_wrong_with_a_ready_pod() {
    let told = told(|_| {}, &json!([endpoint(true, true, false)]));
    assert!(told.ready && told.services[0].traffic, "{told:?}");
    assert_eq!((&told.containers[..], &told.differences[..]), (&[][..], &[][..]));
    assert_eq!(
        activities(&told),
        [(ProbeType::Startup, Activity::Passed), (ProbeType::Readiness, Activity::Delayed)]
    );
    let outlook = told.probes[1].outlook.expect("it is to run");
    assert_eq!(Some(outlook.next_from), Timestamp::parse("2026-03-01T10:00:10Z"));
    assert_eq!(Some(outlook.next_by), Timestamp::parse("2026-03-01T10:00:20Z"));
    assert_eq!(told.probes[0].outlook, None, "it has passed");
}

#[test]
fn a_startup_probe_that_has_not_passed_keeps_the_others_back() {
    let change = |pod: &mut Value| {
        pod["spec"]["containers"][0]["readinessProbe"]["initialDelaySeconds"] = json!(0);
        pod["status"]["containerStatuses"][0]["started"] = json!(false);
        pod["status"]["containerStatuses"][0]["ready"] = json!(false);
    };
    let told = told(change, &json!([endpoint(false, false, false)]));
    assert!(!told.ready);
    assert_eq!(told.message, "containers with unready status: [c]");
    assert!(told.containers[0].why.starts_with("its startup probe (tcpSocket) has not passed (every 10 s"));
    assert_eq!(
        activities(&told),
        [(ProbeType::Startup, Activity::Runs), (ProbeType::Readiness, Activity::Gated)]
    );
    assert_eq!(
        told.differences,
        [
            "condition ContainersReady: the API says True, the rules give False (ContainersNotReady)",
            "condition Ready: the API says True, the rules give False (ContainersNotReady)",
            "service web: a slice says ready=false serving=false terminating=false, the rules give ready=true serving=true terminating=false",
        ]
    );
}

#[test]
fn what_is_held_back_by_the_startup_probe_says_when_it_follows() {
    for (has_startup, delay, expected) in [
        (true, 0, "it waits for the startup probe, and runs within 10 s of that"),
        (true, 5, "it waits for the startup probe, and runs within 10 s of that"),
        (
            true,
            10,
            "it waits for the startup probe, and runs within 10 s of that, not before 2026-03-01T10:00:10.000000000Z",
        ),
        (
            false,
            0,
            "it waits for the kubelet to say that its container has started, and runs within 10 s of that",
        ),
    ] {
        let change = |pod: &mut Value| {
            let container = &mut pod["spec"]["containers"][0];
            container["readinessProbe"]["initialDelaySeconds"] = json!(delay);
            if !has_startup {
                container["startupProbe"] = Value::Null;
            }
            pod["status"]["containerStatuses"][0]["started"] = json!(false);
        };
        let told = told(change, &json!([]));
        let readiness = told.probes.last().expect("it has one");
        assert_eq!((readiness.state, readiness.why.as_str()), (Activity::Gated, expected));
        assert_eq!(readiness.outlook, None, "when is not known");
    }
}

#[test]
fn a_missing_gate_and_a_missing_endpoint_are_named() {
    let change = |pod: &mut Value| {
        pod["spec"]["readinessGates"] = json!([{"conditionType": "g"}]);
        pod["status"]["conditions"][1]["status"] = json!("False");
    };
    let told = told(change, &json!([]));
    assert_eq!(told.reason, "ReadinessGatesNotReady");
    assert!(told.message.contains("\"g\" does not exist"), "{}", told.message);
    assert!(!told.services[0].traffic);
    assert_eq!(
        told.differences,
        [
            "service web: by the rules the pod is an endpoint (ready=false serving=false terminating=false), no slice has it"
        ]
    );
}

#[test]
fn a_pod_that_is_being_deleted_has_traffic_only_while_nobody_else_is_ready() {
    let change = |pod: &mut Value| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-03-01T10:00:35Z");
    };
    let own = endpoint(false, true, true);
    let alone = told(change, &json!([own]));
    assert!(alone.ready && alone.services[0].traffic, "{alone:?}");
    assert_eq!(activities(&alone)[0], (ProbeType::Startup, Activity::Ended));
    assert_eq!(alone.differences, <[String; 0]>::default());
    let mut other = endpoint(true, true, false);
    other["targetRef"]["uid"] = json!("v");
    assert!(!told(change, &json!([own, other])).services[0].traffic);
}

#[test]
fn statuses_that_cannot_be_are_named() {
    let change = |pod: &mut Value| {
        pod["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    };
    let told = told(change, &json!([endpoint(true, true, false)]));
    assert_eq!(told.differences, ["container c: by the rules it is unready, for it does not run"]);
}
