//! What the outputs ask for: the snapshot of all series, and the listings.

use super::Monitor;
use crate::catalogue::CATALOGUE;
use crate::episode::End;
use crate::event::{Anomaly, WatchKind};
use crate::report::{Scope, report};
use crate::snapshot::{Series, Snapshot, Value};
use crate::termination::{Filter, Listing, Restart, Termination};
use crate::totals::seconds;
use probe_ebpf::wire::anomaly;

impl Monitor {
    /// The values of all series, as of the last applied moment.
    pub fn snapshot(&self) -> Snapshot {
        let at = self.window.watermark();
        let mut series = Vec::new();
        self.totals.render(at, &self.gauges(), &mut series);
        self.render_self(&mut series);
        let place = |family: &str| CATALOGUE.iter().position(|known| known.name == family);
        series.sort_by_cached_key(|one| (place(one.family), one.labels.clone()));
        Snapshot { at, series }
    }

    fn render_self(&self, out: &mut Vec<Series>) {
        let mut add = |family, labels: &[&str], value| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            out.push(Series { family, labels, value, exemplar: None });
        };
        add("node_lost_requests", &[], Value::Counter(self.totals.node_lost));
        add("node_pod_terminations", &[], Value::Counter(self.totals.node_terminations));
        add("node_exec_probe_cpu_seconds", &[], Value::Seconds(seconds(self.totals.node_exec_cpu_ns)));
        add("watched_pods", &[], Value::Gauge(self.slots.used_count() as f64));
        add("series_dropped", &[], Value::Counter(self.totals.dropped()));
        for (index, (name, count)) in (0u32..).zip(anomaly::NAMES.iter().zip(&self.kernel)) {
            if index == anomaly::RING_FULL {
                add("ebpf_events_lost", &[], Value::Counter(*count));
            } else {
                add("attribution_failures", &[name], Value::Counter(*count));
            }
        }
        for kind in Anomaly::ALL {
            let count = self.anomalies.get(&kind).copied().unwrap_or_default();
            add("anomalies", &[kind.name()], Value::Counter(count));
        }
        for (kind, name) in [
            (WatchKind::Pods, "pods"),
            (WatchKind::Services, "services"),
            (WatchKind::EndpointSlices, "endpointslices"),
        ] {
            let count = self.watch_restarts.get(&kind).copied().unwrap_or_default();
            add("watch_restarts", &[name], Value::Counter(count));
        }
    }

    /// Terminations, newest first: those under way and those that ended.
    pub fn terminations(&self, filter: &Filter) -> Listing<Termination> {
        let under_way = self.pods.iter().filter_map(End::of).filter(End::is_termination);
        let live: Vec<Termination> =
            under_way.map(|end| report(end, Scope::Pod, end.state(), &self.node)).collect();
        listing(live.iter().chain(self.terminations.newest_first()), filter, |item| item)
    }

    /// Ended terminations that were polled already, in the order of their conclusion.
    pub fn polled(&self) -> Vec<&Termination> {
        let mut polled: Vec<_> = self.terminations.newest_first().skip(self.ended.len()).collect();
        polled.reverse();
        polled
    }

    /// Containers that ended while their pod went on, newest first.
    pub fn restarts(&self, filter: &Filter) -> Listing<Restart> {
        listing(self.restarts.newest_first(), filter, |item| &item.container_restart)
    }
}

fn listing<'a, T: Clone + 'a>(
    items: impl Iterator<Item = &'a T>,
    filter: &Filter,
    of: impl Fn(&T) -> &Termination,
) -> Listing<T> {
    let mut wanted: Vec<&T> = items.filter(|item| filter.wants(of(item))).collect();
    wanted.sort_by(|a, b| (of(b).began, &of(b).pod.uid).cmp(&(of(a).began, &of(a).pod.uid)));
    let limit = filter.limit.unwrap_or(usize::MAX);
    Listing { truncated: wanted.len() > limit, items: wanted.into_iter().take(limit).cloned().collect() }
}
