//! `drainscope advise probes` as a process: files, standard input and an API stand-in in; verdict, findings, exit status and streams out.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: api, namespace: shop}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 20
      containers:
      - name: app
        ports: [{containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ready, port: 8080}}
        livenessProbe: {httpGet: {path: /ready, port: 8080}}
        lifecycle: {preStop: {exec: {command: [sleep, \"30\"]}}}
";
const FINE: &str = "\
kind: Pod
metadata: {name: fine}
spec:
  containers:
  - name: app
    readinessProbe: {tcpSocket: {port: 80}}
";

/// A file that goes with the test.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = std::env::temp_dir().join(format!("drainscope-advise-{name}-{}", std::process::id()));
        std::fs::write(&path, text).expect("temporary file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drainscope"));
    for name in ["KUBECONFIG", "DRAINSCOPE_KUBECONFIG", "KUBERNETES_SERVICE_HOST", "NO_COLOR"] {
        command.env_remove(name);
    }
    command.env("HOME", "/nonexistent").args(["advise", "probes"]).args(args);
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().expect("it runs")
}

fn with_input(args: &[&str], input: &[u8]) -> Output {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    // It may have enough of it before all is written.
    drop(stdin.write_all(input));
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn the_verdict_comes_first_and_no_colours_on_a_pipe() {
    let file = TempFile::new("verdict", DEPLOYMENT);
    let output = run(&[file.path()]);
    let shown = text(&output.stdout);
    assert_eq!(shown.lines().next(), Some("1 error, 1 warning in Deployment shop/api"), "{shown}");
    assert!(
        shown.contains(
            "  error    app: preStop sleeps 30 s of terminationGracePeriodSeconds 20  [prestop-over-grace]"
        ),
        "{shown}"
    );
    assert!(shown.contains("20 + 2 = 22 s in all"), "{shown}");
    assert!(
        shown.contains(
            "app        liveness   httpGet  0..10s     20..30s  21..31s  33s    11s        53s        20..30s"
        ),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'), "{shown}");
    assert_eq!((code(&output), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn the_exit_status_tells_of_findings_only_where_it_is_asked() {
    let (bad, fine) = (TempFile::new("bad", DEPLOYMENT), TempFile::new("fine", FINE));
    let noted = TempFile::new("noted", FINE.replace("tcpSocket: {port: 80}", "exec: {command: [x]}"));
    for (args, wanted) in [
        (&[bad.path()][..], 0),
        (&[bad.path(), "--exit-code"], 1),
        (&[bad.path(), "--exit-code", "--level", "error"], 1),
        (&[fine.path(), "--exit-code"], 0),
        (&[fine.path(), bad.path(), "--exit-code"], 1),
        (&[noted.path(), "--exit-code"], 1),
        (&[noted.path(), "--exit-code", "--level", "warning"], 0),
    ] {
        assert_eq!(code(&run(args)), Some(wanted), "{args:?}");
    }
    assert_eq!(text(&run(&[fine.path()]).stdout).lines().next(), Some("no findings in Pod fine"));
}

#[test]
fn json_has_findings_and_times() {
    let input = format!("{DEPLOYMENT}---\nkind: Service\nmetadata: {{name: web}}\n---\n{FINE}");
    let output = with_input(&["-", "-o", "json"], input.as_bytes());
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&shown["errors"], &shown["warnings"], &shown["notes"]), (&1.into(), &1.into(), &0.into()));
    let workload = &shown["workloads"][0];
    assert_eq!(
        (&workload["source"], &workload["kind"], &workload["namespace"], &workload["name"]),
        (&"standard input".into(), &"Deployment".into(), &"shop".into(), &"api".into())
    );
    let finding = &workload["findings"][0];
    assert_eq!(
        (&finding["level"], &finding["code"], &finding["container"]),
        (&"error".into(), &"prestop-over-grace".into(), &"app".into())
    );
    assert!(
        ["what", "why", "do"]
            .iter()
            .all(|field| finding[field].as_str().is_some_and(|text| !text.is_empty()))
    );
    assert_eq!(workload["probes"][0]["detection_hanging_seconds"], serde_json::json!({"from": 21, "to": 31}));
    assert_eq!(shown["workloads"][1]["name"], "fine");
    assert_eq!(text(&output.stderr), "drainscope: standard input: passed over Service web\n");
}

#[test]
fn exec_probes_are_multiplied_by_the_pods_of_a_node() {
    let exec = FINE.replace("tcpSocket: {port: 80}", "exec: {command: [x]}");
    let deployment = DEPLOYMENT.replace("httpGet: {path: /ready, port: 8080}", "exec: {command: [x]}");
    for (input, args, pods, each_second) in [
        (&deployment, &["-", "-o", "json"][..], 110, 22.0),
        (&deployment, &["-", "-o", "json", "--pods-per-node", "10"], 10, 2.0),
        (&exec, &["-", "-o", "json"], 1, 0.1),
    ] {
        let output = with_input(args, input.as_bytes());
        let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let load = &shown["workloads"][0]["exec"];
        assert_eq!(load["pods_per_node"], pods, "{args:?}");
        let rate = load["per_node_per_second"].as_f64().expect("a number");
        assert!((rate - each_second).abs() < 1e-9, "{rate} {args:?}");
    }
}

#[test]
fn bad_input_has_one_clear_line_and_status_2() {
    let directory = std::env::temp_dir();
    let service = TempFile::new("service", "kind: Service\nmetadata: {name: web}\n");
    let absurd =
        TempFile::new("absurd", FINE.replace("{port: 80}", "{port: 80}, periodSeconds: 99999999999"));
    let garbage = TempFile::new("garbage", "kind: Pod\n\tspec: [}{");
    let steering = TempFile::new("steering", "kind: \"\\e[2Jx\"\n");
    let binary = TempFile::new("binary", [0xff, 0xfe, 0x00]);
    for (target, wanted) in [
        ("no-such-file.yaml", "no-such-file.yaml: no such file, and no workload: kind/name"),
        ("service/web", "service/web: no such file, and no workload: kind/name"),
        (directory.to_str().expect("UTF-8"), "Is a directory"),
        (service.path(), "no workload in it; it has Service web"),
        (
            absurd.path(),
            "Pod fine: spec.containers[0].readinessProbe.periodSeconds: invalid value: integer `99999999999`, expected i32",
        ),
        (garbage.path(), "neither YAML nor JSON"),
        (steering.path(), "it has \\u{1b}[2Jx (no name)"),
        (binary.path(), "no text in UTF-8"),
        ("deploy/api", "no kubeconfig can be used, and not in a cluster"),
    ] {
        let output = run(&[target]);
        let said = text(&output.stderr);
        assert!(said.starts_with("drainscope: ") && said.contains(wanted), "{target}: {said}");
        assert_eq!(
            (code(&output), said.lines().count(), output.stdout.len()),
            (Some(2), 1, 0),
            "{target}: {said}"
        );
    }
    let output = run(&[]);
    assert_eq!(code(&output), Some(2), "nothing to check");
}

#[test]
fn an_input_of_a_hundred_megabytes_is_refused() {
    let output = with_input(&["-"], &vec![b'#'; 100 << 20]);
    assert_eq!(
        (code(&output), text(&output.stderr)),
        (Some(2), "drainscope: standard input: longer than 16 MiB\n")
    );
}

/// Answers one request and says what it asked for.
fn api(status: &'static str, answer: String) -> (TempFile, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    let config = TempFile::new(
        &format!("kubeconfig-{}", address.port()),
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\n\
             users: [{{name: c, user: {{}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: c, namespace: shop}}}}]\n"
        ),
    );
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
        let request = lines.next().expect("a line").expect("a request");
        while lines.next().is_some_and(|line| !line.expect("a header").is_empty()) {}
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            answer.len()
        );
        stream.write_all((head + &answer).as_bytes()).expect("the answer");
        request
    });
    (config, server)
}

#[test]
fn a_workload_is_read_from_the_api() {
    for (args, path) in [
        (&["sts/db"][..], "/apis/apps/v1/namespaces/shop/statefulsets/db"),
        (&["-n", "other", "StatefulSet/db"], "/apis/apps/v1/namespaces/other/statefulsets/db"),
    ] {
        let object = r#"{"kind":"StatefulSet","metadata":{"name":"db","namespace":"shop"},
            "spec":{"template":{"spec":{"containers":[{"name":"db","ports":[{"containerPort":1}]}]}}}}"#;
        let (config, server) = api("200 OK", object.to_owned());
        let output = run(&[&["--kubeconfig", config.path()], args].concat());
        assert_eq!(server.join().expect("the server"), format!("GET {path} HTTP/1.1"));
        let shown = text(&output.stdout);
        assert_eq!(
            shown.lines().next(),
            Some("1 warning, 1 note in StatefulSet shop/db"),
            "{shown}{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn what_the_api_does_not_have_is_said() {
    let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"deployments.apps \"api\" not found","reason":"NotFound","code":404}"#;
    let (config, server) = api("404 Not Found", status.to_owned());
    let output = run(&["--kubeconfig", config.path(), "deploy/api"]);
    server.join().expect("the server");
    let said = text(&output.stderr);
    assert!(
        said.starts_with("drainscope: deploy/api in shop: ") && said.contains("\"api\" not found"),
        "{said}"
    );
    assert_eq!(code(&output), Some(2));
}
