//! Where the measuring happens: a test world with one running pod, an agent that can be there or not, and load from the client's network.
//!
//! "Not there" is no process at all and no program loaded; "there" is ready, with the pod in a slot. The switch waits for these
//! conditions; it measures nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use world::agent::{Agent, Metrics};
use world::load::{Config, Running, start};
use world::node::{find_program, run_with_input};
use world::wait::wait_for;
use world::{PodTemplate, World, WorldConfig};

use crate::kernel::{NAME_BYTES, Objects};

/// The load goes straight to the pod, and its connections are not tracked: at these rates they would fill conntrack's table in seconds, and
/// dropped SYNs are not what is measured.
const UNTRACKED: &str = "table inet bench {
  chain prerouting {
    type filter hook prerouting priority raw;
    ip saddr 10.78.0.0/24 ip daddr 10.77.0.0/24 notrack
    ip saddr 10.77.0.0/24 ip daddr 10.78.0.0/24 notrack
  }
}
";

/// Source addresses of the load, with 64,000 ports each: more than the 262,144 sockets in TIME_WAIT that a namespace keeps at most (by default;
/// net.ipv4.tcp_max_tw_buckets), so that connections can end as clients' do, by FIN. Resets would need no port twice, but spare the hooks their part.
const SOURCES: u8 = 8;
/// The longest wait for a pod or for the agent.
const SOON: Duration = Duration::from_secs(60);
/// How often a condition without a wake-up is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A running agent and its BPF objects.
pub(crate) struct Watcher {
    pub(crate) agent: Agent,
    pub(crate) objects: Objects,
    /// `ebpf_events_lost_total` when it was last asked.
    events_lost: u64,
}

/// The world, its pod and perhaps an agent.
pub(crate) struct Site {
    // Dropped in this order: the agent before the world.
    watcher: Option<Watcher>,
    pub(crate) world: World,
    pub(crate) agent_program: PathBuf,
    target: SocketAddr,
}

impl Site {
    /// Starts the world and the pod; the programs lie beside this one. The calling thread moves into the world's node.
    pub(crate) fn start(directory: &Path) -> anyhow::Result<Self> {
        let agent_program = directory.join("drainscope");
        if !agent_program.is_file() {
            bail!("the program {} does not exist", agent_program.display());
        }
        let config = WorldConfig {
            client_addresses: SOURCES,
            ..WorldConfig::new("drainscope-bench", directory.join("testserver"))
        };
        let world = World::start(config)?;
        let nft = find_program("nft")?;
        run_with_input(world.node().network(), &nft, &["-f", "-"], UNTRACKED)?;
        let pod = world.pod(
            "bench",
            "server",
            &PodTemplate::testserver("server", &["--listen", "0.0.0.0:8080"]),
        )?;
        world.wait_ready(&pod, true, SOON)?;
        let address = *world.addresses(&pod)?.first().context("the pod has no address")?;
        Ok(Self { watcher: None, world, agent_program, target: SocketAddr::new(address, 8080) })
    }

    /// The agent, if it is there.
    pub(crate) fn watcher(&self) -> Option<&Watcher> {
        self.watcher.as_ref()
    }

    /// Makes the agent be there or not.
    pub(crate) fn set_agent(&mut self, on: bool) -> anyhow::Result<()> {
        match (on, self.watcher.take()) {
            (true, None) => self.watcher = Some(Watcher::start(&self.world, &self.agent_program, 1)?),
            (false, Some(watcher)) => watcher.stop()?,
            (_, unchanged) => self.watcher = unchanged,
        }
        Ok(())
    }

    /// Ring records that the running agent has lost since this was last called.
    pub(crate) fn take_events_lost(&mut self) -> anyhow::Result<u64> {
        let Some(watcher) = &mut self.watcher else { return Ok(0) };
        let now = count(&watcher.agent.metrics()?, "drainscope_ebpf_events_lost_total");
        let before = std::mem::replace(&mut watcher.events_lost, now);
        Ok(now.saturating_sub(before))
    }

    /// Starts load on the pod from the client's network.
    pub(crate) fn load(&self, config: impl FnOnce(Config) -> Config) -> anyhow::Result<Running> {
        let sources = (2..2 + SOURCES).map(|host| IpAddr::V4(Ipv4Addr::new(10, 78, 0, host))).collect();
        let config = config(Config { sources, ..Config::new(self.target) });
        Ok(self.world.node().client().inside(|| start(config))??)
    }

    /// Ends agent and world; an error if something in the world went wrong.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        self.set_agent(false)?;
        self.world.shutdown()
    }
}

impl Watcher {
    /// Starts an agent and waits until it is ready and watches at least so many pods.
    pub(crate) fn start(world: &World, program: &Path, pods: u64) -> anyhow::Result<Self> {
        let mut agent = Agent::start(world, program, &[])?;
        agent.wait_ready(SOON)?;
        let deadline = Instant::now() + SOON;
        loop {
            let metrics = agent.metrics()?;
            let watched = count(&metrics, "drainscope_watched_pods");
            // A pod is watched from its cgroup on; which of its connections are probes is known from its object on, and
            // so are its series.
            if watched >= pods && metrics.has("drainscope_lost_requests_total", &[]) {
                break;
            }
            if Instant::now() > deadline {
                bail!("the agent watches {watched} of {pods} pods after {SOON:?}; its log: {}", agent.log());
            }
            thread::sleep(POLL);
        }
        let objects = Objects::of_process(agent.pid())?;
        Ok(Self { agent, objects, events_lost: 0 })
    }

    /// Full names of the kernel programs, by the names that the kernel keeps.
    pub(crate) fn program_names(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let metrics = self.agent.metrics()?;
        let attached = metrics.matching("drainscope_ebpf_program_attached", &[]);
        let names =
            attached.filter_map(|(series, _)| Some(series.split_once("program=\"")?.1.split_once('"')?.0));
        Ok(names.map(|name| (name.chars().take(NAME_BYTES).collect(), name.to_owned())).collect())
    }

    /// Kills the agent, which may happen to it at any time, and waits until nothing of it is loaded.
    fn stop(self) -> anyhow::Result<()> {
        drop(self.agent);
        wait_for("the agent's programs are gone after its end", SOON, || Ok(!self.objects.are_loaded()?))
    }
}

/// The sum of a family's samples as a whole number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of things, far below 2^53 and never negative"
)]
pub(crate) fn count(metrics: &Metrics, name: &str) -> u64 {
    metrics.sum(name, &[]) as u64
}
