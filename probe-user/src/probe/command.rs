//! From an exec probe's specification to what the engine runs: variables filled in, the container by its ID, the runtime by its socket. No I/O.
//!
//! Exec probes are off unless asked for: they run a program in somebody's container, and the socket that they take can do anything there.

use super::spec::SpecError;
use probe_core::probes::expand::command;
use probe_core::probes::spec;
use probe_core::rules::object::EnvVar;
use probe_engine::{Exec, Handler, Probe, RUNTIME_GRACE};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// containerd's socket.
pub const CRI_SOCKET: &str = "/run/containerd/containerd.sock";

/// The probe of a container with these variables and this ID, which may be the API's (`containerd://ID`). Defaults are to be set already.
///
/// # Errors
/// If it runs no command, or too long a one, or the container has no ID (yet).
pub fn resolve(
    spec: &spec::Probe,
    env: &[EnvVar],
    container_id: &str,
    socket: &Path,
    user_agent: &str,
) -> Result<Probe, SpecError> {
    let Some(spec::Handler::Exec(exec)) = spec.handler() else { return Err(SpecError::NoHandler) };
    let container = container_id.split_once("://").map_or(container_id, |(_runtime, id)| id);
    if container.is_empty() {
        return Err(SpecError::NoContainer);
    }
    let handler = Handler::Exec(Exec {
        socket: socket_path(socket),
        container: container.to_owned(),
        command: command(&exec.command, env).ok_or(SpecError::LongCommand)?,
        grace: RUNTIME_GRACE,
    });
    let seconds = u64::try_from(spec.timeout_seconds).unwrap_or_default();
    Ok(Probe { handler, timeout: Duration::from_secs(seconds), user_agent: user_agent.to_owned() })
}

/// `unix:///run/x.sock`, as kubelets are configured, is `/run/x.sock`.
pub(crate) fn socket_path(typed: &Path) -> PathBuf {
    typed
        .to_str()
        .and_then(|text| text.strip_prefix("unix://"))
        .map_or_else(|| typed.to_owned(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_core::probes::expand::COMMAND_BYTES;

    fn probe(yaml: &str) -> spec::Probe {
        let probe: spec::Probe = serde_saphyr::from_str(yaml).expect("a probe");
        probe.with_defaults()
    }

    #[test]
    fn a_command_has_its_variables_and_the_container_its_bare_id() {
        let env: Vec<EnvVar> = serde_saphyr::from_str(
            "[{name: FILE, value: /tmp/ok}, {name: SECRET, valueFrom: {secretKeyRef: {name: s, key: k}}}, {name: N, value: null}]",
        )
        .expect("variables");
        let spec = probe("{exec: {command: [cat, $(FILE), '<$(SECRET)$(N)>', $(OTHER)]}, timeoutSeconds: 2}");
        let found =
            resolve(&spec, &env, "containerd://abc", Path::new("unix:///run/x.sock"), "me").expect("a probe");
        let Handler::Exec(exec) = found.handler else { panic!("no command") };
        assert_eq!(exec.command, ["cat", "/tmp/ok", "<>", "$(OTHER)"]);
        assert_eq!((exec.container.as_str(), exec.socket.as_path()), ("abc", Path::new("/run/x.sock")));
        assert_eq!((found.timeout, exec.grace), (Duration::from_secs(2), RUNTIME_GRACE));
    }

    #[test]
    fn without_command_or_container_there_is_no_probe() {
        let socket = Path::new(CRI_SOCKET);
        let tcp = probe("{tcpSocket: {port: 1}}");
        assert_eq!(resolve(&tcp, &[], "c", socket, ""), Err(SpecError::NoHandler));
        let exec = probe("{exec: {command: [ls]}}");
        for id in ["", "containerd://"] {
            assert_eq!(resolve(&exec, &[], id, socket, ""), Err(SpecError::NoContainer));
        }
        let word = "x".repeat(COMMAND_BYTES);
        let long = probe(&format!("{{exec: {{command: [echo, {word}]}}}}"));
        assert_eq!(resolve(&long, &[], "c", socket, ""), Err(SpecError::LongCommand));
    }
}
