//! Findings of an ended termination: what went wrong, on what evidence, and what to do about it.

use crate::finding::{Finding, Severity};
use crate::limits::SECOND;
use crate::termination::{Cause, ContainerEnd, Evidence, Outcome, Step, Termination};
use crate::totals::seconds;
use crate::wallclock::Timestamp;
use probe_ebpf::class::Class;

/// Evidence that a finding repeats.
const EVIDENCE: usize = 5;
/// An endpoint that is ready so long after its pod's deletion: five times what an idle control plane needs.
const SLOW_REMOVAL_NS: u64 = 5 * SECOND;

struct Conclusion {
    code: &'static str,
    severity: Severity,
    summary: String,
    remedy: String,
    about: fn(&Evidence) -> bool,
}

/// All findings of a termination, worst first.
pub(crate) fn findings(item: &Termination, at: Timestamp) -> Vec<Finding> {
    let mut all = Vec::new();
    all.extend(requests_lost(item));
    all.extend(stale_conntrack(item));
    all.extend(keepalive_reuse_lost(item));
    all.extend(grace_exceeded(item));
    all.extend(stop_signal_ignored(item));
    all.extend(silent_termination(item));
    all.extend(slow_endpoint_removal(item));
    all.extend(service_without_endpoints(item));
    let make = |conclusion: Conclusion| Finding {
        code: conclusion.code.into(),
        severity: conclusion.severity,
        at,
        pod: item.pod.clone(),
        workload: item.workload.clone(),
        summary: conclusion.summary,
        remedy: conclusion.remedy,
        evidence: item
            .evidence
            .iter()
            .filter(|evidence| (conclusion.about)(evidence))
            .take(EVIDENCE)
            .cloned()
            .collect(),
        complete: item.complete,
    };
    all.into_iter().map(make).collect()
}

fn requests(count: u64) -> String {
    if count == 1 { "1 request".to_owned() } else { format!("{count} requests") }
}

fn requests_lost(item: &Termination) -> Option<Conclusion> {
    let count = item.lost.total().saturating_sub(item.lost.of(Class::StaleReuse));
    let tracked = item.lost_stale_entries;
    if count <= tracked {
        return None;
    }
    let by_class: Vec<String> = Class::ALL
        .into_iter()
        .filter(|class| *class != Class::StaleReuse && item.lost.of(*class) > 0)
        .map(|class| format!("{} {}", item.lost.of(class), class.name()))
        .collect();
    let came =
        item.tail_seconds.map_or_else(String::new, |tail| format!("; clients came until +{tail:.1} s"));
    let tracked =
        if tracked > 0 { format!(", {tracked} of them sent by connection tracking") } else { String::new() };
    let remedy = if item.tail_seconds.is_some() && !item.tail_censored {
        "let the pod serve until clients stop coming: a preStop sleep that covers the traffic tail"
    } else {
        "let the pod serve until clients stop coming: a preStop sleep; no tail was measured here, so begin with 15 s"
    };
    Some(Conclusion {
        code: "requests-lost",
        severity: Severity::Error,
        summary: format!("{} lost ({}){tracked}{came}", requests(count), by_class.join(", ")),
        remedy: remedy.to_owned(),
        about: |evidence| evidence.class != Class::StaleReuse && evidence.cause.is_none(),
    })
}

fn stale_conntrack(item: &Termination) -> Option<Conclusion> {
    let count = item.lost_stale_entries;
    (count > 0).then(|| Conclusion {
        code: "stale-conntrack",
        severity: Severity::Error,
        summary: format!(
            "{} sent to this pod by older entries of the node's connection tracking, whatever the service proxy's rules said",
            requests(count)
        ),
        remedy: "no preStop sleep mends this, nor a faster service proxy: a client used its address and port again before the \
                 entry was forgotten (2 minutes after an attempt without an answer, 10 s after a reset). Give clients more \
                 source ports or addresses, let them keep connections, or retry from another port"
            .to_owned(),
        about: |evidence| evidence.cause == Some(Cause::StaleConntrack),
    })
}

fn keepalive_reuse_lost(item: &Termination) -> Option<Conclusion> {
    let count = item.lost.of(Class::StaleReuse);
    (count > 0).then(|| Conclusion {
        code: "keepalive-reuse-lost",
        severity: Severity::Error,
        summary: format!("{} sent on kept connections that the server had closed already", requests(count)),
        remedy: "no preStop sleep mends this: let the server answer with Connection: close (or GOAWAY) while it drains, \
                 or let clients look for the FIN before they reuse a connection, or retry"
            .to_owned(),
        about: |evidence| evidence.class == Class::StaleReuse,
    })
}

fn names<'a>(containers: impl Iterator<Item = &'a ContainerEnd>) -> String {
    containers.map(|container| container.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn grace_exceeded(item: &Termination) -> Option<Conclusion> {
    (item.outcome == Outcome::GraceExceeded).then(|| Conclusion {
        code: "grace-exceeded",
        severity: Severity::Warning,
        summary: format!(
            "killed at the end of its grace of {} s: {}",
            item.grace_seconds,
            names(item.containers.iter().filter(|container| container.killed))
        ),
        remedy:
            "exit on the stop signal, or give terminationGracePeriodSeconds room for preStop and draining"
                .to_owned(),
        about: |_| false,
    })
}

fn stop_signal_ignored(item: &Termination) -> Option<Conclusion> {
    let ignored = names(item.containers.iter().filter(|container| container.signal_ignored));
    (!ignored.is_empty()).then(|| Conclusion {
        code: "stop-signal-ignored",
        severity: Severity::Warning,
        summary: format!("the init of {ignored} has no handler for its stop signal"),
        remedy: "handle SIGTERM, or run the server by exec or under an init that forwards signals: pid 1 ignores what it \
                 does not handle"
            .to_owned(),
        about: |_| false,
    })
}

fn silent_termination(item: &Termination) -> Option<Conclusion> {
    item.silent.then(|| Conclusion {
        code: "silent-termination",
        severity: Severity::Warning,
        summary: "stopped while its endpoint was ready, without a deletion in the API".to_owned(),
        remedy: "look for a node shutdown, a pressure eviction or a removed static pod at that time: traffic went on to \
                 a pod that was going"
            .to_owned(),
        about: |_| true,
    })
}

fn slow_endpoint_removal(item: &Termination) -> Option<Conclusion> {
    let at = |step| item.timeline.iter().find(|known| known.step == step).map(|known| known.at.0);
    let lag = u64::try_from(at(Step::SliceNotReady)?.checked_sub(at(Step::Seen)?)?).ok()?;
    (lag > SLOW_REMOVAL_NS).then(|| Conclusion {
        code: "slow-endpoint-removal",
        severity: Severity::Warning,
        summary: format!("its endpoint was taken out of its slices {:.1} s after the deletion", seconds(lag)),
        remedy:
            "look at the endpoint slice controller and the API server: this delay adds to every termination"
                .to_owned(),
        about: |evidence| matches!(evidence.class, Class::Refused | Class::Blackholed),
    })
}

fn service_without_endpoints(item: &Termination) -> Option<Conclusion> {
    let services: Vec<String> = item
        .services_without_endpoints
        .iter()
        .map(|of| {
            let ns = of.until.map(|until| u64::try_from(until.0.saturating_sub(of.from.0)).unwrap_or(0));
            let lasted = ns.map_or_else(|| "still".to_owned(), |ns| format!("for {:.1} s", seconds(ns)));
            format!("{} ({lasted})", of.service)
        })
        .collect();
    (item.service_refused > 0).then(|| Conclusion {
        code: "service-without-endpoints",
        severity: Severity::Error,
        summary: format!(
            "{} of this node's clients refused by the service proxy: with this pod the last endpoint went of {}",
            if item.service_refused == 1 {
                "1 connect".to_owned()
            } else {
                format!("{} connects", item.service_refused)
            },
            services.join(", ")
        ),
        remedy: "keep an endpoint ready until the next one is: no strategy Recreate, maxUnavailable below the number of ready \
                 replicas, a PodDisruptionBudget for evictions, and a preStop sleep that serves until the new pods are ready; \
                 no sleep mends it if none comes"
            .to_owned(),
        about: |_| false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::termination::{Name, StepSource, TimelineStep};
    use crate::test_data::termination;

    fn codes(item: &Termination) -> Vec<Name> {
        findings(item, Timestamp(0)).into_iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn a_clean_end_has_no_finding() {
        assert_eq!(codes(&termination(|_| ())), Vec::<Name>::new());
    }

    #[test]
    fn what_connection_tracking_sent_is_told_apart() {
        let of = |tracked: u64| {
            termination(|t| {
                t.lost.0[Class::Refused as usize] = 2;
                t.lost.0[Class::Blackholed as usize] = 3;
                t.lost_stale_entries = tracked;
            })
        };
        assert_eq!(codes(&of(0)), ["requests-lost"]);
        assert_eq!(codes(&of(3)), ["requests-lost", "stale-conntrack"]);
        assert_eq!(codes(&of(5)), ["stale-conntrack"]);
        let all = findings(&of(3), Timestamp(0));
        assert_eq!(
            all[0].summary,
            "5 requests lost (2 refused, 3 blackholed), 3 of them sent by connection tracking"
        );
        assert!(all[1].remedy.contains("no preStop sleep"), "{}", all[1].remedy);
    }

    #[test]
    fn each_trouble_has_its_code() {
        let item = termination(|t| {
            t.lost.0[Class::Refused as usize] = 2;
            t.lost.0[Class::StaleReuse as usize] = 1;
            t.outcome = Outcome::GraceExceeded;
            t.silent = true;
            t.containers[0].signal_ignored = true;
            t.complete = false;
            let step = |step, at| TimelineStep {
                step,
                at: Timestamp(at),
                container: None,
                port: None,
                source: StepSource::Api,
                accuracy_ns: None,
            };
            t.timeline = vec![step(Step::Seen, 0), step(Step::SliceNotReady, 6_000_000_000)];
        });
        assert_eq!(
            codes(&item),
            [
                "requests-lost",
                "keepalive-reuse-lost",
                "grace-exceeded",
                "stop-signal-ignored",
                "silent-termination",
                "slow-endpoint-removal"
            ]
        );
        let all = findings(&item, Timestamp(0));
        assert_eq!(all[0].summary, "2 requests lost (2 refused)");
        assert!(all.iter().all(|finding| !finding.complete));
    }
}
