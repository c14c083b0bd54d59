//! Names a pod's workload from its owner reference and labels alone, without a further API read. Conservative: a name is
//! shortened only where its form is the controller's own; else the direct owner stands.

use crate::kube::names::is_subdomain;
use crate::kube::objects::Metadata;
use probe_core::event::Workload;

/// Unix minutes that a CronJob appends to its Jobs' names: mid 2019 to 2045. Eight digits all along.
const CRON_MINUTES: std::ops::Range<u64> = 26_000_000..40_000_000;

/// The workload of the pod `name`.
#[must_use]
pub fn workload_of(name: &str, metadata: &Metadata) -> Workload {
    let pod = || Workload { kind: "Pod".into(), name: name.into() };
    let Some(owner) = metadata.owner_references.iter().find(|owner| owner.controller == Some(true)) else {
        return pod();
    };
    if !is_kind(&owner.kind) || !is_subdomain(&owner.name) {
        return pod();
    }
    let shortened = match owner.kind.as_str() {
        // The mirror of a static pod: no workload of the API's.
        "Node" => return pod(),
        "ReplicaSet" => deployment_of(&owner.name, metadata).map(|name| ("Deployment", name)),
        "Job" => cron_job_of(&owner.name).map(|name| ("CronJob", name)),
        _ => None,
    };
    let (kind, name) = shortened.unwrap_or((&owner.kind, &owner.name));
    Workload { kind: kind.into(), name: name.into() }
}

/// A Deployment names its ReplicaSets `<name>-<pod-template-hash>` and labels their pods with the hash.
fn deployment_of<'a>(replica_set: &'a str, metadata: &Metadata) -> Option<&'a str> {
    let hash = metadata.labels.pod_template_hash.as_deref().filter(|hash| !hash.is_empty())?;
    replica_set.strip_suffix(hash)?.strip_suffix('-').filter(|name| !name.is_empty())
}

/// A CronJob names its Jobs `<name>-<scheduled minute>`.
fn cron_job_of(job: &str) -> Option<&str> {
    let (name, minute) = job.rsplit_once('-')?;
    let fits = minute.len() == 8 && minute.parse().is_ok_and(|minute| CRON_MINUTES.contains(&minute));
    (fits && !name.is_empty()).then_some(name)
}

fn is_kind(kind: &str) -> bool {
    (1..=63).contains(&kind.len()) && kind.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::objects::{Labels, OwnerReference};

    #[test]
    fn workloads_follow_from_names() {
        for (owner, hash, expected) in [
            (None, None, "Pod/p"),
            (Some(("ReplicaSet", "api-7d9f")), Some("7d9f"), "Deployment/api"),
            (Some(("ReplicaSet", "api-7d9f")), Some("ffff"), "ReplicaSet/api-7d9f"),
            (Some(("ReplicaSet", "api-7d9f")), None, "ReplicaSet/api-7d9f"),
            (Some(("ReplicaSet", "-7d9f")), Some("7d9f"), "ReplicaSet/-7d9f"),
            (Some(("StatefulSet", "db")), None, "StatefulSet/db"),
            (Some(("DaemonSet", "agent")), None, "DaemonSet/agent"),
            (Some(("Job", "report-28123456")), None, "CronJob/report"),
            (Some(("Job", "report-20231231")), None, "Job/report-20231231"),
            (Some(("Job", "report-281234567")), None, "Job/report-281234567"),
            (Some(("Job", "migrate")), None, "Job/migrate"),
            (Some(("Node", "node-1")), None, "Pod/p"),
            (Some(("Rollout", "api")), None, "Rollout/api"),
            (Some(("Bad\nKind", "api")), None, "Pod/p"),
            (Some(("ReplicaSet", "~other")), None, "Pod/p"),
        ] {
            let owner_references = owner
                .map(|(kind, name)| OwnerReference {
                    kind: kind.into(),
                    name: name.into(),
                    controller: Some(true),
                })
                .into_iter()
                .collect();
            let labels = Labels { pod_template_hash: hash.map(str::to_owned), service_name: None };
            let workload = workload_of("p", &Metadata { owner_references, labels, ..Metadata::default() });
            assert_eq!(format!("{}/{}", workload.kind, workload.name), expected);
        }
    }

    #[test]
    fn an_owner_that_does_not_manage_is_none() {
        let owner = OwnerReference { kind: "ReplicaSet".into(), name: "a".into(), controller: None };
        let metadata = Metadata { owner_references: vec![owner], ..Metadata::default() };
        assert_eq!(workload_of("p", &metadata).kind, "Pod");
    }
}
