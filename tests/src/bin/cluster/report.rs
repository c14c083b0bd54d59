//! What came of it: the verdict first, then tables beside the article's figures; and the same as JSON.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::audit::{self, Requests};
use crate::experiment::{Experiment, Run};

/// Failures that are listed one by one.
const LISTED: usize = 10;

/// One thing that was tried.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) ok: bool,
    /// What the agent said, or what was wrong with it.
    pub(crate) detail: String,
}

impl Row {
    /// Right unless it is an error, which tells what was wrong.
    pub(crate) fn of(name: &str, result: anyhow::Result<String>) -> Self {
        let ok = result.is_ok();
        Self { name: name.to_owned(), ok, detail: result.unwrap_or_else(|error| format!("{error:#}")) }
    }
}

/// All parts of one kube-proxy.
pub(crate) struct Report {
    proxy: String,
    kubernetes: String,
    pub(crate) experiments: Vec<Experiment>,
    pub(crate) endings: Vec<Row>,
    /// The kubelet's probes and our own.
    pub(crate) probes: Vec<Row>,
    /// The DaemonSet's own life.
    pub(crate) daemon_set: Vec<Row>,
    /// What Prometheus said.
    pub(crate) alerts: Vec<Row>,
    pub(crate) two_nodes: Vec<Row>,
    pub(crate) requests: Requests,
}

impl Report {
    pub(crate) fn new(proxy: &str, kubernetes: String) -> Self {
        Self {
            proxy: proxy.to_owned(),
            kubernetes,
            experiments: Vec::new(),
            endings: Vec::new(),
            probes: Vec::new(),
            daemon_set: Vec::new(),
            alerts: Vec::new(),
            two_nodes: Vec::new(),
            requests: Requests::new(),
        }
    }

    /// What did not hold; empty if all did.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for experiment in &self.experiments {
            let name = format!("{}, preStop {} s", experiment.path.name(), experiment.prestop_seconds);
            for run in &experiment.runs {
                failures
                    .extend(of_run(run, experiment.prestop_seconds).map(|what| format!("{name}: {what}")));
            }
        }
        let wrong = self.tables().into_iter().flat_map(|(_, _, rows)| rows).filter(|row| !row.ok);
        failures.extend(wrong.map(|row| format!("{}: {}", row.name, row.detail)));
        failures
            .extend(audit::excessive(&self.requests).into_iter().map(|what| format!("API server: {what}")));
        failures
    }

    /// Their keys in JSON, what their first column is, and their rows.
    fn tables(&self) -> [(&'static str, &'static str, &[Row]); 5] {
        [
            ("endings", "way to end", &self.endings),
            ("probes", "probe, by the kubelet and by drainscope", &self.probes),
            ("daemon_set", "the DaemonSet's own life", &self.daemon_set),
            ("alerts", "alert, by a real Prometheus", &self.alerts),
            ("two_nodes", "two nodes", &self.two_nodes),
        ]
    }

    /// For people.
    pub(crate) fn print(&self, failures: &[String]) {
        let verdict = if failures.is_empty() { "OK     " } else { "FAILED " };
        let runs = || self.experiments.iter().flat_map(|experiment| &experiment.runs);
        let mut said = Vec::new();
        if !self.experiments.is_empty() {
            let failed = runs().map(|run| run.verdict.failed).sum::<u64>();
            let joined = runs().map(|run| run.verdict.attributed).sum::<u64>();
            said.push(format!("{failed} failed requests, {joined} joined with evidence"));
        }
        for (_, what, rows) in self.tables().iter().filter(|(_, _, rows)| !rows.is_empty()) {
            said.push(format!(
                "{what}: {} of {} right",
                rows.iter().filter(|row| row.ok).count(),
                rows.len()
            ));
        }
        println!(
            "{verdict} Kubernetes {}, kube-proxy by {}: {}",
            self.kubernetes,
            self.proxy,
            said.join("; ")
        );
        for failure in failures {
            println!("FAILED  {failure}");
        }
        if !self.experiments.is_empty() {
            self.print_experiments();
        }
        for (_, what, rows) in self.tables().iter().filter(|(_, _, rows)| !rows.is_empty()) {
            println!("\n{what:<62}what the agent says");
            for row in *rows {
                println!("{:<62}{}{}", row.name, if row.ok { "" } else { "WRONG: " }, row.detail);
            }
        }
        println!("\nthe agent's requests to the API server, by its audit log");
        for ((verb, resource), count) in &self.requests {
            println!("{count:>8}  {verb:<6} {resource}");
        }
    }

    fn print_experiments(&self) {
        println!(
            "\n{:<34}{:>9}{:>7}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>9}{:>8}",
            "", "requests", "failed", "qps", "avg ms", "p50", "p75", "p90", "p99", "p99.9", "sockets"
        );
        let row = |name: &str, counts: (u64, u64), figures: [f64; 7], sockets: u64| {
            let [qps, average, p50, p75, p90, p99, p999] = figures;
            println!(
                "{name:<34}{:>9}{:>7}{qps:>8.1}{average:>8.1}{p50:>8.1}{p75:>8.1}{p90:>8.1}{p99:>8.1}{p999:>9.1}{sockets:>8}",
                counts.0, counts.1
            );
        };
        row("article, before (fortio)", (7217, 7), [120.2, 66.533, 62.9, 78.2, 94.1, 156.8, 387.8], 86);
        row("article, preStop 20 s (fortio)", (7716, 0), [128.5, 62.217, 60.3, 73.0, 85.7, 132.2, 190.9], 80);
        for experiment in &self.experiments {
            let name = format!("{}, preStop {} s", experiment.path.name(), experiment.prestop_seconds);
            for run in &experiment.runs {
                let (fortio, total) = (&run.fortio, &run.tally.summary.total);
                let counts = (fortio.requests(), fortio.failed());
                row(&format!("{name} (fortio)"), counts, fortio_figures(run), fortio_sockets(run));
                row(
                    &format!("{name} (own)"),
                    (total.requests, total.failed),
                    own_figures(run),
                    total.connections,
                );
            }
        }
        println!(
            "(another machine: compare the losses, not the times; our own generator's average is of all clients)"
        );
        for experiment in &self.experiments {
            for run in &experiment.runs {
                print_run(experiment, run);
            }
        }
    }

    /// As interface.md has it; `append` keeps what the file holds of another kube-proxy.
    pub(crate) fn write(&self, file: &Path, append: bool) -> anyhow::Result<()> {
        let experiments = self.experiments.iter().map(|experiment| {
            json!({"proxy": self.proxy, "path": experiment.path.name(), "prestop_seconds": experiment.prestop_seconds,
                "runs": experiment.runs.iter().map(run_json).collect::<Vec<_>>()})
        });
        let requests = self
            .requests
            .iter()
            .map(|((verb, resource), count)| json!({"verb": verb, "resource": resource, "count": count}));
        let mut report = json!({"kubernetes": self.kubernetes, "experiments": experiments.collect::<Vec<_>>(),
            "api_requests": requests.collect::<Vec<_>>()});
        for (key, _, rows) in self.tables() {
            let row =
                |it: &Row| json!({"proxy": self.proxy, "name": it.name, "ok": it.ok, "detail": it.detail});
            report[key] = rows.iter().map(row).collect();
        }
        if append {
            let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            let mut before: Value = serde_json::from_str(&text).context("the report before")?;
            for key in
                ["experiments", "api_requests", "endings", "probes", "daemon_set", "alerts", "two_nodes"]
            {
                let more = report[key].take();
                let all = before[key].as_array_mut().context("the report before")?;
                all.extend(more.as_array().into_iter().flatten().cloned());
            }
            report = before;
        }
        fs::write(file, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("write {}", file.display()))
    }
}

/// What did not hold in a run.
fn of_run(run: &Run, prestop_seconds: u64) -> impl Iterator<Item = String> {
    let verdict = &run.verdict;
    let mut failures = Vec::new();
    if !verdict.holds() {
        failures.push(format!(
            "{} failures without evidence, {} evidences without a failure, {} miscounted pods",
            verdict.client_only.len(),
            verdict.agent_only.len(),
            verdict.miscounted.len()
        ));
    }
    if run.fortio.failed() > run.fortio.lost {
        failures.push(format!("fortio failed {} times and lost {}", run.fortio.failed(), run.fortio.lost));
    }
    for end in run.terminations.iter().filter(|end| !end.complete) {
        failures.push(format!("{} is incomplete: {:?}", end.pod.name, end.anomalies));
    }
    for end in &run.terminations {
        if (end.trigger.as_str(), end.outcome.as_str(), end.silent) != ("delete", "exited", false) {
            failures.push(format!("{} ended {} by {}", end.pod.name, end.outcome, end.trigger));
        }
    }
    if prestop_seconds == 0 && verdict.failed == 0 {
        failures.push("nothing was lost without a preStop sleep".to_owned());
    }
    if prestop_seconds > 0 && verdict.failed + run.fortio.failed() > 0 {
        failures
            .push(format!("{} lost with the advised preStop sleep", verdict.failed + run.fortio.failed()));
    }
    failures.into_iter()
}

fn print_run(experiment: &Experiment, run: &Run) {
    let verdict = &run.verdict;
    println!(
        "\n{}, preStop {} s: {} failed, {} joined {:?}, {} client-only, {} agent-only; fortio failed {} of {} attempts lost; traffic tail {} s, advised preStop {}",
        experiment.path.name(),
        experiment.prestop_seconds,
        verdict.failed,
        verdict.attributed,
        verdict.by_class,
        verdict.client_only.len(),
        verdict.agent_only.len(),
        run.fortio.failed(),
        run.fortio.lost,
        run.advice["tail_seconds"],
        run.advice["prestop_seconds"],
    );
    for attempt in verdict.client_only.iter().take(LISTED) {
        println!(
            "  client-only: {} request {} {:?} at {} ns",
            attempt.local, attempt.nth, attempt.error, attempt.t_ns
        );
    }
    for (pod, item) in verdict.agent_only.iter().take(LISTED) {
        println!(
            "  agent-only:  {} request {} {} of {pod} at {}",
            item.peer, item.request, item.class, item.at
        );
    }
    for (pod, counted, shown) in &verdict.miscounted {
        println!("  miscounted:  {pod} counted {counted}, has evidence of {shown}");
    }
}

fn ms(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64() * 1e3
}

/// Requests a second, then times in milliseconds.
fn own_figures(run: &Run) -> [f64; 7] {
    let summary = &run.tally.summary;
    let latency = &summary.total.latency;
    let seconds = ms(summary.end_ns - summary.start_ns) / 1e3;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = summary.total.requests as f64 / seconds;
    let percentiles =
        [latency.p50_ns, latency.p75_ns, latency.p90_ns, latency.p99_ns, latency.p999_ns].map(ms);
    let [p50, p75, p90, p99, p999] = percentiles;
    [rate, ms(latency.mean_ns), p50, p75, p90, p99, p999]
}

fn fortio_figures(run: &Run) -> [f64; 7] {
    let report = &run.fortio.report;
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let histogram = &report["DurationHistogram"];
    let percentile = |nth: usize| number(&histogram["Percentiles"][nth]["Value"]) * 1e3;
    let (qps, average) = (number(&report["ActualQPS"]), number(&histogram["Avg"]) * 1e3);
    [qps, average, percentile(0), percentile(1), percentile(2), percentile(3), percentile(4)]
}

fn fortio_sockets(run: &Run) -> u64 {
    run.fortio.report["Sockets"].as_array().map_or(0, |all| all.iter().filter_map(Value::as_u64).sum())
}

fn run_json(run: &Run) -> Value {
    let (verdict, total) = (&run.verdict, &run.tally.summary.total);
    let [qps, avg, p50, p75, p90, p99, p999] = own_figures(run);
    let [fortio_qps, fortio_avg, fortio_p50, fortio_p75, fortio_p90, fortio_p99, fortio_p999] =
        fortio_figures(run);
    json!({"requests": total.requests, "failed": verdict.failed, "attributed": verdict.attributed,
        "client_only": verdict.client_only.len(), "agent_only": verdict.agent_only.len(), "by_class": verdict.by_class,
        "qps": qps, "avg_ms": avg, "p50_ms": p50, "p75_ms": p75, "p90_ms": p90, "p99_ms": p99, "p999_ms": p999,
        "sockets": total.connections, "tail_seconds": run.advice["tail_seconds"],
        "fortio_failed": run.fortio.failed(), "fortio_lost": run.fortio.lost,
        "fortio": {"requests": run.fortio.requests(), "qps": fortio_qps, "avg_ms": fortio_avg, "p50_ms": fortio_p50,
            "p75_ms": fortio_p75, "p90_ms": fortio_p90, "p99_ms": fortio_p99, "p999_ms": fortio_p999, "sockets": fortio_sockets(run)}})
}
