//! `/api/v1/probes`: the probes of the local pods as JSON, filtered by query. Two halves of each: what mirror mode believes of it, with its attempts
//! and its last run, and what the kernel programs saw of the kubelet's own, beside the kubelet's verdicts. A half that is not there is null.

use super::{App, error, json_response};
use crate::clock::{mono_now, unix_now_ns};
use crate::probe::spec::resolve;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use probe_core::kubelet::{Observed, ProbeItem};
use probe_core::probes::ProbeResult;
use probe_core::probes::manager::Target;
use probe_core::probes::tally::{Parts, Ran};
use probe_core::probes::verdict::Outcome;
use probe_core::termination::PodName;
use probe_core::time::Mono;
use probe_core::verdicts::{Counts, Reconciled, VerdictItem};
use probe_core::wallclock::Timestamp;
use probe_engine::{ContainerPort, Handler};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The query's parameters.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    namespace: Option<String>,
    workload: Option<String>,
    pod: Option<String>,
}

#[derive(Serialize)]
struct Answer<'a> {
    node: &'a str,
    mode: &'static str,
    probes: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    pod: PodName,
    workload: Workload,
    container: String,
    probe_type: String,
    handler: &'static str,
    /// Null for a command, and where no address or port is known.
    target: Option<String>,
    period_seconds: i64,
    mirror: Option<Mirrored>,
    kubelet: Option<Kubelet>,
}

/// The kubelet's own probes. Without `--kubelet-metrics` it has no verdicts.
#[derive(Serialize)]
struct Kubelet {
    verdicts: Option<Counts>,
    #[serde(flatten)]
    observed: Observed,
    reconciled: Option<Reconciled>,
}

#[derive(Serialize)]
struct Workload {
    namespace: String,
    kind: String,
    name: String,
}

#[derive(Serialize)]
struct Mirrored {
    state: &'static str,
    /// Why it never runs.
    off: Option<&'static str>,
    attempts: Attempts,
    consecutive: i32,
    last: Option<Last>,
    refused_since: Option<Timestamp>,
    next_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct Attempts {
    success: u64,
    warning: u64,
    failure: u64,
    unknown: u64,
}

#[derive(Serialize)]
struct Last {
    at: Timestamp,
    result: &'static str,
    output: String,
    duration_seconds: f64,
    phases: Phases,
}

#[derive(Serialize)]
struct Phases {
    connect: Option<f64>,
    tls: Option<f64>,
    first_byte: Option<f64>,
    body: Option<f64>,
}

/// GET /api/v1/probes.
pub async fn probes(State(app): State<App>, asked: Result<Query<Wanted>, QueryRejection>) -> Response {
    let wanted = match asked {
        Ok(Query(wanted)) => wanted,
        Err(why) => return error(StatusCode::BAD_REQUEST, why.body_text()),
    };
    let (seen, verdicts) = match app.links.handle.probes().await {
        Ok(known) => known,
        Err(why) => return error(StatusCode::SERVICE_UNAVAILABLE, why),
    };
    let now = (mono_now(), unix_now_ns());
    let mirrored: Vec<Row> = {
        // Probes wait for as long as this is held; the answer is written afterwards.
        let manager = app.mirror.manager();
        manager.targets().map(|target| mirrored(&target, now)).collect()
    };
    let mut probes = joined(mirrored, seen, verdicts);
    probes.retain(|row| wanted.has(row));
    let mode = if app.start.probes { "mirror" } else { "off" };
    json_response(StatusCode::OK, &Answer { node: &app.start.node, mode, probes })
}

impl Wanted {
    fn has(&self, row: &Row) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == row.pod.namespace)
            && self.workload.as_ref().is_none_or(|workload| *workload == row.workload.name)
            && self.pod.as_ref().is_none_or(|name| *name == row.pod.name)
    }
}

/// Both halves of each probe, in the order of the pods' names.
fn joined(mirrored: Vec<Row>, seen: Vec<ProbeItem>, verdicts: Vec<VerdictItem>) -> Vec<Row> {
    let mut rows: BTreeMap<[String; 5], Row> = mirrored.into_iter().map(|row| (row.key(), row)).collect();
    for item in seen {
        let row = Row::of(item);
        match rows.get_mut(&row.key()) {
            Some(known) => known.kubelet = row.kubelet,
            None => drop(rows.insert(row.key(), row)),
        }
    }
    let mut verdicts: BTreeMap<_, _> = verdicts
        .into_iter()
        .map(|item| {
            ((item.pod_uid, item.container, item.probe_type.to_string()), (item.verdicts, item.reconciled))
        })
        .collect();
    for row in rows.values_mut() {
        let key = (row.pod.uid.clone(), row.container.clone(), row.probe_type.clone());
        if let Some((counts, reconciled)) = verdicts.remove(&key) {
            let kubelet = row.kubelet.get_or_insert_with(|| Kubelet::of(Observed::default()));
            (kubelet.verdicts, kubelet.reconciled) = (Some(counts), reconciled);
        }
    }
    rows.into_values().collect()
}

impl Kubelet {
    fn of(observed: Observed) -> Self {
        Self { verdicts: None, observed, reconciled: None }
    }
}

impl Row {
    fn key(&self) -> [String; 5] {
        let PodName { namespace, name, uid } = &self.pod;
        [namespace, name, uid, &self.container, &self.probe_type].map(String::clone)
    }

    fn of(item: ProbeItem) -> Self {
        Self {
            workload: Workload {
                namespace: item.pod.namespace.clone(),
                kind: item.workload.kind,
                name: item.workload.name,
            },
            pod: item.pod,
            container: item.container,
            probe_type: item.probe_type,
            handler: item.handler.word(),
            target: Some(item.target).filter(|target| !target.is_empty()),
            period_seconds: i64::from(item.period_seconds),
            mirror: None,
            kubelet: item.kubelet.map(Kubelet::of),
        }
    }
}

fn mirrored(target: &Target<'_>, now: (Mono, i64)) -> Row {
    let pod = target.pod;
    let tally = target.tally;
    let namespace = pod.key.namespace.clone();
    Row {
        pod: PodName { namespace: namespace.clone(), name: pod.key.name.clone(), uid: pod.uid.clone() },
        workload: Workload { namespace, kind: pod.workload.kind.clone(), name: pod.workload.name.clone() },
        container: target.container.name.clone(),
        probe_type: target.kind.to_string(),
        handler: target.handler.word(),
        target: place(target),
        period_seconds: i64::from(target.period_seconds),
        mirror: Some(Mirrored {
            state: match target.believes {
                Some(ProbeResult::Success) => "up",
                Some(ProbeResult::Failure) => "down",
                Some(ProbeResult::Unknown) | None => "unknown",
            },
            off: target.is_off.then_some("commands are not run: --probes-exec"),
            attempts: Attempts {
                success: tally.attempts(Outcome::Success),
                warning: tally.attempts(Outcome::Warning),
                failure: tally.attempts(Outcome::Failure),
                unknown: tally.attempts(Outcome::Unknown),
            },
            consecutive: target.run,
            last: tally.last().map(last),
            refused_since: tally.refused_since(),
            next_at: target.next.map(|next| {
                let wait_ns = i64::try_from(next.since(now.0)).unwrap_or(i64::MAX);
                Timestamp(now.1.saturating_add(wait_ns))
            }),
        }),
        kubelet: None,
    }
}

fn last(ran: &Ran) -> Last {
    let Parts { connect, tls, first_byte, body } = ran.parts;
    let part = |ns: Option<u64>| ns.map(seconds);
    Last {
        at: ran.at,
        result: ran.result.text(),
        output: ran.output.clone(),
        duration_seconds: seconds(ran.duration_ns),
        phases: Phases {
            connect: part(connect),
            tls: part(tls),
            first_byte: part(first_byte),
            body: part(body),
        },
    }
}

/// Where the probe goes.
fn place(target: &Target<'_>) -> Option<String> {
    let (container, address) = (target.container, &target.pod.address);
    let ports: Vec<ContainerPort<'_>> =
        container.ports.iter().map(|(name, number)| ContainerPort { name, number: *number }).collect();
    let probe = resolve(container.probe(target.kind)?, address, &ports, "").ok()?;
    let (host, port) = match probe.handler {
        Handler::Http(get) => (get.host, i32::from(get.port)),
        Handler::Tcp(tcp) => (tcp.host, tcp.port),
        Handler::Grpc(grpc) => (grpc.host, i32::from(grpc.port)),
        Handler::Exec(_) => return None,
    };
    match host.as_str() {
        "" => None,
        host if host.contains(':') => Some(format!("[{host}]:{port}")),
        host => Some(format!("{host}:{port}")),
    }
}

fn seconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64()
}
