//! The log as text: each entry there and back, whatever may be wrong with a file, readers that are slow or gone.

use super::replay::{LogError, Replay, replay};
use super::tape::{RECORDINGS, Recording, Taped};
use super::*;
use futures::StreamExt as _;
use probe_core::event::{ContainerStatus, Deletion, Fact, Key, Pod, WatchHealth, WatchKind, Workload};
use probe_core::limits::SECOND;
use probe_core::monitor::Monitor;

fn taped() -> Taped {
    Taped::new(Monitor::new(Limits { slots: 2, containers: 2, ..Limits::default() }, "n1".into()))
}

fn event(ms: u64, fact: Fact) -> Event {
    Event { at: Mono(SECOND + ms * 1_000_000), fact }
}

fn pod(deleted: bool) -> Fact {
    Fact::Pod(Box::new(Pod {
        uid: "u".into(),
        cgroup_uid: "u".into(),
        key: Key { namespace: "shop".into(), name: "a".into() },
        workload: Workload { kind: "Deployment".into(), name: "api".into() },
        ready: true,
        grace_seconds: 30,
        containers: vec![ContainerStatus { name: "c".into(), id: "c1".into(), ..ContainerStatus::default() }],
        deletion: deleted.then_some(Deletion { deadline_unix_s: 60, grace_seconds: 30 }),
        ..Pod::default()
    }))
}

/// All lines that a recording has, its agent having ended.
fn lines(recording: Recording) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    runtime.block_on(recording.pieces().map(|piece| piece.to_vec()).concat())
}

/// What the agent says of itself.
fn own() -> [Series; 2] {
    let one = |family, label: &str, value| Series {
        family,
        labels: vec![label.into()],
        value: Value::Gauge(value),
        exemplar: None,
    };
    [one("build", "0", 1.0), one("watch_lag_seconds", "pods", 0.1 + 0.2)]
}

/// A log with every kind of entry.
fn log() -> Vec<u8> {
    let mut taped = taped();
    let recording = taped.record(Mono(SECOND), 0).expect("there is room");
    let synced = |watch, namespace: &str| Fact::Watch {
        watch,
        namespace: namespace.into(),
        health: WatchHealth::Synced,
    };
    for (ms, fact) in [
        (1, Fact::Clock { unix_ns: 30 * 1_000_000_000 }),
        (2, synced(WatchKind::Pods, "")),
        (3, pod(false)),
        (500, pod(true)),
        (900, Fact::PodGone { uid: "u".into() }),
    ] {
        taped.handle(event(ms, fact));
        while taped.poll_command().is_some() {}
    }
    for seconds in [100, 200, 300] {
        taped.handle_timeout(Mono(seconds * SECOND));
        taped.scraped(taped.snapshot().at, &own());
    }
    while taped.poll_ended().is_some() {}
    while taped.poll_finding().is_some() {}
    drop(taped);
    lines(recording)
}

fn text(log: &[u8]) -> String {
    String::from_utf8(log.to_vec()).expect("UTF-8")
}

fn play(log: &str) -> Result<Replay, LogError> {
    replay(log.as_bytes())
}

#[test]
fn every_entry_comes_back_as_it_went() {
    for entry in [
        Entry::State("AAEC".into()),
        Entry::Event(Cow::Owned(event(1, pod(true)))),
        Entry::Until(Mono(u64::MAX)),
        Entry::Told(Told::new(Conclusion::Command, &1)),
        Entry::Told(Told::new(Conclusion::Ended, &"x")),
        Entry::Told(Told::new(Conclusion::Finding, &[2])),
        Entry::Scraped(vec![
            Sample { family: "a".into(), labels: vec!["b".into()], value: Number::Counter(u64::MAX) },
            Sample {
                family: "c".into(),
                labels: Vec::new(),
                value: Number::Seconds("0.30000000000000004".into()),
            },
            Sample { family: "d".into(), labels: Vec::new(), value: Number::Gauge("-1".into()) },
        ]),
        Entry::End(End::Stopped),
        Entry::End(End::AgentEnded),
        Entry::End(End::SlowReader),
        Entry::End(End::NotWritten),
    ] {
        let line = text(&entry.line().expect("a line"));
        assert!(line.ends_with('\n') && line.trim_end().lines().count() == 1, "{line}");
        assert_eq!(serde_json::from_str::<Entry<'_>>(&line).expect("an entry"), entry, "{line}");
    }
}

#[test]
fn series_come_back_to_the_last_digit() {
    for number in [0.1 + 0.2, 1e-300, 123_456_789.123_456_79, f64::MAX, 0.0] {
        for value in [Value::Gauge(number), Value::Seconds(number), Value::Counter(u64::MAX)] {
            let series = Series { family: "build", labels: vec!["x".into()], value, exemplar: None };
            let line = serde_json::to_string(&Sample::of(&series)).expect("JSON");
            assert_eq!(serde_json::from_str::<Sample>(&line).expect("JSON").series(), Some(series), "{line}");
        }
    }
    let unknown = Sample { family: "of_a_newer_agent".into(), labels: Vec::new(), value: Number::Counter(1) };
    assert_eq!(unknown.series(), None);
}

#[test]
fn a_whole_log_is_replayed() {
    let log = text(&log());
    let replayed = play(&log).expect("it is whole");
    assert_eq!((replayed.end, replayed.torn, replayed.differing), (Some(End::AgentEnded), None, None));
    let said = |word: &str| log.lines().filter(|line| line.starts_with(&format!("{{\"{word}\""))).count();
    assert!(said("event") == 5 && said("until") == 4 && said("scraped") == 3 && said("told") > 0, "{log}");
    assert_eq!(replayed.entries, log.lines().count() as u64 - 1 - said("state") as u64);
    let mut shown = replayed.monitor.snapshot().series;
    shown.extend(own());
    assert_eq!(replayed.open_metrics(), crate::exposition::open_metrics(shown));
    assert!(log.contains("{\"told\":{\"what\":\"ended\","), "{log}");
    let items = replayed.monitor.terminations(&probe_core::termination::Filter::default()).items;
    assert_eq!(items.iter().map(|item| item.pod.name.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_log_that_breaks_off_anywhere_is_replayed_as_far_as_it_goes() {
    let log = log();
    let state_end = text(&log).find("{\"until\"").expect("the first entry");
    for length in 0..log.len() {
        match replay(&log[..length]) {
            Ok(replayed) => {
                assert!(length >= state_end, "cut to {length}");
                assert_eq!((replayed.end, replayed.differing), (None, None), "cut to {length}");
                assert_eq!(replayed.torn.is_some(), log[length - 1] != b'\n', "cut to {length}");
            }
            Err(LogError::NoLog | LogError::NoState) => assert!(length < state_end, "cut to {length}"),
            Err(error) => panic!("cut to {length}: {error}"),
        }
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_line() {
    let good = text(&log());
    let last = good.lines().count();
    let with_line = |number: usize, line: &str| {
        let mut lines: Vec<&str> = good.lines().collect();
        lines[number - 1] = line;
        lines.join("\n") + "\n"
    };
    let header = good.lines().next().expect("a header");
    let state = good.lines().nth(1).expect("the state");
    let middle = state.len() / 2;
    let damaged = format!("{}BACK{}", &state[..middle], &state[middle + 4..]);
    let long = format!("{{\"until\":{}1}}", " ".repeat(LINE_MAX));
    for (log, said) in [
        (String::new(), "line 1 is no header of an event log"),
        ("hello\n".into(), "line 1 is no header of an event log"),
        (format!("{}\n", "x".repeat(LINE_MAX + 1)), "line 1 is no header of an event log"),
        (
            good.replacen("_log\":1,\"version\":\"0.0.0\"", "_log\":2,\"version\":\"7.1.0\"", 1),
            "replay it with 7.1.0",
        ),
        (
            with_line(1, "{\"drainscope_log\":1,\"version\":\"0.0.0\"}"),
            "line 1 is no entry of an event log: missing field",
        ),
        (
            with_line(1, &header.replacen("\"slots\":2", "\"slots\":3", 1)),
            "the state that the log begins with: made for 2 slots",
        ),
        (with_line(2, "{\"until\":5}"), "breaks off within the saved state"),
        (with_line(2, "{\"state\":\"?\"}"), "line 2: this part of the saved state is not base64"),
        (with_line(2, &damaged), "the checksum differs"),
        (with_line(4, "{\"event\":{\"at\":5}}"), "line 4 is no entry of an event log: missing field `fact`"),
        (
            with_line(5, "{\"unheard_of\":1}"),
            "line 5 is no entry of an event log: unknown variant `unheard_of`",
        ),
        (with_line(5, "\u{0}\u{0}"), "line 5 is no entry of an event log"),
        (with_line(5, &long), "line 5 is longer than"),
        (with_line(5, "{\"state\":\"AAEC\"}"), "line 5: a second saved state within the log"),
        (good.clone() + "{\"until\":5}\n", &format!("line {}: the log goes on after its end", last + 1)),
    ] {
        let error = play(&log).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(said), "{said:?}, not {error:?}");
    }
}

#[test]
fn conclusions_that_differ_are_counted() {
    let good = text(&log());
    let line = good.lines().position(|line| line.starts_with("{\"told\"")).expect("a conclusion");
    let crc = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON")["told"]["crc32"].to_string()
    };
    let told = good.lines().nth(line).expect("a line");
    let wrong = good.replacen(told, &told.replacen(&crc(told), "1", 1), 1);
    assert_eq!(play(&wrong).expect("it is replayed").differing, Some((1, line as u64 + 1)));
    // One that the replay does not come to at all.
    let more = good.replacen(told, &format!("{told}\n{told}"), 1);
    assert!(play(&more).expect("it is replayed").differing.is_some());
}

#[test]
fn a_slow_reader_is_cut_off_and_the_others_go_on() {
    let mut taped = taped();
    let slow = taped.record(Mono(0), 0).expect("there is room");
    let big = "x".repeat(100_000);
    let mut handed = 0_u64;
    while taped.is_recorded() {
        handed += 1;
        assert!(handed < 1000, "a queue without a bound");
        taped.handle(event(handed, Fact::PodGone { uid: big.clone() }));
    }
    let quick = taped.record(Mono(0), 0).expect("its place is free");
    taped.handle(event(handed + 1, pod(false)));
    assert_eq!(taped.events().received, handed + 1, "the core misses nothing");
    let log = lines(slow);
    assert!(log.ends_with(b"{\"end\":\"slow_reader\"}\n"));
    assert_eq!(replay(&log[..]).expect("as far as it goes").monitor.events().received, handed - 1);
    drop(taped);
    let log = lines(quick);
    assert!(log.ends_with(b"{\"end\":\"agent_ended\"}\n"));
    assert_eq!(replay(&log[..]).expect("whole").monitor.events().received, handed + 1);
}

#[test]
fn many_small_entries_are_bounded_too() {
    let mut taped = taped();
    let slow = taped.record(Mono(0), 0).expect("there is room");
    let mut handed = 0;
    while taped.is_recorded() {
        handed += 1;
        assert!(handed < 1_000_000, "a queue without a bound");
        taped.handle_timeout(Mono(handed));
    }
    assert!(lines(slow).ends_with(b"{\"end\":\"slow_reader\"}\n"));
}

#[test]
fn recordings_are_few_and_one_that_is_gone_gives_its_place_back() {
    let mut taped = taped();
    let mut recordings: Vec<Recording> = (0..RECORDINGS).map_while(|_| taped.record(Mono(0), 0)).collect();
    assert_eq!(recordings.len(), RECORDINGS);
    assert!(taped.record(Mono(0), 0).is_none());
    recordings.pop();
    assert!(taped.record(Mono(0), 0).is_some());
    drop(recordings);
    taped.handle_timeout(Mono(1));
    assert!(!taped.is_recorded(), "nobody is left");
}

#[test]
fn what_has_no_entry_ends_a_recording() {
    let mut taped = taped();
    let recording = taped.record(Mono(0), 0).expect("there is room");
    taped.unrecorded().begin_kernel_anew();
    assert!(lines(recording).ends_with(b"{\"end\":\"not_written\"}\n"));
}
