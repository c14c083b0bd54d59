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
    pod["spec"]["containers"] = json!([{"name": "c"}]);
    pod["status"] = json!({
        "phase": "Running", "podIPs": [{"ip": "10.0.0.1"}],
        "containerStatuses": [{"name": "c", "ready": false, "state": {"waiting": {"reason": "ImagePullBackOff"}}}],
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
why      containers with unready status: [c]
why      c: it waits (ImagePullBackOff)
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
