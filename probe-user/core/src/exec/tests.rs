//! What a command in a container is taken for, case by case.

use super::*;
use crate::event::Deletion;

const MS: u64 = SECOND / 1000;

fn at(ms: u64) -> Mono {
    Mono(100 * SECOND).after(ms * MS)
}

fn probe(probe_type: ProbeType, names: &[&str]) -> ExecUse {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    ExecUse { container: "app".to_owned(), probe_type, names, timeout_seconds: 1, period_seconds: 10 }
}

fn pod(exec_probes: Vec<ExecUse>) -> Pod {
    Pod { exec_probes, ..Pod::default() }
}

fn hook(at_start: bool, name: &str) -> ExecHook {
    ExecHook { container: "app".to_owned(), at_start, names: vec![name.to_owned()] }
}

/// Begun then, for 50 ms, with 20 ms of CPU time.
fn run(comm: &str, started: Mono) -> Execed {
    let ended = started.after(50 * MS);
    Execed { comm: comm.to_owned(), started, ended, cpu_ns: 20 * MS, ..Execed::default() }
}

const READINESS: Verdict = Verdict::Probe(ProbeLabel::Of(ProbeType::Readiness));
const LIVENESS: Verdict = Verdict::Probe(ProbeLabel::Of(ProbeType::Liveness));
const ONE_OF_SEVERAL: Verdict = Verdict::Probe(ProbeLabel::Unknown);

#[test]
fn a_command_is_a_probe_by_its_name_and_its_time() {
    let two =
        || pod(vec![probe(ProbeType::Liveness, &["live"]), probe(ProbeType::Readiness, &["ready", "sh"])]);
    let alike = || {
        pod(vec![probe(ProbeType::Liveness, &["sh", "live"]), probe(ProbeType::Readiness, &["sh", "ready"])])
    };
    let patient = || {
        let mut pod = alike();
        pod.exec_probes[1].timeout_seconds = 5;
        pod
    };
    let lasting = |comm: &str, ms: u64, status: u32| Execed { ended: at(ms), status, ..run(comm, at(0)) };
    let cases: Vec<(&str, Pod, Execed, Verdict)> = vec![
        ("by its name", two(), run("ready", at(0)), READINESS),
        ("by another name of its command", two(), run("sh", at(0)), READINESS),
        ("the other probe", two(), run("live", at(0)), LIVENESS),
        ("another command", two(), run("bash", at(0)), Verdict::Other),
        ("a container without a probe", pod(Vec::new()), run("ready", at(0)), Verdict::Other),
        ("with a terminal", two(), Execed { terminal: true, ..run("ready", at(0)) }, Verdict::Other),
        ("it failed", two(), Execed { status: 256, ..run("ready", at(0)) }, READINESS),
        ("killed at its timeout", two(), lasting("ready", 1400, SIGKILL), READINESS),
        ("killed long after it, on a busy node", two(), lasting("ready", 4000, SIGKILL), READINESS),
        ("killed when its pod was", two(), lasting("ready", 31_001, SIGKILL), Verdict::Ambiguous),
        ("over by itself at its timeout", two(), lasting("ready", 2000, 0), READINESS),
        ("longer than the runtime lets a probe live", two(), lasting("ready", 2001, 0), Verdict::Ambiguous),
        ("two look the same", alike(), run("sh", at(0)), ONE_OF_SEVERAL),
        ("two look the same, but not to the end", alike(), run("live", at(0)), LIVENESS),
        ("two look the same, one has the time", patient(), lasting("sh", 3000, 0), READINESS),
    ];
    for (case, fact, execed, expected) in cases {
        let mut seen = PodExecs::default();
        assert_eq!(seen.take(&fact, "app", &execed), expected, "{case}");
        assert_eq!(seen.take(&fact, "other", &execed), Verdict::Other, "{case}: elsewhere");
    }
}

#[test]
fn what_may_be_a_hook_is_ambiguous() {
    let begun = |fact: &Pod| {
        let mut seen = PodExecs::default();
        [0, 10_000, 20_000].map(|ms| {
            let instance = u32::from(ms == 20_000);
            seen.take(fact, "app", &Execed { container: instance, ..run("ready", at(ms)) })
        })
    };
    let mut fact = pod(vec![probe(ProbeType::Readiness, &["ready"])]);
    assert_eq!(begun(&fact), [READINESS; 3]);
    fact.exec_hooks = vec![hook(true, "other"), hook(false, "ready")];
    assert_eq!(begun(&fact), [READINESS; 3], "a preStop hook runs at the end");
    fact.deletion = Some(Deletion { deadline_unix_s: 0, grace_seconds: 30 });
    assert_eq!(begun(&fact), [Verdict::Ambiguous; 3]);
    fact.exec_hooks = vec![hook(false, "other")];
    assert_eq!(begun(&fact), [READINESS; 3], "one of another name");
    fact.exec_hooks = vec![hook(true, "ready")];
    let expected = [Verdict::Ambiguous, READINESS, Verdict::Ambiguous];
    assert_eq!(begun(&fact), expected, "the first of each start");
}

/// Moments in milliseconds and how many of the commands that began then are probes.
fn counted(fact: &Pod, starts: impl IntoIterator<Item = u64>) -> usize {
    let mut seen = PodExecs::default();
    let verdicts = starts.into_iter().map(|ms| seen.take(fact, "app", &run("ready", at(ms))));
    verdicts.filter(|verdict| matches!(verdict, Verdict::Probe(_))).count()
}

#[test]
fn no_more_than_a_period_allows_are_probes() {
    let fact = pod(vec![probe(ProbeType::Readiness, &["ready"])]);
    let every = |ms: u64, count: u64| (0..count).map(move |n| n * ms);
    assert_eq!(counted(&fact, every(10_000, 50)), 50);
    // Each is up to 4 s late.
    assert_eq!(counted(&fact, (0..50).map(|n| n * 10_000 + n * 7 % 5 * 1000)), 50);
    // A manual trigger, after which the ticks go on from there.
    assert_eq!(counted(&fact, [0, 3000, 13_000, 23_000]), 4);
    // A tick had to wait for a probe that took longer than the period.
    assert_eq!(counted(&fact, [0, 15_000, 20_000, 30_000]), 4);
    // Somebody runs the same once: one more than there were, at most.
    let disturbed = every(10_000, 50).chain([101_000]);
    let mut disturbed: Vec<u64> = disturbed.collect();
    disturbed.sort_unstable();
    assert_eq!(counted(&fact, disturbed), 51);
    // Somebody runs the same every second: 50 may be the kubelet's, and two early ones.
    assert_eq!(counted(&fact, every(1000, 500)), 52);
    // Two that look the same have twice as many, and each is counted for both.
    let both = pod(vec![probe(ProbeType::Liveness, &["ready"]), probe(ProbeType::Readiness, &["ready"])]);
    assert_eq!(counted(&both, every(5000, 50)), 50);
}

#[test]
fn the_sums_are_those_of_the_probes_alone() {
    let mut fact = pod(vec![probe(ProbeType::Readiness, &["ready"]), probe(ProbeType::Liveness, &["live"])]);
    fact.exec_probes[1].container = "side".to_owned();
    let mut seen = PodExecs::default();
    assert_eq!(seen.observed(&fact.exec_probes[0]), None);
    for ms in [0, 10_000] {
        seen.take(&fact, "app", &run("ready", at(ms)));
    }
    seen.take(&fact, "app", &Execed { ended: at(29_000), ..run("ready", at(20_000)) });
    seen.take(&fact, "app", &run("bash", at(20_000)));
    let expected =
        ExecObserved { count: 2, duration_seconds: Some(0.05), cpu_seconds: 0.04, ambiguous: 1, other: 1 };
    assert_eq!(seen.observed(&fact.exec_probes[0]), Some((false, expected)));
    assert_eq!(seen.observed(&fact.exec_probes[1]), None);

    let alike = pod(vec![probe(ProbeType::Readiness, &["sh"]), probe(ProbeType::Startup, &["sh"])]);
    let mut seen = PodExecs::default();
    seen.take(&alike, "app", &run("sh", at(0)));
    for probe in &alike.exec_probes {
        let (shared, observed) = seen.observed(probe).expect("seen");
        assert!(shared && observed.count == 1, "{observed:?}");
    }
}

#[test]
fn what_waits_for_a_name_is_bounded() {
    let mut seen = PodExecs::default();
    let fits = (0..40).filter(|ms| seen.wait(run("sh", at(*ms)))).count();
    assert_eq!((fits, seen.waiting.len()), (WAITING, WAITING));
    assert_eq!(seen.waiting[0].started, at(24), "the oldest go");
}
