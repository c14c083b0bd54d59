//! Objects of YAML or JSON, reduced to the pods' specs in them. Several documents, and lists of objects, are one after the other; what
//! makes no pods is passed over and named. The reader bounds depth, aliases and nodes; who calls it bounds the text.

use probe_core::advise::spec::{Owner, PodSpec};
use serde_json::Value;
use thiserror::Error;

/// Of an input of 16 MiB, this many values take some hundred MiB for a moment; a list of 5,000 Deployments has about a million.
const MOST_NODES: usize = 2_000_000;
/// What aliases may repeat: parts of a spec, not lists of lists of them.
const MOST_ANCHORED: usize = 100_000;
/// How many objects are named where many are passed over.
const NAMED: usize = 5;

/// The input cannot be used; the command exits with status 2.
#[derive(Debug, Error)]
pub(super) enum ManifestError {
    /// Neither YAML nor JSON.
    #[error("{0}")]
    Syntax(String),
    /// A document that is no Kubernetes object.
    #[error("document {0} is no Kubernetes object: it has no kind")]
    NoObject(usize),
    /// An object whose field has another type than the API's.
    #[error("{object}: {path}: {error}")]
    Field {
        /// Kind and name.
        object: String,
        /// Of the field.
        path: String,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// An object without the part that makes it a workload.
    #[error("{object}: no {missing}")]
    Missing {
        /// Kind and name.
        object: String,
        /// Of the field.
        missing: String,
    },
    /// Nothing to check.
    #[error("no workload in it; it has {0}")]
    NoWorkload(String),
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// In their order.
    pub(super) workloads: Vec<Workload>,
    /// Objects that make no pods, as kind and name.
    pub(super) passed_over: Vec<String>,
}

/// An object that makes pods, or is one.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) kind: String,
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) pod: PodSpec,
}

impl Workload {
    /// A pod is one, and a DaemonSet has one on each node; of the others nobody knows better than the node's limit.
    pub(super) fn owner(&self, pods_per_node: u32) -> Owner {
        let is_one = matches!(self.kind.as_str(), "Pod" | "DaemonSet");
        Owner {
            is_batch: matches!(self.kind.as_str(), "Job" | "CronJob"),
            pods_per_node: if is_one { 1 } else { pods_per_node },
        }
    }
}

/// All workloads of a text.
pub(super) fn read(text: &str) -> Result<Manifest, ManifestError> {
    let mut manifest = Manifest::default();
    for (index, document) in documents(text)?.into_iter().enumerate() {
        take(document, None, index + 1, &mut manifest)?;
    }
    if manifest.workloads.is_empty() {
        let what = if manifest.passed_over.is_empty() {
            "no objects".to_owned()
        } else {
            some_of(&manifest.passed_over)
        };
        return Err(ManifestError::NoWorkload(what));
    }
    Ok(manifest)
}

/// The first few of many names.
pub(super) fn some_of(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let named = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}

fn documents(text: &str) -> Result<Vec<Value>, ManifestError> {
    let text = text.trim_start_matches('\u{feff}');
    // JSON is YAML, but for what JSON alone may have (tabs, very long lines), and its parser is the stricter one.
    if text.trim_start().starts_with('{') {
        let json: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
        match json {
            Ok(documents) => return Ok(documents),
            Err(error) if text.trim_start().starts_with("{\"") => {
                return Err(ManifestError::Syntax(format!("not JSON: {error}")));
            }
            // A flow mapping of YAML begins with a brace, too.
            Err(_) => {}
        }
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MOST_NODES,
            max_events: 2 * MOST_NODES,
            max_recorded_anchor_events: MOST_ANCHORED,
        },
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| ManifestError::Syntax(format!("neither YAML nor JSON: {error}")))
}

/// `kind`: that of a list's items, which the API leaves out where the list has it.
fn take(
    mut object: Value,
    kind: Option<&str>,
    document: usize,
    manifest: &mut Manifest,
) -> Result<(), ManifestError> {
    let own = object.get("kind").and_then(Value::as_str).filter(|kind| !kind.is_empty());
    let kind = own.or(kind).ok_or(ManifestError::NoObject(document))?.to_owned();
    if let Some(of) = kind.strip_suffix("List")
        && let Some(items) = object.get_mut("items")
    {
        // Go writes an empty list as null.
        let Value::Array(items) = items.take() else { return Ok(()) };
        let of = Some(of).filter(|of| !of.is_empty());
        return items.into_iter().try_for_each(|item| take(item, of, document, manifest));
    }
    let metadata = |field: &str| object.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
    let namespace = metadata("namespace").map(str::to_owned);
    let name = metadata("name")
        .map(str::to_owned)
        .or_else(|| metadata("generateName").map(|prefix| format!("{prefix}*")))
        .unwrap_or_else(|| "(no name)".to_owned());
    let Some(path) = spec_of(&kind) else {
        manifest.passed_over.push(format!("{kind} {name}"));
        return Ok(());
    };
    let titled = || format!("{kind} {name}");
    let missing = |missing: String| ManifestError::Missing { object: titled(), missing };
    let spec = object.pointer_mut(&format!("/{}", path.replace('.', "/"))).map(Value::take);
    let Some(spec) = spec.filter(|spec| !spec.is_null()) else { return Err(missing(path.to_owned())) };
    let pod: PodSpec = serde_path_to_error::deserialize(spec).map_err(|error| ManifestError::Field {
        object: titled(),
        path: format!("{path}.{}", error.path()),
        error: error.into_inner(),
    })?;
    if pod.containers.is_empty() {
        return Err(missing(format!("{path}.containers")));
    }
    manifest.workloads.push(Workload { kind, namespace, name, pod });
    Ok(())
}

/// Where a kind has the spec of its pods.
fn spec_of(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "Pod" => "spec",
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" => {
            "spec.template.spec"
        }
        "CronJob" => "spec.jobTemplate.spec.template.spec",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let manifest = read(text).expect(text);
        manifest.workloads.iter().map(|workload| format!("{} {}", workload.kind, workload.name)).collect()
    }

    #[test]
    fn documents_and_lists_are_one_after_the_other() {
        let pod = |name: &str| {
            format!(r#"{{"kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"containers":[{{}}]}}}}"#)
        };
        for (text, wanted) in [
            (pod("a"), vec!["Pod a"]),
            (format!("{}\n{}", pod("a"), pod("b")), vec!["Pod a", "Pod b"]),
            (format!("---\n{}\n---\n# nothing\n---\n{}\n...\n", pod("a"), pod("b")), vec!["Pod a", "Pod b"]),
            (format!(r#"{{"kind":"List","items":[{},{}]}}"#, pod("a"), pod("b")), vec!["Pod a", "Pod b"]),
            (r#"{"kind":"PodList","items":[{"metadata":{"generateName":"x-"},"spec":{"containers":[{}]}}]}"#.into(), vec!["Pod x-*"]),
            ("{kind: Pod, spec: {containers: [{name: c}]}}".into(), vec!["Pod (no name)"]),
            (format!("\u{feff}{}", pod("bom")), vec!["Pod bom"]),
        ] {
            assert_eq!(names(&text), wanted, "{text}");
        }
    }

    #[test]
    fn each_kind_has_its_pods_spec_at_its_place() {
        let spec = "containers: [{name: c}]";
        for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"] {
            assert_eq!(
                names(&format!("kind: {kind}\nspec: {{template: {{spec: {{{spec}}}}}}}")),
                [format!("{kind} (no name)")]
            );
        }
        let cron =
            format!("kind: CronJob\nspec: {{jobTemplate: {{spec: {{template: {{spec: {{{spec}}}}}}}}}}}");
        assert_eq!(names(&cron), ["CronJob (no name)"]);
    }

    #[test]
    fn what_cannot_be_read_says_where_and_why() {
        for (text, wanted) in [
            ("", "no workload in it; it has no objects"),
            ("just words", "document 1 is no Kubernetes object: it has no kind"),
            ("[1, 2]", "document 1 is no Kubernetes object: it has no kind"),
            (
                "kind: Pod\nspec: {containers: [{}]}\n---\nname: x\n",
                "document 2 is no Kubernetes object: it has no kind",
            ),
            ("kind: Service\nmetadata: {name: web}", "no workload in it; it has Service web"),
            ("kind: Pod\nmetadata: {name: a}", "Pod a: no spec"),
            (
                "kind: Deployment\nmetadata: {name: a}\nspec: {template: {spec: {}}}",
                "Deployment a: no spec.template.spec.containers",
            ),
            (
                "kind: Pod\nspec: {containers: [{livenessProbe: {periodSeconds: 99999999999}}]}",
                "Pod (no name): spec.containers[0].livenessProbe.periodSeconds: invalid value: integer `99999999999`, expected i32",
            ),
            (
                "kind: Pod\nspec: {containers: [{livenessProbe: {periodSeconds: \"10\"}}]}",
                "Pod (no name): spec.containers[0].livenessProbe.periodSeconds: invalid type: string \"10\", expected i32",
            ),
        ] {
            assert_eq!(read(text).expect_err(text).to_string(), wanted, "{text}");
        }
        for text in [
            "{{ .Values.x }}: [",
            "kind: Pod\n\tspec: x",
            "a: &a [*a]",
            "{\"kind\": \"Pod\",",
            "\u{0}\u{1}\u{2}",
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(
                error.starts_with("neither YAML nor JSON: ") || error.starts_with("not JSON: "),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn what_would_grow_without_end_is_refused() {
        let deep = "[".repeat(100_000);
        let mut aliases = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let items = vec![format!("*a{}", level - 1); 9].join(",");
            aliases.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        for text in [deep.as_str(), &format!("{{\"a\":{deep}"), &aliases] {
            assert!(matches!(read(text), Err(ManifestError::Syntax(_))));
        }
    }

    #[test]
    fn many_names_are_cut() {
        let names: Vec<String> = (0..7).map(|n| n.to_string()).collect();
        assert_eq!(some_of(&names), "0, 1, 2, 3, 4 and 2 more");
    }
}
