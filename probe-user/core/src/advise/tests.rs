//! The rules by cases: a container, and what is found. Each code has at least one.

mod rules;
mod worker;

use super::spec::{Owner, PodSpec};
use super::{Report, advise};

const SERVICE: Owner = Owner { is_batch: false, pods_per_node: 110 };
const BATCH: Owner = Owner { is_batch: true, pods_per_node: 110 };

fn report(pod: &str, owner: Owner) -> Report {
    let pod: PodSpec = serde_json::from_str(pod).expect(pod);
    advise(&pod, owner)
}

/// `level code` of each finding.
fn found(pod: &str, owner: Owner) -> Vec<String> {
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    report(pod, owner)
        .findings
        .iter()
        .map(|finding| {
            let (level, code) = (serde_json::to_value(finding.level), serde_json::to_value(finding.code));
            format!("{} {}", word(level.expect("JSON")), word(code.expect("JSON")))
        })
        .collect()
}
