//! The kubelet's `/metrics/probes` over TLS: whom the agent believes, to whom it shows its token, and what it says when there is no answer.

use super::agent::{Agent, eventually, get};
use super::*;
use drainscope::kube::client::Trust;
use drainscope::kubelet::Settings;
use world::apiserver::Kind;
use world::kubelet::{AUTHORITY, Certificate, Manner, MetricsServer, ProbeLabels, Verdicts};

const TOKEN: &str = "the agent's";

/// An API server with one pod, which has a readiness probe of ten successes and a failure, and a kubelet.
struct Place {
    api: Server,
    kubelet: MetricsServer,
    kubeconfig: Kubeconfig,
}

impl Place {
    fn new(certificate: Certificate) -> Self {
        let store = Store::new();
        let mut pod = pod("shop", "a", NODE);
        pod["spec"]["containers"] = json!([{"name": "c", "readinessProbe": {"httpGet": {"port": 8080}}}]);
        let pod = store.create(Kind::Pods, pod).expect("created");
        let options = Options {
            bookmark_interval: Duration::from_millis(500),
            token: Some(TOKEN.to_owned()),
            ..Options::default()
        };
        let api = Server::serve_with(&store, options).expect("a free loopback port");
        let verdicts = Verdicts::default();
        let labels = ProbeLabels {
            namespace: "shop".to_owned(),
            pod: "a".to_owned(),
            pod_uid: uid(&pod),
            container: "c".to_owned(),
            probe_type: "Readiness",
        };
        for result in ["successful"; 10].into_iter().chain(["failed"]) {
            verdicts.count(&labels, result);
        }
        let kubelet = MetricsServer::start(&verdicts, certificate, TOKEN).expect("a free loopback port");
        let kubeconfig = Kubeconfig::of(&api);
        Self { api, kubelet, kubeconfig }
    }

    fn settings(&self, trust: Trust) -> Settings {
        Settings {
            url: self.kubelet.url().parse().expect("a URL"),
            period: Duration::from_millis(50),
            patience: Duration::from_secs(1),
            trust,
        }
    }

    /// An agent that asks this kubelet.
    fn agent(&self, trust: Trust) -> Agent {
        Agent::with(&self.kubeconfig, |config| config.kubelet = Some(self.settings(trust)))
    }
}

/// `kubelet_metrics` of `/status`.
fn state(agent: &Agent) -> Value {
    let (_, text) = get(agent.private, "/status");
    serde_json::from_str::<Value>(&text).expect("JSON")["kubelet_metrics"].clone()
}

/// Waits until that fits; what it is at last is in the panic.
fn until_state(agent: &Agent, what: &str, fits: impl Fn(&Value) -> bool) {
    let deadline = std::time::Instant::now() + WAIT;
    loop {
        let state = state(agent);
        if fits(&state) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "waited in vain until {what}: {state}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn why(state: &Value) -> &str {
    state["why"].as_str().unwrap_or_default()
}

/// The kubelet's half of the only probe, once it is listed.
fn half(agent: &Agent) -> Option<Value> {
    let (_, text) = get(agent.private, "/api/v1/probes");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer["probes"].get(0).map(|row| row["kubelet"].clone())
}

fn has_verdicts(agent: &Agent) -> bool {
    half(agent).is_some_and(|half| half["verdicts"] == json!({"success": 10, "failure": 1, "unknown": 0}))
}

#[test]
fn verdicts_come_from_a_kubelet_that_somebody_vouches_for_or_that_nobody_has_to() {
    let authority = Kubeconfig::with(AUTHORITY);
    for (certificate, trust) in
        [(Certificate::Signed, Trust::File(authority.0.clone())), (Certificate::OfItsOwn, Trust::Nobody)]
    {
        let place = Place::new(certificate);
        let agent = place.agent(trust);
        eventually("the verdicts are listed", || has_verdicts(&agent));
        let half = half(&agent).expect("it is listed");
        assert_eq!((&half["seen"], &half["reconciled"]), (&json!(0), &Value::Null), "no kernel side");
        assert_eq!(state(&agent)["state"], "active");
        let expected = ("/metrics/probes".to_owned(), format!("Bearer {TOKEN}"));
        assert!(place.kubelet.asked().iter().all(|asked| *asked == expected), "{:?}", place.kubelet.asked());
        let metric = |name: &str| agent.metric(&format!("drainscope_{name}{{feature=\"kubelet_metrics\"}}"));
        assert_eq!((metric("feature_enabled"), metric("feature_degraded")), (Some(1.0), Some(0.0)));
        agent.stop();
    }
}

#[test]
fn who_is_not_asked_for_is_not_degraded_and_has_no_verdicts() {
    let place = Place::new(Certificate::Signed);
    let agent = Agent::of(&place.api);
    eventually("the probe is listed", || half(&agent).is_some());
    assert_eq!(half(&agent), Some(Value::Null));
    assert_eq!(state(&agent)["state"], "disabled");
    assert_eq!(agent.metric("drainscope_feature_degraded{feature=\"kubelet_metrics\"}"), Some(0.0));
    assert_eq!(place.kubelet.asked(), []);
    agent.stop();
}

#[test]
fn a_kubelet_that_nobody_vouches_for_never_sees_the_token() {
    let authority = Kubeconfig::with(AUTHORITY);
    let place = Place::new(Certificate::OfItsOwn);
    let agent = place.agent(Trust::File(authority.0.clone()));
    until_state(&agent, "the trouble is named and counted", |state| {
        state["state"] == "failed"
            && why(state).contains("certificate")
            && why(state).contains("pass --kubelet-certificate-authority")
            && state["readings"]["unreachable"].as_u64() >= Some(2)
    });
    assert_eq!(place.kubelet.asked(), []);
    assert_eq!(agent.metric("drainscope_feature_degraded{feature=\"kubelet_metrics\"}"), Some(1.0));
    let (status, text) = get(agent.public, "/readyz?verbose");
    assert!(status == 200 && text.contains("[+]kubelet-metrics ok: degraded: failed:"), "{text}");
    agent.stop();
}

#[test]
fn an_authority_that_cannot_be_read_is_named() {
    let place = Place::new(Certificate::Signed);
    let agent = place.agent(Trust::File("/nonexistent/ca.pem".into()));
    until_state(&agent, "the trouble is named", |state| why(state).contains("No such file"));
    assert_eq!(place.kubelet.asked(), []);
    agent.stop();
}

#[test]
fn every_way_not_to_answer_is_named_and_counted_and_the_next_answer_is_taken() {
    for (manner, kind, named) in [
        (Manner::Status("403 Forbidden"), "forbidden", "lacks the verb get of nodes/metrics"),
        (Manner::Status("404 Not Found"), "status", "answered 404"),
        (Manner::Status("302 Found"), "status", "answered 302"),
        (Manner::Text("<html>"), "malformed", "not a kubelet's metrics"),
        (Manner::Text("prober_probe_total{} 1\n"), "malformed", "makes no sense"),
        (Manner::Endless, "too_large", "more than"),
        (Manner::Cut, "unreachable", ""),
        (Manner::Silent, "timeout", "no whole answer within 1s"),
    ] {
        let place = Place::new(Certificate::OfItsOwn);
        place.kubelet.set_manner(manner.clone());
        let agent = place.agent(Trust::Nobody);
        until_state(&agent, "it is named and counted", |state| {
            state["state"] == "failed"
                && state["readings"][kind].as_u64() >= Some(1)
                && why(state).contains(named)
        });
        assert!(!has_verdicts(&agent), "{manner:?}");
        place.kubelet.set_manner(Manner::Counts);
        eventually("the next answer is taken", || has_verdicts(&agent));
        assert_eq!(state(&agent)["state"], "active", "{manner:?}");
        agent.stop();
    }
}

#[test]
fn a_token_that_is_not_taken_is_read_anew() {
    let place = Place::new(Certificate::OfItsOwn);
    let token = Kubeconfig::with(TOKEN);
    let text = place.api.kubeconfig();
    let file = format!("tokenFile: {}", token.0.display());
    let kubeconfig = Kubeconfig::with(&text.replace(&format!("token: {TOKEN}"), &file));
    let agent = Agent::with(&kubeconfig, |config| config.kubelet = Some(place.settings(Trust::Nobody)));
    eventually("the verdicts are listed", || has_verdicts(&agent));
    place.kubelet.set_token("the next");
    until_state(&agent, "the refusal is named", |state| {
        state["readings"]["unauthorized"].as_u64() >= Some(1) && why(state).contains("401")
    });
    std::fs::write(&token.0, "the next").expect("written");
    until_state(&agent, "the next token is shown", |state| state["state"] == "active");
    assert_eq!(place.kubelet.asked().last().expect("it was asked").1, "Bearer the next");
    agent.stop();
}
