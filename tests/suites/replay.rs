//! Replays of event lists: `replay/NAME.jsonl` goes into the core, and what comes out (kernel-map changes, metrics,
//! terminations, restarts, findings) is compared with `replay/NAME.expect`. `UPDATE_EXPECT=1` blesses what is there.
//!
//! A line is one event as the event log has it, with `ms` allowed in place of `at`, and with counters given sparsely.
//! `#` begins a comment, `!` tells the runner something: see [`scenario`]. Needs neither root nor network. The decision
//! function's table over recorded kernel facts is in `replay/recorded.rs`.

#![expect(clippy::unwrap_used, reason = "a test that panics fails")]

#[path = "replay/recorded.rs"]
mod recorded;
#[path = "replay/scenario.rs"]
mod scenario;

use expect_test::expect_file;

macro_rules! scenarios {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let source = include_str!(concat!("replay/", stringify!($name), ".jsonl"));
                expect_file![concat!("replay/", stringify!($name), ".expect")].assert_eq(&scenario::run(source));
            }
        )*

        #[test]
        fn every_scenario_has_its_test() {
            let names = [$(stringify!($name)),*];
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("suites/replay");
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|ending| ending == "jsonl") {
                    let name = path.file_stem().unwrap().to_str().unwrap();
                    assert!(names.contains(&name), "{name}.jsonl is not in the list");
                }
            }
        }
    };
}

scenarios! {
    rollout_without_prestop
    rollout_with_prestop
    sigterm_ignored
    crash_while_running
    liveness_restart
    job_completed
    api_gap
    long_api_gap
    two_containers_restart
    agent_started_late
    address_reuse
    duplicate_and_reordered
    slot_table_full
    no_service
    two_services_with_different_lag
    endpoint_moves_between_slices
    force_delete
    silent_eviction
    exit_record_lost
    clock_step
    series_birth_and_death
    fallback_traffic
    evidence_beyond_the_bound
    garbage
    cgroup_before_pod
    static_pod_removed
    api_only
    service_ports
    host_ports_passed_on
    shorter_second_grace
    forced_after_graceful
    eviction_api
    node_shutdown
    eviction_of_a_crash_loop
    sidecars_end_last
    sidecar_restart_then_delete
    deleted_in_crash_loop
    deleted_after_liveness_kill
    deletion_missed_in_a_gap
    dies_during_its_start
    fallback_by_publishing
    headless_is_never_fallback
    addresses_swapped
    oom_then_crash
    sigkill_only
    prestop_ends_the_server
    overflow_without_clients
    protocol_hints
    slow_proxy
    rules_missed
    address_taken_over
    stale_conntrack
    service_without_endpoints
    exec_probes
}
