//! The `drainscope` command as a process: exit status, streams, signals, limits. In most tests no API server is reachable,
//! so the agent is never ready, but it runs, serves and ends as it should. As root the kernel programs are loaded for
//! real; otherwise the agent goes on without them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

const DRAINSCOPE: &str = env!("CARGO_BIN_EXE_drainscope");
/// Bound of every wait. Loading the kernel programs takes a second or two.
const WAIT: Duration = Duration::from_secs(30);

fn run(args: &[&str]) -> Output {
    command(DRAINSCOPE).args(args).output().expect("it runs")
}

/// Without what the environment of the tests might say.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("DRAINSCOPE_") || text.starts_with("KUBERNETES_") || text == "NODE_NAME" {
            command.env_remove(&name);
        }
    }
    command
}

/// A running agent whose API server does not answer.
struct Agent {
    child: Child,
    stderr: BufReader<ChildStderr>,
    listen: SocketAddr,
    api: SocketAddr,
    kubeconfig: PathBuf,
}

impl Agent {
    fn start(name: &str, flags: &str) -> Self {
        // A port that was free a moment ago: connections to it are refused.
        let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        Self::start_with(name, flags, closed.expect("a free port"))
    }

    fn start_with(name: &str, flags: &str, server: SocketAddr) -> Self {
        let kubeconfig =
            std::env::temp_dir().join(format!("drainscope-command-{name}-{}", std::process::id()));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'http://{server}'}}}}]\n\
             users: [{{name: c, user: {{}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: c}}}}]\n"
        );
        std::fs::write(&kubeconfig, text).expect("temporary file");
        let line = format!(
            "ulimit -l 64; exec {DRAINSCOPE} agent --node-name n1 --kubeconfig {} --listen 127.0.0.1:0 \
             --api-listen 127.0.0.1:0 {flags}",
            kubeconfig.display()
        );
        let mut child =
            command("sh").args(["-c", &line]).stderr(Stdio::piped()).spawn().expect("the agent starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (listen, api) = loop {
            let mut line = String::new();
            assert_ne!(
                stderr.read_line(&mut line).expect("its log"),
                0,
                "it ended early: {:?}",
                child.wait()
            );
            // As text: `listen=127.0.0.1:1`, as JSON: `"listen":"127.0.0.1:1"`.
            let address = |name: &str| {
                let (as_text, as_json) = (format!(" {name}="), format!("\"{name}\":\""));
                let (_, rest) = line.split_once(&as_text).or_else(|| line.split_once(&as_json))?;
                rest.split([' ', '"', '\n']).next().and_then(|text| text.parse().ok())
            };
            if let Some(both) = address("listen").zip(address("api_listen")) {
                break both;
            }
        };
        Self { child, stderr, listen, api, kubeconfig }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().expect("kill runs").success());
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.listen).expect("connect");
        stream.set_read_timeout(Some(WAIT)).expect("timeout");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("write");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    }

    /// Waits for its end: exit code and the rest of its log.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + WAIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut log = String::new();
        self.stderr.read_to_string(&mut log).expect("its log");
        (status.code(), log)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail for an agent that has ended.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_file(&self.kubeconfig));
    }
}

#[test]
fn usage_and_environment_errors_exit_with_2() {
    for (args, said) in [
        (&["agent"][..], "pass --node-name"),
        (&["agent", "--node-name", "n1"], "pass --kubeconfig"),
        (&["agent", "--node-name", "n1", "--kubeconfig", "/nonexistent"], "/nonexistent"),
        (&["agent", "--node-name", "n1", "--history", "0"], "--history 0 is out of range"),
        (&["agent", "--nonsense"], "--nonsense"),
        (&[], "Usage"),
    ] {
        let output = run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(said) && output.stdout.is_empty(), "{args:?}: {stderr}");
    }
}

#[test]
fn help_shows_defaults_and_examples() {
    let output = run(&["agent", "--help"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success());
    for part in ["[default: [::]:10290]", "[env: DRAINSCOPE_API_LISTEN=]", "Examples:"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
}

#[test]
fn check_works_without_a_cluster_and_its_exit_status_is_its_verdict() {
    let output = run(&["check", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON on stdout");
    let code = match report["state"].as_str() {
        Some("ok") => 0,
        Some("degraded") => 1,
        Some("failed") => 2,
        other => panic!("{other:?}"),
    };
    assert_eq!(output.status.code(), Some(code), "{report:#}");
    let items = report["items"].as_array().expect("items");
    let item =
        |name: &str| items.iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(item("API server")["state"], "degraded", "{report:#}");
    assert!(item("kernel")["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    let table = String::from_utf8(run(&["check"]).stdout).expect("text");
    assert!(
        table.starts_with(report["state"].as_str().expect("a state")),
        "the verdict comes first: {table}"
    );
}

#[test]
fn the_agent_runs_without_an_api_and_with_little_lockable_memory() {
    let agent = Agent::start("runs", "--grace 0s");
    assert!(agent.get("/livez").starts_with("HTTP/1.1 200"));
    let ready = agent.get("/readyz?verbose");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("[-]api-lists failed"), "{ready}");
    assert!(ready.contains("[+]kernel ok"), "{ready}");
    assert!(agent.get("/metrics").contains("drainscope_build_info{"));
    agent.signal("-TERM");
    let (code, log) = agent.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("drainscope ends"), "{log}");
}

#[test]
fn after_sigterm_it_serves_on_until_its_grace_is_over() {
    let agent = Agent::start("grace", "--grace 1s");
    let began = Instant::now();
    agent.signal("-TERM");
    assert!(agent.get("/livez").starts_with("HTTP/1.1 200"), "it serves on");
    let (code, log) = agent.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn a_second_signal_or_sigint_ends_it_at_once() {
    let agent = Agent::start("twice", "--grace 1h");
    agent.signal("-TERM");
    agent.signal("-INT");
    assert_eq!(agent.end().0, Some(0));
    let agent = Agent::start("int", "--grace 1h");
    agent.signal("-INT");
    assert_eq!(agent.end().0, Some(0));
}

/// Answers every list, with one pod that is being deleted, and leaves every watch open without a word.
fn little_api() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let lines = BufReader::new(&stream).lines();
            let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let Some(request) = head.first() else { continue };
            let pod = serde_json::json!({
                "metadata": {"name": "a", "namespace": "shop", "uid": "u1", "resourceVersion": "5",
                             "deletionTimestamp": "2026-11-22T14:00:00Z", "deletionGracePeriodSeconds": 30},
                "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
                "status": {"phase": "Running", "containerStatuses": [{"name": "c", "containerID": "containerd://c1"}]}
            });
            let items = if request.contains("/pods") { vec![pod] } else { Vec::new() };
            let body = serde_json::json!({"metadata": {"resourceVersion": "5"}, "items": items}).to_string();
            if request.contains("watch=true") {
                drop(stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
                held.push(stream);
            } else {
                let head =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                drop(stream.write_all((head + &body).as_bytes()));
            }
        }
    });
    address
}

#[test]
fn at_its_end_it_logs_what_it_knows_as_json_lines() {
    let agent = Agent::start_with("journal", "--grace 0s --log-format json", little_api());
    let deadline = Instant::now() + WAIT;
    while !agent.get("/readyz").starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < deadline, "{}", agent.get("/readyz?verbose"));
        std::thread::sleep(Duration::from_millis(10));
    }
    agent.signal("-TERM");
    let (code, log) = agent.end();
    assert_eq!(code, Some(0), "{log}");
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let terminations: Vec<&serde_json::Value> =
        lines.iter().filter_map(|line| line.get("termination")).collect();
    assert_eq!(terminations.len(), 1, "{log}");
    assert_eq!((&terminations[0]["pod"]["name"], &terminations[0]["node"]), (&"a".into(), &"n1".into()));
}

/// A file of this test's own that goes away with its value.
struct Log(PathBuf);

impl Log {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("drainscope-log-{name}-{}", std::process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_default()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

#[test]
fn an_agent_is_recorded_until_a_signal_and_replayed() {
    let agent = Agent::start_with("recorded", "--grace 0s", little_api());
    let (log, api) = (Log::new("recorded"), agent.api.to_string());
    let record = command(DRAINSCOPE)
        .args(["record", log.path(), "--api", &api])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let deadline = Instant::now() + WAIT;
    // The pod that is being deleted is in it, and a scrape.
    while !log.text().contains("\"scraped\"") {
        assert!(Instant::now() < deadline, "{}", log.text());
        assert!(agent.get("/metrics").starts_with("HTTP/1.1 200"));
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = record.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
    let recorded = record.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&recorded.stderr).into_owned();
    assert!(recorded.status.success() && said.ends_with("the recording was ended\n"), "{said}");
    let text = log.text();
    assert!(text.ends_with("\n{\"end\":\"stopped\"}\n"), "{text}");
    assert!(
        said.starts_with(&format!("recorded {} lines, {} bytes;", text.lines().count(), text.len())),
        "{said}"
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(log.path()).expect("a file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "it has clients' addresses");

    let again = run(&["record", log.path(), "--api", &api]);
    assert_eq!(again.status.code(), Some(2), "no file is replaced");
    assert!(String::from_utf8_lossy(&again.stderr).contains(log.path()), "{again:?}");

    let replay = |arguments: &[&str]| {
        let output = run(&[&["replay", log.path()], arguments].concat());
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(replay(&[]).starts_with("OK  "), "{}", replay(&[]));
    assert!(replay(&["--metrics"]).contains("drainscope_build_info{version="));
    assert!(replay(&["--openmetrics"]).ends_with("# EOF\n"));
    assert!(replay(&["--terminations", "-o", "json"]).starts_with("{\"items\":["));
    let whole: serde_json::Value = serde_json::from_str(&replay(&["-o", "json"])).expect("JSON");
    assert_eq!((&whole["log"]["node"], &whole["log"]["end"]), (&"n1".into(), &"stopped".into()));
    agent.signal("-INT");
    assert_eq!(agent.end().0, Some(0));
}

#[test]
fn a_recording_goes_to_standard_output_for_a_time_and_is_replayed_from_standard_input() {
    let agent = Agent::start("duration", "--grace 0s");
    let recorded = run(&["record", "-", "--api", &agent.api.to_string(), "--duration", "100ms"]);
    assert!(recorded.status.success(), "{recorded:?}");
    let mut replay = command(DRAINSCOPE)
        .args(["replay", "-", "--metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    replay.stdin.take().expect("piped").write_all(&recorded.stdout).expect("it reads");
    let replayed = replay.wait_with_output().expect("it ends");
    assert!(replayed.status.success(), "{replayed:?}");
    let said = String::from_utf8_lossy(&replayed.stderr).into_owned();
    assert!(said.contains("nobody scraped /metrics meanwhile"), "{said}");
}

#[test]
fn what_cannot_be_recorded_or_replayed_is_said() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let closed = closed.expect("a free port").to_string();
    let (log, nonsense) = (Log::new("none"), Log::new("nonsense"));
    std::fs::write(nonsense.path(), "hello\n").expect("temporary file");
    for (arguments, said) in [
        (&["record", log.path(), "--api", &closed][..], "no agent answers at"),
        (&["record", log.path(), "--api", &closed, "--duration=-1s"], "--duration"),
        (&["replay", log.path()], "No such file"),
        (&["replay", nonsense.path()], "line 1 is no header of an event log"),
    ] {
        let output = run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said) && output.stdout.is_empty(), "{arguments:?}: {stderr}");
    }
    assert!(!log.0.exists(), "a file without an agent");
}

#[test]
fn a_replay_that_concludes_otherwise_or_is_not_whole_says_so() {
    let agent = Agent::start("altered", "--grace 0s");
    let log = Log::new("altered");
    let recorded = run(&["record", log.path(), "--api", &agent.api.to_string(), "--duration", "50ms"]);
    assert!(recorded.status.success(), "{recorded:?}");
    let text = log.text();
    let told = "{\"told\":{\"what\":\"finding\",\"crc32\":1}}\n";
    for (altered, code, said) in [
        (
            text.replace("{\"end\"", &format!("{told}{{\"end\"")),
            1,
            "1 conclusions differ from those of the agent",
        ),
        (text[..text.len() - 5].to_owned(), 0, "is not whole and was left out"),
        (text.replace("{\"end\":\"stopped\"}\n", ""), 0, "the log has no end"),
        (text.replace("\"stopped\"", "\"slow_reader\""), 0, "the log ends early: the reader was too slow"),
    ] {
        std::fs::write(log.path(), altered).expect("temporary file");
        let output = run(&["replay", log.path()]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
}
