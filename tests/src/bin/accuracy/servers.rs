//! The servers that are not part of the test world: their sources (tests/servers), compiled where that is needed, and the commands that
//! run them. A server whose language is not installed is a skip with a reason; one that does not compile is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use world::PodTemplate;

use crate::rows::{Row, Server};

const GO_MODULE: &str = include_str!("../../../servers/go/go.mod");
const GO_SOURCE: &str = include_str!("../../../servers/go/main.go");
const GRPC_MODULE: &str = include_str!("../../../servers/grpc/go.mod");
const GRPC_SUMS: &str = include_str!("../../../servers/grpc/go.sum");
const GRPC_SOURCE: &str = include_str!("../../../servers/grpc/main.go");
const PYTHON_SOURCE: &str = include_str!("../../../servers/python/server.py");
const GUNICORN_SOURCE: &str = include_str!("../../../servers/python/app.py");
const NODE_SOURCE: &str = include_str!("../../../servers/node/server.js");
const JAVA_SOURCE: &str = include_str!("../../../servers/java/Server.java");

/// The files of a Go program, by name.
type GoFiles = &'static [(&'static str, &'static str)];
const GO_FILES: GoFiles = &[("go.mod", GO_MODULE), ("main.go", GO_SOURCE)];
const GRPC_FILES: GoFiles = &[("go.mod", GRPC_MODULE), ("go.sum", GRPC_SUMS), ("main.go", GRPC_SOURCE)];

/// One process that accepts, with more threads than a pod has clients at a time; connections are kept for many times what lies between two requests.
const GUNICORN_OPTIONS: [&str; 10] = [
    "--bind",
    "[::]:8080",
    "--worker-class",
    "gthread",
    "--threads",
    "128",
    "--keep-alive",
    "5",
    "--log-level",
    "error",
];
/// Nothing is kept, and everybody may ask.
const REDIS_OPTIONS: [&str; 11] = [
    "--port",
    "8080",
    "--bind",
    "0.0.0.0",
    "::",
    "--protected-mode",
    "no",
    "--save",
    "",
    "--loglevel",
    "warning",
];
/// A small virtual machine that is there soon.
const JAVA_OPTIONS: [&str; 3] = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx128m"];

/// The words that start each server; none if it is not installed. The images `testserver` and `nginx` need no words.
pub(crate) struct Servers(BTreeMap<Server, Option<Vec<String>>>);

impl Servers {
    /// Finds and compiles these; what is made lies below `directory`.
    pub(crate) fn prepare(wanted: &BTreeSet<Server>, directory: &Path) -> anyhow::Result<Self> {
        let mut found = BTreeMap::new();
        for &server in wanted {
            let directory = directory.join(server.name());
            fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
            let words = match server {
                Server::Testserver | Server::Nginx => Ok(Some(Vec::new())),
                Server::Go => go(&directory, GO_FILES, &[]),
                Server::GoTls => go(&directory, GO_FILES, &["-tls"]),
                Server::GoH2c => go(&directory, GO_FILES, &["-h2c"]),
                Server::Grpc => go(&directory, GRPC_FILES, &[]),
                Server::Python => python(&directory),
                Server::Gunicorn => gunicorn(&directory),
                Server::Redis => redis(),
                Server::Node => node(&directory),
                Server::Java => java(&directory),
            };
            found.insert(server, words.with_context(|| format!("prepare the server {}", server.name()))?);
        }
        Ok(Self(found))
    }

    /// Why the rows of a server are skipped; `None` if they are not.
    pub(crate) fn obstacle(&self, server: Server) -> Option<String> {
        let is_there = self.0.get(&server).is_some_and(Option::is_some);
        (!is_there).then(|| format!("{} is not installed (cargo xtask setup --servers)", server.name()))
    }

    /// The pods of a row.
    pub(crate) fn template(&self, row: &Row) -> PodTemplate {
        let app = row.workload();
        let mut template = match row.style.server {
            Server::Testserver => PodTemplate::testserver(&app, row.style.arguments),
            Server::Nginx => PodTemplate::nginx(&app),
            Server::Go
            | Server::GoTls
            | Server::GoH2c
            | Server::Grpc
            | Server::Python
            | Server::Gunicorn
            | Server::Redis
            | Server::Node
            | Server::Java => {
                let words = self.0.get(&row.style.server).cloned().flatten().unwrap_or_default();
                let arguments = row.style.arguments.iter().map(|&argument| argument.to_owned());
                PodTemplate {
                    image: row.style.server.name().to_owned(),
                    args: words.into_iter().chain(arguments).collect(),
                    // Any path is answered alike.
                    ..PodTemplate::nginx(&app)
                }
            }
        };
        template.prestop_seconds = row.style.prestop_seconds;
        template.stop_signal = row.style.stop_signal.map(str::to_owned);
        template
    }
}

fn go(directory: &Path, files: GoFiles, options: &[&str]) -> anyhow::Result<Option<Vec<String>>> {
    let Some(go) = candidates("go").into_iter().next() else { return Ok(None) };
    for (name, content) in files {
        fs::write(directory.join(name), content)?;
    }
    let command = |words: &[&str]| {
        let mut command = Command::new(&go);
        command.args(words).current_dir(directory).envs([
            ("GOFLAGS", "-mod=mod"),
            ("GOTOOLCHAIN", "local"),
            ("GOPROXY", "off"),
            ("CGO_ENABLED", "0"),
        ]);
        if std::env::var_os("HOME").is_none() {
            command.env("GOCACHE", directory.join("cache")).env("GOMODCACHE", directory.join("modules"));
        }
        command
    };
    // Nothing is fetched here: without its modules, or with a Go that is too old for it, a server is not installed.
    if output(&mut command(&["mod", "download"])).is_err() {
        return Ok(None);
    }
    let program = directory.join("server");
    eprintln!("accuracy: compile {} (the first time half a minute)", directory.display());
    output(command(&["build", "-o"]).arg(&program))?;
    let options = options.iter().map(|&option| option.to_owned());
    Ok(Some(std::iter::once(text(&program)?).chain(options).collect()))
}

fn python(directory: &Path) -> anyhow::Result<Option<Vec<String>>> {
    // A version manager's shim is asked for what it stands for: pods have another environment than this process.
    let real = candidates("python3").iter().find_map(|python| {
        output(Command::new(python).args(["-c", "import sys; print(sys.executable)"])).ok()
    });
    let Some(real) = real else { return Ok(None) };
    let source = directory.join("server.py");
    fs::write(&source, PYTHON_SOURCE)?;
    Ok(Some(vec![real, text(&source)?]))
}

fn gunicorn(directory: &Path) -> anyhow::Result<Option<Vec<String>>> {
    let works = |gunicorn: &PathBuf| output(Command::new(gunicorn).arg("--version")).is_ok();
    let Some(gunicorn) = candidates("gunicorn").into_iter().find(works) else { return Ok(None) };
    fs::write(directory.join("app.py"), GUNICORN_SOURCE)?;
    let mut words = vec![text(&gunicorn)?, "--chdir".to_owned(), text(directory)?];
    words.extend(GUNICORN_OPTIONS.map(str::to_owned));
    words.push("app:app".to_owned());
    Ok(Some(words))
}

fn redis() -> anyhow::Result<Option<Vec<String>>> {
    let Some(redis) = candidates("redis-server").into_iter().next() else { return Ok(None) };
    let options = REDIS_OPTIONS.map(str::to_owned);
    Ok(Some(std::iter::once(text(&redis)?).chain(options).collect()))
}

fn node(directory: &Path) -> anyhow::Result<Option<Vec<String>>> {
    let real = candidates("node")
        .iter()
        .find_map(|node| output(Command::new(node).args(["-p", "process.execPath"])).ok());
    let Some(real) = real else { return Ok(None) };
    let source = directory.join("server.js");
    fs::write(&source, NODE_SOURCE)?;
    Ok(Some(vec![real, text(&source)?]))
}

fn java(directory: &Path) -> anyhow::Result<Option<Vec<String>>> {
    let works = |java: &PathBuf| output(Command::new(java).arg("-version")).is_ok();
    let Some(java) = candidates("java").into_iter().find(works) else { return Ok(None) };
    let source = directory.join("Server.java");
    fs::write(&source, JAVA_SOURCE)?;
    let mut words = vec![text(&java)?];
    words.extend(JAVA_OPTIONS.map(str::to_owned));
    match candidates("javac").into_iter().next() {
        Some(javac) => {
            output(Command::new(javac).arg("-d").arg(directory).arg(&source))?;
            words.extend(["-cp".to_owned(), text(directory)?, "Server".to_owned()]);
        }
        // The launcher compiles by itself, at each start.
        None => words.push(text(&source)?),
    }
    Ok(Some(words))
}

/// Every file of this name on PATH, in order.
fn candidates(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|directory| directory.join(name)).filter(|file| file.is_file()).collect()
}

/// What a command that succeeds prints, trimmed.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn text(path: &Path) -> anyhow::Result<String> {
    Ok(path.to_str().with_context(|| format!("{} is not Unicode", path.display()))?.to_owned())
}
