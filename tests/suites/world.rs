//! The test world against itself: what its node, kubelet, endpoint controller, proxy and servers do is what they say, seen from a client.
//!
//! Privileged: real namespaces, cgroups and sockets. Each test has a world of its own; serial, because a world moves its thread.

#[path = "world/client.rs"]
mod client;
#[path = "world/host_network.rs"]
mod host_network;
#[path = "world/leftovers.rs"]
mod leftovers;
#[path = "world/lifecycle.rs"]
mod lifecycle;
#[path = "world/styles.rs"]
mod styles;
#[path = "world/traffic.rs"]
mod traffic;

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Trial};
use world::{World, WorldConfig};

/// Longest wait for anything that needs no configured time.
const SOON: Duration = Duration::from_secs(10);

/// A world without delays under this suite's prefix.
fn start() -> anyhow::Result<World> {
    World::start(config())
}

fn config() -> WorldConfig {
    WorldConfig::new("drainscope-world", env!("CARGO_BIN_EXE_testserver"))
}

fn trial(name: &str, test: fn() -> anyhow::Result<()>) -> Trial {
    Trial::test(name, move || test().map_err(|error| format!("{error:#}").into()))
}

fn main() -> ExitCode {
    if let Some(obstacle) = world::suite::obstacle() {
        return world::suite::skip("world", &obstacle);
    }
    if std::env::var_os(leftovers::CHILD).is_some() {
        return leftovers::child();
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = [
        leftovers::trials(),
        lifecycle::trials(),
        host_network::trials(),
        traffic::trials(),
        styles::trials(),
    ];
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit_code()
}
