//! What `drainscope replay` prints: in the agent's own forms where it has one (exposition text, the API's JSON, the log's
//! lines), else for people, verdict first.

use super::replay::Replay;
use crate::args::{Output, ReplayArgs};
use probe_core::finding::Finding;
use probe_core::limits::SECOND;
use probe_core::termination::{Filter, Termination};
use probe_core::wallclock::Timestamp;
use serde_json::json;

/// What goes to standard output.
#[must_use]
pub fn text(replay: &Replay, args: &ReplayArgs) -> String {
    if args.metrics {
        return replay.metrics();
    }
    if args.openmetrics {
        return replay.open_metrics();
    }
    match (args.output, args.findings, args.terminations) {
        (Output::Json, true, _) => {
            replay.findings.iter().map(|finding| json!({ "finding": finding }).to_string() + "\n").collect()
        }
        (Output::Json, _, true) => {
            serde_json::to_string(&replay.monitor.terminations(&Filter::default())).unwrap_or_default() + "\n"
        }
        (Output::Json, ..) => whole(replay),
        (Output::Table, true, _) => findings(replay),
        (Output::Table, _, true) => terminations(replay),
        (Output::Table, ..) => verdict(replay) + &terminations(replay) + &findings(replay),
    }
}

/// What the reader should know of the log itself, for standard error.
#[must_use]
pub fn remarks(replay: &Replay, args: &ReplayArgs) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(line) = replay.torn {
        remarks.push(format!("line {line}, the last one, is not whole and was left out"));
    }
    match replay.end {
        None => remarks.push("the log has no end: what came after its last line is not in it".to_owned()),
        Some(super::End::SlowReader | super::End::NotWritten) => {
            let why = replay.end.map(super::End::text).unwrap_or_default();
            remarks.push(format!("the log ends early: {why}"));
        }
        Some(super::End::Stopped | super::End::AgentEnded) => {}
    }
    if (args.metrics || args.openmetrics) && replay.scrape.is_none() {
        remarks.push(
            "nobody scraped /metrics meanwhile: these are the core's series, at the end of the log"
                .to_owned(),
        );
    }
    if let Some((count, line)) = replay.differing {
        remarks.push(format!(
            "{count} conclusions differ from those of the agent, the first at line {line}: it was recorded by drainscope {}, this is {}",
            replay.header.version,
            crate::exposition::own::VERSION
        ));
    }
    remarks
}

fn whole(replay: &Replay) -> String {
    let everything = Filter::default();
    let log = json!({
        "version": replay.header.version,
        "node": replay.header.node,
        "from": Timestamp(replay.header.unix_ns),
        "until": end(replay),
        "entries": replay.entries,
        "end": replay.end,
        "differing": replay.differing.map_or(0, |(count, _)| count),
    });
    let document = json!({
        "log": log,
        "terminations": replay.monitor.terminations(&everything).items,
        "restarts": replay.monitor.restarts(&everything).items,
        "findings": replay.findings,
        "advice": replay.monitor.advice(&everything),
    });
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}

fn end(replay: &Replay) -> Timestamp {
    let ns = i64::try_from(replay.until.since(replay.header.at)).unwrap_or(i64::MAX);
    Timestamp(replay.header.unix_ns.saturating_add(ns))
}

fn verdict(replay: &Replay) -> String {
    let items = replay.monitor.terminations(&Filter::default()).items;
    let lost = items.iter().fold(0_u64, |sum, item| sum.saturating_add(item.lost.total()));
    let word = if lost > 0 { format!("LOST {lost}") } else { "OK".to_owned() };
    let seconds = replay.until.since(replay.header.at) / SECOND;
    let ended = replay.end.map_or("the log breaks off", super::End::text);
    format!(
        "{word}  {} terminations, {} findings  node {}  {} and {seconds} s on, {} entries; {ended}\n",
        items.len(),
        replay.findings.len(),
        replay.header.node,
        Timestamp(replay.header.unix_ns),
        replay.entries,
    )
}

fn terminations(replay: &Replay) -> String {
    let line = |item: Termination| {
        let Termination { pod, workload, lost, state, trigger, outcome, complete, .. } = item;
        let [state, trigger, outcome] = [json!(state), json!(trigger), json!(outcome)]
            .map(|name| name.as_str().unwrap_or_default().to_owned());
        let incomplete = if complete { "" } else { ", incomplete" };
        format!(
            "lost {:<6} {}/{} ({} {})  {state}, {trigger}, {outcome}{incomplete}\n",
            lost.total(),
            pod.namespace,
            pod.name,
            workload.kind,
            workload.name,
        )
    };
    replay.monitor.terminations(&Filter::default()).items.into_iter().map(line).collect()
}

fn findings(replay: &Replay) -> String {
    let line = |finding: &Finding| {
        let severity = json!(finding.severity);
        format!(
            "{} {} {}/{}: {}\n     do: {}\n",
            severity.as_str().unwrap_or_default(),
            finding.code,
            finding.pod.namespace,
            finding.pod.name,
            finding.summary,
            finding.remedy
        )
    };
    replay.findings.iter().map(line).collect()
}
