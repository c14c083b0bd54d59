//! Ends that the kubelet itself brings about, or is away from.

use std::fs;

use anyhow::Context as _;
use serde_json::json;

use super::{check, delete, ended, running};
use crate::pods::{self, PATIENCE};
use crate::site::Site;
use crate::{kubectl, kubelet};

/// A static pod goes when its file does; what the API server has is a mirror.
pub(super) fn static_pod(site: &Site) -> anyhow::Result<String> {
    let file = site.state.join("conf/static/fixed.json");
    fs::write(&file, pods::pod("fixed", pods::spec(pods::container("exit"), 20)).to_string())
        .context("write the manifest")?;
    let mirror = pods::wait_pod("fixed-node-1", "is ready", |pod| pods::condition(pod, "Ready"))?;
    fs::remove_file(&file).context("remove the manifest")?;
    let end = ended(&site.agent, &pods::reference(&mirror)?)?;
    check(&end, "delete", "exited", false)
}

/// SIGKILL to the kubelet while a container drains; another one comes and goes on.
pub(super) fn killed(site: &Site) -> anyhow::Result<String> {
    let mut container = pods::container("linger");
    container["env"] =
        json!([{"name": "TERM_MODE", "value": "linger"}, {"name": "TERM_LINGER", "value": "6s"}]);
    let (pod, request) = running("orphan", pods::spec(container, 12))?;
    delete("orphan", &[])?;
    kubectl::wait("the stop signal is seen", PATIENCE, || {
        let known = site.agent.terminations()?;
        Ok(known.iter().any(|it| it.pod.uid == pod.uid && it.step("stop_signal").is_some()).then_some(()))
    })?;
    kubelet::restart(site)?;
    let end = ended(&site.agent, &pod)?;
    let said = check(&end, "delete", "grace_exceeded", false)?;
    Ok(format!("{said}, {}", request.lost(&end, "stopping")?))
}
