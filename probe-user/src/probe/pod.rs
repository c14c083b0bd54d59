//! `drainscope probe pod`: a pod's own probes, read from the API or a file, each run once as its specification says.
//!
//! The address is the pod's, so it is to be reached from here: on the pod's node it is.

use super::command;
use super::show;
use super::spec::{SpecError, resolve};
use super::target::{Target, TargetError, user_agent};
use crate::args::{Output, ProbePodArgs};
use crate::kube::client::{ConnectError, connect};
use kube::core::Request;
use probe_core::probes::ProbeType;
use probe_core::probes::spec::Probe;
use probe_core::probes::validation::invalid;
use probe_core::rules::object::EnvVar;
use probe_engine::ContainerPort;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Largest file that is read; a pod in the API's store is smaller.
const FILE_BYTES: u64 = 4 << 20;

/// How long the API may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a pod's probes cannot be run; the command ends with status 2.
#[derive(Debug, Error)]
pub enum PodError {
    /// Not `1.36`.
    #[error(transparent)]
    Version(#[from] TargetError),
    /// No API.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The API has no such pod or does not say.
    #[error("pod {name}: {why}")]
    Api {
        /// Its name.
        name: String,
        /// What the API says.
        why: String,
    },
    /// The file cannot be read.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What was read is no pod.
    #[error("no pod: {0}")]
    NoPod(String),
    /// Its address is not known.
    #[error("pod {0} has no address: --host gives one")]
    NoAddress(String),
    /// None of its containers has a probe that can be run.
    #[error("pod {0} has no probe that can be run")]
    NoProbe(String),
}

/// What is needed of a pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pod {
    kind: Option<String>,
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    namespace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    container_statuses: Option<Vec<ContainerStatus>>,
    init_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    name: String,
    #[serde(rename = "containerID")]
    container_id: Option<String>,
}

impl Status {
    /// Of a container that was made.
    fn container_id(&self, name: &str) -> &str {
        let all = self.container_statuses.iter().chain(&self.init_container_statuses).flatten();
        let mut ids = all.filter(|it| it.name == name).filter_map(|it| it.container_id.as_deref());
        ids.next().unwrap_or_default()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    name: String,
    ports: Option<Vec<Port>>,
    env: Option<Vec<EnvVar>>,
    restart_policy: Option<String>,
    liveness_probe: Option<Probe>,
    readiness_probe: Option<Probe>,
    startup_probe: Option<Probe>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    name: Option<String>,
    container_port: i32,
}

/// Runs a pod's probes, one after the other; the text that is to be shown, and whether all succeeded.
///
/// # Errors
/// If there is no such pod or nothing to run.
pub async fn run(args: &ProbePodArgs, color: bool) -> Result<(String, bool), PodError> {
    let user_agent = user_agent(&args.kubelet_version)?;
    let pod = match &args.file {
        Some(path) => from_file(path)?,
        None => from_api(args).await?,
    };
    let name = match &pod.metadata.namespace {
        Some(namespace) => format!("{namespace}/{}", pod.metadata.name),
        None => pod.metadata.name.clone(),
    };
    let address =
        args.host.clone().or_else(|| pod.status.pod_ip.clone()).filter(|address| !address.is_empty());
    let address = address.ok_or_else(|| PodError::NoAddress(name.clone()))?;
    let (mut text, mut ran, mut succeeded) = (String::new(), 0_u32, 0_u32);
    for (container, kind, spec) in probes(&pod) {
        let exec = args.exec.then(|| (pod.status.container_id(&container.name), args.cri_socket.as_path()));
        match probe(container, kind, spec, (&address, exec), &user_agent) {
            Ok(target) => {
                let outcome = probe_engine::run(&target.probe).await;
                ran += 1;
                succeeded += u32::from(super::succeeded(&outcome));
                text.push_str(&match args.output {
                    Output::Json => show::pod_json(&name, &container.name, kind, &target, &outcome),
                    Output::Table => show::pod_details(&container.name, kind, &target, &outcome, color),
                });
            }
            Err(why) => text.push_str(&match args.output {
                Output::Json => show::pod_skipped_json(&name, &container.name, kind, &why),
                Output::Table => show::pod_skipped(&container.name, kind, &why),
            }),
        }
    }
    if ran == 0 {
        return Err(PodError::NoProbe(name));
    }
    let verdict = format!("{succeeded} of {ran} succeeded  {name}  {address}\n");
    let text = if args.output == Output::Table { verdict + &text } else { text };
    Ok((text, succeeded == ran))
}

/// Those of containers and sidecars, in the order in which a pod starts.
fn probes(pod: &Pod) -> impl Iterator<Item = (&Container, ProbeType, &Probe)> {
    let sidecars = pod.spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    sidecars.chain(pod.spec.containers.iter().flatten()).flat_map(|container| {
        [
            (ProbeType::Startup, &container.startup_probe),
            (ProbeType::Liveness, &container.liveness_probe),
            (ProbeType::Readiness, &container.readiness_probe),
        ]
        .into_iter()
        .filter_map(move |(kind, spec)| Some((container, kind, spec.as_ref()?)))
    })
}

/// The probe, or why it is not run; commands are run where container and runtime are given.
fn probe(
    container: &Container,
    kind: ProbeType,
    spec: &Probe,
    (address, exec): (&str, Option<(&str, &Path)>),
    user_agent: &str,
) -> Result<Target, String> {
    let spec = spec.clone().with_defaults();
    let path = format!("{}.{}Probe", container.name, kind.to_string().to_lowercase());
    let wrong: Vec<String> = invalid(&spec, kind, &path).iter().map(ToString::to_string).collect();
    if !wrong.is_empty() {
        return Err(format!("the API would refuse it: {}", wrong.join("; ")));
    }
    let ports: Vec<ContainerPort<'_>> = container
        .ports
        .iter()
        .flatten()
        .map(|port| ContainerPort {
            name: port.name.as_deref().unwrap_or_default(),
            number: port.container_port,
        })
        .collect();
    let probe = match (resolve(&spec, address, &ports, user_agent), exec) {
        (Err(SpecError::Exec), Some((container_id, socket))) => {
            let env = container.env.as_deref().unwrap_or_default();
            command::resolve(&spec, env, container_id, socket, user_agent)
        }
        (resolved, _) => resolved,
    };
    let probe = probe.map_err(|error| match error {
        SpecError::Port(error) => format!("the kubelet would discard it: {error}"),
        SpecError::Exec => format!("{}: --exec", SpecError::Exec),
        other @ (SpecError::NoContainer | SpecError::LongCommand | SpecError::NoHandler) => other.to_string(),
    })?;
    Ok(Target::of(probe))
}

fn from_file(path: &PathBuf) -> Result<Pod, PodError> {
    let failed = |error| PodError::File { path: path.clone(), error };
    let mut text = String::new();
    if path.as_os_str() == "-" {
        io::stdin().take(FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
    } else {
        File::open(path).and_then(|file| file.take(FILE_BYTES).read_to_string(&mut text)).map_err(failed)?;
    }
    let pod: Pod = serde_saphyr::from_str(&text).map_err(|error| PodError::NoPod(error.to_string()))?;
    match pod.kind.as_deref() {
        None | Some("Pod") => Ok(pod),
        Some(other) => Err(PodError::NoPod(format!("it is a {other}"))),
    }
}

async fn from_api(args: &ProbePodArgs) -> Result<Pod, PodError> {
    let typed = args.name.as_deref().unwrap_or_default();
    let name = typed.strip_prefix("pod/").unwrap_or(typed).to_owned();
    let failed = |why: String| PodError::Api { name: name.clone(), why };
    let client = connect(args.kubeconfig_path().as_deref()).await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    // A name from the command line is no path.
    if [&namespace, &name].iter().any(|part| part.is_empty() || part.contains(['/', '?', '#', '%'])) {
        return Err(failed("that is no name".to_owned()));
    }
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let request = Request::new(path)
        .get(&name, &kube::api::GetParams::default())
        .map_err(|error| failed(error.to_string()))?;
    match tokio::time::timeout(PATIENCE, client.request::<Pod>(request)).await {
        Ok(pod) => pod.map_err(|error| failed(error.to_string())),
        Err(_) => Err(failed(format!("no answer within {PATIENCE:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_those_of_sidecars_and_containers() {
        let pod: Pod = serde_saphyr::from_str(
            "{kind: Pod, spec: {initContainers: [{name: init, livenessProbe: {}}, {name: side, restartPolicy: Always, \
             readinessProbe: {}}], containers: [{name: a, livenessProbe: {}, startupProbe: {}, readinessProbe: null}, {name: b}]}}",
        )
        .expect("a pod");
        let found: Vec<_> =
            probes(&pod).map(|(container, kind, _)| (container.name.as_str(), kind)).collect();
        assert_eq!(
            found,
            [("side", ProbeType::Readiness), ("a", ProbeType::Startup), ("a", ProbeType::Liveness)]
        );
    }
}
