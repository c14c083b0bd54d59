//! The test world's node: a network namespace that plays the host's network, a client's network beside it, cgroups, and what pods are made of.
//!
//! ```text
//! client netns 10.78.0.2.. fd78::2..  --veth--  node netns: client0 10.78.0.1, br0 10.77.0.1 fd77::1  --veth--  pod netns 10.77.0.N fd77::N
//! ```
//! Service addresses (10.96.0.0/16, fd96::/112) are local to the node, so that a packet that no proxy rule rewrites goes nowhere. Nothing
//! in the machine's own network namespace is touched, all namespaces go with their processes, and what a killed owner leaves behind
//! (cgroups, a temporary directory) the next start of the same prefix removes.

mod addresses;
mod cgroups;
mod forward;
mod netns;
mod owner;
mod process;
mod programs;
mod sandbox;
mod spawner;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

pub use addresses::{AddressPool, AddressReuse, PodAddresses};
pub use cgroups::{CgroupTree, has_killed, memory_root, v2_root};
pub use netns::NetNs;
pub use owner::Owner;
pub use process::{Exit, Pids, Process, ProcessSpec};
pub use programs::{find_program, run_with_input};
pub use sandbox::Sandbox;
pub use spawner::Spawner;

/// The node's IPv4 address towards its pods; probes come from here.
pub const NODE_ADDRESS: &str = "10.77.0.1";

/// Where a node's bpffs is, below its directory.
const BPFFS: &str = "bpf";
/// The bridge's own: without one it takes the lowest of its ports', so that each pod's coming and going could change the gateway's address
/// under the other pods' feet.
const BRIDGE_MAC: &str = "02:42:0a:4d:00:01";

/// Seconds for which conntrack remembers a closed flow in the node; the default of 120 would fill its table at bench rates.
const TIME_WAIT_SECONDS: &str = "20";

/// How a node differs from the default one.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// First part of the names of cgroups and directories; leftovers of the same prefix are removed.
    pub prefix: String,
    /// How many source addresses the client's network has (from 10.78.0.2 and fd78::2 on).
    pub client_addresses: u8,
    /// Order in which pod addresses are reused.
    pub address_reuse: AddressReuse,
}

impl NodeConfig {
    /// The default node under this prefix.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), client_addresses: 4, address_reuse: AddressReuse::default() }
    }
}

/// Full paths of the programs that the node runs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) ip: PathBuf,
    pub(crate) nft: PathBuf,
    pub(crate) sleep: PathBuf,
}

/// The node. Dropping it kills its processes and removes its cgroups and its directory; the dropping thread goes back to where the starting one was.
#[derive(Debug)]
pub struct Node {
    // Fields are dropped in this order: processes first, then the cgroups that they were in.
    spawner: Spawner,
    cgroups: CgroupTree,
    outside: NetNs,
    network: NetNs,
    client: NetNs,
    directory: PathBuf,
    programs: Programs,
    addresses: Mutex<AddressPool>,
    links: AtomicU32,
}

impl Node {
    /// Moves the calling thread into a new network namespace and makes the node there. Threads made from then on by this thread are in
    /// the node; threads that exist already stay outside. Needs root.
    pub fn start(config: &NodeConfig) -> anyhow::Result<Self> {
        let owner = Owner::this_process(&config.prefix)?;
        let programs =
            Programs { ip: find_program("ip")?, nft: find_program("nft")?, sleep: find_program("sleep")? };
        let directory = make_directory(&owner, &config.prefix)?;
        let cgroups = CgroupTree::create(&owner, &config.prefix)?;
        let outside = NetNs::current()?;
        unshare(CloneFlags::CLONE_NEWNET).context("make the node's network namespace")?;
        let node = Self {
            spawner: Spawner::start()?,
            cgroups,
            outside,
            network: NetNs::current()?,
            client: NetNs::create()?,
            directory,
            programs,
            addresses: Mutex::new(AddressPool::new(config.address_reuse)),
            links: AtomicU32::new(0),
        };
        node.set_up_networks(config.client_addresses)?;
        Ok(node)
    }

    fn set_up_networks(&self, client_addresses: u8) -> anyhow::Result<()> {
        set_network_option("ipv4/ip_forward", "1")?;
        set_network_option("ipv6/conf/all/forwarding", "1")?;
        without_address_detection(&self.network)?;
        without_address_detection(&self.client)?;
        let client = self.client.path();
        let node_side = format!(
            "link set lo up\n\
             link add br0 address {BRIDGE_MAC} type bridge\n\
             addr add {NODE_ADDRESS}/24 dev br0\n\
             addr add fd77::1/64 dev br0 nodad\n\
             link set br0 up\n\
             link add client0 type veth peer name eth0 netns {client}\n\
             addr add 10.78.0.1/24 dev client0\n\
             addr add fd78::1/64 dev client0 nodad\n\
             link set client0 up\n\
             route add local 10.96.0.0/16 dev lo src {NODE_ADDRESS}\n\
             route add local fd96::/112 dev lo src fd77::1\n"
        );
        run_with_input(&self.network, &self.programs.ip, &["-batch", "-"], &node_side)?;
        let mut client_side = "link set lo up\nlink set eth0 up\n".to_owned();
        for host in 2..2 + u16::from(client_addresses) {
            client_side +=
                &format!("addr add 10.78.0.{host}/24 dev eth0\naddr add fd78::{host:x}/64 dev eth0 nodad\n");
        }
        client_side += "route add default via 10.78.0.1\nroute add default via fd78::1\n";
        run_with_input(&self.client, &self.programs.ip, &["-batch", "-"], &client_side)?;
        self.client.inside(|| set_network_option("ipv4/ip_local_port_range", "1024 65535"))??;
        // The file is there only once conntrack is loaded; without it there is nothing to fill.
        let time_wait = "netfilter/nf_conntrack_tcp_timeout_time_wait";
        if network_option(time_wait).exists() {
            set_network_option(time_wait, TIME_WAIT_SECONDS)?;
        }
        Ok(())
    }

    /// A bpffs of the node's own, mounted when it is first asked for.
    pub fn bpffs(&self) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(BPFFS);
        if !path.exists() {
            fs::create_dir(&path)?;
            let none: Option<&str> = None;
            mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), none)
                .with_context(|| format!("mount a bpffs at {}", path.display()))?;
        }
        Ok(path)
    }

    /// The node's own network namespace.
    pub fn network(&self) -> &NetNs {
        &self.network
    }

    /// The client's network namespace.
    pub fn client(&self) -> &NetNs {
        &self.client
    }

    /// The namespace that the starting thread came from.
    pub fn outside(&self) -> &NetNs {
        &self.outside
    }

    /// The node's branch of the cgroup tree.
    pub fn cgroups(&self) -> &CgroupTree {
        &self.cgroups
    }

    /// The node's temporary directory (container logs, generated configuration); removed with the node.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts a process that ends with the node at the latest.
    pub fn spawn(&self, spec: ProcessSpec) -> anyhow::Result<Process> {
        self.spawner.spawn(spec)
    }

    /// Makes `target`, an address inside the node, reachable at 127.0.0.1:`port` (0: any) outside, until the process ends. Returns where.
    pub fn forward(&self, port: u16, target: SocketAddr) -> anyhow::Result<SocketAddr> {
        forward::start(&self.outside, &self.network, port, target)
    }

    /// Changes the order in which pod addresses are reused.
    pub fn set_address_reuse(&self, reuse: AddressReuse) {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).set_reuse(reuse);
    }

    pub(crate) fn programs(&self) -> &Programs {
        &self.programs
    }

    fn take_addresses(&self) -> anyhow::Result<PodAddresses> {
        let taken = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.context("all pod addresses are taken")
    }

    fn give_back_addresses(&self, addresses: PodAddresses) {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).give_back(addresses);
    }

    fn next_link_name(&self) -> String {
        format!("pod{}", self.links.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both are best efforts of a thread that may be unwinding: a directory that stays is a leftover for the next start.
        unmount_bpffs(&self.directory);
        drop(fs::remove_dir_all(&self.directory));
        drop(self.outside.enter());
    }
}

/// Whatever is pinned there goes with it, unless somebody still has it open.
fn unmount_bpffs(directory: &Path) {
    // Most nodes have none.
    let _nothing_there = umount2(&directory.join(BPFFS), MntFlags::MNT_DETACH);
}

fn make_directory(owner: &Owner, prefix: &str) -> anyhow::Result<PathBuf> {
    let parent = std::env::temp_dir();
    for leftover in Owner::leftovers(prefix, &parent)? {
        unmount_bpffs(&leftover);
        fs::remove_dir_all(&leftover).with_context(|| format!("remove {}", leftover.display()))?;
    }
    let directory = parent.join(owner.name());
    fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
    Ok(directory)
}

/// /proc/sys/net shows the options of the reading thread's network namespace.
fn network_option(name: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(name)
}

/// Interfaces made in this namespace from now on use their IPv6 addresses at once: without the second or two of duplicate address
/// detection, in which neighbours find nothing there. The world hands out its addresses itself.
pub(crate) fn without_address_detection(namespace: &NetNs) -> anyhow::Result<()> {
    namespace.inside(|| set_network_option("ipv6/conf/default/accept_dad", "0"))?
}

fn set_network_option(name: &str, value: &str) -> anyhow::Result<()> {
    let path = network_option(name);
    fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
}
