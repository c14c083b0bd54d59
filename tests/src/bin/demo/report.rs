//! What the demo says: the verdict first, then what led to it, then where to look next; and the same as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use world::agent::Termination;

use crate::part::{Experiment, Part};

/// Timeline steps in the order in which they are printed, with words for people.
const STEPS: &[(&str, &str)] = &[
    ("slice_not_ready", "endpoint not ready"),
    ("stop_signal", "stop signal"),
    ("listener_closed", "listener closed"),
    ("last_request", "last request"),
    ("exited", "exit"),
    ("slice_gone", "endpoint gone"),
    ("last_new_connection", "last new connection"),
];
/// Pods and attempts that are listed one by one.
const LISTED: usize = 10;

/// What did not hold; empty if all did.
pub(crate) fn failures(experiment: &Experiment, blind: bool) -> Vec<String> {
    let mut failures = Vec::new();
    for part in &experiment.parts {
        let verdict = &part.verdict;
        if !verdict.holds() {
            failures.push(format!(
                "{}: {} failures without evidence, {} evidences without a failure, {} miscounted pods",
                part.title,
                verdict.client_only.len(),
                verdict.agent_only.len(),
                verdict.miscounted.len()
            ));
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of one demo")]
        let lost = part.lost as f64;
        if (part.counted - lost).abs() > 0.5 {
            failures.push(format!(
                "{}: the metrics counted {} lost requests, the pods {lost}",
                part.title, part.counted
            ));
        }
        if part.terminations.iter().any(|termination| !termination.complete) {
            failures.push(format!("{}: the agent says that it missed something", part.title));
        }
    }
    if experiment.parts.first().is_some_and(|part| part.verdict.failed == 0) {
        failures.push("without preStop nothing was lost".to_owned());
    }
    if let Some(last) = experiment.parts.last() {
        let mendable = last.verdict.failed - last.verdict.by_class.get("stale_reuse").copied().unwrap_or(0);
        if (!blind && last.verdict.failed > 0) || mendable > 0 {
            failures.push(format!("with the advised preStop {} requests were lost", last.verdict.failed));
        }
        if blind && last.verdict.failed == 0 {
            failures.push("blind clients lost nothing with the advised preStop".to_owned());
        }
    }
    failures
}

pub(crate) fn print(experiments: &[Experiment], delay: f64, blind: bool) {
    for experiment in experiments {
        let wrong = failures(experiment, blind);
        println!("{}", headline(experiment, wrong.is_empty()));
        for failure in wrong {
            println!("FAILED  {failure}");
        }
    }
    for (number, experiment) in experiments.iter().enumerate() {
        if experiments.len() > 1 {
            println!("\n== round {} ==", number + 1);
        }
        comparison(experiment);
        for part in &experiment.parts {
            print_part(part);
        }
        next_steps(experiment, delay, blind);
    }
}

fn headline(experiment: &Experiment, holds: bool) -> String {
    let lost: Vec<String> = experiment
        .parts
        .iter()
        .map(|part| {
            format!(
                "{} of {} with preStop {} s",
                part.verdict.failed, part.summary.total.requests, part.prestop_seconds
            )
        })
        .collect();
    let explained: u64 = experiment.parts.iter().map(|part| part.verdict.attributed).sum();
    let failed: u64 = experiment.parts.iter().map(|part| part.verdict.failed).sum();
    let verdict = if holds { "OK     " } else { "FAILED " };
    format!("{verdict} lost {}; {explained} of {failed} explained, connection by connection", lost.join(", "))
}

fn comparison(experiment: &Experiment) {
    println!(
        "\n{:<26}{:>9}{:>7}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "", "requests", "lost", "req/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "sockets"
    );
    println!(
        "{:<26}{:>9}{:>7}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "founding, no preStop", 7217, 7, 120.2, 62.9, 94.1, 156.8, 387.8, 86
    );
    println!(
        "{:<26}{:>9}{:>7}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "founding, preStop 20 s", 7716, 0, 128.5, 60.3, 85.7, 132.2, 190.9, 80
    );
    for part in &experiment.parts {
        let total = &part.summary.total;
        let seconds = seconds(part.summary.end_ns - part.summary.start_ns);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = total.requests as f64 / seconds;
        let ms = |ns: u64| seconds_to_ms(ns);
        println!(
            "{:<26}{:>9}{:>7}{:>8.1}{:>9.1}{:>9.1}{:>9.1}{:>9.1}{:>9}",
            format!("here, preStop {} s", part.prestop_seconds),
            total.requests,
            part.verdict.failed,
            rate,
            ms(total.latency.p50_ns),
            ms(total.latency.p90_ns),
            ms(total.latency.p99_ns),
            ms(total.latency.p999_ns),
            total.connections,
        );
    }
    println!("(another machine, other servers and clients: compare the losses, not the times)");
}

fn print_part(part: &Part) {
    println!("\n-- {}: preStop sleep {} s --", part.title, part.prestop_seconds);
    for termination in &part.terminations {
        println!(
            "{:<24} {:<9} lost {:<4} late answered {:<5} late connections {}",
            termination.pod.name,
            termination.outcome,
            termination.lost_total(),
            termination.requests.late_answered,
            termination.connections.late
        );
        println!("    {}", timeline(termination));
    }
    let listed = |counts: &BTreeMap<String, u64>| {
        if counts.is_empty() {
            "none".to_owned()
        } else {
            counts.iter().map(|(class, count)| format!("{class} {count}")).collect::<Vec<_>>().join(", ")
        }
    };
    println!("lost by cause:  {}", listed(&part.verdict.by_class));
    println!(
        "clients' tally: {} failed, {} joined with the agent's evidence, {} client-only, {} agent-only",
        part.verdict.failed,
        part.verdict.attributed,
        part.verdict.client_only.len(),
        part.verdict.agent_only.len()
    );
    for attempt in part.verdict.client_only.iter().take(LISTED) {
        println!(
            "  client-only: {} request {} {:?} at {} ns",
            attempt.local, attempt.nth, attempt.error, attempt.t_ns
        );
    }
    for (pod, item) in part.verdict.agent_only.iter().take(LISTED) {
        println!(
            "  agent-only:  {} request {} {} {} of {pod} at {}",
            item.peer, item.request, item.confidence, item.class, item.at
        );
    }
    for (pod, counted, shown) in &part.verdict.miscounted {
        println!("  miscounted:  {pod} counted {counted}, has evidence of {shown}");
    }
    if let Some(tail) = part.advice.tail_seconds {
        println!(
            "traffic tail:   {tail:.2} s after the deletion was seen; advised preStop sleep {}",
            part.advice.prestop_seconds.unwrap_or(0)
        );
    }
}

/// The steps of a pod's end, in seconds after the deletion was seen.
fn timeline(termination: &Termination) -> String {
    let mut steps: Vec<(f64, &str)> = STEPS
        .iter()
        .filter_map(|(step, words)| Some((termination.seconds_between("seen", step)?, *words)))
        .collect();
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    steps.iter().map(|(at, words)| format!("{words} {at:+.2}")).collect::<Vec<_>>().join(", ")
}

fn next_steps(experiment: &Experiment, delay: f64, blind: bool) {
    println!(
        "\nwhy   endpoints followed a deletion after {delay} s, and until then clients were sent to pods that had closed"
    );
    if let Some(advice) = experiment.parts.first().map(|part| &part.advice) {
        println!(
            "do    preStop sleep {}, terminationGracePeriodSeconds {} or more",
            advice.prestop_seconds.unwrap_or(0),
            advice.grace_seconds.unwrap_or(0)
        );
    }
    if blind && let Some(last) = experiment.parts.last() {
        println!(
            "note  {} requests were lost with the advised sleep too: blind keep-alive clients write on a connection that the server has closed. No sleep mends that; \
             `Connection: close` or GOAWAY while draining does, or a client that looks or retries",
            last.verdict.failed
        );
        for note in &last.advice.notes {
            println!("      {note}");
        }
    }
    println!("next  cargo xtask demo --keep leaves the agent running; its API is described in the README");
}

pub(crate) fn json(part: &Part) -> Value {
    json!({
        "name": part.title, "workload": part.workload, "requests": part.summary.total.requests, "failed": part.verdict.failed,
        "attributed": part.verdict.attributed, "client_only": part.verdict.client_only.len(), "agent_only": part.verdict.agent_only.len(),
        "by_class": part.verdict.by_class, "prestop_seconds": part.prestop_seconds, "tail_seconds": part.advice.tail_seconds,
        "advised_prestop_seconds": part.advice.prestop_seconds,
    })
}

fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}

fn seconds_to_ms(ns: u64) -> f64 {
    seconds(ns) * 1e3
}
