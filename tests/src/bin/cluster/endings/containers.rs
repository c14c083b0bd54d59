//! Containers that end while their pod stays, and a pod whose container somebody stops at the runtime.

use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use world::agent::Restart;

use super::api::wait_endpoint;
use super::pending::{self, Pending};
use super::{check, delete, ended, restarted, running};
use crate::kubectl;
use crate::pods;
use crate::site::Site;

/// A probe of a port where nobody listens. It begins when a client has come, and so late that the agent has settled one restart before the next.
fn failing_probe() -> Value {
    json!({"tcpSocket": {"port": 9}, "initialDelaySeconds": 25, "periodSeconds": 1, "failureThreshold": 1})
}

/// The liveness probe fails once.
pub(super) fn liveness(site: &Site) -> anyhow::Result<String> {
    let mut container = pods::container("exit");
    container["livenessProbe"] = failing_probe();
    let (pod, request) = running("liveness", pods::spec(container, 20))?;
    let restart = restarted(&site.agent, &pod)?;
    delete("liveness", &[])?;
    told(&restart, "liveness", Some(0), request)
}

/// The startup probe fails: until it succeeds the container is not ready.
pub(super) fn startup(site: &Site) -> anyhow::Result<String> {
    let mut container = pods::container("exit");
    container["startupProbe"] = failing_probe();
    kubectl::apply(&pods::pod("startup", pods::spec(container, 20)))?;
    let pod = pods::wait_pod("startup", "runs", |pod| {
        !pod["status"]["containerStatuses"][0]["state"]["running"].is_null()
    })?;
    let request = Pending::start(&pod)?;
    let restart = restarted(&site.agent, &pods::reference(&pod)?)?;
    delete("startup", &[])?;
    told(&restart, "startup", Some(0), request)
}

/// The server exits by itself, with a status of its own.
pub(super) fn crash(site: &Site) -> anyhow::Result<String> {
    let (pod, request) = running("crash", pods::spec(pods::container("exit"), 20))?;
    pending::get(&object("crash")?, "/exit?code=3")?;
    let restart = restarted(&site.agent, &pod)?;
    delete("crash", &[])?;
    told(&restart, "exit", Some(3), request)
}

/// The server takes more memory than its limit.
pub(super) fn out_of_memory(site: &Site) -> anyhow::Result<String> {
    let (pod, request) = running("memory", pods::spec(pods::container("exit"), 20))?;
    pending::get(&object("memory")?, "/allocate")?;
    let restart = restarted(&site.agent, &pod)?;
    delete("memory", &[])?;
    told(&restart, "oom", Some(137), request)
}

/// Its container is stopped, by nobody that the API knows, while it is an endpoint. A graceful node shutdown looks the same until the kubelet writes a status.
pub(super) fn runtime_stop(site: &Site) -> anyhow::Result<String> {
    kubectl::apply(&pods::service("stopped", "ClusterIP"))?;
    let mut spec = pods::spec(pods::container("exit"), 20);
    spec["restartPolicy"] = "Never".into();
    let (pod, request) = running("stopped", spec)?;
    wait_endpoint("stopped", true)?;
    let id = object("stopped")?["status"]["containerStatuses"][0]["containerID"].as_str().map(str::to_owned);
    let id = id.context("the container has an id")?;
    let id = id.trim_start_matches("containerd://");
    let status = Command::new("ctr").args(["-n", "k8s.io", "tasks", "kill", "-s", "SIGTERM", id]).status()?;
    ensure!(status.success(), "ctr: {status}");
    let end = ended(&site.agent, &pod)?;
    delete("stopped", &[])?;
    Ok(format!("{}, {}", check(&end, "unknown", "exited", true)?, request.lost(&end, "stopping")?))
}

fn object(name: &str) -> anyhow::Result<Value> {
    kubectl::get(&["pod", "-n", pods::NAMESPACE, name])
}

/// Checks a restart: why, with what status, and the lost request.
fn told(restart: &Restart, reason: &str, code: Option<i32>, request: Pending) -> anyhow::Result<String> {
    let end = &restart.container_restart;
    let codes: Vec<_> = end.containers.iter().map(|it| it.exit_code).collect();
    ensure!(
        restart.reason == reason && codes == [code],
        "reason {}, exit codes {codes:?}; wanted {reason}, {code:?}",
        restart.reason
    );
    ensure!(
        !end.silent && end.complete,
        "silent {}, complete {}: {:?}",
        end.silent,
        end.complete,
        end.anomalies
    );
    Ok(format!("restart by {reason}, exit code {}, {}", code.unwrap_or(-1), request.lost(end, "stopping")?))
}
