//! A pod's sandbox: its network namespace, its addresses, and the pause process that holds them.
//!
//! As with containerd, the pause process has a cgroup of its own below the pod's. It is `sleep infinity`: as pid 1 without a handler it
//! ignores SIGTERM and ends by SIGKILL only. A hostNetwork pod's sandbox is that process alone, in the node's own network.

use std::path::PathBuf;

use nix::sys::signal::Signal;

use super::addresses::PodAddresses;
use super::netns::NetNs;
use super::process::{Pids, Process, ProcessSpec};
use super::programs::run_with_input;
use super::{Node, without_address_detection};

/// A running sandbox. [`Sandbox::remove`] takes it down in order; dropping it only ends the pause process, and the kernel takes the rest.
#[derive(Debug)]
pub struct Sandbox {
    pause: Process,
    network: NetNs,
    addresses: PodAddresses,
    /// The node's end of its veth; a hostNetwork pod has none.
    link: Option<String>,
}

impl Sandbox {
    /// Makes a pod's sandbox: pause process, namespace, veth into the node's bridge, addresses, routes.
    pub fn create(node: &Node, pod_uid: &str, sandbox_id: &str) -> anyhow::Result<Self> {
        let addresses = node.take_addresses()?;
        let made = Self::create_with(node, pod_uid, sandbox_id, addresses);
        if made.is_err() {
            node.give_back_addresses(addresses);
        }
        made
    }

    /// Makes a hostNetwork pod's sandbox: the pause process in the node's network, nothing else.
    pub fn create_on_host(node: &Node, pod_uid: &str, sandbox_id: &str) -> anyhow::Result<Self> {
        let network = node.network().clone();
        let pause = start_pause(node, pod_uid, sandbox_id, Some(network.clone()))?;
        Ok(Self { pause, network, addresses: PodAddresses::NODE, link: None })
    }

    fn create_with(
        node: &Node,
        pod_uid: &str,
        sandbox_id: &str,
        addresses: PodAddresses,
    ) -> anyhow::Result<Self> {
        let pause = start_pause(node, pod_uid, sandbox_id, None)?;
        let (network, link) = (NetNs::of_process(pause.pid())?, node.next_link_name());
        let sandbox = Self { pause, network, addresses, link: Some(link.clone()) };
        sandbox.set_up_network(node, &link)?;
        Ok(sandbox)
    }

    fn set_up_network(&self, node: &Node, link: &str) -> anyhow::Result<()> {
        let Self { pause, network, addresses, .. } = self;
        without_address_detection(network)?;
        let (v4, v6, mac, pid) = (addresses.v4(), addresses.v6(), addresses.mac(), pause.pid());
        let ip = &node.programs().ip;
        let node_side = format!(
            "link add {link} type veth peer name eth0 address {mac} netns {pid}\n\
             link set {link} master br0 up\n"
        );
        run_with_input(node.network(), ip, &["-batch", "-"], &node_side)?;
        let pod_side = format!(
            "link set lo up\n\
             addr add {v4}/24 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 10.77.0.1\n\
             route add default via fd77::1\n"
        );
        run_with_input(network, ip, &["-batch", "-"], &pod_side)
    }

    /// The pod's network namespace; a hostNetwork pod's is the node's.
    pub fn network(&self) -> &NetNs {
        &self.network
    }

    /// The pid namespace that the pod's containers share if they share one.
    pub fn pids(&self) -> Pids {
        Pids::Of(self.pause.pid())
    }

    /// The pod's addresses.
    pub fn addresses(&self) -> PodAddresses {
        self.addresses
    }

    /// Kills the pause process and takes the network down: from here on nothing answers at the pod's addresses, and they may be reused.
    /// The node's own stay.
    pub fn remove(self, node: &Node) -> anyhow::Result<()> {
        self.pause.signal(Signal::SIGKILL)?;
        self.pause.wait()?;
        if let Some(link) = &self.link {
            let deletion = format!("link del {link}\n");
            run_with_input(node.network(), &node.programs().ip, &["-batch", "-"], &deletion)?;
            node.give_back_addresses(self.addresses);
        }
        Ok(())
    }
}

/// Starts the process that holds the sandbox, in this network or in one of its own.
fn start_pause(
    node: &Node,
    pod_uid: &str,
    sandbox_id: &str,
    network: Option<NetNs>,
) -> anyhow::Result<Process> {
    node.spawn(ProcessSpec {
        program: node.programs().sleep.clone(),
        arguments: vec!["infinity".to_owned()],
        environment: Vec::new(),
        cgroup: node.cgroups().create_container(pod_uid, sandbox_id)?,
        network,
        pids: Pids::Own,
        log: PathBuf::from("/dev/null"),
    })
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // After `remove` both have nothing left to do.
        drop(self.pause.signal(Signal::SIGKILL));
        drop(self.pause.wait());
    }
}
