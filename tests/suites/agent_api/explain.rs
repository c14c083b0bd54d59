//! `drainscope explain pod` asks the API for what a file would have.

use super::*;
use drainscope::args::{ExplainPodArgs, Output};
use drainscope::explain;
use probe_core::wallclock::Timestamp;
use world::apiserver::Kind;

#[test]
fn the_pod_its_services_and_slices_are_read_from_the_api() {
    let store = Store::new();
    let mut pod = pod("shop", "api", NODE);
    pod["metadata"]["labels"] = json!({"app": "api"});
    let probe = json!({"tcpSocket": {"port": 80}});
    let later = json!({"tcpSocket": {"port": 80}, "initialDelaySeconds": 60});
    pod["spec"]["containers"] = json!([
        {"name": "c"},
        {"name": "d", "startupProbe": probe, "livenessProbe": probe},
        {"name": "e", "readinessProbe": probe, "livenessProbe": later},
    ]);
    let running = json!({"running": {"startedAt": "1970-01-01T00:00:00Z"}});
    pod["status"] = json!({
        "phase": "Running", "podIPs": [{"ip": "10.0.0.1"}],
        "containerStatuses": [
            {"name": "c", "ready": false, "state": {"waiting": {"reason": "ImagePullBackOff"}}},
            {"name": "d", "ready": false, "started": false, "state": running},
            {"name": "e", "ready": true, "started": true, "restartCount": 1, "state": running},
        ],
        "conditions": [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "False"}],
    });
    store.create(Kind::Pods, pod).expect("created");
    let service =
        json!({"metadata": {"name": "api", "namespace": "shop"}, "spec": {"selector": {"app": "api"}}});
    store.create(Kind::Services, service).expect("created");
    let server = serve(&store);
    let file = Kubeconfig::of(&server);
    let mut args = ExplainPodArgs {
        name: "api".to_owned(),
        namespace: Some("shop".to_owned()),
        kubeconfig: Some(file.0.clone()),
        context: None,
        file: None,
        output: Output::Table,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let said = runtime.block_on(explain::pod(&args, Timestamp(0))).expect("explained");
    let wanted = "\
NOT READY  shop/api  ContainersNotReady
why      containers with unready status: [c d]
why      c: it waits (ImagePullBackOff)
why      d: its startup probe (tcpSocket) has not passed (every 10 s, timeout 1 s; 1 to pass, 3 to fail)
probe    d startup tcpSocket: runs: every 10 s, timeout 1 s; 1 to pass, 3 to fail; next in at most 10 s; passes in at most 11 s if all succeed from now on; fails in 20 s to 31 s if all fail
probe    d liveness tcpSocket: gated: it waits for the startup probe, and runs within 10 s of that
probe    e readiness tcpSocket: runs: every 10 s, timeout 1 s; 1 to pass, 3 to fail; next in at most 10 s; fails in at most 31 s if all fail
probe    e liveness tcpSocket: delayed: initialDelaySeconds 60 are not over; next in 60 s to 70 s; fails in 60 s to 91 s if all fail
traffic  api: no, it is in none of its slices
differs  service api: by the rules the pod is an endpoint (ready=false serving=false terminating=false), no slice has it
";
    assert_eq!(said, wanted);
    args.name = "nobody".to_owned();
    let error = runtime.block_on(explain::pod(&args, Timestamp(0))).expect_err("there is none");
    assert!(
        format!("{error:#}").contains("pod shop/nobody") && format!("{error:#}").contains("not found"),
        "{error:#}"
    );
}
