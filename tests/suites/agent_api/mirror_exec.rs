//! Mirrored commands (exec probes) of a whole agent: a container runtime that really runs them, pods of the API server stand-in, no kernel side.

use super::agent::{Agent, eventually};
use super::mirror::{Answering, mirroring, probed};
use super::*;
use drainscope::config::Config;
use std::path::Path;
use world::apiserver::Kind;
use world::cri::Runtime as ContainerRuntime;

/// A folder of the test's own, with the runtime's socket in it; it goes with this.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("drainscope-exec-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a temporary folder");
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("cri.sock")
    }

    /// A runtime with the container of [`probed`].
    fn runtime(&self) -> ContainerRuntime {
        ContainerRuntime::start(&self.socket(), &["1"]).expect("a socket")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of a temporary folder disturbs nobody.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A mirrored pod with these commands, once a second.
fn with_commands(file: &Path, probes: &[(&str, Value)]) -> Value {
    let mut pod = probed(1, None, &[]);
    let container = &mut pod["spec"]["containers"][0];
    container["env"] = json!([{"name": "FILE", "value": file}, {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
    for (kind, command) in probes {
        container[*kind] = json!({"exec": {"command": command}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2});
    }
    pod
}

fn running_commands(config: &mut Config, socket: &Path) {
    mirroring(config);
    config.mirror.exec = true;
    config.cri_socket = Some(socket.to_owned());
}

/// The mirrored half of this kind of probe.
fn half(agent: &Agent, kind: &str) -> Value {
    let row = agent.probes("").into_iter().find(|row| row["probe_type"] == kind);
    row.map_or(Value::Null, |row| row["mirror"].clone())
}

fn until(agent: &Agent, kind: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    eventually(what, || {
        last = half(agent, kind);
        condition(&last)
    });
    last
}

#[test]
fn commands_count_by_their_exit_code_and_a_runtime_that_is_away_by_nothing() {
    let folder = Folder::new();
    let file = folder.0.join("healthy");
    std::fs::write(&file, "well").expect("written");
    let store = Store::new();
    let pod = with_commands(&file, &[("readinessProbe", json!(["cat", "$(FILE)", "$(KEY)/dev/null"]))]);
    store.create(Kind::Pods, pod).expect("created");
    let api = serve(&store);
    let runtime = folder.runtime();
    let agent = Agent::with(&Kubeconfig::of(&api), |config| running_commands(config, &folder.socket()));

    let up = until(&agent, "Readiness", "it is up", |mirror| mirror["state"] == "up");
    assert_eq!((&up["last"]["result"], &up["last"]["output"]), (&json!("success"), &json!("well")));
    assert_eq!((&up["off"], &agent.state()["exec"]), (&Value::Null, &json!(true)));
    let row = agent.probes("").remove(0);
    assert_eq!((&row["handler"], &row["target"]), (&json!("exec"), &Value::Null));

    std::fs::remove_file(&file).expect("it was there");
    let down = until(&agent, "Readiness", "it is down", |mirror| mirror["state"] == "down");
    let output = down["last"]["output"].as_str().expect("text");
    assert!(output.contains(&format!("{}: No such file", file.display())), "{output}");
    std::fs::write(&file, "well").expect("written");
    let before = until(&agent, "Readiness", "it is up again", |mirror| mirror["state"] == "up");
    eventually("all commands have ended", || runtime.started() == runtime.ended());

    // Nothing is said of the container by a runtime that cannot be reached.
    drop(runtime);
    std::fs::remove_file(folder.socket()).expect("the socket was there");
    let away = until(&agent, "Readiness", "the runtime is missed twice", |mirror| {
        mirror["attempts"]["unknown"].as_u64() >= Some(2)
    });
    assert_eq!(
        (&away["state"], &away["attempts"]["failure"]),
        (&json!("up"), &before["attempts"]["failure"])
    );
    let output = away["last"]["output"].as_str().expect("text");
    assert!(output.contains("no such file or directory"), "{output}");
    let back = folder.runtime();
    let again =
        until(&agent, "Readiness", "it is asked again", |mirror| mirror["last"]["result"] == "success");
    assert!(again["attempts"]["success"].as_u64() > away["attempts"]["success"].as_u64(), "{again}");
    assert!(back.started() > 0);
    let labels = "target_namespace=\"shop\",target_workload=\"web-1\",target_workload_kind=\"Pod\",probe_type=\"Readiness\",handler=\"exec\"";
    agent.metric("drainscope_build_info");
    let unknown = format!("drainscope_probe_attempts_total{{{labels},result=\"unknown\"}}");
    assert!(agent.metric(&unknown).is_some_and(|count| count >= 2.0));
    agent.stop();
}

#[test]
fn a_command_that_does_not_end_in_time_has_failed_and_is_killed() {
    let folder = Folder::new();
    let store = Store::new();
    let pod = with_commands(&folder.0, &[("livenessProbe", json!(["sleep", "600"]))]);
    store.create(Kind::Pods, pod).expect("created");
    let api = serve(&store);
    let runtime = folder.runtime();
    let agent = Agent::with(&Kubeconfig::of(&api), |config| running_commands(config, &folder.socket()));
    let down = until(&agent, "Liveness", "it is down", |mirror| mirror["state"] == "down");
    assert_eq!(down["last"]["output"], "command timed out: \"sleep 600\" timed out after 1s");
    assert!(
        down["last"]["duration_seconds"].as_f64().is_some_and(|took| (1.0..10.0).contains(&took)),
        "{down}"
    );
    // A liveness probe that has failed waits for another container, as the kubelet's does.
    assert_eq!(runtime.started(), 2);
    eventually("both were killed", || runtime.ended() == 2);
    agent.stop();
}

#[test]
fn a_runtime_that_hangs_keeps_no_other_probe_from_running() {
    let server = Answering::start();
    let folder = Folder::new();
    // Connections are taken by the kernel alone: no answer comes.
    let _hanging = std::os::unix::net::UnixListener::bind(folder.socket()).expect("a socket");
    let store = Store::new();
    for number in 0..4 {
        let mut pod = with_commands(&folder.0, &[("livenessProbe", json!(["true"]))]);
        pod["metadata"]["name"] = json!(format!("exec-{number}"));
        store.create(Kind::Pods, pod).expect("created");
    }
    let api = serve(&store);
    let agent = Agent::with(&Kubeconfig::of(&api), |config| {
        running_commands(config, &folder.socket());
        config.mirror.caps.concurrency = 4;
    });
    eventually("half of the room is taken, and no more", || {
        let state = agent.state();
        state["running"] == 2 && state["delayed"]["concurrency"] == 2
    });
    store.create(Kind::Pods, probed(server.port, None, &["readinessProbe"])).expect("created");
    until(&agent, "Readiness", "it is asked on", |mirror| mirror["attempts"]["success"].as_u64() >= Some(3));
    let commands = agent.probes("").into_iter().filter(|row| row["handler"] == "exec");
    let last: Vec<Value> = commands.map(|mut row| row["mirror"]["last"].take()).collect();
    assert_eq!(last, [Value::Null, Value::Null, Value::Null, Value::Null], "nothing is known of them");
    agent.stop();
}

#[test]
fn commands_that_were_not_asked_for_are_listed_and_never_run() {
    let server = Answering::start();
    let folder = Folder::new();
    let store = Store::new();
    let mut pod = with_commands(&folder.0, &[("livenessProbe", json!(["true"]))]);
    let served = probed(server.port, None, &["readinessProbe"]);
    let container = &mut pod["spec"]["containers"][0];
    container["ports"] = served["spec"]["containers"][0]["ports"].clone();
    container["readinessProbe"] = served["spec"]["containers"][0]["readinessProbe"].clone();
    store.create(Kind::Pods, pod).expect("created");
    let api = serve(&store);
    let runtime = folder.runtime();
    let agent = Agent::with(&Kubeconfig::of(&api), mirroring);
    until(&agent, "Readiness", "the other was asked twice", |mirror| {
        mirror["attempts"]["success"].as_u64() >= Some(2)
    });
    let exec = half(&agent, "Liveness");
    assert_eq!(exec["off"], "commands are not run: --probes-exec");
    assert_eq!(json!([exec["state"], exec["last"], exec["next_at"]]), json!(["unknown", null, null]));
    assert_eq!(half(&agent, "Readiness")["off"], Value::Null);
    assert_eq!((runtime.started(), &agent.state()["exec"]), (0, &json!(false)));
    agent.stop();
}
