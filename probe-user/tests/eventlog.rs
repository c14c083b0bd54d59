//! Whatever happens to a core, and whenever its recording begins: the replay of the log ends with the same bytes.

#[path = "../core/tests/properties/generate.rs"]
mod generate;

use drainscope::eventlog::End;
use drainscope::eventlog::replay::replay;
use drainscope::eventlog::tape::Taped;
use drainscope::exposition::open_metrics;
use futures::StreamExt as _;
use generate::{events, limits};
use probe_core::limits::SECOND;
use probe_core::monitor::Monitor;
use probe_core::snapshot::{Series, Value};
use probe_core::termination::Filter;
use probe_core::time::Mono;
use proptest::prelude::*;

/// Everything that can be asked of it, and all that it is.
fn answers(monitor: &Monitor) -> (String, Vec<u8>) {
    let everything = Filter::default();
    let answers = serde_json::json!([
        monitor.terminations(&everything),
        monitor.restarts(&everything),
        monitor.advice(&everything)
    ]);
    (format!("{answers}{}", open_metrics(monitor.snapshot().series)), monitor.save())
}

fn build() -> Vec<Series> {
    vec![Series { family: "build", labels: vec!["0".into()], value: Value::Gauge(1.0), exemplar: None }]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_replay_ends_with_the_same_bytes(
        steps in events(80).prop_flat_map(|events| {
            let count = events.len();
            let marks = (prop::bool::weighted(0.3), prop::bool::weighted(0.3), prop::bool::weighted(0.2));
            (Just(events), prop::collection::vec(marks, count))
        }).prop_map(|(events, marks)| events.into_iter().zip(marks).collect::<Vec<_>>()),
        begin in any::<prop::sample::Index>(),
    ) {
        let begin = begin.index(steps.len());
        let mut taped = Taped::new(Monitor::new(limits(), "n1".to_owned()));
        let (mut recording, mut findings, mut scraped) = (None, Vec::new(), None);
        let mut end = Mono(0);
        for (number, (event, (polled, served, waited))) in steps.into_iter().enumerate() {
            if number == begin {
                recording = taped.record(event.at, 0);
                findings.clear();
                scraped = None;
            }
            end = event.at.after(SECOND);
            let moment = event.at.after(SECOND / 2);
            taped.handle(event);
            if waited {
                taped.handle_timeout(moment);
            }
            if polled {
                while taped.poll_command().is_some() {}
                while taped.poll_ended().is_some() {}
                findings.extend(std::iter::from_fn(|| taped.poll_finding()));
            }
            if served {
                let snapshot = taped.snapshot();
                taped.scraped(snapshot.at, &build());
                scraped = Some(snapshot);
            }
        }
        taped.handle_timeout(end);
        let expected = answers(&taped);
        drop(taped);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let pieces = recording.expect("it began").pieces().map(|piece| piece.to_vec());
        let log = runtime.block_on(pieces.concat());
        let replayed = replay(&log[..]).expect("it is whole");
        prop_assert_eq!((replayed.end, replayed.torn, replayed.differing), (Some(End::AgentEnded), None, None));
        prop_assert_eq!(answers(&replayed.monitor), expected);
        prop_assert_eq!(&replayed.findings, &findings);
        if let Some(mut snapshot) = scraped {
            snapshot.series.extend(build());
            prop_assert_eq!(replayed.open_metrics(), open_metrics(snapshot.series));
        }
    }
}
