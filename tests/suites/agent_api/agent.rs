//! A whole agent without a kernel side, seen from outside: readiness, metrics, terminations, its end.

use super::*;
use drainscope::args::LogFormat;
use drainscope::config::Config;
use drainscope::run::{KernelSide, Running, start};
use probe_core::probes::manager::Settings;
use probe_core::probes::pace::Caps;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use world::apiserver::Kind;

pub(crate) struct Agent {
    runtime: Runtime,
    running: Option<Running>,
    pub(crate) public: SocketAddr,
    pub(crate) private: SocketAddr,
}

impl Agent {
    pub(crate) fn of(server: &Server) -> Self {
        Self::by(&Kubeconfig::of(server))
    }

    pub(crate) fn by(file: &Kubeconfig) -> Self {
        Self::with(file, |_config| {})
    }

    /// With a configuration that differs from the others' in something.
    pub(crate) fn with(file: &Kubeconfig, change: impl FnOnce(&mut Config)) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let caps = Caps { concurrency: 64, per_second: 1000 };
        let mirror = Settings { caps, period_max_seconds: None, exec: false };
        let mut config = Config {
            node_name: NODE.into(),
            pod_uid: None,
            kubeconfig: Some(file.0.clone()),
            listen: any,
            api_listen: any,
            cgroup_root: "/sys/fs/cgroup".into(),
            history: 100,
            series_limit: 5000,
            series_ttl: Duration::from_secs(600),
            events: false,
            grace: Duration::ZERO,
            pin_dir: None,
            silence: Duration::from_secs(1),
            ring_bytes: 1 << 20,
            proxy_rules: None,
            conntrack: false,
            probes: false,
            mirror,
            cri_socket: None,
            kubelet: None,
            kernel_log: false,
        };
        change(&mut config);
        let side = KernelSide::none("none in this test");
        let running = runtime.block_on(start(&config, side, timing(), LogFormat::Text)).expect("starts");
        let (public, private) = (running.listen, running.api_listen);
        Self { runtime, running: Some(running), public, private }
    }

    pub(crate) fn stop(mut self) -> Vec<probe_core::termination::Termination> {
        let running = self.running.take().expect("it runs");
        self.runtime.block_on(running.stop()).expect("ends in order")
    }

    pub(crate) fn status(&self, path: &str) -> u16 {
        get(self.public, path).0
    }

    pub(crate) fn metric(&self, line_start: &str) -> Option<f64> {
        let (_, text) = get(self.public, "/metrics");
        let line = text.lines().find(|line| line.starts_with(line_start))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub(crate) fn termination(&self, pod: &str) -> Option<Value> {
        let (status, text) = get(self.private, &format!("/api/v1/terminations/shop/{pod}"));
        (status == 200).then(|| serde_json::from_str(&text).expect("JSON"))
    }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(WAIT)).expect("timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("write");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, body.to_owned())
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + WAIT;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_agent_that_cannot_reach_the_api_says_so_and_keeps_trying() {
    let store = Store::new();
    store.create(Kind::Pods, pod("shop", "a", NODE)).expect("created");
    let server = serve(&store);
    server.stop().expect("stopped");
    let agent = Agent::of(&server);
    eventually("it names the failure", || {
        let (status, text) = get(agent.public, "/readyz?verbose");
        status == 503 && text.contains("[-]api-lists failed: pods:") && text.contains("onnect")
    });
    assert_eq!(agent.status("/livez"), 200);
    assert_eq!(agent.metric("drainscope_feature_enabled{feature=\"kubernetes_api\"}"), Some(0.0));
    server.start().expect("started");
    eventually("it is ready", || agent.status("/readyz") == 200);
    let (_, text) = get(agent.public, "/readyz?verbose");
    assert!(text.contains("degraded: kernel programs: none in this test"), "{text}");
    assert_eq!(agent.metric("drainscope_feature_enabled{feature=\"kubernetes_api\"}"), Some(1.0));
    assert_eq!(agent.metric("drainscope_feature_degraded{feature=\"kernel_programs\"}"), Some(1.0));
    agent.stop();
}

#[test]
fn an_outage_shows_in_the_metrics_and_ends() {
    let store = Store::new();
    store.create(Kind::Pods, pod("shop", "a", NODE)).expect("created");
    let server = serve(&store);
    let agent = Agent::of(&server);
    eventually("it is ready", || agent.status("/readyz") == 200);
    let restarts = || agent.metric("drainscope_watch_restarts_total{watch=\"pods\"}").unwrap_or(0.0);
    let lag = || agent.metric("drainscope_watch_lag_seconds{watch=\"pods\"}").expect("a lag");
    assert!(restarts() < 0.5, "{}", restarts());
    server.stop().expect("stopped");
    eventually("the lag grows beyond the bookmarks' interval", || lag() > 1.0);
    eventually("the restart is counted", || restarts() > 0.5);
    assert_eq!(agent.metric("drainscope_feature_degraded{feature=\"kubernetes_api\"}"), Some(1.0));
    assert_eq!(agent.status("/readyz"), 200, "what is known is still served");
    server.start().expect("started");
    eventually("the lag is small again", || lag() < 1.0);
    eventually("nothing is degraded", || {
        agent.metric("drainscope_feature_degraded{feature=\"kubernetes_api\"}") == Some(0.0)
    });
    agent.stop();
}

#[test]
fn terminations_are_seen_through_the_api_alone_and_handed_over_at_the_end() {
    let store = Store::new();
    let mut running = pod("shop", "a", NODE);
    running["status"]["containerStatuses"] =
        json!([{"name": "c", "containerID": "containerd://abc", "restartCount": 0}]);
    store.create(Kind::Pods, running).expect("created");
    let server = serve(&store);
    let agent = Agent::of(&server);
    eventually("it is ready", || agent.status("/readyz") == 200);
    store.delete_pod("shop", "a", 30).expect("deletion begins");
    eventually("the termination is known", || agent.termination("a").is_some());
    let termination = agent.termination("a").expect("it is known");
    assert_eq!((&termination["trigger"], &termination["node"]), (&json!("delete"), &json!(NODE)));
    let steps: Vec<&str> = termination["timeline"]
        .as_array()
        .expect("a timeline")
        .iter()
        .filter_map(|step| step["step"].as_str())
        .collect();
    assert!(steps.contains(&"requested") && steps.contains(&"seen"), "{steps:?}");
    let unfinished = agent.stop();
    assert_eq!(unfinished.iter().map(|one| one.pod.name.as_str()).collect::<Vec<_>>(), ["a"]);
}
