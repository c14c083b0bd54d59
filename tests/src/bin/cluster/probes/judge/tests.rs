//! The judgement: right accounts pass, and each thing that may differ is noticed.

use serde_json::json;

use super::*;
use crate::probes::rows;

const SECOND: i64 = 1_800_000_000;

fn case(name: &str) -> Case {
    rows::all().into_iter().find(|case| case.name == name).expect("a case")
}

fn ours(results: &[(&str, &str)], believed: &[ProbeResult]) -> Ours {
    let mut ours = Ours::default();
    for (result, text) in results {
        *ours.results.entry((*result).to_owned()).or_default() += 1;
        ours.said.insert(((*result).to_owned(), (*text).to_owned()));
    }
    believed.iter().for_each(|result| ours.believes(*result));
    ours
}

fn event(reason: &str, message: &str, second: i64) -> Event {
    let last = Timestamp::from_second(second).expect("a moment");
    Event { reason: reason.to_owned(), message: message.to_owned(), last }
}

fn theirs(case: &Case, (successful, failed): (u32, u32), statuses: &[Value], events: &[Event]) -> Theirs {
    let counts = Counts { successful: successful.into(), failed: failed.into(), unknown: 0.0 };
    let mut theirs = Theirs { counts, ..Theirs::default() };
    statuses.iter().for_each(|status| theirs.saw(case.kind, status));
    let begun = Timestamp::from_second(SECOND).expect("a moment");
    theirs.take_events(case.kind, events, (case.begin == rows::Begin::Settled).then_some(begun));
    theirs
}

fn ready(ready: bool) -> Value {
    json!({"ready": ready})
}

#[test]
fn equal_accounts_are_right() {
    use ProbeResult::{Failure, Success};
    let unhealthy = |text: &str| vec![event("Unhealthy", text, SECOND + 5)];
    let redirect = "Probe terminated redirects, Response body: ";
    let parsing = "strconv.Atoi: parsing \"nonesuch\": invalid syntax";
    let killing = event("Killing", "Container app failed liveness probe, will be restarted", SECOND);
    let live = event("Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 500", SECOND);
    for (name, ours, counts, statuses, events) in [
        ("http-ok", ours(&[("success", "ready\n")], &[Success]), (9, 0), vec![ready(true)], vec![]),
        (
            "http-elsewhere",
            ours(&[("warning", redirect)], &[Success]),
            (9, 0),
            vec![ready(true)],
            vec![event(
                "ProbeWarning",
                &format!("Readiness probe warning: {}", redirect.trim_end()),
                SECOND + 1,
            )],
        ),
        (
            "exec-1",
            ours(&[("failure", "code 1\n")], &[Failure]),
            (0, 9),
            vec![ready(false)],
            unhealthy("Readiness probe failed: code 1"),
        ),
        (
            "port-name",
            ours(&[("unknown", parsing)], &[Failure]),
            (0, 0),
            vec![ready(false)],
            unhealthy(&format!("Readiness probe errored and resulted in unknown state: {parsing}")),
        ),
        (
            "flap-above",
            ours(
                &[("success", ""), ("failure", "HTTP probe failed with statuscode: 503")],
                &[Success, Failure],
            ),
            (5, 4),
            vec![ready(true), ready(false)],
            unhealthy("Readiness probe failed: HTTP probe failed with statuscode: 503"),
        ),
        (
            "live-500",
            ours(&[("failure", "HTTP probe failed with statuscode: 500")], &[Failure]),
            (0, 3),
            vec![ready(true)],
            vec![live, killing],
        ),
        (
            "slow-start",
            ours(&[("failure", "connect: connection refused"), ("success", "")], &[Success]),
            (1, 7),
            vec![json!({"started": false}), json!({"started": true})],
            vec![event("Unhealthy", "Startup probe failed: connect: connection refused", SECOND)],
        ),
    ] {
        let case = case(name);
        let theirs = theirs(&case, counts, &statuses, &events);
        judge(&case, &ours, &theirs).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    }
}

#[test]
fn each_difference_is_noticed() {
    use ProbeResult::{Failure, Success};
    let case = case("http-500");
    let text = "HTTP probe failed with statuscode: 500";
    let said =
        |text: &str, second| vec![event("Unhealthy", &format!("Readiness probe failed: {text}"), second)];
    let good = ours(&[("failure", text)], &[Failure]);
    let down = vec![ready(false)];
    judge(&case, &good, &theirs(&case, (0, 9), &down, &said(text, SECOND))).expect("all is right");
    for (what, ours, counts, statuses, events) in [
        ("our result", ours(&[("success", "")], &[Failure]), (0, 9), down.clone(), said(text, SECOND)),
        (
            "one more result",
            ours(&[("failure", text), ("success", "")], &[Failure]),
            (0, 9),
            down.clone(),
            said(text, SECOND),
        ),
        ("no result", ours(&[], &[Failure]), (0, 9), down.clone(), said(text, SECOND)),
        (
            "our words",
            ours(&[("failure", "statuscode: 500")], &[Failure]),
            (0, 9),
            down.clone(),
            said(text, SECOND),
        ),
        ("our belief", ours(&[("failure", text)], &[Success]), (0, 9), down.clone(), said(text, SECOND)),
        ("a success of the kubelet's", good.clone(), (1, 9), down.clone(), said(text, SECOND)),
        ("no failure of the kubelet's", good.clone(), (0, 0), down.clone(), said(text, SECOND)),
        ("no event", good.clone(), (0, 9), down.clone(), vec![]),
        (
            "an event of another kind",
            good.clone(),
            (0, 9),
            down.clone(),
            vec![event("Unhealthy", "Liveness probe failed: x", SECOND)],
        ),
        (
            "an event that we know nothing of",
            good.clone(),
            (0, 9),
            down.clone(),
            [said(text, SECOND), said("other", SECOND + 2)].concat(),
        ),
        ("ready for a moment", good.clone(), (0, 9), vec![ready(false), ready(true)], said(text, SECOND)),
        ("never looked at", good.clone(), (0, 9), vec![], said(text, SECOND)),
        (
            "words that both have and nobody expected",
            ours_of("other"),
            (0, 9),
            down.clone(),
            said("other", SECOND),
        ),
    ] {
        let theirs = theirs(&case, counts, &statuses, &events);
        assert!(judge(&case, &ours, &theirs).is_err(), "{what}");
    }
    // What was said before both probed need not be ours.
    let before = [said(text, SECOND), said("connect: connection refused", SECOND)].concat();
    judge(&case, &good, &theirs(&case, (0, 9), &down, &before)).expect("all is right");
}

fn ours_of(text: &str) -> Ours {
    ours(&[("failure", text)], &[ProbeResult::Failure])
}

#[test]
fn a_startup_probe_that_has_passed_is_not_asked_again() {
    let case = case("slow-start");
    let refused = "connect: connection refused";
    let ours = ours(&[("failure", refused), ("success", "")], &[ProbeResult::Success]);
    let events = [event("Unhealthy", &format!("Startup probe failed: {refused}"), SECOND)];
    for (successful, is_right) in [(1, true), (2, false)] {
        let theirs = theirs(&case, (successful, 7), &[json!({"started": true})], &events);
        assert_eq!(judge(&case, &ours, &theirs).is_ok(), is_right, "{successful}");
    }
}

#[test]
fn a_restart_must_have_its_reason() {
    let case = case("live-500");
    let text = "HTTP probe failed with statuscode: 500";
    let ours = ours_of(text);
    let unhealthy = event("Unhealthy", &format!("Liveness probe failed: {text}"), SECOND);
    for killing in [
        None,
        Some(event("Killing", "Stopping container app", SECOND)),
        Some(event("Killing", "Container app failed startup probe, will be restarted", SECOND)),
    ] {
        let events: Vec<Event> = [Some(unhealthy.clone()), killing].into_iter().flatten().collect();
        let theirs = theirs(&case, (0, 3), &[ready(true)], &events);
        assert!(judge(&case, &ours, &theirs).is_err(), "{events:?}");
    }
}
