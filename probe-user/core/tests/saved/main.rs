//! A pod's end with a restart of the agent in it: what the new agent makes of the state of the old one, of a kernel side
//! that went on, of lower limits, and of states of other versions and nodes.

#![expect(clippy::unwrap_used, reason = "a test that panics fails")]

mod scenario;

use probe_core::command::Command;
use probe_core::event::{Event, Fact, Key, WatchKind};
use probe_core::limits::{Limits, SECOND};
use probe_core::monitor::{KernelTables, Monitor};
use probe_core::saved::RestoreError;
use probe_core::snapshot::Value;
use probe_core::termination::{Filter, State, Termination};
use probe_core::time::Mono;
use probe_ebpf::wire::SlotRef;
use scenario::{CONTAINER, NODE, POD_CGROUP, events, fill};
use std::collections::{BTreeMap, BTreeSet};

/// Magic, format and checksum.
const HEADER: usize = 16;

fn after(events: &[Event]) -> Monitor {
    let mut monitor = Monitor::new(Limits::default(), NODE.to_owned());
    events.iter().for_each(|event| monitor.handle(event.clone()));
    monitor
}

fn restored(monitor: &Monitor) -> Monitor {
    restored_within(monitor, Limits::default())
}

fn restored_within(monitor: &Monitor, limits: Limits) -> Monitor {
    Monitor::restore(&monitor.save(), limits, NODE.to_owned()).unwrap()
}

fn commands(monitor: &mut Monitor) -> Vec<Command> {
    std::iter::from_fn(|| monitor.poll_command()).collect()
}

fn go_on(mut monitor: Monitor, events: &[Event]) -> Monitor {
    events.iter().for_each(|event| monitor.handle(event.clone()));
    monitor.handle_timeout(Mono(300 * SECOND));
    monitor
}

fn only_end(monitor: &Monitor) -> Termination {
    let mut all = monitor.terminations(&Filter::default()).items;
    assert_eq!(all.len(), 1);
    all.pop().unwrap()
}

fn counter(monitor: &Monitor, family: &str) -> u64 {
    let series = monitor.snapshot().series;
    let of_family = series.iter().filter(|one| one.family == family);
    let count = |value: &Value| match value {
        Value::Counter(count) => *count,
        Value::Seconds(_) | Value::Gauge(_) | Value::Histogram { .. } => 0,
    };
    of_family.map(|one| count(&one.value)).sum()
}

/// All values but those of anomalies: a reading more or less after the slot was given back is one. Exemplars tell which
/// reading added to them.
fn values(monitor: &Monitor) -> Vec<(&'static str, Vec<String>, Value)> {
    let series = monitor.snapshot().series.into_iter().filter(|one| one.family != "anomalies");
    series.map(|one| (one.family, one.labels, one.value)).collect()
}

fn is_reading(event: &Event) -> bool {
    matches!(event.fact, Fact::Reading { .. })
}

#[test]
fn a_restart_at_any_moment_of_an_end_changes_nothing() {
    let events = events();
    let undisturbed = go_on(after(&events), &[]);
    let end = only_end(&undisturbed);
    assert!(end.complete && end.state == State::Ended && end.lost.total() == 3, "{end:?}");
    assert_eq!(end.evidence.len(), 3);
    for cut in 0..=events.len() {
        let killed = go_on(restored(&after(&events[..cut])), &events[cut..]);
        assert_eq!(killed.save(), undisturbed.save(), "cut at {cut}");
        assert_eq!(only_end(&killed), end, "cut at {cut}");
    }
}

/// What the old agent took from the ring after it saved is gone as detail; no count is, and the report says so.
#[test]
fn evidence_taken_after_the_save_is_missed_and_said_to_be() {
    let events = events();
    let first = events.iter().position(|event| matches!(event.fact, Fact::Loss(_))).unwrap();
    let killed = go_on(restored(&after(&events[..first])), &events[first + 1..]);
    let end = only_end(&killed);
    assert_eq!((end.lost.total(), end.evidence.len()), (3, 2));
    assert!(!end.complete && end.anomalies.iter().any(|name| name == "evidence_missing"), "{end:?}");
    assert_eq!(counter(&killed, "node_lost_requests"), 3);
}

/// Counters only grow, so a state without the newest readings catches up with the next one.
#[test]
fn readings_that_the_old_agent_had_are_made_up_for() {
    let events = events();
    let undisturbed = go_on(after(&events), &[]);
    let readings: Vec<usize> = (0..events.len()).filter(|place| is_reading(&events[*place])).collect();
    for skipped in &readings[..readings.len() - 2] {
        let killed = go_on(restored(&after(&events[..*skipped])), &events[skipped + 1..]);
        assert_eq!(only_end(&killed).lost, only_end(&undisturbed).lost, "without event {skipped}");
        assert_eq!(values(&killed), values(&undisturbed), "without event {skipped}");
    }
}

#[test]
fn commands_that_were_applied_are_not_given_again() {
    let events = events();
    let stopped = events.iter().position(|event| matches!(event.fact, Fact::Signal { .. })).unwrap();
    let monitor = after(&events[..stopped]);
    let all = commands(&mut restored(&monitor));
    let slot = SlotRef { slot: 0, generation: 1 };
    let place = |wanted: &Command| all.iter().position(|command| command == wanted).unwrap();
    let watch = place(&Command::WatchSlot { slot });
    let add = place(&Command::AddContainer { container: 0, cgroup: CONTAINER, slot });
    assert!(watch < add && add + 1 < all.len());

    let nothing = KernelTables::default();
    let watched = KernelTables { slots: BTreeSet::from([slot]), ..KernelTables::default() };
    let added = KernelTables { containers: BTreeMap::from([(CONTAINER, 0)]), ..watched.clone() };
    for (kernel, from) in [(nothing, 0), (watched, watch + 1), (added.clone(), add + 1)] {
        let mut killed = restored(&monitor);
        killed.adopt(&kernel);
        assert_eq!(commands(&mut killed), all[from..]);
        assert_eq!(counter(&killed, "anomalies"), 0);
    }
    let mut killed = restored(&monitor);
    killed.adopt(&KernelTables {
        slots: BTreeSet::from([slot, SlotRef { slot: 7, generation: 3 }]),
        containers: BTreeMap::from([(CONTAINER, 0), (99, 5)]),
    });
    let first: Vec<Command> = commands(&mut killed).into_iter().take(2).collect();
    let unknown = Command::ForgetSlot { slot: SlotRef { slot: 7, generation: 3 } };
    assert_eq!(first, [Command::ForgetContainer { container: 5, cgroup: 99 }, unknown]);
    assert_eq!(counter(&killed, "anomalies"), 2);
}

#[test]
fn a_slot_that_the_kernel_side_lost_is_given_anew_and_totals_go_on() {
    let events = events();
    let exit = events.iter().position(|event| matches!(event.fact, Fact::Exit { .. })).unwrap();
    let mut monitor = after(&events[..exit]);
    commands(&mut monitor);
    let anew = SlotRef { slot: 1, generation: 1 };
    for all_lost in [false, true] {
        let mut killed = restored(&monitor);
        if all_lost {
            killed.begin_kernel_anew();
        } else {
            killed.adopt(&KernelTables::default());
        }
        let given = commands(&mut killed);
        assert!(given.contains(&Command::WatchSlot { slot: anew }), "{given:?}");
        assert!(given.contains(&Command::MarkDeleting { slot: anew }), "{given:?}");
        assert!(
            given.contains(&Command::AddContainer { container: 1, cgroup: CONTAINER, slot: anew }),
            "{given:?}"
        );
        // The rest as the kernel side tells it under the new numbers, counters from zero.
        let later: Vec<Event> = scenario::renumbered(&events[exit..], anew, 1);
        let end = only_end(&go_on(killed, &later));
        assert!(!end.complete && end.anomalies.iter().any(|name| name == "slot_lost"), "{end:?}");
        assert_eq!(end.lost.total(), 3 + 3, "what both slots counted");
    }
}

#[test]
fn sources_learn_what_was_known() {
    let events = events();
    let exit = events.iter().position(|event| matches!(event.fact, Fact::Exit { .. })).unwrap();
    let known = restored(&after(&events[..exit])).known();
    let key = |name: &str| Key { namespace: "shop".to_owned(), name: name.to_owned() };
    assert_eq!(known.pods, BTreeMap::from([("u1".to_owned(), key("api-1"))]));
    assert_eq!(known.services, BTreeSet::from([key("api")]));
    assert_eq!(known.slices, BTreeSet::from([key("api-x")]));
    assert_eq!(known.cgroups, BTreeSet::from([POD_CGROUP, CONTAINER]));
    assert!(known.watches.contains(&(WatchKind::Pods, String::new())));
    // Facts count from their arrival, not only once the reorder window has let them through.
    assert_eq!(restored(&after(&events)).known().pods, BTreeMap::new());
}

#[test]
fn lower_limits_hold_at_once_and_what_goes_is_counted() {
    let mut monitor = Monitor::new(Limits::default(), NODE.to_owned());
    fill(&mut monitor, 8, 6, 4);
    let lower = Limits { history: 3, evidence: 2, objects: 1, series: 10, ..Limits::default() };
    let killed = restored_within(&monitor, lower);
    let kept = killed.terminations(&Filter::default()).items;
    assert_eq!(kept.len(), 3);
    assert_eq!(
        kept,
        monitor
            .terminations(&Filter::default())
            .items
            .into_iter()
            .take(3)
            .map(|mut item| {
                item.evidence.drain(..2);
                item.evidence_dropped += 2;
                item
            })
            .collect::<Vec<_>>()
    );
    // Three terminations, and what of the eight services and slices did not fit.
    assert_eq!(counter(&killed, "anomalies") - counter(&monitor, "anomalies"), 3 + 7 + 7);
    // Series that exist stay: to move their counts would look like new losses.
    assert_eq!(counter(&killed, "lost_requests"), counter(&monitor, "lost_requests"));
    let restore = |limits| Monitor::restore(&monitor.save(), limits, NODE.to_owned());
    assert!(matches!(
        restore(Limits { slots: 8, ..Limits::default() }),
        Err(RestoreError::Tables { table: "slots", found: 1024, own: 8 })
    ));
    assert!(matches!(
        restore(Limits { containers: 8, ..Limits::default() }),
        Err(RestoreError::Tables { table: "containers", .. })
    ));
}

#[test]
fn a_foreign_state_is_refused_by_name() {
    let saved = after(&events()).save();
    let refused = |bytes: &[u8], node: &str| {
        Monitor::restore(bytes, Limits::default(), node.to_owned()).unwrap_err().to_string()
    };
    assert_eq!(refused(&saved, "n2"), "of node n1, this is n2");
    assert_eq!(refused(b"{}", NODE), "not a saved state");
    let mut newer = saved;
    newer[8] += 1;
    assert_eq!(refused(&newer, NODE), "saved in format 2, this version reads 1");
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&bytes[HEADER..]);
    bytes[12..HEADER].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Fields that only structs have; maps by name, uid or number have none of them.
const OF_STRUCTS: [&str; 12] = [
    "node",
    "offset",
    "watermark",
    "received",
    "uid",
    "carried",
    "lost",
    "items",
    "began",
    "cgroup",
    "free",
    "trigger",
];

/// Adds a field to every struct; tells to how many.
fn add_fields(value: &mut rmpv::Value) -> usize {
    match value {
        rmpv::Value::Map(fields) => {
            let nested: usize = fields.iter_mut().map(|(_, value)| add_fields(value)).sum();
            let is_struct =
                fields.iter().any(|(name, _)| name.as_str().is_some_and(|n| OF_STRUCTS.contains(&n)));
            if is_struct {
                let later = rmpv::Value::Array(vec![rmpv::Value::Nil, rmpv::Value::from("later")]);
                fields.insert(0, (rmpv::Value::from("of_a_later_version"), later));
            }
            nested + usize::from(is_struct)
        }
        rmpv::Value::Array(items) => items.iter_mut().map(add_fields).sum(),
        rmpv::Value::Nil
        | rmpv::Value::Boolean(_)
        | rmpv::Value::Integer(_)
        | rmpv::Value::F32(_)
        | rmpv::Value::F64(_)
        | rmpv::Value::String(_)
        | rmpv::Value::Binary(_)
        | rmpv::Value::Ext(..) => 0,
    }
}

#[test]
fn fields_of_a_later_version_are_passed_over() {
    let events = events();
    for cut in [events.len() / 2, events.len()] {
        let monitor = go_on_until(&events[..cut]);
        let saved = monitor.save();
        let mut body = rmpv::decode::read_value(&mut &saved[HEADER..]).unwrap();
        assert!(add_fields(&mut body) > 12);
        let mut newer = saved[..HEADER].to_vec();
        rmpv::encode::write_value(&mut newer, &body).unwrap();
        let killed = Monitor::restore(&sealed(newer), Limits::default(), NODE.to_owned()).unwrap();
        assert_eq!(killed.save(), saved);
    }
}

fn go_on_until(events: &[Event]) -> Monitor {
    let mut monitor = after(events);
    monitor.handle_timeout(events.last().unwrap().at.after(30 * SECOND));
    monitor
}

/// In the middle of an end, with one in the history.
fn state_of_the_format() -> Monitor {
    let mut monitor = go_on_until(&events());
    let events = scenario::second();
    let exit = events.iter().position(|event| matches!(event.fact, Fact::Exit { .. })).unwrap();
    events[..exit].iter().for_each(|event| monitor.handle(event.clone()));
    commands(&mut monitor);
    while monitor.poll_ended().is_some() {}
    monitor
}

/// `format-1.bin` is what [`state_of_the_format`] saved when the format began: it must be readable for as long as the format is
/// the same.
#[test]
fn a_state_of_the_first_version_of_the_format_is_taken_over() {
    let killed =
        Monitor::restore(include_bytes!("format-1.bin"), Limits::default(), NODE.to_owned()).unwrap();
    assert_eq!(killed.known(), state_of_the_format().known());
    let all = killed.terminations(&Filter::default()).items;
    let states: Vec<State> = all.iter().map(|item| item.state).collect();
    assert_eq!(states, [State::Stopping, State::Ended]);
    assert!(all[1].complete && all[1].lost.total() == 3 && all[1].evidence.len() == 3, "{:?}", all[1]);
    assert_eq!(counter(&killed, "node_lost_requests"), 3);
    let events = scenario::second();
    let exit = events.iter().position(|event| matches!(event.fact, Fact::Exit { .. })).unwrap();
    let ended = go_on(killed, &events[exit..]);
    let all = ended.terminations(&Filter::default()).items;
    assert!(all[0].complete && all[0].state == State::Ended, "{:?}", all[0]);
    assert_eq!(counter(&ended, "node_lost_requests"), 6);
}

#[test]
fn a_busy_node_saves_less_than_a_megabyte() {
    let mut monitor = Monitor::new(Limits::default(), NODE.to_owned());
    fill(&mut monitor, 250, 20, 20);
    let size = monitor.save().len();
    assert!((100_000..1_000_000).contains(&size), "{size}");
}
