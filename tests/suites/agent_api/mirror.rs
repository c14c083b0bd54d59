//! Mirrored probes of a whole agent: real servers on loopback, pods of the API server stand-in, no kernel side.

use super::agent::{Agent, eventually, get};
use super::*;
use drainscope::config::Config;
use jiff::Timestamp;
use probe_core::probes::manager::PODS_MAX;
use probe_core::probes::pace::Caps;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16};
use std::thread::JoinHandle;
use world::apiserver::Kind;

const NAME: &str = "web-1";

/// A server that answers each request with the status that it is told; stopped, its port refuses.
pub(crate) struct Answering {
    pub(crate) port: u16,
    status: Arc<AtomicU16>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answering {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (status, stopped) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicBool::new(false)));
        let told = (Arc::clone(&status), Arc::clone(&stopped));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if told.1.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.expect("a connection");
                let mut request = [0; 1024];
                // A probe that has gone needs no answer.
                drop(stream.read(&mut request));
                let status = told.0.load(Ordering::SeqCst);
                drop(write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\nbody"));
            }
        });
        Self { port, status, stopped, thread: Some(thread) }
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn stop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // Wakes it up.
            drop(TcpStream::connect(("127.0.0.1", self.port)));
            thread.join().expect("it ends");
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A pod of this node whose container began now; its address is this machine.
pub(crate) fn probed(port: u16, annotation: Option<&str>, probes: &[&str]) -> Value {
    let annotations = annotation.map(|word| json!({"drainscope.io/probes": word}));
    let mut container = json!({"name": "c", "ports": [{"name": "http", "containerPort": port}]});
    for kind in probes {
        container[kind] = json!({"httpGet": {"port": "http"}, "periodSeconds": 1, "failureThreshold": 2});
    }
    json!({
        "metadata": {"name": NAME, "namespace": "shop", "annotations": annotations},
        "spec": {"nodeName": NODE, "containers": [container]},
        "status": {
            "phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}],
            "containerStatuses": [{
                "name": "c", "containerID": "containerd://1", "started": true, "ready": true,
                "state": {"running": {"startedAt": Timestamp::now().to_string()}},
            }],
        },
    })
}

pub(crate) fn mirroring(config: &mut Config) {
    config.probes = true;
}

impl Agent {
    /// Those that are mirrored.
    pub(crate) fn probes(&self, query: &str) -> Vec<Value> {
        let (status, text) = get(self.private, &format!("/api/v1/probes{query}"));
        assert_eq!(status, 200, "{text}");
        let mut answer: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(answer["node"], NODE);
        let Value::Array(mut probes) = answer["probes"].take() else { panic!("{text}") };
        probes.retain(|row| !row["mirror"].is_null());
        probes
    }

    fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        eventually(what, || {
            last = self.probes("").first().map_or(Value::Null, |row| row["mirror"].clone());
            condition(&last)
        });
        last
    }

    pub(crate) fn state(&self) -> Value {
        let (_, text) = get(self.private, "/status");
        serde_json::from_str::<Value>(&text).expect("JSON")["probes"].take()
    }
}

#[test]
fn verdicts_turn_at_the_thresholds_and_a_restart_begins_anew() {
    let server = Answering::start();
    let store = Store::new();
    store.create(Kind::Pods, probed(server.port, None, &["readinessProbe"])).expect("created");
    let api = serve(&store);
    let agent = Agent::with(&Kubeconfig::of(&api), mirroring);
    let up = agent.until("the pod is up", |mirror| mirror["state"] == "up");
    assert_eq!((&up["last"]["result"], &up["last"]["output"]), (&json!("success"), &json!("body")));
    assert!(up["last"]["phases"]["connect"].is_f64() && up["last"]["phases"]["tls"].is_null(), "{up}");
    let row = agent.probes("?namespace=shop&pod=web-1").remove(0);
    assert_eq!(
        json!([row["container"], row["probe_type"], row["handler"], row["period_seconds"], row["kubelet"]]),
        json!(["c", "Readiness", "http", 1, null])
    );
    assert_eq!(row["target"], format!("127.0.0.1:{}", server.port));
    assert_eq!((agent.probes("?namespace=other").len(), agent.probes("?workload=web-1").len()), (0, 1));
    assert_eq!(get(agent.private, "/api/v1/probes?node=x").0, 400);

    server.answer(500);
    let once = agent.until("the first failure", |mirror| mirror["last"]["result"] == "failure");
    assert_eq!((&once["state"], &once["consecutive"]), (&json!("up"), &json!(1)), "below the threshold");
    let down = agent.until("the second", |mirror| mirror["state"] == "down");
    assert_eq!(down["last"]["output"], "HTTP probe failed with statuscode: 500");
    server.answer(200);
    agent.until("it is up again", |mirror| mirror["state"] == "up");

    // A new container is unready until its own first success, which its startup is to come before.
    let change = |pod: &mut Value| {
        pod["status"]["containerStatuses"][0]["containerID"] = json!("containerd://2");
        pod["status"]["containerStatuses"][0]["started"] = json!(false);
        pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] =
            json!(Timestamp::now().to_string());
    };
    store.update(Kind::Pods, "shop", NAME, change).expect("changed");
    let new = agent.until("the new container is not up", |mirror| mirror["state"] == "down");
    assert_eq!(new["last"]["result"], "success", "no probe of its own");
    let start = |pod: &mut Value| pod["status"]["containerStatuses"][0]["started"] = json!(true);
    store.update(Kind::Pods, "shop", NAME, start).expect("changed");
    let anew = agent.until("the new container is up", |mirror| mirror["state"] == "up");
    assert!(anew["attempts"]["success"].as_u64() > new["attempts"]["success"].as_u64(), "{anew}");
    let labels = "target_namespace=\"shop\",target_workload=\"web-1\",target_workload_kind=\"Pod\",probe_type=\"Readiness\",handler=\"http\"";
    agent.metric("drainscope_build_info");
    let success = format!("drainscope_probe_attempts_total{{{labels},result=\"success\"}}");
    assert!(agent.metric(&success).is_some_and(|count| count >= 2.0));
    let took = format!("drainscope_probe_duration_seconds_count{{{labels}}}");
    assert!(agent.metric(&took).is_some_and(|count| count >= 5.0));
    assert_eq!(agent.metric(&format!("drainscope_probe_targets{{{labels},state=\"up\"}}")), Some(1.0));
    assert_eq!(agent.metric(&format!("drainscope_probe_targets{{{labels},state=\"down\"}}")), Some(0.0));
    agent.stop();
}

#[test]
fn the_annotation_turns_it_on_and_off_and_a_pod_that_has_gone_is_not_probed() {
    let server = Answering::start();
    let store = Store::new();
    store
        .create(Kind::Pods, probed(server.port, None, &["livenessProbe", "readinessProbe"]))
        .expect("created");
    let api = serve(&store);
    let agent = Agent::of(&api);
    let annotate = |word: Option<&str>| {
        let word = json!(word);
        let change = |pod: &mut Value| pod["metadata"]["annotations"]["drainscope.io/probes"] = word;
        store.update(Kind::Pods, "shop", NAME, change).expect("changed");
    };
    eventually("it is ready", || agent.status("/readyz") == 200);
    assert_eq!(agent.state()["mode"], "off");
    assert_eq!(agent.probes("").len(), 0);
    annotate(Some("mirror"));
    eventually("both are up", || {
        let probes = agent.probes("");
        probes.len() == 2 && probes.iter().all(|row| row["mirror"]["state"] == "up")
    });
    annotate(Some("off"));
    eventually("none is left", || agent.probes("").is_empty());
    annotate(Some("mirror"));
    eventually("both are there", || agent.probes("").len() == 2);
    store.remove(Kind::Pods, "shop", NAME).expect("removed");
    eventually("none is left", || agent.probes("").is_empty());
    eventually("none runs", || agent.state()["running"] == 0);
    assert_eq!(agent.state()["pods"], 0);
    agent.stop();
}

#[test]
fn readiness_of_an_ending_pod_tells_since_when_nobody_listens() {
    let mut server = Answering::start();
    let store = Store::new();
    let pod = probed(server.port, None, &["livenessProbe", "readinessProbe", "startupProbe"]);
    store.create(Kind::Pods, pod).expect("created");
    let api = serve(&store);
    let agent = Agent::with(&Kubeconfig::of(&api), mirroring);
    eventually("all three are known", || agent.probes("").len() == 3);
    let end = |pod: &mut Value| {
        pod["metadata"]["deletionTimestamp"] = json!("2026-11-22T00:00:30Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    };
    store.update(Kind::Pods, "shop", NAME, end).expect("changed");
    eventually("readiness alone goes on", || agent.probes("").len() == 1);
    let before = agent.until("it is up", |mirror| mirror["state"] == "up");
    assert_eq!(before["refused_since"], Value::Null);
    let began = Timestamp::now();
    server.stop();
    let down = agent.until("it is down", |mirror| mirror["state"] == "down");
    let since = down["refused_since"].as_str().expect("a moment").parse::<Timestamp>().expect("a time");
    assert!(since >= began && since <= Timestamp::now(), "{began} {since}");
    let later = agent.until("one more", |mirror| mirror["consecutive"] == 3);
    assert_eq!(later["refused_since"], down["refused_since"], "the first of the row");
    agent.stop();
}

#[test]
fn startup_is_waited_for_and_the_kubelets_word_of_it_counts() {
    let server = Answering::start();
    let store = Store::new();
    let mut pod = probed(server.port, None, &["readinessProbe"]);
    pod["status"]["containerStatuses"][0]["started"] = json!(false);
    store.create(Kind::Pods, pod).expect("created");
    let api = serve(&store);
    let agent = Agent::with(&Kubeconfig::of(&api), mirroring);
    let gated = agent.until("its first tick", |mirror| mirror["state"] == "down");
    assert_eq!(gated["last"], Value::Null, "unready, and not asked");
    let start = |pod: &mut Value| pod["status"]["containerStatuses"][0]["started"] = json!(true);
    store.update(Kind::Pods, "shop", NAME, start).expect("changed");
    agent.until("it is up", |mirror| mirror["state"] == "up");
    agent.stop();
}

#[test]
fn ten_thousand_pods_keep_to_the_caps() {
    const PER_SECOND: u32 = 100;
    let mut server = Answering::start();
    // Refused at once: only the number of probes matters.
    server.stop();
    let store = Store::new();
    let pod = probed(server.port, None, &["readinessProbe"]);
    for number in 0..PODS_MAX + 10 {
        let mut pod = pod.clone();
        pod["metadata"]["name"] = json!(format!("p{number}"));
        store.create(Kind::Pods, pod).expect("created");
    }
    let api = serve(&store);
    let began = std::time::Instant::now();
    let agent = Agent::with(&Kubeconfig::of(&api), |config| {
        mirroring(config);
        config.mirror.caps = Caps { concurrency: 10, per_second: PER_SECOND };
    });
    eventually("all that are taken are there", || agent.state()["pods"] == PODS_MAX);
    eventually("the cap delays some", || {
        agent.state()["delayed"]["rate"].as_u64().is_some_and(|some| some > 0)
    });
    let probes = agent.probes("");
    assert_eq!(probes.len(), PODS_MAX);
    let ran: u64 = probes.iter().filter_map(|row| row["mirror"]["attempts"]["failure"].as_u64()).sum();
    // A tenth of a second's probes may begin at once.
    let most = began.elapsed().as_secs_f64() * f64::from(PER_SECOND) + f64::from(PER_SECOND / 10);
    assert!(ran > 0 && (ran as f64) <= most, "{ran} probes where {most} may have begun");
    assert_eq!(agent.status("/livez"), 200);
    agent.stop();
}
