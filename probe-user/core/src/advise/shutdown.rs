//! The end of a container as the spec sets it: preStop hook, grace, stop signal.

use super::spec::{Container, Hook, Owner, PodSpec};
use super::{Code, Finding, Level};
use crate::rules::grace::SHORTEST_STOP_SECONDS;

pub(super) fn container(pod: &PodSpec, container: &Container, owner: Owner, findings: &mut Vec<Finding>) {
    let grace = pod.grace_seconds();
    if grace < 0 {
        return;
    }
    let serves = !container.ports.is_empty() && !owner.is_batch;
    if serves && grace < SHORTEST_STOP_SECONDS {
        findings.push(grace_too_short(container, grace));
    }
    match &container.lifecycle.pre_stop {
        Some(hook) => findings.extend(hook_of(container, hook, grace)),
        None if serves => findings.push(no_hook(container)),
        None => {}
    }
    findings.extend(stop_signal(container));
}

/// Semantics 8.1, 8.2 and 9: 0 removes the object at once; the runtime gives two seconds at least.
fn grace_too_short(container: &Container, grace: i64) -> Finding {
    let why = if grace == 0 {
        "a deletion removes the pod from the API at once, while its processes still run for about 2 s: requests in flight are cut, \
         and a StatefulSet may run two pods of one name"
    } else {
        "the stop signal comes at once and SIGKILL 2 s later: longer requests are cut"
    };
    Finding::new(Level::Warning, Code::GraceTooShort, format!("terminationGracePeriodSeconds {grace}"))
        .at(container)
        .because(why)
        .remedy("a grace that covers the preStop sleep and the longest request; the default is 30")
}

/// Semantics 8.2: the hook is bounded by the grace; what it leaves, but 2 s at least, is the time from stop signal to SIGKILL.
fn hook_of(container: &Container, hook: &Hook, grace: i64) -> Option<Finding> {
    if hook.tcp_socket.is_some() {
        let finding = Finding::new(Level::Error, Code::PrestopTcp, "preStop hook with tcpSocket");
        return Some(
            finding
                .at(container)
                .because("the API takes it, but it has no meaning and fails at each stop: the stop signal comes at once")
                .remedy("preStop: {sleep: {seconds: N}}"),
        );
    }
    let sleep = hook.sleep_seconds()?;
    let is_native = hook.sleep.is_some() && hook.exec.is_none();
    let what = format!("preStop sleeps {sleep} s of terminationGracePeriodSeconds {grace}");
    let finding = |level, code| Finding::new(level, code, what.clone()).at(container);
    let remedy = format!(
        "terminationGracePeriodSeconds of the sleep plus the longest request, and more than {}",
        sleep.saturating_add(SHORTEST_STOP_SECONDS)
    );
    let left = grace.saturating_sub(sleep);
    if sleep < 0 || (is_native && left < 0) {
        let why = format!("the API refuses it: from 0 to terminationGracePeriodSeconds ({grace}) is allowed");
        return Some(finding(Level::Error, Code::PrestopOverGrace).because(why).remedy(remedy));
    }
    if left < 0 {
        let why = format!(
            "after {grace} s the kubelet goes on without waiting for the hook; then the program has {SHORTEST_STOP_SECONDS} s from \
             its stop signal to SIGKILL: {grace} + {SHORTEST_STOP_SECONDS} = {} s in all",
            grace.saturating_add(SHORTEST_STOP_SECONDS)
        );
        return Some(finding(Level::Error, Code::PrestopOverGrace).because(why).remedy(remedy));
    }
    if left <= SHORTEST_STOP_SECONDS {
        let why = format!(
            "{grace} - {sleep} = {left} s are left after it, and the kubelet gives {SHORTEST_STOP_SECONDS} s at least: requests that \
             take longer are cut by SIGKILL"
        );
        return Some(finding(Level::Warning, Code::PrestopEatsGrace).because(why).remedy(remedy));
    }
    (left < sleep).then(|| {
        let why = format!(
            "{grace} - {sleep} = {left} s are left from the stop signal to SIGKILL, less than the sleep itself"
        );
        finding(Level::Note, Code::PrestopEatsGrace)
            .because(why)
            .remedy(format!("keep it if {left} s are enough for requests in flight; else a longer grace"))
    })
}

/// Semantics 10: the stop signal and the endpoint's removal from the proxies run in parallel, in no order.
fn no_hook(container: &Container) -> Finding {
    Finding::new(Level::Note, Code::MissingPrestop, "serves ports and has no preStop hook")
        .at(container)
        .because(
            "the stop signal comes as soon as the pod is deleted, while the proxies still send new connections: they are refused \
             unless the program goes on accepting for a while after the signal",
        )
        .remedy(
            "preStop: {sleep: {seconds: N}}, N as long as connections still come after a deletion, unless the program does that wait \
             itself",
        )
}

/// signal(7): neither can be handled; SIGSTOP does not even end the process, so that the whole grace passes.
fn stop_signal(container: &Container) -> Option<Finding> {
    let signal = container.lifecycle.stop_signal.as_deref()?;
    let why = match signal {
        "SIGKILL" => "no program can handle it: requests in flight are cut, whatever the grace is",
        "SIGSTOP" => {
            "it stops the process without ending it, and cannot be handled: SIGKILL comes when the grace is over"
        }
        _ => return None,
    };
    let finding = Finding::new(Level::Warning, Code::StopSignal, format!("lifecycle.stopSignal is {signal}"));
    Some(finding.at(container).because(why).remedy("a signal that the program handles, such as SIGTERM"))
}
