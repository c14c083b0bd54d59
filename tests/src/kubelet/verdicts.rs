//! Verdicts of the kubelet stand-in's probes, counted as the real one counts them, and its `/metrics/probes`.
//!
//! In: the result of each attempt, once it is over. Out: the text. As in the real one a series begins with its first verdict and goes with the pod.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whose probe it is, as the labels have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeLabels {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its uid.
    pub pod_uid: String,
    /// The container.
    pub container: String,
    /// `Liveness`, `Readiness`, `Startup`.
    pub probe_type: &'static str,
}

/// All counts of a kubelet; clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Verdicts(Arc<Mutex<BTreeMap<(ProbeLabels, &'static str), u64>>>);

impl Verdicts {
    /// One more verdict, `successful`, `failed` or `unknown`.
    pub fn count(&self, labels: &ProbeLabels, result: &'static str) {
        *self.lock().entry((labels.clone(), result)).or_default() += 1;
    }

    /// The pod's workers have ended.
    pub fn remove(&self, pod_uid: &str) {
        self.lock().retain(|(labels, _), _| labels.pod_uid != pod_uid);
    }

    /// How many verdicts a pod's probes of a kind have.
    pub fn total(&self, pod_uid: &str, probe_type: &str) -> u64 {
        let counts = self.lock();
        let wanted = counts
            .iter()
            .filter(|((labels, _), _)| labels.pod_uid == pod_uid && labels.probe_type == probe_type);
        wanted.map(|(_, count)| count).sum()
    }

    /// The answer to `GET /metrics/probes`, of a kubelet that started so many seconds after 1970.
    pub fn text(&self, started: f64) -> String {
        let mut text =
            format!("# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {started:e}\n");
        text.push_str("# HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.\n");
        text.push_str("# TYPE prober_probe_total counter\n");
        for ((labels, result), count) in self.lock().iter() {
            let ProbeLabels { namespace, pod, pod_uid, container, probe_type } = labels;
            let line = writeln!(
                text,
                "prober_probe_total{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\",pod_uid=\"{pod_uid}\",probe_type=\"{probe_type}\",result=\"{result}\"}} {count}"
            );
            line.expect("memory takes it");
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(ProbeLabels, &'static str), u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
