//! Runs one scenario. Lines that begin with `!`:
//! `!limits slots=1 series=100 …` (first line), `!until MS` (time comes to MS, no event), `!scrape` (a scrape is served),
//! `!show` (metrics and terminations as they are now; also done at the end), `!all FAMILY` (its series at 0 too).

use probe_core::event::Event;
use probe_core::limits::Limits;
use probe_core::monitor::Monitor;
use probe_core::snapshot::{Series, Value};
use probe_core::termination::Filter;
use probe_core::time::Mono;
use probe_core::{catalogue, limits};
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::wire::Counters;
use serde_json::{Value as Json, json};
use std::fmt::Write as _;

struct Runner {
    monitor: Monitor,
    out: String,
    all: Vec<String>,
}

/// Everything that comes out of a scenario, as text.
pub(crate) fn run(source: &str) -> String {
    let mut runner = Runner {
        monitor: Monitor::new(limits_of(source), "n1".to_owned()),
        out: String::new(),
        all: Vec::new(),
    };
    for (number, line) in (1..).zip(source.lines()) {
        let line = line.trim();
        match line.chars().next() {
            None | Some('#') => {}
            Some('!') => runner.directive(&line[1..]),
            Some(_) => {
                let event = event(line).unwrap_or_else(|error| panic!("line {number}: {error}"));
                runner.monitor.handle(event);
            }
        }
        runner.drain();
    }
    runner.show();
    runner.out
}

fn limits_of(source: &str) -> Limits {
    let mut limits = Limits::default();
    let words =
        source.lines().filter_map(|line| line.strip_prefix("!limits ")).flat_map(str::split_whitespace);
    for word in words {
        let (name, value) = word.split_once('=').unwrap();
        let number: usize = value.parse().unwrap();
        match name {
            "slots" => limits.slots = number.try_into().unwrap(),
            "series" => limits.series = number,
            "evidence" => limits.evidence = number,
            "pods" => limits.pods = number,
            "ttl" => limits.series_ttl_ns = u64::try_from(number).unwrap() * limits::SECOND,
            _ => panic!("no limit {name}"),
        }
    }
    limits
}

/// An event, with what a scenario may leave out filled in.
fn event(line: &str) -> serde_json::Result<Event> {
    let mut line: Json = serde_json::from_str(line)?;
    if let Some(ms) = line.get("ms").and_then(Json::as_u64) {
        line["at"] = json!(ms * 1_000_000);
    }
    if let Some(sparse) = line.pointer_mut("/fact/reading/counters") {
        let mut counters = serde_json::to_value(Counters::default())?;
        for (name, value) in sparse.as_object().into_iter().flatten() {
            let lost = name.strip_prefix("lost ").map(|which| {
                let which: Vec<&str> = which.split(' ').collect();
                let class = Class::ALL.iter().position(|class| class.name() == which[0]).unwrap();
                let phase = Phase::ALL.iter().position(|phase| phase.name() == which[1]).unwrap();
                let confidence = match which.get(2) {
                    Some(name) => Confidence::ALL.iter().position(|one| one.name() == *name).unwrap(),
                    None => Class::ALL[class].usual_confidence() as usize,
                };
                format!("/lost/{class}/{phase}/{confidence}")
            });
            let place = lost.unwrap_or_else(|| format!("/{name}"));
            let known = counters.pointer_mut(&place).unwrap_or_else(|| panic!("no counter {name}"));
            *known = value.clone();
        }
        *sparse = counters;
    }
    serde_json::from_value(line)
}

impl Runner {
    fn directive(&mut self, words: &str) {
        let (name, rest) = words.split_once(' ').unwrap_or((words, ""));
        match name {
            "limits" => {}
            "until" => self.monitor.handle_timeout(Mono(rest.parse::<u64>().unwrap() * 1_000_000)),
            "scrape" => {
                let at = self.monitor.snapshot().at;
                self.monitor.scraped(at);
            }
            "show" => self.show(),
            "all" => self.all.push(rest.to_owned()),
            _ => panic!("no directive {name}"),
        }
    }

    fn line(&mut self, kind: &str, what: &impl serde::Serialize) {
        writeln!(self.out, "{kind} {}", serde_json::to_string(what).unwrap()).unwrap();
    }

    fn drain(&mut self) {
        while let Some(command) = self.monitor.poll_command() {
            self.line("command", &command);
        }
        while let Some(ended) = self.monitor.poll_ended() {
            self.line("ended", &ended.pod);
        }
        while let Some(finding) = self.monitor.poll_finding() {
            self.line("finding", &finding);
        }
    }

    fn show(&mut self) {
        let snapshot = self.monitor.snapshot();
        writeln!(self.out, "\n== at {} ms, next {:?} ms", snapshot.at.0 / 1_000_000, self.next()).unwrap();
        for series in &snapshot.series {
            let is_wanted = self.all.iter().any(|family| family == series.family);
            if is_wanted || !is_zero(&series.value) {
                self.out.push_str(&metric(series));
            }
        }
        for item in self.monitor.terminations(&Filter::default()).items {
            self.pretty("termination", &item);
            let workload = &item.workload;
            let advised = self
                .monitor
                .advice(&Filter { namespace: Some(item.pod.namespace.clone()), ..Filter::default() });
            if let Some(of) = advised.iter().find(|of| of.workload == *workload) {
                self.line("advice", &of.advice);
            }
        }
        for item in self.monitor.restarts(&Filter::default()).items {
            self.pretty("restart", &item);
        }
        self.out.push('\n');
    }

    fn next(&self) -> Option<u64> {
        self.monitor.poll_timeout().map(|at| at.0 / 1_000_000)
    }

    /// One line for each member, so that a change shows where it is.
    fn pretty(&mut self, kind: &str, item: &impl serde::Serialize) {
        writeln!(self.out, "{kind}").unwrap();
        let item = serde_json::to_value(item).unwrap();
        let restart = item.get("container_restart");
        for (name, value) in restart.unwrap_or(&item).as_object().unwrap() {
            match value.as_array() {
                Some(list) if !list.is_empty() => {
                    writeln!(self.out, "  {name}").unwrap();
                    for one in list {
                        writeln!(self.out, "    {one}").unwrap();
                    }
                }
                _ => writeln!(self.out, "  {name} {value}").unwrap(),
            }
        }
        if let Some(reason) = item.get("reason") {
            writeln!(self.out, "  reason {reason}").unwrap();
        }
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Counter(count) => *count == 0,
        Value::Seconds(value) | Value::Gauge(value) => *value <= 0.0,
        Value::Histogram { counts, .. } => counts.iter().all(|count| *count == 0),
    }
}

fn metric(series: &Series) -> String {
    let family = catalogue::family(series.family).unwrap();
    assert_eq!(family.labels.len(), series.labels.len(), "{}", series.family);
    let labels: Vec<String> =
        family.labels.iter().zip(&series.labels).map(|(name, value)| format!("{name}={value}")).collect();
    let value = match &series.value {
        Value::Counter(count) => count.to_string(),
        Value::Seconds(value) | Value::Gauge(value) => value.to_string(),
        Value::Histogram { counts, sum } => format!("{counts:?} sum {sum}"),
    };
    let exemplar = series.exemplar.as_ref().map_or_else(String::new, |exemplar| {
        format!(" # {:?} {} {}", exemplar.labels, exemplar.value, exemplar.unix_ns)
    });
    format!("{}{{{}}} {value}{exemplar}\n", series.family, labels.join(","))
}
