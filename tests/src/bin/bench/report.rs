//! The report: rows of measurements, the bars that they are held against, the verdict line, a table for people and JSON for programs.
//!
//! A bar on a median is held if the median holds it; whether the 95 % interval lies on one side of the bar is said beside it.

use std::fmt::Write as _;

use serde::Serialize;

use crate::kernel::Runs;
use crate::loads::BUDGET_RATE;
use crate::memory::mebibytes;
use crate::stats::Median;
use crate::verdict::{Bar, Machine};

/// Least throughput with the agent by throughput without, kept connections.
const KEEPALIVE_BAR: f64 = 0.99;
/// The same with a connection for each request.
const NEW_BAR: f64 = 0.98;
/// Most CPU time of the agent, in percent of a core, at [`BUDGET_RATE`] new connections a second.
const CPU_BAR: f64 = 2.0;
/// Most memory with 250 pods.
const MEMORY_BAR: u64 = 50 << 20;
/// Fewest events a second that the core takes.
const CORE_BAR: f64 = 1e6;

/// What a row measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Closed,
    Fixed,
    Memory,
}

/// One load; what it does not measure is `None`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) rate: Option<f64>,
    pub(crate) requests_per_second: Option<f64>,
    pub(crate) requests_per_second_without: Option<f64>,
    /// Requests with the agent that got no answer.
    pub(crate) failed: Option<u64>,
    pub(crate) failed_without: Option<u64>,
    pub(crate) throughput: Option<Median>,
    /// Answers by CPU time of load, server and agent, with the agent by without.
    pub(crate) per_cpu_second: Option<Median>,
    pub(crate) p99: Option<Median>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) p99_ms_without: Option<f64>,
    pub(crate) agent_core_percent: Option<f64>,
    pub(crate) process_core_percent: Option<f64>,
    pub(crate) bpf_core_percent: Option<f64>,
    pub(crate) bpf_ns_per_request: Option<f64>,
    pub(crate) bpf_ns_per_connection: Option<f64>,
    /// CPU time of everything else on the machine: what disturbed the measurement.
    pub(crate) others_core_percent: Option<f64>,
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) rss_peak_bytes: Option<u64>,
    pub(crate) memory_current_bytes: Option<u64>,
    /// Why that is unknown.
    pub(crate) memory_current_reason: Option<String>,
    pub(crate) events_lost: Option<u64>,
    pub(crate) counts_lost: Option<u64>,
    pub(crate) counts_extra: Option<u64>,
    pub(crate) programs: Vec<(String, Runs)>,
}

impl Row {
    pub(crate) fn new(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            rate: None,
            requests_per_second: None,
            requests_per_second_without: None,
            failed: None,
            failed_without: None,
            throughput: None,
            per_cpu_second: None,
            p99: None,
            p99_ms: None,
            p99_ms_without: None,
            agent_core_percent: None,
            process_core_percent: None,
            bpf_core_percent: None,
            bpf_ns_per_request: None,
            bpf_ns_per_connection: None,
            others_core_percent: None,
            rss_bytes: None,
            rss_peak_bytes: None,
            memory_current_bytes: None,
            memory_current_reason: None,
            events_lost: None,
            counts_lost: None,
            counts_extra: None,
            programs: Vec::new(),
        }
    }

    fn bars(&self) -> Vec<Bar> {
        let mut bars = Vec::new();
        if let (Kind::Closed, Some(ratio)) = (self.kind, self.throughput) {
            let bar = if self.bpf_ns_per_connection.is_some() { NEW_BAR } else { KEEPALIVE_BAR };
            let text = format!("{} throughput {ratio} >= {bar}", self.name);
            bars.push(Bar::of_median(&ratio, bar, text));
        }
        if let (Kind::Fixed, Some(percent), Some(rate), Some(_)) =
            (self.kind, self.agent_core_percent, self.rate, self.bpf_ns_per_connection)
        {
            // In proportion where the full rate does not hold.
            let bar = CPU_BAR * rate / BUDGET_RATE;
            bars.push(Bar::new(
                percent <= bar,
                format!("agent {percent:.2} % of a core at {rate} connections/s <= {bar} %"),
            ));
        }
        if self.kind == Kind::Memory {
            for (what, bytes) in [("RSS", self.rss_bytes), ("memory.current", self.memory_current_bytes)] {
                let Some(bytes) = bytes else { continue };
                bars.push(Bar::new(
                    bytes < MEMORY_BAR,
                    format!("{} {what} {:.1} MiB < 50 MiB", self.name, mebibytes(bytes)),
                ));
            }
        }
        for (what, count) in [
            ("counts lost", self.counts_lost),
            ("counts too many", self.counts_extra),
            ("requests failed with the agent", self.failed),
        ] {
            if let Some(count @ 1..) = count {
                bars.push(Bar::new(false, format!("{} {count} {what}, none may be", self.name)));
            }
        }
        bars
    }
}

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) core_events_per_second: Option<f64>,
}

impl Report {
    pub(crate) fn bars(&self) -> Vec<Bar> {
        let mut bars: Vec<Bar> = self.rows.iter().flat_map(Row::bars).collect();
        if let Some(rate) = self.core_events_per_second {
            bars.push(Bar::new(rate >= CORE_BAR, format!("core {rate:.0} events/s >= {CORE_BAR:.0}")));
        }
        bars
    }

    /// Whether every bar held.
    pub(crate) fn holds(&self) -> bool {
        self.bars().iter().all(Bar::held)
    }

    /// Verdict line first, then the bars, then the tables.
    pub(crate) fn text(&self, machine: &Machine) -> String {
        let bars = self.bars();
        let mut text = machine.verdict(&bars);
        self.write_loads(&mut text);
        for (name, runs) in self.programs() {
            let _ok = write!(text, "\n  {name:28} {:>7.0} ns/run {:>12} runs", ns_per_run(runs), runs.count);
        }
        text
    }

    fn write_loads(&self, text: &mut String) {
        for row in self.rows.iter().filter(|row| row.kind != Kind::Memory) {
            let number = |value: Option<f64>, decimals: usize| {
                value.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
            };
            let ratio = |value: Option<Median>| value.map_or("-".to_owned(), |value| value.to_string());
            let _ok = writeln!(
                text,
                "\n  {}\n    requests/s  {} with, {} without; ratio {}\n    requests by CPU time, with by without: ratio {}\n    p99         {} ms with, {} ms without; ratio {}\n    \
                 agent       {} % of a core: process {} %, kernel programs {} % ({} ns a request)\n    \
                 counts      {} lost, {} too many, {} ring records lost; {} requests failed, {} without; RSS {} MiB\n    \
                 disturbed   {} % of a core was used by others meanwhile",
                row.name,
                number(row.requests_per_second, 0),
                number(row.requests_per_second_without, 0),
                ratio(row.throughput),
                ratio(row.per_cpu_second),
                number(row.p99_ms, 3),
                number(row.p99_ms_without, 3),
                ratio(row.p99),
                number(row.agent_core_percent, 2),
                number(row.process_core_percent, 2),
                number(row.bpf_core_percent, 2),
                number(row.bpf_ns_per_request, 0),
                row.counts_lost.unwrap_or_default(),
                row.counts_extra.unwrap_or_default(),
                row.events_lost.unwrap_or_default(),
                row.failed.unwrap_or_default(),
                row.failed_without.unwrap_or_default(),
                number(row.rss_bytes.map(mebibytes), 1),
                number(row.others_core_percent, 1),
            );
        }
        for row in self.rows.iter().filter(|row| row.kind == Kind::Memory) {
            let peak = row.rss_peak_bytes.map_or("-".to_owned(), |bytes| format!("{:.1}", mebibytes(bytes)));
            let _ok = writeln!(text, "\n  {}\n    RSS at its peak, while starting: {peak} MiB", row.name);
            if let Some(reason) = &row.memory_current_reason {
                let _ok = writeln!(text, "    memory.current unknown: {reason}");
            }
        }
    }

    /// Runs of each program over the statistics windows of all loads.
    fn programs(&self) -> Vec<(String, Runs)> {
        let mut sums = std::collections::BTreeMap::<String, Runs>::new();
        for (name, runs) in self.rows.iter().flat_map(|row| &row.programs) {
            let sum = sums.entry(name.clone()).or_default();
            sum.ns += runs.ns;
            sum.count += runs.count;
        }
        sums.into_iter().filter(|(_, runs)| runs.count > 0).collect()
    }

    /// The form for programs.
    pub(crate) fn json(&self, machine: &Machine) -> serde_json::Value {
        let loads: Vec<_> = self.rows.iter().map(load_json).collect();
        let program = |(name, runs)| serde_json::json!({"name": name, "ns_per_run": ns_per_run(runs), "runs": runs.count});
        serde_json::json!({
            "kernel": machine.kernel, "cpus": machine.cpus, "cpu": machine.cpu, "held": self.holds(), "bars": self.bars(), "loads": loads,
            "programs": self.programs().into_iter().map(program).collect::<Vec<_>>(),
            "core_events_per_second": self.core_events_per_second,
        })
    }
}

fn load_json(row: &Row) -> serde_json::Value {
    let value = |median: Option<Median>| median.map(|median| median.value);
    let interval = |median: Option<Median>| median.and_then(|median| median.interval);
    let program =
        |(name, runs): &(String, Runs)| serde_json::json!({"name": name, "ns": runs.ns, "runs": runs.count});
    let programs: Vec<_> = row.programs.iter().map(program).collect();
    serde_json::json!({
        "name": row.name, "kind": row.kind, "rate": row.rate,
        "requests_per_second": row.requests_per_second, "requests_per_second_without": row.requests_per_second_without,
        "throughput_ratio": value(row.throughput), "ratio_ci95": interval(row.throughput),
        "cpu_ratio": value(row.per_cpu_second), "cpu_ratio_ci95": interval(row.per_cpu_second),
        "p99_ratio": value(row.p99), "p99_ratio_ci95": interval(row.p99), "p99_ms": row.p99_ms, "p99_ms_without": row.p99_ms_without,
        "agent_core_percent": row.agent_core_percent, "process_core_percent": row.process_core_percent, "bpf_core_percent": row.bpf_core_percent,
        "bpf_ns_per_connection": row.bpf_ns_per_connection, "bpf_ns_per_request": row.bpf_ns_per_request,
        "others_core_percent": row.others_core_percent, "rss_bytes": row.rss_bytes, "rss_peak_bytes": row.rss_peak_bytes, "memory_current_bytes": row.memory_current_bytes, "memory_current_reason": row.memory_current_reason,
        "events_lost": row.events_lost, "counts_lost": row.counts_lost, "counts_extra": row.counts_extra, "failed": row.failed, "failed_without": row.failed_without, "programs": programs,
    })
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds and runs of seconds, far below 2^53")]
fn ns_per_run(runs: Runs) -> f64 {
    runs.ns as f64 / runs.count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(value: f64, low: f64, high: f64) -> Row {
        Row {
            throughput: Some(Median { value, interval: Some((low, high)) }),
            ..Row::new("keep-alive", Kind::Closed)
        }
    }

    fn report(rows: Vec<Row>) -> Report {
        Report { rows, core_events_per_second: None }
    }

    #[test]
    fn the_median_decides_and_the_interval_says_how_surely() {
        for (row, held, inconclusive) in [
            (closed(0.995, 0.991, 0.999), true, false),
            (closed(0.995, 0.98, 1.01), true, true),
            (closed(0.985, 0.97, 1.0), false, true),
            (closed(0.97, 0.96, 0.98), false, false),
        ] {
            let bars = report(vec![row]).bars();
            assert_eq!((bars[0].held(), bars[0].inconclusive()), (held, inconclusive), "{bars:?}");
        }
    }

    #[test]
    fn the_cpu_budget_is_in_proportion_to_the_rate() {
        let at = |rate, percent| {
            let row = Row::new("new", Kind::Fixed);
            report(vec![Row {
                rate: Some(rate),
                agent_core_percent: Some(percent),
                bpf_ns_per_connection: Some(1.0),
                ..row
            }])
            .holds()
        };
        assert!(at(5000.0, 2.0) && !at(5000.0, 2.1));
        assert!(at(2500.0, 1.0) && !at(2500.0, 1.1));
    }

    #[test]
    fn lost_counts_failures_and_memory_are_bars_too() {
        let row = Row::new("x", Kind::Closed);
        assert!(
            report(vec![Row { counts_lost: Some(0), failed: Some(0), events_lost: Some(9), ..row.clone() }])
                .holds()
        );
        assert!(!report(vec![Row { counts_lost: Some(1), ..row.clone() }]).holds());
        assert!(!report(vec![Row { counts_extra: Some(1), ..row.clone() }]).holds());
        assert!(!report(vec![Row { failed: Some(1), ..row }]).holds());
        let memory = Row::new("m", Kind::Memory);
        assert!(report(vec![Row { rss_bytes: Some(MEMORY_BAR - 1), ..memory.clone() }]).holds());
        assert!(!report(vec![Row { memory_current_bytes: Some(MEMORY_BAR), ..memory }]).holds());
        assert!(!Report { rows: Vec::new(), core_events_per_second: Some(9e5) }.holds());
    }

    #[test]
    fn text_begins_with_the_verdict_and_json_has_the_promised_fields() {
        let machine = Machine { kernel: "6.1".to_owned(), cpus: 2, cpu: "cpu".to_owned() };
        let programs = vec![("inet_sock_set_state".to_owned(), Runs { ns: 300, count: 2 })];
        let report = report(vec![Row { programs, ..closed(0.9, 0.8, 0.95) }]);
        assert!(report.text(&machine).starts_with("MISSED  1 of 1 bars"));
        let json = report.json(&machine);
        assert_eq!(json["programs"][0]["ns_per_run"], 150.0);
        assert_eq!(json["loads"][0]["ratio_ci95"], serde_json::json!([0.8, 0.95]));
        let load = json["loads"][0].as_object().expect("an object");
        for field in [
            "name",
            "kind",
            "throughput_ratio",
            "ratio_ci95",
            "p99_ratio",
            "agent_core_percent",
            "bpf_ns_per_connection",
            "rss_bytes",
            "memory_current_bytes",
            "events_lost",
            "counts_lost",
            "counts_extra",
        ] {
            assert!(load.contains_key(field), "{field}");
        }
    }
}
