//! Ends that turn on the grace period: what a container does with its stop signal, and what comes before it.

use anyhow::ensure;
use serde_json::json;
use world::agent::Termination;

use super::{between, check, delete, ended, running};
use crate::kubectl;
use crate::pods;
use crate::site::Site;

/// The hook takes longer than the grace: the kubelet goes on at its end and leaves two seconds to SIGTERM.
pub(super) fn prestop_overrun(site: &Site) -> anyhow::Result<String> {
    let mut container = pods::container("ignore");
    container["lifecycle"] = json!({"preStop": {"httpGet": {"path": "/?delay=50s", "port": 8081}}});
    let (pod, request) = running("overrun", pods::spec(container, 3))?;
    delete("overrun", &[])?;
    let end = ended(&site.agent, &pod)?;
    let said = check(&end, "delete", "grace_exceeded", false)?;
    let hook = between(&end, "seen", "stop_signal", 2.5, 6.0)?;
    let rest = between(&end, "stop_signal", "killed", 1.9, 4.0)?;
    Ok(format!(
        "{said}, SIGTERM after {hook:.1} s, SIGKILL {rest:.1} s later, {}",
        request.lost(&end, "stopping")?
    ))
}

/// The server would need 20 s to drain.
pub(super) fn too_short(site: &Site) -> anyhow::Result<String> {
    let mut container = pods::container("linger");
    container["env"] =
        json!([{"name": "TERM_MODE", "value": "linger"}, {"name": "TERM_LINGER", "value": "20s"}]);
    killed(site, "short", container, false)
}

/// Its handler takes the signal and does nothing.
pub(super) fn taken(site: &Site) -> anyhow::Result<String> {
    killed(site, "taken", pods::container("ignore"), false)
}

/// It ignores the signal, which the kernel then does not deliver.
pub(super) fn dropped(site: &Site) -> anyhow::Result<String> {
    killed(site, "dropped", pods::container("refuse"), true)
}

/// SIGKILL after a grace of three seconds.
fn killed(site: &Site, name: &str, container: serde_json::Value, ignored: bool) -> anyhow::Result<String> {
    let (pod, request) = running(name, pods::spec(container, 3))?;
    delete(name, &[])?;
    let end = ended(&site.agent, &pod)?;
    let said = check(&end, "delete", "grace_exceeded", false)?;
    let seconds = between(&end, "stop_signal", "killed", 2.0, 6.0)?;
    let told: Vec<_> = end.containers.iter().map(|it| (it.exit_code, it.killed, it.signal_ignored)).collect();
    ensure!(told == [(Some(137), true, ignored)], "exit code, killed, ignored: {told:?}");
    Ok(format!(
        "{said}, 137 after {seconds:.1} s, signal ignored {ignored}, {}",
        request.lost(&end, "stopping")?
    ))
}

/// A sidecar gets its signal after the main container is gone.
pub(super) fn sidecar(site: &Site) -> anyhow::Result<String> {
    let mut main = pods::container("linger");
    main["env"] = json!([{"name": "TERM_MODE", "value": "linger"}, {"name": "TERM_LINGER", "value": "2s"}]);
    let mut spec = pods::spec(main, 20);
    let mut proxy = pods::container("exit");
    proxy["name"] = "proxy".into();
    proxy["restartPolicy"] = "Always".into();
    proxy["ports"] = json!([]);
    // The containers of a pod share its ports.
    let ports = [("ADDR", ":9080"), ("PROBE_ADDR", ":9081"), ("TLS_ADDR", ":9443"), ("GRPC_ADDR", ":9091")];
    proxy["env"] = ports.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    proxy["readinessProbe"]["httpGet"]["port"] = 9081.into();
    spec["initContainers"] = json!([proxy]);
    kubectl::apply(&pods::pod("sidecar", spec))?;
    let pod = pods::wait_pod("sidecar", "is ready", |pod| pods::condition(pod, "Ready"))?;
    delete("sidecar", &[])?;
    let end = ended(&site.agent, &pods::reference(&pod)?)?;
    let said = check(&end, "delete", "exited", false)?;
    let main = step_of(&end, "exited", "app")? - step_of(&end, "stop_signal", "app")?;
    let after = step_of(&end, "stop_signal", "proxy")? - step_of(&end, "exited", "app")?;
    ensure!(
        main >= 2.0 && after >= 0.0,
        "main took {main:.3} s, the sidecar's signal came {after:.3} s after it"
    );
    Ok(format!("{said}, the sidecar's signal {after:.3} s after the main container's exit"))
}

/// When a container had this step, in seconds since 1970.
fn step_of(end: &Termination, step: &str, container: &str) -> anyhow::Result<f64> {
    let of = |it: &&world::agent::Step| it.step == step && it.container.as_deref() == Some(container);
    let seconds = end.timeline.iter().find(of).and_then(world::agent::Step::seconds);
    seconds.ok_or_else(|| anyhow::anyhow!("no {step} of {container}: {:?}", end.timeline))
}
