//! The result for people: the verdict, each workload's findings, the times of its probes.

use super::{Checked, Counts};
use probe_core::advise::timing::{Bounds, ProbeTiming};
use probe_core::advise::{Finding, Level};

const COLUMNS: [&str; 10] = [
    "CONTAINER",
    "PROBE",
    "HANDLER",
    "FIRST RUN",
    "REFUSED",
    "HANGING",
    "THUMB",
    "RECOVERED",
    "RESTARTED",
    "START",
];

pub(super) fn text(all: &[Checked], counts: Counts, colours: bool) -> String {
    let about = match all {
        [one] => title(one),
        _ => format!("{} workloads", all.len()),
    };
    let mut lines = vec![format!("{} in {about}", verdict(counts))];
    for checked in all {
        lines.push(String::new());
        lines.push(format!("{}  ({})", title(checked), printable(&checked.source)));
        for finding in &checked.report.findings {
            lines.extend(lines_of(finding, colours));
        }
        lines.extend(times(&checked.report.probes));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn verdict(counts: Counts) -> String {
    let count = |count: usize, what: &str| {
        (count > 0).then(|| format!("{count} {what}{}", if count == 1 { "" } else { "s" }))
    };
    let parts: Vec<String> =
        [count(counts.errors, "error"), count(counts.warnings, "warning"), count(counts.notes, "note")]
            .into_iter()
            .flatten()
            .collect();
    if parts.is_empty() { "no findings".to_owned() } else { parts.join(", ") }
}

fn title(checked: &Checked) -> String {
    printable(&match &checked.namespace {
        Some(namespace) => format!("{} {namespace}/{}", checked.kind, checked.name),
        None => format!("{} {}", checked.kind, checked.name),
    })
}

fn lines_of(finding: &Finding, colours: bool) -> Vec<String> {
    let (word, colour) = match finding.level {
        Level::Error => ("error", 31),
        Level::Warning => ("warning", 33),
        Level::Note => ("note", 36),
    };
    let level = if colours { format!("\u{1b}[{colour}m{word:<7}\u{1b}[0m") } else { format!("{word:<7}") };
    let container = finding.container.as_ref().map_or_else(String::new, |name| format!("{name}: "));
    vec![
        format!("  {level}  {}  [{}]", printable(&format!("{container}{}", finding.what)), code(finding)),
        format!("           why  {}", printable(&finding.why)),
        format!("           do   {}", printable(&finding.action)),
    ]
}

/// As JSON has it.
fn code(finding: &Finding) -> String {
    serde_json::to_value(finding.code)
        .ok()
        .and_then(|code| code.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn times(probes: &[ProbeTiming]) -> Vec<String> {
    if probes.is_empty() {
        return Vec::new();
    }
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(probes.iter().map(row));
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            format!("  {}", cells.join("  ").trim_end())
        })
        .collect()
}

fn row(probe: &ProbeTiming) -> [String; 10] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        printable(&probe.container),
        probe.probe.to_string().to_lowercase(),
        probe.handler.to_owned(),
        format!("{}{}", if probe.after_startup { "+" } else { "" }, span(probe.first_run_seconds)),
        span(probe.detection_refused_seconds),
        span(probe.detection_hanging_seconds),
        format!("{}s", probe.rule_of_thumb_seconds),
        format!("{}s", probe.recovery_at_most_seconds),
        or_none(probe.restart_at_most_seconds.map(|seconds| format!("{seconds}s"))),
        or_none(probe.start_budget_seconds.map(span)),
    ]
}

fn span(bounds: Bounds) -> String {
    format!("{}..{}s", bounds.from, bounds.to)
}

/// Names come from files: what would steer a terminal is shown, not sent.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() { shown.extend(letter.escape_default()) } else { shown.push(letter) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_shown() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{9b}c"), "a\\u{1b}[2Jb\\n\\u{9b}c");
    }

    #[test]
    fn the_verdict_counts_by_level() {
        for (errors, warnings, notes, wanted) in
            [(0, 0, 0, "no findings"), (1, 0, 0, "1 error"), (2, 1, 3, "2 errors, 1 warning, 3 notes")]
        {
            assert_eq!(verdict(Counts { errors, warnings, notes }), wanted);
        }
    }
}
