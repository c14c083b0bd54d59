//! Tables: objects as an API server writes them, and as none should.

use super::*;
use probe_core::exec::{ExecHook, ExecUse};
use probe_core::probes::ProbeType;
use probe_core::probes::pod::HandlerKind;
use serde_json::{Value, json};

fn reduce_pod(object: &Value) -> Option<Reduced<Pod>> {
    let text = object.to_string();
    pod(&identity(&text)?, &text)
}

fn whole_pod() -> Value {
    json!({
        "metadata": {
            "name": "api-7d9f-x2", "namespace": "shop", "uid": "u-1", "resourceVersion": "77",
            "labels": {"pod-template-hash": "7d9f", "app": "api"},
            "annotations": {"huge": "x".repeat(1 << 20)},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "api-7d9f", "uid": "o", "controller": true}],
            "deletionTimestamp": "2026-11-22T14:00:45Z", "deletionGracePeriodSeconds": 45
        },
        "spec": {
            "terminationGracePeriodSeconds": 45,
            "containers": [
                {"name": "app",
                 "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}],
                 "lifecycle": {"preStop": {"sleep": {"seconds": 13}}},
                 "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "timeoutSeconds": 0, "periodSeconds": 3},
                 "livenessProbe": {"tcpSocket": {"port": 9000}, "timeoutSeconds": 4, "periodSeconds": -1}},
                {"name": "other", "livenessProbe": {"httpGet": {"host": "example.org", "port": 1}}, "startupProbe": {"exec": {"command": ["true"]}}}
            ],
            "initContainers": [
                {"name": "setup", "ports": [{"containerPort": 1111}]},
                {"name": "proxy", "restartPolicy": "Always", "ports": [{"containerPort": 15006}], "readinessProbe": {"grpc": {"port": 15021}}}
            ]
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}],
            "containerStatuses": [
                {"name": "app", "containerID": "containerd://abc", "restartCount": 2, "state": {"running": {}},
                 "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137, "containerID": "containerd://ab0"}}},
                {"name": "other", "state": {"terminated": {"reason": "Error", "exitCode": 1}}}
            ],
            "initContainerStatuses": [
                {"name": "setup", "containerID": "containerd://gone"},
                {"name": "proxy", "containerID": "cri-o://def"}
            ]
        }
    })
}

#[test]
fn a_whole_pod_is_reduced() {
    let reduced = reduce_pod(&whole_pod()).expect("a pod");
    assert_eq!(reduced.odd, 0);
    let pod = reduced.fact;
    assert_eq!((pod.uid.as_str(), pod.cgroup_uid.as_str()), ("u-1", "u-1"));
    assert_eq!(pod.workload, probe_core::event::Workload { kind: "Deployment".into(), name: "api".into() });
    assert_eq!(
        pod.addresses,
        ["10.0.0.7".parse::<IpAddr>().expect("address"), "fd00::7".parse().expect("address")]
    );
    assert_eq!(pod.ports, [8080, 15006]);
    assert_eq!(pod.probe_ports, [8080, 9000, 15021]);
    let probes = pod.probes.iter().map(|probe| {
        (
            &*probe.container,
            probe.probe_type,
            probe.handler,
            probe.port,
            probe.timeout_seconds,
            probe.period_seconds,
        )
    });
    let wanted = [
        ("app", ProbeType::Liveness, HandlerKind::Tcp, 9000, 4, 10),
        ("app", ProbeType::Readiness, HandlerKind::Http, 8080, 1, 3),
        ("proxy", ProbeType::Readiness, HandlerKind::Grpc, 15021, 1, 10),
    ];
    assert_eq!(probes.collect::<Vec<_>>(), wanted);
    let exec = |container: &str, probe_type, names: &[&str]| ExecUse {
        container: container.to_owned(),
        probe_type,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        timeout_seconds: 1,
        period_seconds: 10,
    };
    assert_eq!(pod.exec_probes, [exec("other", ProbeType::Startup, &["true"])]);
    assert_eq!(pod.exec_hooks, []);
    let hint = |port, source, protocol| PortHint { port, source, protocol };
    assert_eq!(
        pod.hints,
        [
            hint(8080, HintSource::Probe, Protocol::Http),
            hint(8080, HintSource::ContainerPort, Protocol::Http),
            hint(15021, HintSource::Probe, Protocol::Multiplexed),
        ]
    );
    let deadline_unix_s = "2026-11-22T14:00:45Z".parse::<Timestamp>().expect("time").as_second();
    assert_eq!(pod.deletion, Some(Deletion { deadline_unix_s, grace_seconds: 45 }));
    assert_eq!((pod.ready, pod.terminal, pod.host_network), (true, false, false));
    assert_eq!(pod.disruption, "EvictionByEvictionAPI");
    assert_eq!((pod.grace_seconds, pod.prestop_sleep_seconds, pod.has_prestop), (45, Some(13), true));
    let terminated = |c: &ContainerStatus| format!("{} {}", c.terminated_id, c.terminated_reason);
    let statuses: Vec<(&str, &str, u32, String, Option<i32>)> = pod
        .containers
        .iter()
        .map(|c| (c.name.as_str(), c.id.as_str(), c.restarts, terminated(c), c.exit_code))
        .collect();
    assert_eq!(
        statuses,
        [
            ("app", "abc", 2, "ab0 OOMKilled".to_owned(), None),
            ("other", "", 0, " Error".to_owned(), Some(1)),
            ("proxy", "def", 0, " ".to_owned(), None)
        ]
    );
}

#[test]
fn commands_of_probes_and_hooks_are_reduced_to_names() {
    let mut object = whole_pod();
    object["spec"]["containers"] = json!([{
        "name": "app",
        "lifecycle": {"postStart": {"exec": {"command": ["/bin/warm-up"]}}, "preStop": {"exec": {"command": null}}},
        "livenessProbe": {"exec": {"command": ["sh", "-c", "exec /opt/check"]}, "timeoutSeconds": 3, "periodSeconds": 5},
        "readinessProbe": {"exec": {}},
    }, {"name": "no label", "livenessProbe": {"exec": {"command": ["true"]}}}]);
    object["spec"]["initContainers"] =
        json!([{"name": "setup", "livenessProbe": {"exec": {"command": ["true"]}}}]);
    let pod = reduce_pod(&object).expect("a pod").fact;
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let of = |probe_type, names: &[&str], timeout_seconds, period_seconds| ExecUse {
        container: "app".to_owned(),
        probe_type,
        names: texts(names),
        timeout_seconds,
        period_seconds,
    };
    assert_eq!(
        pod.exec_probes,
        [of(ProbeType::Liveness, &["sh", "exec", "check"], 3, 5), of(ProbeType::Readiness, &[], 1, 10)]
    );
    let hook = |at_start, names| ExecHook { container: "app".to_owned(), at_start, names: texts(names) };
    assert_eq!(pod.exec_hooks, [hook(true, &["warm-up"]), hook(false, &[])]);
    assert_eq!((pod.probes.len(), pod.has_prestop), (0, true));
}

#[test]
fn what_stopped_a_pod_is_its_statuss_reason_or_its_conditions() {
    let target = |reason: &str| json!([{"type": "DisruptionTarget", "status": "True", "reason": reason}]);
    for (reason, conditions, disruption) in [
        ("Terminated", target("TerminationByKubelet"), "Terminated"),
        ("NodeShutdown", json!([]), "NodeShutdown"),
        ("Evicted", target("TerminationByKubelet"), "TerminationByKubelet"),
        ("Evicted", json!([]), "Evicted"),
        ("Preempting", json!([]), "Preempting"),
        ("", target("PreemptionByScheduler"), "PreemptionByScheduler"),
        ("", json!([{"type": "DisruptionTarget", "status": "False", "reason": "Cleared"}]), ""),
        ("DeadlineExceeded", json!([]), ""),
    ] {
        let mut object = whole_pod();
        object["status"]["reason"] = json!(reason);
        object["status"]["conditions"] = conditions;
        assert_eq!(reduce_pod(&object).expect("a pod").fact.disruption, disruption, "{reason:?}");
    }
}

#[test]
fn a_static_pod_carries_the_hash_of_its_cgroups() {
    let mut object = whole_pod();
    object["metadata"]["annotations"] =
        json!({"kubernetes.io/config.mirror": "ab12cd34", "kubernetes.io/config.hash": "ab12cd34"});
    object["metadata"]["ownerReferences"] = json!([{"kind": "Node", "name": "n", "controller": true}]);
    let pod = reduce_pod(&object).expect("a pod").fact;
    assert_eq!(
        (pod.uid.as_str(), pod.cgroup_uid.as_str(), pod.workload.kind.as_str()),
        ("u-1", "ab12cd34", "Pod")
    );
}

#[test]
fn missing_parts_leave_defaults() {
    let pod = reduce_pod(&json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).expect("a pod");
    assert_eq!(pod.odd, 0);
    let fact = Pod {
        uid: "u".into(),
        cgroup_uid: "u".into(),
        key: Key { namespace: "n".into(), name: "p".into() },
        workload: probe_core::event::Workload { kind: "Pod".into(), name: "p".into() },
        grace_seconds: 30,
        ..Pod::default()
    };
    assert_eq!(pod.fact, fact);
    let nulls = json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": null, "annotations": null, "ownerReferences": null},
        "spec": {"containers": null, "initContainers": null, "hostNetwork": null},
        "status": {"podIPs": null, "conditions": null, "containerStatuses": null, "phase": null}
    });
    assert_eq!(reduce_pod(&nulls).expect("a pod").fact, fact);
}

#[test]
fn absurd_values_are_left_out_and_counted() {
    for (pointer, value, odd) in [
        ("/metadata/deletionTimestamp", json!("tomorrow"), 0),
        ("/metadata/deletionTimestamp", json!("292277026596-12-04T15:30:08Z"), 0),
        ("/metadata/deletionTimestamp", json!("9999-12-31T23:59:59Z"), 0),
        ("/metadata/deletionGracePeriodSeconds", json!(i64::MAX), 0),
        ("/spec/terminationGracePeriodSeconds", json!(-5), 1),
        ("/spec/terminationGracePeriodSeconds", json!(i64::MAX), 1),
        ("/spec/containers/0/ports/0/containerPort", json!(99_999), 2),
        ("/spec/containers/0/lifecycle/preStop/sleep/seconds", json!(-1), 1),
        ("/status/phase", json!("Dancing"), 0),
        ("/status/podIPs/1/ip", json!("not-an-address"), 1),
        ("/status/containerStatuses/0/containerID", json!("containerd://../../etc"), 1),
        ("/status/containerStatuses/0/lastState/terminated/containerID", json!("containerd://../etc"), 1),
        ("/status/containerStatuses/0/name", json!("x".repeat(1 << 20)), 1),
        ("/status/containerStatuses/0/restartCount", json!(-1), 1),
        ("/status/reason", json!("r".repeat(1 << 20)), 0),
        ("/metadata/ownerReferences/0/name", json!("x".repeat(1 << 20)), 0),
    ] {
        let mut object = whole_pod();
        let Some(slot) = object.pointer_mut(pointer) else {
            assert_eq!(pointer, "/status/reason", "only this one is absent");
            continue;
        };
        *slot = value.clone();
        let reduced = reduce_pod(&object).expect("still a pod");
        assert!(reduced.fact.deletion.is_some(), "a deletion is one, whatever its time says");
        let shown = value.to_string();
        assert_eq!(reduced.odd, odd, "{pointer} {}", &shown[..shown.len().min(80)]);
    }
}

#[test]
fn what_cannot_be_identified_or_typed_is_refused() {
    for (pointer, value) in [
        ("/metadata/name", json!("")),
        ("/metadata/name", json!("../../secrets")),
        ("/metadata/namespace", json!("a/b")),
        ("/metadata/namespace", json!(null)),
        ("/metadata/uid", json!("")),
        ("/metadata/uid", json!(17)),
        ("/metadata", json!("gone")),
        ("/spec/containers", json!("many")),
        ("/spec/terminationGracePeriodSeconds", json!(1e300)),
        ("/status", json!("up")),
    ] {
        let mut object = whole_pod();
        *object.pointer_mut(pointer).expect("it is there") = value.clone();
        assert_eq!(reduce_pod(&object), None, "{pointer} {value}");
    }
    for text in ["", "null", "[]", "{", "\"pod\"", &"[".repeat(100_000)] {
        assert_eq!(identity(text), None);
    }
}

#[test]
fn services_say_whether_a_proxy_stands_in_front() {
    for (spec, headless, publish) in [
        (json!({"clusterIP": "10.96.0.1"}), false, false),
        (json!({"clusterIP": "None"}), true, false),
        (json!({"clusterIP": "None", "publishNotReadyAddresses": true}), true, true),
        (json!(null), false, false),
        (json!({"type": "Novel"}), false, false),
    ] {
        let text = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec}).to_string();
        let fact = service(&identity(&text).expect("identity"), &text).expect("a service").fact;
        assert_eq!((fact.headless, fact.publish_not_ready), (headless, publish), "{spec}");
    }
}

#[test]
fn services_keep_their_cluster_addresses_and_tcp_ports() {
    for (spec, addresses, ports, odd) in [
        (json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}), &["10.96.0.1"][..], &[80][..], 0),
        (
            json!({
                "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
                "ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}, {"port": 443}],
            }),
            &["10.96.0.1", "fd00::1"],
            &[80, 443],
            0,
        ),
        (json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": null}), &[], &[], 0),
        (json!({"clusterIP": "", "clusterIPs": null, "type": "ExternalName"}), &[], &[], 0),
        (
            json!({"clusterIPs": ["rubbish", "10.96.0.2"], "ports": [{"port": 0}, {"port": 70000}]}),
            &["10.96.0.2"],
            &[],
            3,
        ),
    ] {
        let text = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec}).to_string();
        let reduced = service(&identity(&text).expect("identity"), &text).expect("a service");
        let known: Vec<String> = reduced.fact.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            (known, reduced.fact.ports, reduced.odd),
            (addresses.iter().map(ToString::to_string).collect(), ports.to_vec(), odd),
            "{spec}"
        );
    }
}

#[test]
fn slices_keep_pods_and_tcp_ports_with_the_conditions_defaults() {
    let text = json!({
        "metadata": {"name": "s-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
        "ports": [
            {"port": 8080}, {"port": 53, "protocol": "UDP"}, {"name": "all"}, {"name": "http", "port": 70000},
            {"name": "http-admin", "port": 9000, "appProtocol": "kubernetes.io/h2c"}, {"name": "tls", "port": 9001, "appProtocol": "no word"}
        ],
        "endpoints": [
            {"targetRef": {"kind": "Pod", "uid": "a"}},
            {"targetRef": {"kind": "Pod", "uid": "b"}, "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"targetRef": {"kind": "VirtualMachine", "uid": "c"}},
            {"targetRef": {"kind": "Pod", "uid": ""}},
            {"addresses": ["10.0.0.1"]},
            {"targetRef": null, "conditions": null}
        ]
    })
    .to_string();
    let reduced = slice(&identity(&text).expect("identity"), &text).expect("a slice");
    let endpoint = |uid: &str, ready, serving, terminating| Endpoint {
        pod_uid: uid.into(),
        ready,
        serving,
        terminating,
    };
    let hint = |port, source, protocol| PortHint { port, source, protocol };
    assert_eq!(
        reduced,
        Reduced {
            fact: Slice {
                key: Key { namespace: "n".into(), name: "s-1".into() },
                service: "s".into(),
                ports: vec![8080, 9000, 9001],
                hints: vec![
                    hint(9000, HintSource::AppProtocol, Protocol::Multiplexed),
                    hint(9000, HintSource::ServicePort, Protocol::Http),
                    hint(9001, HintSource::ServicePort, Protocol::Tls),
                ],
                endpoints: vec![endpoint("a", true, true, false), endpoint("b", false, true, true)],
            },
            odd: 2,
        }
    );
    let empty =
        json!({"metadata": {"name": "s-1", "namespace": "n"}, "endpoints": null, "ports": null}).to_string();
    let fact = slice(&identity(&empty).expect("identity"), &empty).expect("a slice").fact;
    assert_eq!((fact.service.as_str(), fact.endpoints.len()), ("", 0));
}
