//! From a container's spec to a command: there are no images here, only programs of this machine.
//!
//! The image `testserver` (with any tag) is the test world's server with the container's `args`; `nginx` is the installed nginx with a generated
//! configuration for the container's first port; with any other image the container's `command` and `args` are run as they are.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;

use crate::node::find_program;

/// The port that an nginx container without ports listens on.
const NGINX_PORT: u64 = 8080;

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerCommand {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
}

/// The command of a container; files that it needs are made in `directory`.
pub(super) fn command_of(
    spec: &Value,
    testserver: &Path,
    pod: &str,
    directory: &Path,
) -> anyhow::Result<ContainerCommand> {
    let image = spec["image"].as_str().unwrap_or_default();
    let name = image.split(':').next().unwrap_or_default();
    let mut words = strings(&spec["command"]);
    let arguments = strings(&spec["args"]);
    match name {
        "testserver" if words.is_empty() => {
            Ok(ContainerCommand { program: testserver.to_owned(), arguments })
        }
        "nginx" if words.is_empty() => nginx(spec, pod, directory),
        _ => {
            words.extend(arguments);
            let mut words = words.into_iter();
            let program = words
                .next()
                .with_context(|| format!("image {image:?} is unknown and there is no command"))?;
            Ok(ContainerCommand { program: find_program(&program)?, arguments: words.collect() })
        }
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// nginx in the foreground: dual-stack, one worker, one fixed answer everywhere, everything it writes below `directory`.
fn nginx(spec: &Value, pod: &str, directory: &Path) -> anyhow::Result<ContainerCommand> {
    let port = spec["ports"][0]["containerPort"].as_u64().unwrap_or(NGINX_PORT);
    let here = directory.display();
    let mut configuration = format!(
        "daemon off;\nworker_processes 1;\nuser root;\npid {here}/nginx.pid;\nerror_log stderr notice;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000;\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(configuration, "  {kind}_temp_path {here}/{kind};")?;
    }
    write!(
        configuration,
        "  server {{\n    listen [::]:{port} ipv6only=off backlog=4096;\n    location / {{ return 200 \"hello from {pod}\\n\"; }}\n  }}\n}}\n"
    )?;
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration).with_context(|| format!("write {}", file.display()))?;
    let arguments = ["-e", "stderr", "-p", &here.to_string(), "-c", &file.display().to_string()];
    Ok(ContainerCommand { program: find_program("nginx")?, arguments: arguments.map(str::to_owned).to_vec() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_testserver_gets_the_containers_arguments() {
        let spec = json!({"image": "testserver:1", "args": ["--on-term", "exit"]});
        let command =
            command_of(&spec, Path::new("/bin/server"), "p", Path::new("/none")).expect("a command");
        assert_eq!(command.program, Path::new("/bin/server"));
        assert_eq!(command.arguments, ["--on-term", "exit"]);
    }

    #[test]
    fn another_image_needs_a_command() {
        let spec = json!({"image": "other", "command": ["sleep", "1"], "args": ["2"]});
        let command = command_of(&spec, Path::new("/x"), "p", Path::new("/none")).expect("a command");
        assert!(command.program.ends_with("sleep"));
        assert_eq!(command.arguments, ["1", "2"]);
        assert!(command_of(&json!({"image": "other"}), Path::new("/x"), "p", Path::new("/none")).is_err());
    }
}
