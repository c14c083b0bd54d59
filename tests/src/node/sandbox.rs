//! A pod's sandbox: its network namespace, its addresses, and the pause process that holds them.
//!
//! As with containerd, the pause process has a cgroup of its own below the pod's. It is `sleep infinity`: as pid 1 without a handler it
//! ignores SIGTERM and ends by SIGKILL only.

use std::path::PathBuf;

use nix::sys::signal::Signal;

use super::addresses::PodAddresses;
use super::netns::NetNs;
use super::process::{Process, ProcessSpec};
use super::programs::run_with_input;
use super::{Node, without_address_detection};

/// A running sandbox. [`Sandbox::remove`] takes it down in order; dropping it only ends the pause process, and the kernel takes the rest.
#[derive(Debug)]
pub struct Sandbox {
    pause: Process,
    network: NetNs,
    addresses: PodAddresses,
    link: String,
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

    fn create_with(
        node: &Node,
        pod_uid: &str,
        sandbox_id: &str,
        addresses: PodAddresses,
    ) -> anyhow::Result<Self> {
        let cgroup = node.cgroups().create_container(pod_uid, sandbox_id)?;
        let pause = node.spawn(ProcessSpec {
            program: node.programs().sleep.clone(),
            arguments: vec!["infinity".to_owned()],
            environment: Vec::new(),
            cgroup,
            network: None,
            log: PathBuf::from("/dev/null"),
        })?;
        let network = NetNs::of_process(pause.pid())?;
        let sandbox = Self { pause, network, addresses, link: node.next_link_name() };
        sandbox.set_up_network(node)?;
        Ok(sandbox)
    }

    fn set_up_network(&self, node: &Node) -> anyhow::Result<()> {
        let Self { pause, network, addresses, link } = self;
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

    /// The pod's network namespace.
    pub fn network(&self) -> &NetNs {
        &self.network
    }

    /// The pod's addresses.
    pub fn addresses(&self) -> PodAddresses {
        self.addresses
    }

    /// Kills the pause process and takes the network down: from here on nothing answers at the pod's addresses, and they may be reused.
    pub fn remove(self, node: &Node) -> anyhow::Result<()> {
        self.pause.signal(Signal::SIGKILL)?;
        self.pause.wait()?;
        let deletion = format!("link del {}\n", self.link);
        run_with_input(node.network(), &node.programs().ip, &["-batch", "-"], &deletion)?;
        node.give_back_addresses(self.addresses);
        Ok(())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // After `remove` both have nothing left to do.
        drop(self.pause.signal(Signal::SIGKILL));
        drop(self.pause.wait());
    }
}
