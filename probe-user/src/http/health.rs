//! `/livez` and `/readyz`, in the form that Kubernetes' own components use: `?verbose` lists the checks. Alive: the driver
//! goes round. Ready: hooks are attached or degraded by name, and the first API lists are in.

use super::{App, Start};
use crate::feature;
use crate::kernel::HookState;
use crate::kube::events::outbox::Outbox;
use crate::kube::table::kind_name;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

/// A driver that has not gone round for this long hangs: it does so at least four times a second.
const PULSE_MAX_NS: u64 = 30_000_000_000;

struct Check {
    name: &'static str,
    ok: bool,
    note: String,
}

/// GET /livez.
pub async fn livez(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    report("livez", &[driver(&app)], query.as_deref())
}

/// GET /readyz.
pub async fn readyz(State(app): State<App>, RawQuery(query): RawQuery) -> Response {
    let mut checks = vec![
        driver(&app),
        kernel(&app.start),
        cgroups(&app.start),
        optional("proxy-rules", app.rules.state()),
        optional("conntrack", app.lookups.state()),
        optional("kubelet-metrics", app.readings.state()),
        lists(&app),
    ];
    checks.extend(app.outbox.as_deref().map(events));
    report("readyz", &checks, query.as_deref())
}

fn driver(app: &App) -> Check {
    let age = app.links.pulse.age_ns();
    let ok = age < PULSE_MAX_NS;
    let note = if ok { String::new() } else { format!("no sign of life for {} s", age / 1_000_000_000) };
    Check { name: "driver", ok, note }
}

/// Ready either way: what is missing is named.
fn kernel(start: &Start) -> Check {
    let mut missing: Vec<String> =
        start.kernel_error.iter().map(|why| format!("kernel programs: {why}")).collect();
    for hook in &start.hooks {
        match &hook.state {
            HookState::Active => {}
            HookState::Unsupported(why) => missing.push(format!("{}: unsupported: {why}", hook.program)),
            HookState::Failed(why) => missing.push(format!("{}: failed: {why}", hook.program)),
        }
    }
    Check { name: "kernel", ok: true, note: degraded(&missing) }
}

fn cgroups(start: &Start) -> Check {
    let missing: Vec<String> = start.cgroup_error.iter().cloned().collect();
    Check { name: "cgroups", ok: true, note: degraded(&missing) }
}

/// Ready either way.
fn optional(name: &'static str, state: feature::State) -> Check {
    let note = match state {
        feature::State::Active => String::new(),
        feature::State::Disabled => "disabled".to_owned(),
        feature::State::Unsupported(why) => format!("degraded: unsupported: {why}"),
        feature::State::Failed(why) => format!("degraded: failed: {why}"),
    };
    Check { name, ok: true, note }
}

fn degraded(missing: &[String]) -> String {
    if missing.is_empty() { String::new() } else { format!("degraded: {}", missing.join("; ")) }
}

fn lists(app: &App) -> Check {
    let ok = app.table.is_ready();
    let mut waiting: Vec<String> = app
        .table
        .states()
        .into_iter()
        .filter(|(_, state)| !state.synced)
        .map(|((kind, namespace), state)| {
            let error = state.error.unwrap_or_else(|| "waiting for the list".into());
            let place = if namespace.is_empty() { String::new() } else { format!(" in {namespace}") };
            format!("{}{place}: {error}", kind_name(kind))
        })
        .collect();
    let strangers = *app.links.strangers.borrow();
    if strangers > 0 {
        let node = &app.start.node;
        waiting.push(format!("pods: none of node {node}, but {strangers} run here: is --node-name right?"));
    }
    let note = match (ok, waiting.is_empty()) {
        (_, true) => String::new(),
        (true, false) => format!("degraded: {}", waiting.join("; ")),
        (false, false) => waiting.join("; "),
    };
    Check { name: "api-lists", ok, note }
}

/// Ready either way: the counts do not depend on it.
fn events(outbox: &Outbox) -> Check {
    let missing: Vec<String> = outbox.state().error.into_iter().collect();
    Check { name: "events", ok: true, note: degraded(&missing) }
}

fn report(path: &str, checks: &[Check], query: Option<&str>) -> Response {
    let ok = checks.iter().all(|check| check.ok);
    let verbose =
        query.unwrap_or_default().split('&').any(|part| part == "verbose" || part.starts_with("verbose="));
    let mut text = String::new();
    if verbose || !ok {
        for Check { name, ok, note } in checks {
            let (mark, word) = if *ok { ('+', "ok") } else { ('-', "failed") };
            let note = if note.is_empty() {
                word.to_owned()
            } else {
                format!("{word}: {}", note.replace('\n', " "))
            };
            text.push_str(&format!("[{mark}]{name} {note}\n"));
        }
        text.push_str(&format!("{path} check {}\n", if ok { "passed" } else { "failed" }));
    } else {
        text.push_str("ok");
    }
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}
