//! What the windows amount to: probes a second and core, ratios within a round, the bars, a table for people and JSON for programs. Pure arithmetic.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::tool::{Starts, Tool};
use super::{Handler, Window};
use crate::memory::mebibytes;
use crate::stats::Median;
use crate::verdict::{Bar, Machine};

/// Fewest probes a second and core, by those of blackbox_exporter.
const RATIO_BAR: f64 = 2.0;
/// How late 99 of 100 probes of the schedule begin at most.
const START_BAR_MS: f64 = 5.0;
/// Of the probes that are due in a window, so many are done at least: those at its edges may fall outside.
const KEPT_BAR: f64 = 0.99;

impl Window {
    /// Probes by CPU time of the prober.
    fn per_core_second(&self) -> f64 {
        count(self.probes) / self.cpu_seconds
    }

    /// Probes done by those due: one a second of each target.
    fn kept(&self, targets: u32) -> f64 {
        count(self.probes) / (self.seconds * f64::from(targets))
    }
}

/// One window of each tool.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Round([Option<Window>; 3]);

impl Round {
    pub(crate) fn set(&mut self, tool: Tool, window: Window) {
        self.0[tool as usize] = Some(window);
    }

    fn of(&self, tool: Tool) -> Option<Window> {
        self.0[tool as usize]
    }

    /// Ours by that tool's.
    fn ratio(&self, tool: Tool) -> Option<f64> {
        Some(self.of(Tool::Drainscope)?.per_core_second() / self.of(tool)?.per_core_second())
    }
}

impl fmt::Display for Round {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |tool| self.of(tool).map_or(0.0, |window| window.per_core_second());
        let [ours, blackbox, cloudprober] = Tool::ALL.map(number);
        write!(
            formatter,
            "{ours:.0} a core second, blackbox_exporter {blackbox:.0}, cloudprober {cloudprober:.0}"
        )
    }
}

/// All rounds with one sort of probes.
#[derive(Clone, Debug)]
pub(crate) struct Paired {
    handler: Handler,
    targets: u32,
    pub(crate) rounds: Vec<Round>,
    /// blackbox_exporter, asked as often for nothing.
    pub(crate) asking: Option<Window>,
}

impl Paired {
    pub(crate) fn new(handler: Handler, targets: u32) -> Self {
        Self { handler, targets, rounds: Vec::new(), asking: None }
    }

    fn windows(&self, tool: Tool) -> Vec<Window> {
        self.rounds.iter().filter_map(|round| round.of(tool)).collect()
    }

    fn ratio(&self, tool: Tool) -> Option<Median> {
        Median::of(&self.rounds.iter().filter_map(|round| round.ratio(tool)).collect::<Vec<_>>())
    }

    fn median(&self, tool: Tool, of: impl Fn(&Window) -> f64) -> Option<f64> {
        Median::of(&self.windows(tool).iter().map(of).collect::<Vec<_>>()).map(|median| median.value)
    }

    fn peak(&self, tool: Tool) -> Option<u64> {
        self.windows(tool).iter().map(|window| window.peak_bytes).max()
    }

    /// Of blackbox_exporter's CPU time for a probe, what being asked by HTTP takes.
    fn asking_share(&self) -> Option<f64> {
        let probe = self.median(Tool::BlackboxExporter, Window::per_core_second)?;
        Some(probe / self.asking?.per_core_second())
    }

    /// What the ratio would be if nobody had to ask blackbox_exporter.
    fn ratio_without_asking(&self) -> Option<f64> {
        Some(self.ratio(Tool::BlackboxExporter)?.value * (1.0 - self.asking_share()?))
    }

    fn bars(&self) -> Vec<Bar> {
        let name = self.handler.word();
        let mut bars = Vec::new();
        if let Some(ratio) = self.ratio(Tool::BlackboxExporter) {
            let text =
                format!("{name}: probes by CPU time, ours by blackbox_exporter's: {ratio} >= {RATIO_BAR}");
            bars.push(Bar::of_median(&ratio, RATIO_BAR, text));
        }
        if let (Some(ours), Some(peer)) = (self.peak(Tool::Drainscope), self.peak(Tool::BlackboxExporter)) {
            let text = format!(
                "{name}: RSS at its peak {:.1} MiB <= {:.1} MiB of blackbox_exporter",
                mebibytes(ours),
                mebibytes(peer)
            );
            bars.push(Bar::new(ours <= peer, text));
        }
        for tool in Tool::ALL {
            if let failed @ 1.. = self.failed(tool) {
                let dropped: u64 = self.windows(tool).iter().map(|window| window.dropped).sum();
                bars.push(Bar::new(
                    false,
                    none_may_fail(&format!("{name}: {}", tool.name()), failed, dropped),
                ));
            }
        }
        bars
    }

    fn failed(&self, tool: Tool) -> u64 {
        self.windows(tool).iter().map(|window| window.failed).sum()
    }

    fn row(&self, tool: Tool) -> Value {
        let starts =
            self.windows(tool).iter().filter_map(|window| Some(window.starts?.p99_ms)).collect::<Vec<_>>();
        let ours_by = (tool != Tool::Drainscope).then(|| self.ratio(tool)).flatten();
        let blackbox = tool == Tool::BlackboxExporter;
        json!({
            "tool": tool, "handler": self.handler, "targets": self.targets,
            "probes_per_core_second": self.median(tool, Window::per_core_second),
            "start_delay_p99_ms": Median::of(&starts).map(|median| median.value),
            "rss_bytes": self.peak(tool),
            "kept": self.median(tool, |window| window.kept(self.targets)),
            "windows": self.windows(tool).len(), "failed": self.failed(tool),
            "ours_by_this": ours_by.map(|ratio| ratio.value),
            "ratio_ci95": ours_by.and_then(|ratio| ratio.interval),
            "asking_share": self.asking_share().filter(|_| blackbox),
            "ours_by_this_without_asking": self.ratio_without_asking().filter(|_| blackbox),
        })
    }
}

/// Ours with many targets at their period on one core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) handler: Handler,
    pub(crate) targets: u32,
    pub(crate) window: Window,
    pub(crate) starts: Starts,
}

impl Schedule {
    fn bars(&self) -> Vec<Bar> {
        let Self { handler, targets, window, starts } = self;
        let name = format!("{}: {targets} targets at 1 s on one core", handler.word());
        let kept = window.kept(*targets);
        vec![
            Bar::new(
                starts.p99_ms < START_BAR_MS,
                format!("{name}: p99 from due to started {:.3} ms < {START_BAR_MS} ms", starts.p99_ms),
            ),
            Bar::new(
                kept >= KEPT_BAR,
                format!("{name}: done {:.2} % of what was due >= {} %", kept * 100.0, KEPT_BAR * 100.0),
            ),
            Bar::new(window.failed == 0, none_may_fail(&name, window.failed, window.dropped)),
        ]
    }

    fn row(&self) -> Value {
        let Self { handler, targets, window, starts } = self;
        json!({
            "tool": Tool::Drainscope, "handler": handler, "targets": targets,
            "probes_per_core_second": window.per_core_second(), "start_delay_p99_ms": starts.p99_ms,
            "start_delay_p50_ms": starts.p50_ms, "start_delay_max_ms": starts.max_ms,
            "rss_bytes": window.peak_bytes, "kept": window.kept(*targets), "windows": 1,
            "failed": window.failed, "packets_dropped": window.dropped,
        })
    }
}

fn none_may_fail(name: &str, failed: u64, dropped: u64) -> String {
    format!("{name}: {failed} probes failed, none may (busy CPUs dropped {dropped} packets meanwhile)")
}

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) paired: Vec<Paired>,
    pub(crate) schedules: Vec<Schedule>,
}

impl Report {
    fn bars(&self) -> Vec<Bar> {
        let paired = self.paired.iter().flat_map(Paired::bars);
        paired.chain(self.schedules.iter().flat_map(Schedule::bars)).collect()
    }

    /// Whether every bar held.
    pub(crate) fn holds(&self) -> bool {
        self.bars().iter().all(Bar::held)
    }

    /// Verdict line first, then the bars, then the table.
    pub(crate) fn text(&self, machine: &Machine) -> String {
        let bars = self.bars();
        let mut text = machine.verdict(&bars);
        // Writing to a String cannot fail.
        for paired in &self.paired {
            let _ok = writeln!(
                text,
                "\n  {} probes, {} targets once a second, each tool on one core",
                paired.handler.word(),
                paired.targets
            );
            for tool in Tool::ALL {
                let _ok = writeln!(
                    text,
                    "    {:18} {:>6.0} probes a core second, {:>5.1} MiB at its peak, did {:>5.1} % of what was due",
                    tool.name(),
                    paired.median(tool, Window::per_core_second).unwrap_or_default(),
                    mebibytes(paired.peak(tool).unwrap_or_default()),
                    paired.median(tool, |window| window.kept(paired.targets)).unwrap_or_default() * 100.0,
                );
            }
            for tool in [Tool::BlackboxExporter, Tool::Cloudprober] {
                if let Some(ratio) = paired.ratio(tool) {
                    let _ok = writeln!(text, "    ours by {}: {ratio}", tool.name());
                }
            }
            if let (Some(share), Some(ratio)) = (paired.asking_share(), paired.ratio_without_asking()) {
                let _ok = writeln!(
                    text,
                    "    blackbox_exporter probes only when it is asked by HTTP, so that is in its figure: {:.0} % of it by a request for its health; without it {ratio:.2}",
                    share * 100.0
                );
            }
        }
        for Schedule { handler, targets, starts, window } in &self.schedules {
            let _ok = writeln!(
                text,
                "\n  {} probes, {targets} targets once a second: from due to started {:.3} ms in the median, p99 {:.3}, at most {:.3}; {:.0} probes a core second, {:.1} MiB",
                handler.word(),
                starts.p50_ms,
                starts.p99_ms,
                starts.max_ms,
                window.per_core_second(),
                mebibytes(window.peak_bytes)
            );
        }
        text
    }

    /// The form for programs.
    pub(crate) fn json(&self, machine: &Machine) -> Value {
        let paired = self.paired.iter().flat_map(|paired| Tool::ALL.map(|tool| paired.row(tool)));
        let rows: Vec<Value> = paired.chain(self.schedules.iter().map(Schedule::row)).collect();
        json!({
            "kernel": machine.kernel, "cpus": machine.cpus, "cpu": machine.cpu,
            "held": self.holds(), "bars": self.bars(), "rows": rows,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "probes of seconds, far below 2^53")]
fn count(probes: u64) -> f64 {
    probes as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(probes: u64, cpu_seconds: f64, peak_bytes: u64) -> Window {
        Window { probes, seconds: 3.0, cpu_seconds, peak_bytes, failed: 0, dropped: 0, starts: None }
    }

    /// Eight rounds in which ours takes `cpu_seconds` for what takes blackbox_exporter 3 s and cloudprober 1 s.
    fn paired(cpu_seconds: f64, peak_bytes: u64) -> Paired {
        let mut paired = Paired::new(Handler::Http, 1000);
        for _ in 0..8 {
            let mut round = Round::default();
            round.set(Tool::Drainscope, window(3000, cpu_seconds, peak_bytes));
            round.set(Tool::BlackboxExporter, window(3000, 3.0, 100));
            round.set(Tool::Cloudprober, window(3000, 1.0, 200));
            paired.rounds.push(round);
        }
        paired.asking = Some(window(3000, 0.75, 100));
        paired
    }

    fn schedule(probes: u64, failed: u64, p99_ms: f64) -> Schedule {
        let starts = Starts { probes, failed, p50_ms: 0.1, p99_ms, max_ms: 9.0 };
        let window = Window { starts: Some(starts), failed, ..window(probes, 0.5, 10) };
        Schedule { handler: Handler::Tcp, targets: 2000, window, starts }
    }

    #[test]
    fn probes_are_counted_by_the_cpu_time_that_they_take() {
        let paired = paired(0.5, 90);
        assert_eq!(paired.median(Tool::Drainscope, Window::per_core_second), Some(6000.0));
        assert_eq!(paired.ratio(Tool::BlackboxExporter).map(|ratio| ratio.value), Some(6.0));
        assert_eq!(paired.ratio(Tool::Cloudprober).map(|ratio| ratio.value), Some(2.0));
        assert_eq!((paired.asking_share(), paired.ratio_without_asking()), (Some(0.25), Some(4.5)));
    }

    #[test]
    fn bars_are_missed_by_too_few_probes_and_by_too_much_memory() {
        let holds = |cpu, peak| Report { paired: vec![paired(cpu, peak)], schedules: vec![] }.holds();
        assert!(holds(1.5, 100));
        assert!(!holds(1.6, 100));
        assert!(!holds(1.5, 101));
        let mut failing = paired(1.5, 100);
        failing.rounds[3].set(Tool::BlackboxExporter, Window { failed: 1, ..window(3000, 3.0, 100) });
        assert!(!Report { paired: vec![failing], schedules: vec![] }.holds());
    }

    #[test]
    fn a_schedule_is_kept_in_time_whole_and_without_failures() {
        let holds = |schedule| Report { paired: vec![], schedules: vec![schedule] }.holds();
        assert!(holds(schedule(6000, 0, 4.9)));
        assert!(!holds(schedule(6000, 0, 5.0)));
        assert!(!holds(schedule(5900, 0, 4.9)));
        assert!(!holds(schedule(6000, 1, 4.9)));
    }

    #[test]
    fn text_begins_with_the_verdict_and_rows_have_the_promised_fields() {
        let machine = Machine { kernel: "6.1".to_owned(), cpus: 2, cpu: "cpu".to_owned() };
        let report = Report { paired: vec![paired(2.0, 90)], schedules: vec![schedule(6000, 0, 1.0)] };
        assert!(report.text(&machine).starts_with("MISSED  1 of 5 bars"), "{}", report.text(&machine));
        let json = report.json(&machine);
        let rows = json["rows"].as_array().expect("rows");
        let tools: Vec<_> = rows.iter().map(|row| row["tool"].as_str().expect("a tool")).collect();
        assert_eq!(tools, ["drainscope", "blackbox_exporter", "cloudprober", "drainscope"]);
        for field in ["handler", "probes_per_core_second", "start_delay_p99_ms", "rss_bytes"] {
            assert!(
                rows.iter().all(|row| row.as_object().expect("an object").contains_key(field)),
                "{field}"
            );
        }
    }
}
