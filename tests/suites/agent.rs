//! The agent on real input: its own process beside real pods, sockets, signals and watches, held against what the clients saw.
//!
//! Privileged. Each test has a world and an agent of its own; serial, because a world moves its thread. Wherever there is load, each failed
//! attempt of a client needs its evidence and each evidence its failed attempt: there is no tolerance anywhere. The program `drainscope` is
//! taken from beside this suite's own binaries, as `cargo xtask test` builds it.

#[path = "agent/api_trouble.rs"]
mod api_trouble;
#[path = "agent/bad_input.rs"]
mod bad_input;
#[path = "agent/classes.rs"]
mod classes;
#[path = "agent/conntrack.rs"]
mod conntrack;
#[path = "agent/controls.rs"]
mod controls;
#[path = "agent/crash.rs"]
mod crash;
#[path = "agent/ends.rs"]
mod ends;
#[path = "agent/events.rs"]
mod events;
#[path = "agent/execed.rs"]
mod execed;
#[path = "agent/fallback.rs"]
mod fallback;
#[path = "agent/families.rs"]
mod families;
#[path = "agent/host_network.rs"]
mod host_network;
#[path = "agent/inits.rs"]
mod inits;
#[path = "agent/kubelet.rs"]
mod kubelet;
#[path = "agent/late_start.rs"]
mod late_start;
#[path = "agent/limited.rs"]
mod limited;
#[path = "agent/mirrored.rs"]
mod mirrored;
#[path = "agent/nginx.rs"]
mod nginx;
#[path = "agent/outage.rs"]
mod outage;
#[path = "agent/overflow.rs"]
mod overflow;
#[path = "agent/overload.rs"]
mod overload;
#[path = "agent/own_end.rs"]
mod own_end;
#[path = "agent/probed.rs"]
mod probed;
#[path = "agent/probes.rs"]
mod probes;
#[path = "agent/prometheus.rs"]
mod prometheus;
#[path = "agent/protocols.rs"]
mod protocols;
#[path = "agent/races.rs"]
mod races;
#[path = "agent/recorded.rs"]
mod recorded;
#[path = "agent/restart.rs"]
mod restart;
#[path = "agent/reuse.rs"]
mod reuse;
#[path = "agent/rubbish.rs"]
mod rubbish;
#[path = "agent/rules.rs"]
mod rules;
#[path = "agent/site.rs"]
mod site;
#[path = "agent/starved.rs"]
mod starved;
#[path = "agent/stopping.rs"]
mod stopping;
#[path = "agent/swap.rs"]
mod swap;
#[path = "agent/vacant.rs"]
mod vacant;
#[path = "agent/verdicts.rs"]
mod verdicts;

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use world::node::find_program;

/// Longest wait for anything that the world does by itself.
const SOON: Duration = Duration::from_secs(30);
/// Longest wait until the agent has settled an end: it waits for 10 s of quiet by itself, and gives up waiting after 120 s.
const SETTLING: Duration = Duration::from_secs(150);

fn trial(name: &str, test: fn() -> anyhow::Result<()>) -> Trial {
    Trial::test(name, move || test().map_err(|error| format!("{error:#}").into()))
}

/// What is missing; `None` if nothing is.
fn obstacle() -> Option<String> {
    world::suite::obstacle().or_else(|| {
        let programs = ["prometheus", "prlimit", "setpriv", "unshare", "python3"].into_iter();
        let missing = programs.map(find_program).find_map(Result::err);
        missing.or_else(|| site::program().err()).map(|error| format!("{error:#}"))
    })
}

fn main() -> ExitCode {
    if let Some(obstacle) = obstacle() {
        return world::suite::skip("agent", &obstacle);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = [
        classes::trials(),
        controls::trials(),
        starved::trials(),
        protocols::trials(),
        stopping::trials(),
        families::trials(),
        nginx::trials(),
        late_start::trials(),
        restart::trials(),
        reuse::trials(),
        swap::trials(),
        host_network::trials(),
        crash::trials(),
        ends::trials(),
        kubelet::trials(),
        events::trials(),
        fallback::trials(),
        vacant::trials(),
        api_trouble::trials(),
        bad_input::trials(),
        inits::trials(),
        rubbish::trials(),
        rules::trials(),
        conntrack::trials(),
        own_end::trials(),
        limited::trials(),
        overflow::trials(),
        overload::trials(),
        outage::trials(),
        races::trials(),
        recorded::trials(),
        probes::trials(),
        probed::trials(),
        execed::trials(),
        mirrored::trials(),
        verdicts::trials(),
        prometheus::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit_code()
}
