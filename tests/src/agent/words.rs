//! What an agent said in the end, or a replay of its event log says: the promise is the same bytes, of all of it and of each workload.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::recording::PATIENCE;
use super::{API, Agent, LISTEN, fetch, fetch_as};

/// Bytes before and after a difference that are shown.
const SHOWN: usize = 200;
/// As Prometheus asks; has the exemplars, which the other format has not.
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0";
/// What the name of a series' workload comes after.
const OF_WORKLOAD: &str = "target_workload=\"";

/// The last scrape, the list of terminations, the findings of a whole life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// OpenMetrics, without the lines about the agent's process.
    pub metrics: String,
    /// JSON, as `/api/v1/terminations` answers.
    pub terminations: String,
    /// A JSON line each.
    pub findings: String,
}

impl Words {
    /// Asks the agent, ends it at once and reads its log, which must be JSON (`--log-format json`). Nothing may be under way any more.
    pub fn last_of(agent: &mut Agent) -> anyhow::Result<Self> {
        let (status, terminations) = fetch(API, "/api/v1/terminations?limit=1000")?;
        ensure!(status == 200 && terminations.ends_with("\"truncated\":false}"), "{status}: {terminations}");
        // The last scrape of all: a replay shows what that one showed.
        let (status, metrics) = fetch_as(LISTEN, "/metrics", OPEN_METRICS)?;
        ensure!(status == 200, "/metrics: {status}");
        agent.signal(Signal::SIGINT)?;
        let log = agent.wait_exit(PATIENCE)?;
        let of_process = |line: &&str| {
            ["", "# HELP ", "# TYPE ", "# UNIT "]
                .iter()
                .any(|begin| line.strip_prefix(begin).is_some_and(|name| name.starts_with("process_")))
        };
        let is_finding = |line: &&str| line.starts_with("{\"finding\":");
        Ok(Self {
            metrics: metrics.split_inclusive('\n').filter(|line| !of_process(line)).collect(),
            terminations,
            findings: log.split_inclusive('\n').filter(is_finding).collect(),
        })
    }

    /// How a replay differs from these, in words; empty if it says the same.
    pub fn differences(&self, replayed: &Self) -> Vec<String> {
        let parts = [
            ("/metrics", &self.metrics, &replayed.metrics),
            ("terminations", &self.terminations, &replayed.terminations),
            ("findings", &self.findings, &replayed.findings),
        ];
        let differing = parts.into_iter().filter(|(_, said, replayed)| said != replayed);
        differing
            .map(|(part, said, replayed)| format!("{part}: {}", first_difference(said, replayed)))
            .collect()
    }

    /// The same for a replay of a log that began later: it has the last of the findings.
    pub fn differences_of_late_log(&self, replayed: &Self) -> Vec<String> {
        let last = self.findings.len().saturating_sub(replayed.findings.len());
        match self.findings.get(last..) {
            Some(findings) if !replayed.findings.is_empty() => {
                Self { findings: findings.to_owned(), ..self.clone() }.differences(replayed)
            }
            _ => vec![format!("findings: {:?}", replayed.findings)],
        }
    }

    /// What of it is about each workload: lines of the scrape and findings as they are, terminations one a line.
    pub fn by_workload(&self) -> anyhow::Result<BTreeMap<String, Self>> {
        let mut workloads: BTreeMap<String, Self> = BTreeMap::new();
        for line in self.metrics.split_inclusive('\n').filter(|line| !line.starts_with('#')) {
            let Some((_, rest)) = line.split_once(OF_WORKLOAD) else { continue };
            let (name, _) = rest.split_once('"').with_context(|| line.to_owned())?;
            workloads.entry(name.to_owned()).or_default().metrics.push_str(line);
        }
        let listing: Value = serde_json::from_str(&self.terminations).context("terminations")?;
        for end in listing["items"].as_array().context("no list of terminations")? {
            let words = workloads.entry(name_of(end)?).or_default();
            words.terminations.push_str(&format!("{end}\n"));
        }
        for line in self.findings.split_inclusive('\n') {
            let finding: Value = serde_json::from_str(line).context("a finding")?;
            workloads.entry(name_of(&finding["finding"])?).or_default().findings.push_str(line);
        }
        Ok(workloads)
    }
}

fn name_of(item: &Value) -> anyhow::Result<String> {
    let name = item["workload"]["name"].as_str();
    Ok(name.with_context(|| format!("of no workload: {item}"))?.to_owned())
}

/// Where they begin to differ, and what both go on with.
fn first_difference(said: &str, replayed: &str) -> String {
    let same = said.bytes().zip(replayed.bytes()).take_while(|(said, replayed)| said == replayed).count();
    let around = |text: &str| {
        let piece = &text.as_bytes()[same.saturating_sub(SHOWN)..text.len().min(same + SHOWN)];
        String::from_utf8_lossy(piece).into_owned()
    };
    format!("at byte {same} the agent said {:?}, the replay says {:?}", around(said), around(replayed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(workload: &str, code: &str) -> String {
        format!("{{\"finding\":{{\"code\":\"{code}\",\"workload\":{{\"name\":\"{workload}\"}}}}}}\n")
    }

    fn words() -> Words {
        Words {
            metrics: "# TYPE a counter\na_total{target_workload=\"web\"} 1\na_total{target_workload=\"web-2\"} 2\nb 3\n".to_owned(),
            terminations: "{\"items\":[{\"workload\":{\"name\":\"web\"}}],\"truncated\":false}".to_owned(),
            findings: [finding("web", "first"), finding("web-2", "second")].concat(),
        }
    }

    #[test]
    fn each_part_is_held_against_its_own() {
        assert!(words().differences(&words()).is_empty());
        for (part, other) in [
            ("/metrics", Words { metrics: String::new(), ..words() }),
            ("terminations", Words { terminations: String::new(), ..words() }),
            ("findings", Words { findings: finding("web", "first"), ..words() }),
        ] {
            let differences = words().differences(&other);
            assert!(matches!(&differences[..], [one] if one.starts_with(part)), "{differences:?}");
        }
    }

    #[test]
    fn a_late_log_has_the_last_findings_and_at_least_one() {
        let late = |findings: String| words().differences_of_late_log(&Words { findings, ..words() }).len();
        assert_eq!(late(finding("web-2", "second")), 0);
        assert_eq!(late(finding("web", "first")), 1);
        assert_eq!(late(String::new()), 1);
        assert_eq!(late(finding("web", "first").repeat(3)), 1);
    }

    #[test]
    fn each_workload_has_what_is_about_it_and_no_more() {
        let workloads = words().by_workload().expect("well-formed");
        let web = Words {
            metrics: "a_total{target_workload=\"web\"} 1\n".to_owned(),
            terminations: "{\"workload\":{\"name\":\"web\"}}\n".to_owned(),
            findings: finding("web", "first"),
        };
        assert_eq!(workloads.get("web"), Some(&web));
        assert_eq!(
            workloads.get("web-2").map(|words| words.findings.as_str()),
            Some(&finding("web-2", "second")[..])
        );
        assert_eq!(workloads.len(), 2);
    }
}
