//! `drainscope explain pod` as a process, from files: what it says, to whom, and how it ends.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

const OBJECTS: &str = "
apiVersion: v1
kind: List
items:
- kind: Pod
  metadata: {name: api, namespace: shop, uid: u, labels: {app: api}}
  spec:
    containers:
    - {name: c, startupProbe: {httpGet: {port: 80}, periodSeconds: 5}, livenessProbe: {tcpSocket: {port: 80}}}
  status:
    phase: Running
    podIPs: [{ip: 10.0.0.1}]
    containerStatuses:
    - {name: c, containerID: 'x://1', started: false, ready: false, state: {running: {startedAt: '2026-03-01T10:00:00Z'}}}
    conditions: [{type: ContainersReady, status: 'False'}, {type: Ready, status: 'False'}]
- kind: Service
  metadata: {name: api, namespace: shop}
  spec: {selector: {app: api}}
- kind: EndpointSlice
  metadata: {name: api-1, namespace: shop, labels: {kubernetes.io/service-name: api}}
  endpoints: [{conditions: {ready: true}, targetRef: {kind: Pod, uid: u}}]
---
kind: ConfigMap
metadata: {name: other}
";

fn explain(args: &[&str], objects: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_drainscope"))
        .args(["explain", "pod"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let written = child.stdin.take().expect("piped").write_all(objects.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    drop(written);
    output
}

#[test]
fn the_answer_comes_first_and_then_why() {
    let output = explain(&["api", "-f", "-"], OBJECTS);
    let said = String::from_utf8(output.stdout).expect("text");
    let wanted = "\
NOT READY  shop/api  ContainersNotReady
why      containers with unready status: [c]
why      c: its startup probe (httpGet) has not passed (every 5 s, timeout 1 s; 1 to pass, 3 to fail)
probe    c startup httpGet: runs: every 5 s, timeout 1 s; 1 to pass, 3 to fail; next in at most 5 s; passes in at most 6 s if all succeed from now on; fails in at most 16 s if all fail
probe    c liveness tcpSocket: gated: it waits for the startup probe, and runs within 10 s of that
traffic  api: yes, its endpoint is ready
differs  service api: a slice says ready=true serving=true terminating=false, the rules give ready=false serving=false terminating=false
";
    assert_eq!(said, wanted);
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn programs_are_told_the_same() {
    let output = explain(&["pod/api", "-n", "shop", "-f", "-", "-o", "json"], OBJECTS);
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(said["ready"], false);
    assert_eq!(said["reason"], "ContainersNotReady");
    let (startup, liveness) = (&said["probes"][0], &said["probes"][1]);
    assert_eq!((&startup["next_from"], &startup["fails"]["from"]), (&said["at"], &said["at"]));
    assert!(startup["next_by"].as_str() > said["at"].as_str(), "{startup}");
    assert!(startup["passes_by"].as_str() < startup["fails"]["by"].as_str(), "{startup}");
    assert_eq!((&liveness["state"], liveness.get("next_by")), (&"gated".into(), None));
    assert_eq!(said["services"][0]["traffic"], true);
    assert_eq!(said["differences"].as_array().map(Vec::len), Some(1));
}

#[test]
fn what_cannot_be_explained_is_said_on_stderr() {
    for (args, objects, said) in [
        (&["nobody", "-f", "-"][..], OBJECTS, "there is no pod nobody there"),
        (&["api", "-n", "other", "-f", "-"], OBJECTS, "there is no pod api there"),
        (&["api", "-f", "-"], "kind: [", "-: "),
        (&["api", "-f", "-"], "kind: Pod\nmetadata: {name: 7}\n", "Pod\" 7 is not what the API would have"),
        (&["api", "-f", "/nowhere/at/all"], "", "/nowhere/at/all"),
        (&["api", "--kubeconfig", "/nowhere/at/all"], "", "/nowhere/at/all"),
        (&["api", "--kubeconfig", "x", "-f", "-"], "", "cannot be used with"),
    ] {
        let output = explain(args, objects);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(said) && output.stdout.is_empty(), "{args:?}: {stderr}");
    }
}
