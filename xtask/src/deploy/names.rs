//! Every metric that an alert or the dashboard asks for is one that the agent exports, by the agent's blessed list of names.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};

use super::read;

/// Name and type of each family; a test of the agent keeps it true.
const NAMES: &str = "probe-user/src/exposition/golden/names.txt";

/// One line for each unknown name in these files.
pub(super) fn broken(root: &Path, files: &[&str]) -> Result<Vec<String>> {
    let known = samples(&read(root, NAMES)?)?;
    let mut broken = Vec::new();
    for file in files {
        let asked = asked(&read(root, file)?);
        if asked.is_empty() {
            broken.push(format!("{file}: asks for no metric"));
        }
        let unknown = asked.iter().filter(|name| !known.contains(*name));
        broken.extend(unknown.map(|name| format!("{file}: the agent exports no {name} ({NAMES})")));
    }
    Ok(broken)
}

/// Names of samples, as Prometheus stores them.
fn samples(names: &str) -> Result<BTreeSet<String>> {
    let mut samples = BTreeSet::new();
    for line in names.lines() {
        let suffixes: &[&str] = match line.split_once(' ') {
            Some((_, "counter")) => &["_total"],
            Some((_, "gauge")) => &[""],
            Some((_, "histogram")) => &["_bucket", "_sum", "_count"],
            Some((_, "info")) => &["_info"],
            _ => bail!("{NAMES}: {line}"),
        };
        let name = line.split(' ').next().unwrap_or_default();
        samples.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    Ok(samples)
}

/// The words of a text that are names of metrics of ours.
fn asked(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("drainscope_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_for_with_the_suffix_of_their_type() {
        let known =
            samples("drainscope_lost counter\ndrainscope_tail_seconds histogram\ndrainscope_build info\n")
                .unwrap();
        let text = "sum(rate(drainscope_lost_total{a=\"b\"}[5m])) + drainscope_tail_seconds_bucket{le=\"5\"} drainscope_lost";
        let unknown: Vec<String> = asked(text).difference(&known).cloned().collect();
        assert_eq!(unknown, ["drainscope_lost"]);
        assert!(samples("drainscope_lost summary\n").is_err());
    }
}
