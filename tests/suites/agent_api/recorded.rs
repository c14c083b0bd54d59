//! The event log of a whole agent, recorded over its API and replayed: the same bytes, wherever in its life the log begins.

use super::agent::{Agent, eventually, get};
use super::*;
use drainscope::args::RecordArgs;
use drainscope::eventlog::client::record;
use drainscope::eventlog::replay::replay;
use drainscope::eventlog::{End, client::Kept};
use probe_core::termination::{Filter, State};
use std::thread::JoinHandle;
use world::apiserver::Kind;

/// A recording at work in a thread of its own; its file goes away with it.
struct Recording {
    file: PathBuf,
    kept: Option<JoinHandle<Kept>>,
}

impl Recording {
    fn begin(agent: &Agent, name: &str) -> Self {
        let file = std::env::temp_dir().join(format!("drainscope-{name}-{}.jsonl", std::process::id()));
        let args = RecordArgs { file: file.clone(), api: agent.private, duration: None };
        let kept = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(record(&args)).expect("it records")
        });
        let recording = Self { file, kept: Some(kept) };
        eventually("the log begins", || std::fs::metadata(&recording.file).is_ok_and(|file| file.len() > 0));
        recording
    }

    /// The log, once its agent has ended.
    fn end(mut self) -> Vec<u8> {
        let kept = self.kept.take().expect("not yet ended").join().expect("no panic");
        let log = std::fs::read(&self.file).expect("the log");
        assert_eq!((kept.end, kept.bytes), (Some(End::AgentEnded), log.len() as u64));
        log
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.file));
    }
}

#[test]
fn a_replay_says_what_the_agent_said() {
    let store = Store::new();
    let mut running = pod("shop", "a", NODE);
    running["status"]["containerStatuses"] =
        json!([{"name": "c", "containerID": "containerd://abc", "restartCount": 0}]);
    let created = store.create(Kind::Pods, running).expect("created");
    store.create(Kind::Services, service("shop", "web")).expect("created");
    let server = serve(&store);
    let agent = Agent::of(&server);
    eventually("it is ready", || agent.status("/readyz") == 200);
    let whole = Recording::begin(&agent, "whole");
    let ready = slice("shop", "web-1", "web", &uid(&created), true);
    store.create(Kind::EndpointSlices, ready).expect("created");
    store.delete_pod("shop", "a", 30).expect("deletion begins");
    eventually("the termination is known", || agent.termination("a").is_some());
    let middle = Recording::begin(&agent, "middle");
    server.stop().expect("stopped");
    eventually("the outage is seen", || {
        agent.metric("drainscope_watch_restarts_total{watch=\"pods\"}").is_some_and(|count| count > 0.5)
    });
    server.start().expect("started");
    eventually("it is over", || {
        agent.metric("drainscope_feature_degraded{feature=\"kubernetes_api\"}") == Some(0.0)
    });

    let (_, said) = get(agent.public, "/metrics");
    let of_process =
        |line: &&str| line.trim_start_matches(['#', ' ']).split(' ').any(|word| word.starts_with("process_"));
    let said: String = said.split_inclusive('\n').filter(|line| !of_process(line)).collect();
    let unfinished = agent.stop();
    assert_eq!(unfinished.len(), 1, "the scene shows nothing without one");
    for (name, recording) in [("whole", whole), ("middle", middle)] {
        let replayed = replay(&recording.end()[..]).expect("a whole log");
        assert_eq!((replayed.end, replayed.differing), (Some(End::AgentEnded), None), "{name}");
        assert_eq!(replayed.metrics(), said, "{name}");
        let mut items = replayed.monitor.terminations(&Filter::default()).items;
        items.retain(|item| item.state != State::Ended);
        let json = |items| serde_json::to_string(items).expect("JSON");
        assert_eq!(json(&items), json(&unfinished), "{name}");
    }
}
