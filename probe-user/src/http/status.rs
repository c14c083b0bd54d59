//! `/status`: one JSON document that says what runs, what does not and why, and what was lost on the way.

use super::{App, Start, error, json_response};
use crate::clock::mono_now;
use crate::exposition::own::VERSION;
use crate::feature::State;
use crate::host::conntrack::{Asked, Lookups};
use crate::kernel::{Heritage, HookState};
use crate::kube::events::outbox::{Dropped, Outbox, Sent};
use crate::kube::table::kind_name;
use crate::kubelet::{Ended, Readings};
use axum::extract;
use axum::http::StatusCode;
use axum::response::Response;
use probe_core::snapshot::{Series, Value as Number};
use serde_json::{Map, Value, json};

/// Families of the core that say what was lost on the way.
const LOSSES: [&str; 4] = ["anomalies", "attribution_failures", "ebpf_events_lost", "series_dropped"];

/// GET /status.
pub async fn status(extract::State(app): extract::State<App>) -> Response {
    let observation = match app.links.handle.observe().await {
        Ok(observation) => observation,
        Err(why) => return error(StatusCode::SERVICE_UNAVAILABLE, why),
    };
    let start = &app.start;
    let now = mono_now();
    let hooks: Vec<Value> = start
        .hooks
        .iter()
        .map(|hook| {
            let (state, why) = state_of(&hook.state);
            json!({"name": hook.name, "program": hook.program, "feature": hook.feature, "state": state, "why": why})
        })
        .collect();
    let sources: Vec<Value> = app
        .table
        .states()
        .into_iter()
        .map(|((kind, namespace), watch)| {
            json!({
                "name": kind_name(kind),
                "namespace": namespace,
                "state": if watch.synced { "active" } else { "failed" },
                "why": watch.error,
                "newest_age_seconds": seconds(now.since(watch.newest)),
                "restarts": watch.restarts,
            })
        })
        .collect();
    let kernel = &observation.kernel;
    let maps = kernel
        .maps
        .iter()
        .map(|map| (map.name.to_owned(), json!({"entries": map.entries, "capacity": map.capacity})));
    json_response(
        StatusCode::OK,
        &json!({
            "version": VERSION,
            "node": start.node,
            "uptime_seconds": seconds(now.since(start.at)),
            "kernel": {
                "release": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim_end(),
                "state": if start.kernel_error.is_some() { "failed" } else { "active" },
                "why": start.kernel_error,
            },
            "cgroups": {"state": if start.cgroup_error.is_some() { "failed" } else { "active" }, "why": start.cgroup_error},
            "pins": pins(start),
            "proxy_rules": proxy_rules(&app.rules.state()),
            "conntrack": conntrack(&app.lookups),
            "kubelet_metrics": kubelet_metrics(&app.readings),
            "hooks": hooks,
            "sources": sources,
            "probes": mirrored(&app),
            "events": events(app.outbox.as_deref()),
            "ring_records": kernel.records,
            "maps": maps.collect::<Map<_, _>>(),
            "lost": {
                "kernel": kernel.anomalies.iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect::<Map<_, _>>(),
                "agent": losses(&observation.snapshot.series),
            },
        }),
    )
}

/// Mirrored probes: whether they are wanted, how many there are, and what was not as it should be.
fn mirrored(app: &App) -> Value {
    let manager = app.mirror.manager();
    let counts = manager.counts();
    json!({
        "mode": if app.start.probes { "mirror" } else { "off" },
        "exec": manager.settings().exec,
        "pods": manager.pods(),
        "probes": manager.workers(),
        "running": manager.running(),
        "delayed": {"concurrency": counts.delayed_by_concurrency, "rate": counts.delayed_by_rate},
        "late_results": counts.late_results,
        "refused": counts.refused,
        "series_dropped": counts.series_dropped,
    })
}

fn events(outbox: Option<&Outbox>) -> Value {
    let Some(outbox) = outbox else { return json!({"state": "disabled"}) };
    let state = outbox.state();
    let sent = Sent::ALL.map(Sent::name).into_iter().zip(state.sent);
    let dropped = Dropped::ALL.map(Dropped::name).into_iter().zip(state.dropped);
    let counts = |of: &mut dyn Iterator<Item = (&'static str, u64)>| -> Map<String, Value> {
        of.map(|(name, count)| (name.to_owned(), json!(count))).collect()
    };
    json!({
        "state": if state.error.is_some() { "failed" } else { "active" },
        "why": state.error,
        "waiting": state.waiting,
        "sent": counts(&mut sent.into_iter()),
        "lost": counts(&mut dropped.into_iter()),
    })
}

fn pins(start: &Start) -> Value {
    let Some((directory, heritage)) = &start.pins else {
        let state = if start.pin_error.is_some() { "failed" } else { "disabled" };
        return json!({"state": state, "why": start.pin_error});
    };
    let (heritage, why) = match heritage {
        Heritage::Unpinned | Heritage::None => ("none", None),
        Heritage::Adopted => ("adopted", None),
        Heritage::Upgraded => ("upgraded", None),
        Heritage::Silent => ("silent", Some("no agent came for 15 minutes: the programs had stopped")),
        Heritage::Foreign(why) => ("foreign", Some(why.as_str())),
    };
    json!({"state": "active", "directory": directory, "heritage": heritage, "why": why})
}

fn proxy_rules(state: &State) -> Value {
    let (state, why) = state.told("--proxy-rules is not set");
    json!({"state": state, "why": why.map(|why| format!("{why}; the traffic tail stands alone"))})
}

fn conntrack(lookups: &Lookups) -> Value {
    let state = lookups.state();
    let (state, why) = state.told("--conntrack is not set");
    let why = why.map(|why| format!("{why}; whether a stale entry sent a lost connect is not known"));
    json!({"state": state, "why": why, "asked": named(Asked::ALL.map(Asked::name), lookups.counts())})
}

fn kubelet_metrics(readings: &Readings) -> Value {
    let state = readings.state();
    let (state, why) = state.told("--kubelet-metrics is not set");
    json!({"state": state, "why": why, "readings": named(Ended::ALL.map(Ended::name), readings.counts())})
}

fn named<const N: usize>(names: [&str; N], counts: [u64; N]) -> Value {
    let named = names.into_iter().zip(counts).map(|(name, count)| (name.to_owned(), json!(count)));
    Value::Object(named.collect())
}

fn state_of(state: &HookState) -> (&'static str, Option<&str>) {
    match state {
        HookState::Active => ("active", None),
        HookState::Unsupported(why) => ("unsupported", Some(why)),
        HookState::Failed(why) => ("failed", Some(why)),
    }
}

/// The loss counters as `family` or `family/label`.
fn losses(series: &[Series]) -> Map<String, Value> {
    let counted = series.iter().filter(|one| LOSSES.contains(&one.family));
    counted
        .filter_map(|one| match one.value {
            Number::Counter(count) => Some((
                std::iter::once(one.family)
                    .chain(one.labels.iter().map(String::as_str))
                    .collect::<Vec<_>>()
                    .join("/"),
                json!(count),
            )),
            Number::Seconds(_) | Number::Gauge(_) | Number::Histogram { .. } => None,
        })
        .collect()
}

fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}
