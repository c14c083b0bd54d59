//! Which pods are mirrored: the pod watch's second reader. In: the watch's objects, as they come. Out: to the mirror, what the probes of
//! those pods need that are to be probed; of the others nothing is kept.
//!
//! The annotation of a pod comes before the agent's flag, and may change while the pod runs.

use crate::kube::objects::{Identity, Metadata};
use crate::kube::workload::workload_of;
use crate::mirror::Mirror;
use probe_core::probes::pod::ProbedPod;
use probe_core::rules::object::Pod;
use serde::Deserialize;

/// Where mirrored pods are told.
#[derive(Clone, Debug)]
pub struct Source {
    mirror: Mirror,
    by_default: bool,
}

/// A pod, for its annotations and owners only.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Annotated {
    metadata: Metadata,
}

impl Source {
    /// `by_default`: whether pods without the annotation are mirrored.
    #[must_use]
    pub fn new(mirror: Mirror, by_default: bool) -> Self {
        Self { mirror, by_default }
    }

    /// A pod came or changed; how many of its values were odd.
    pub(crate) fn changed(&self, identity: &Identity, json: &str) -> u64 {
        let Ok(Annotated { metadata }) = serde_json::from_str(json) else { return 0 };
        let (is_wanted, odd) = match metadata.annotations.probes.as_deref() {
            Some("mirror") => (true, 0),
            Some("off") => (false, 0),
            // A word that is neither is nobody's wish.
            Some(_) => (self.by_default, 1),
            None => (self.by_default, 0),
        };
        if !is_wanted {
            self.mirror.remove(&identity.uid);
            return odd;
        }
        // What the core takes may still have a probe that is none.
        let Ok(pod) = serde_json::from_str::<Pod>(json) else {
            self.mirror.remove(&identity.uid);
            return odd + 1;
        };
        let workload = workload_of(&identity.name, &metadata);
        self.mirror.handle_pod(ProbedPod::reduce(&pod, workload));
        odd
    }

    /// A pod left.
    pub(crate) fn gone(&self, uid: &str) {
        self.mirror.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::reduce;
    use probe_core::probes::manager::Settings;
    use probe_core::probes::pace::Caps;
    use serde_json::{Value, json};

    fn source(by_default: bool) -> Source {
        let caps = Caps { concurrency: 1, per_second: 1 };
        Source::new(Mirror::new(Settings { caps, period_max_seconds: None, exec: false }), by_default)
    }

    fn changed(source: &Source, annotation: Option<&str>, port: &Value) -> u64 {
        let annotations = annotation.map(|word| json!({"drainscope.io/probes": word}));
        let probe = json!({"tcpSocket": {"port": port}});
        let pod = json!({
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1", "annotations": annotations},
            "spec": {"containers": [{"name": "c", "livenessProbe": probe}]},
        })
        .to_string();
        source.changed(&reduce::identity(&pod).expect("an identity"), &pod)
    }

    #[test]
    fn the_annotation_comes_before_the_flag_and_may_change() {
        let port = json!(80);
        for by_default in [false, true] {
            let source = source(by_default);
            for (annotation, is_mirrored, odd) in [
                (None, by_default, 0),
                (Some("mirror"), true, 0),
                (Some("off"), false, 0),
                (Some("Mirror"), by_default, 1),
                (Some("mirror"), true, 0),
                (None, by_default, 0),
            ] {
                assert_eq!(changed(&source, annotation, &port), odd, "{annotation:?}");
                assert_eq!(source.mirror.manager().workers(), usize::from(is_mirrored), "{annotation:?}");
            }
            source.gone("u-1");
            assert_eq!(source.mirror.manager().pods(), 0);
        }
    }

    #[test]
    fn a_probe_that_is_none_is_odd_and_ends_what_was_probed() {
        let source = source(true);
        assert_eq!(changed(&source, None, &json!(80)), 0);
        assert_eq!(changed(&source, None, &json!(true)), 1);
        assert_eq!(source.mirror.manager().pods(), 0);
    }
}
