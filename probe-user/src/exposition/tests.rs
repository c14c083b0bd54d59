//! The exposition as scrapers see it: golden text, golden names, and promtool's opinion.

use super::*;
use expect_test::expect_file;
use probe_core::catalogue::LAG_BUCKETS;
use std::io::Write as _;
use std::process::{Command, Stdio};

fn series(family: &'static str, labels: &[&str], value: Value) -> Series {
    Series { family, labels: labels.iter().map(|&label| label.to_owned()).collect(), value, exemplar: None }
}

/// One series of every family.
fn all() -> Vec<Series> {
    let value = |kind| match kind {
        Kind::Counter => Value::Counter(3),
        Kind::Gauge | Kind::Info => Value::Gauge(1.0),
        Kind::Histogram(bounds) => Value::Histogram { counts: vec![1; bounds.len() + 1], sum: 2.5 },
    };
    CATALOGUE.iter().map(|family| series(family.name, family.labels, value(family.kind))).collect()
}

#[test]
fn every_kind_of_series_has_its_form() {
    let w = ["shop", "a\"pi\\", "Deployment"];
    let mut lost =
        series("lost_requests", &[w[0], w[1], w[2], "refused", "observed", "terminating"], Value::Counter(7));
    lost.exemplar = Some(Exemplar {
        labels: vec![("pod", "api-x2".into()), ("node", "n3".into())],
        value: 2.0,
        unix_ns: 1_795_305_600_500_000_000,
    });
    let mut counts = vec![0; LAG_BUCKETS.len() + 1];
    (counts[3], counts[14]) = (2, 1);
    let text = open_metrics(vec![
        lost,
        series("watched_pods", &[], Value::Gauge(3.0)),
        series("build", &["1.2.3"], Value::Gauge(1.0)),
        series("traffic_tail_duration_seconds", &w, Value::Histogram { counts, sum: 321.5 }),
        series("process_cpu_seconds", &[], Value::Seconds(0.25)),
        series("watched_pods", &["one label too many"], Value::Gauge(3.0)),
        series("no_such_family", &[], Value::Gauge(3.0)),
    ]);
    expect_file!["golden/openmetrics.txt"].assert_eq(&text);
    expect_file!["golden/prometheus.txt"].assert_eq(&prometheus::from_open_metrics(&text));
}

#[test]
fn names_are_those_of_the_golden_list() {
    let names: String = open_metrics(all())
        .lines()
        .filter(|line| line.starts_with("# TYPE "))
        .map(|line| format!("{}\n", &line["# TYPE ".len()..]))
        .collect();
    assert_eq!(names.lines().count(), CATALOGUE.len());
    expect_file!["golden/names.txt"].assert_eq(&names);
}

#[test]
fn nothing_at_all_is_still_an_exposition() {
    assert_eq!(open_metrics(Vec::new()), "# EOF\n");
    assert_eq!(prometheus::from_open_metrics("# EOF\n"), "");
}

#[test]
fn promtool_accepts_it() {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = spawned else {
        assert_ne!(std::env::var("DRAINSCOPE_REQUIRE").as_deref(), Ok("all"), "promtool is not on PATH");
        println!("skipped: promtool is not on PATH");
        return;
    };
    let text = prometheus::from_open_metrics(&open_metrics(all()));
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.is_empty(), "{said}");
}
