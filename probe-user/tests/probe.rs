//! `drainscope probe run` as a process: exit status, streams, what is said. What a probe does is tested where the engine is.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_drainscope"))
        .args(["probe", "run"])
        .args(args)
        .output()
        .expect("it runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// A server that answers every request with this; it ends with the process. Gives the address.
fn server(answer: &'static str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            // A request fits into one segment; a client that leaves at once sends none.
            if stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
                drop(stream.write_all(answer.as_bytes()));
            }
        }
    });
    address.to_string()
}

#[test]
fn the_exit_status_is_the_answer() {
    let ok = server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let bad = server("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n");
    let away = server("HTTP/1.1 302 X\r\nLocation: http://elsewhere.invalid/\r\nContent-Length: 0\r\n\r\n");
    let cut = server("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok");
    for (args, code, first) in [
        (vec!["http", ok.as_str()], 0, "SUCCESS  http://"),
        (vec!["http", &away], 0, "WARNING  http://"),
        (vec!["http", &bad], 1, "FAILURE  http://"),
        (vec!["http", &cut], 1, "UNKNOWN  http://"),
        (vec!["tcp", &ok], 0, "SUCCESS  127.0.0.1:"),
        (vec!["tcp", "127.0.0.1:1"], 1, "FAILURE  127.0.0.1:1"),
        (vec!["grpc", &ok, "--timeout", "300ms"], 1, "FAILURE  127.0.0.1:"),
        (vec!["tcp", "nonsense"], 2, ""),
        (vec!["tcp", &ok, "--timeout", "soon"], 2, ""),
        (vec!["exec", "true"], 2, ""),
        (vec!["exec", "--container", "c", "--", "true", "--timeout", "1s"], 1, "UNKNOWN  true --timeout 1s"),
        (vec!["exec", "--container", "c", "--timeout", "1500ms", "--", "true"], 2, ""),
    ] {
        // No container runtime has this one.
        let runtime = (args[0] == "exec").then_some("--cri-socket=/nonexistent/cri.sock");
        let (sort, rest) = args.split_first().expect("a sort");
        let output = run(&[&[*sort], runtime.as_slice(), rest].concat());
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(stdout(&output).starts_with(first), "{args:?}: {output:?}");
        assert_eq!(output.stderr.is_empty(), code != 2, "{args:?}: {output:?}");
        assert!(!stdout(&output).contains('\x1b'), "no colours where there is no terminal");
    }
}

#[test]
fn json_is_one_object_a_probe() {
    let ok = server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let output = run(&["http", &ok, "-o", "json", "--repeat", "3", "--interval", "50ms"]);
    let objects: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(objects.len(), 3);
    for object in objects {
        assert_eq!((&object["result"], &object["output"]), (&"success".into(), &"ok".into()));
        assert_eq!((&object["handler"], &object["status"]), (&"http".into(), &200.into()));
        let phases = object["phases"].as_object().expect("phases");
        assert_eq!(
            phases.keys().collect::<Vec<_>>(),
            ["body_seconds", "connect_seconds", "first_byte_seconds"]
        );
        let sum: f64 = phases.values().filter_map(Value::as_f64).sum();
        assert!(sum > 0.0 && sum <= object["duration_seconds"].as_f64().expect("a number"));
    }
}

#[test]
fn a_row_of_probes_has_a_summary_and_keeps_its_pace() {
    let ok = server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let begun = Instant::now();
    let output = run(&["http", &ok, "--repeat", "5", "--interval", "100ms"]);
    assert!(begun.elapsed() >= Duration::from_millis(400), "four intervals lie between five probes");
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 6);
    assert!(text.lines().last().expect("a summary").starts_with("5 of 5 succeeded; shortest "), "{text}");
    let output = run(&["tcp", "127.0.0.1:1", "--repeat", "2", "--interval", "10ms"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("0 of 2 succeeded"));
}

#[test]
fn an_interrupt_ends_the_row_with_its_summary() {
    let ok = server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let mut child = Command::new(env!("CARGO_BIN_EXE_drainscope"))
        .args(["probe", "run", "http", &ok, "--repeat", "0", "--interval", "20ms"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut out = child.stdout.take().expect("piped");
    // The first result shows that the signal has its handler.
    let mut text = vec![0; 1];
    out.read_exact(&mut text).expect("a result");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
    out.read_to_end(&mut text).expect("the rest");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let text = String::from_utf8(text).expect("text");
    assert!(text.lines().last().expect("a summary").contains(" succeeded; shortest "), "{text}");
}

/// Runs `probe pod` with this on standard input.
fn pod(args: &[&str], text: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_drainscope"))
        .args(["probe", "pod", "-f", "-"])
        .args(args)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

#[test]
fn a_pods_own_probes_are_run_by_its_specification() {
    let ok = server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let port = ok.rsplit(':').next().expect("a port").to_owned();
    let text = format!(
        "kind: Pod\nmetadata: {{name: api, namespace: shop}}\nspec:\n  containers:\n  - name: app\n\
         \x20   ports: [{{name: web, containerPort: {port}}}]\n    livenessProbe: {{exec: {{command: [\"true\"]}}}}\n\
         \x20   readinessProbe: {{httpGet: {{port: web, path: /healthz}}}}\n    startupProbe: {{tcpSocket: {{port: none}}}}\n\
         status: {{podIP: 127.0.0.1}}\n"
    );
    let output = pod(&[], &text);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let shown = stdout(&output);
    assert!(shown.starts_with("1 of 1 succeeded  shop/api  127.0.0.1\n"), "{shown}");
    assert!(shown.contains(&format!("app Readiness: SUCCESS  http://127.0.0.1:{port}/healthz  ")), "{shown}");
    assert!(shown.contains("app Liveness: SKIPPED  exec probes are not run"), "{shown}");
    assert!(shown.contains("app Startup: SKIPPED  the kubelet would discard it: strconv.Atoi"), "{shown}");
    let output = pod(&["-o", "json", "--host", "127.0.0.2"], &text.replace("podIP: 127.0.0.1", ""));
    let objects: Vec<Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(output.status.code(), Some(1), "nobody listens on that address: {output:?}");
    assert_eq!(objects.len(), 3);
    assert_eq!(objects[2]["probe_type"], "Readiness");
    assert_eq!((&objects[2]["result"], &objects[2]["pod"]), (&"failure".into(), &"shop/api".into()));
}

#[test]
fn a_pods_commands_are_run_where_that_is_asked_for() {
    let text = "kind: Pod\nmetadata: {name: api}\nspec:\n  containers:\n  - name: app\n    env: [{name: FILE, value: /tmp/ok}]\n\
                \x20   livenessProbe: {exec: {command: [cat, $(FILE)]}}\n  - name: waiting\n    livenessProbe: {exec: {command: [ls]}}\n\
                status: {podIP: 127.0.0.1, containerStatuses: [{name: app, containerID: 'containerd://abc'}, {name: waiting}]}\n";
    let output = pod(&["--exec", "--cri-socket", "unix:///nonexistent/cri.sock"], text);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = stdout(&output);
    assert!(shown.contains("app Liveness: UNKNOWN  cat /tmp/ok  "), "{shown}");
    assert!(shown.contains("cause       /nonexistent/cri.sock is not there: name the socket"), "{shown}");
    assert!(shown.contains("waiting Liveness: SKIPPED  its container has no ID yet"), "{shown}");
    let output = pod(&[], text);
    assert_eq!(output.status.code(), Some(2), "nothing to run: {output:?}");
}

#[test]
fn what_is_no_pod_or_has_nothing_to_run_is_said() {
    for (args, text, expected) in [
        (
            &[][..],
            "kind: Pod\nmetadata: {name: api}\nstatus: {podIP: 127.0.0.1}\n",
            "pod api has no probe that can be run",
        ),
        (&[], "kind: Pod\nmetadata: {name: api}\n", "pod api has no address: --host gives one"),
        (&[], "kind: Service\nmetadata: {name: api}\n", "no pod: it is a Service"),
        (&[], "spec: [", "no pod: "),
        (
            &[],
            "metadata: {name: api}\nspec: {containers: [{name: a, livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2}}]}\n\
             status: {podIP: 127.0.0.1}\n",
            "pod api has no probe that can be run",
        ),
    ] {
        let output = pod(args, text);
        assert_eq!(output.status.code(), Some(2), "{text}: {output:?}");
        let said = String::from_utf8(output.stderr.clone()).expect("text");
        assert!(said.contains(expected), "{text}: {said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_pod_is_read_from_the_api() {
    let ok = server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let port = ok.rsplit(':').next().expect("a port");
    let pod = format!(
        r#"{{"metadata":{{"name":"api","namespace":"shop"}},"spec":{{"containers":[{{"name":"app",
        "livenessProbe":{{"tcpSocket":{{"port":{port}}}}}}}]}},"status":{{"podIP":"127.0.0.1"}}}}"#
    );
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", pod.len());
    // A test's few bytes, kept to its end.
    let api = server(String::leak(head + &pod));
    let kubeconfig = std::env::temp_dir().join(format!("drainscope-probe-pod-{}", std::process::id()));
    let config = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'http://{api}'}}}}]\n\
         users: [{{name: c, user: {{}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: c}}}}]\n"
    );
    std::fs::write(&kubeconfig, config).expect("temporary file");
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_drainscope"))
            .args(["probe", "pod", "--kubeconfig"])
            .arg(&kubeconfig)
            .args(args)
            .output()
            .expect("it runs")
    };
    let output = run(&["pod/api", "-n", "shop"]);
    let no_name = run(&["../secrets/x"]);
    let nothing = run(&[]);
    std::fs::remove_file(&kubeconfig).expect("temporary file");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected =
        format!("1 of 1 succeeded  shop/api  127.0.0.1\napp Liveness: SUCCESS  127.0.0.1:{port}  ");
    assert!(stdout(&output).starts_with(&expected), "{output:?}");
    for refused in [no_name, nothing] {
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    }
}
