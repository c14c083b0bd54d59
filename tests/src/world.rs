//! The whole test world behind one handle: node, API server, kubelet, endpoint controller and service proxy, wired together.
//!
//! In: a configuration, pods, services and Deployments to make. Out: commands that run in the node's or the client's network, the store, and
//! the journal of what really happened. Suites and the demo start here; the parts can be used alone as well.

mod template;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

pub use template::PodTemplate;

use crate::apiserver::{Kind, Server, Store};
use crate::controllers::{Delay, Deployment, EndpointController, PodRef};
use crate::kubelet::{Journal, Kubelet, KubeletConfig, Step};
use crate::node::{AddressReuse, Node, NodeConfig};
use crate::proxy::ServiceProxy;
use crate::wait::wait_until;

/// How often a condition that has no wake-up of its own is looked at.
const POLL: Duration = Duration::from_millis(2);

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct WorldConfig {
    /// First part of the names of cgroups and directories: one per suite, so that suites cannot touch each other's.
    pub prefix: String,
    /// The node's name in the API.
    pub node_name: String,
    /// The program behind the image `testserver`.
    pub testserver: PathBuf,
    /// From a change of a pod to the kubelet's learning of it.
    pub kubelet_delay: Duration,
    /// From the last container's exit to the removal of the sandbox.
    pub sandbox_delay: Duration,
    /// From a change of a pod to the endpoint controller's learning of it.
    pub endpoint_delay: Duration,
    /// From a change of a slice to the service proxy's learning of it.
    pub proxy_delay: Duration,
    /// Least time between two commits of the service proxy.
    pub proxy_min_sync: Duration,
    /// How many source addresses the client has.
    pub client_addresses: u8,
    /// Order in which pod addresses are reused.
    pub address_reuse: AddressReuse,
}

impl WorldConfig {
    /// A world without delays.
    pub fn new(prefix: &str, testserver: impl Into<PathBuf>) -> Self {
        let NodeConfig { prefix, client_addresses, address_reuse } = NodeConfig::new(prefix);
        Self {
            prefix,
            node_name: "node-1".to_owned(),
            testserver: testserver.into(),
            kubelet_delay: Duration::ZERO,
            sandbox_delay: Duration::ZERO,
            endpoint_delay: Duration::ZERO,
            proxy_delay: Duration::ZERO,
            proxy_min_sync: Duration::ZERO,
            client_addresses,
            address_reuse,
        }
    }
}

/// A Service's cluster addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceAddresses {
    /// In 10.96.0.0/16.
    pub v4: Ipv4Addr,
    /// In fd96::/112.
    pub v6: Ipv6Addr,
    /// The service port.
    pub port: u16,
}

/// The world's delays, each of which can be changed while it runs.
#[derive(Clone, Debug)]
pub struct Delays {
    /// The kubelet's.
    pub kubelet: Delay,
    /// Between last exit and sandbox removal.
    pub sandbox: Delay,
    /// The endpoint controller's.
    pub endpoint: Delay,
    /// The service proxy's.
    pub proxy: Delay,
    /// Between commits of the service proxy.
    pub proxy_min_sync: Delay,
}

/// A running world; dropping it ends every process in it and removes its cgroups and files.
#[derive(Debug)]
pub struct World {
    // Fields are dropped in this order: what uses the node before the node.
    kubelet: Kubelet,
    _endpoints: EndpointController,
    proxy: ServiceProxy,
    api: Server,
    node: Arc<Node>,
    store: Store,
    journal: Journal,
    node_name: String,
    delays: Delays,
    services: AtomicU16,
    load_program: PathBuf,
}

impl World {
    /// Starts a world. The calling thread moves into the node's network namespace, with every thread that it makes from then on; call this
    /// on the main thread before other threads exist. Needs root.
    pub fn start(config: WorldConfig) -> anyhow::Result<Self> {
        let WorldConfig { prefix, client_addresses, address_reuse, node_name, testserver, .. } = config;
        if !testserver.is_file() {
            bail!("the program {} does not exist", testserver.display());
        }
        let load_program = testserver.with_file_name("load");
        let node = Arc::new(Node::start(&NodeConfig { prefix, client_addresses, address_reuse })?);
        let (store, journal) = (Store::new(), Journal::default());
        let delays = Delays {
            kubelet: Delay::new(config.kubelet_delay),
            sandbox: Delay::new(config.sandbox_delay),
            endpoint: Delay::new(config.endpoint_delay),
            proxy: Delay::new(config.proxy_delay),
            proxy_min_sync: Delay::new(config.proxy_min_sync),
        };
        store.create(
            Kind::Nodes,
            json!({"metadata": {"name": node_name, "labels": {"kubernetes.io/hostname": node_name}}}),
        )?;
        let kubelet = KubeletConfig {
            node_name: node_name.clone(),
            testserver,
            delay: delays.kubelet.clone(),
            sandbox_delay: delays.sandbox.clone(),
        };
        Ok(Self {
            kubelet: Kubelet::start(Arc::clone(&node), &store, &journal, kubelet)?,
            _endpoints: EndpointController::start(&store, &journal, &delays.endpoint)?,
            proxy: ServiceProxy::start(
                Arc::clone(&node),
                &store,
                &journal,
                &delays.proxy,
                &delays.proxy_min_sync,
            )?,
            api: Server::serve(&store).context("start the API server")?,
            node,
            store,
            journal,
            node_name,
            delays,
            services: AtomicU16::new(1),
            load_program,
        })
    }

    /// The objects of the API.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The API server, on the node's loopback.
    pub fn api(&self) -> &Server {
        &self.api
    }

    /// The node: networks, cgroups, forwarder.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The load generator, built beside the test server.
    pub(crate) fn load_program(&self) -> &Path {
        &self.load_program
    }

    /// The node's name in the API.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// What the kubelet, the endpoint controller and the proxy really did, and when.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The delays, to be changed while the world runs.
    pub fn delays(&self) -> &Delays {
        &self.delays
    }

    /// What an agent of this world takes for the cgroup root.
    pub fn cgroup_root(&self) -> &Path {
        self.node.cgroups().root()
    }

    /// A command that will run in the client's network. It ends with the thread that spawns it, at the latest.
    pub fn client_command(&self, program: impl AsRef<Path>) -> Command {
        self.node.client().command(program.as_ref())
    }

    /// A command that will run in the node's network. It ends with the thread that spawns it, at the latest.
    pub fn node_command(&self, program: impl AsRef<Path>) -> Command {
        self.node.network().command(program.as_ref())
    }

    /// Makes a dual-stack Service for the pods with that `app` label: port 80 to their port `http`.
    pub fn service(&self, namespace: &str, name: &str, app: &str) -> anyhow::Result<ServiceAddresses> {
        self.service_speaking(namespace, name, app, "http", None)
    }

    /// The same with another name of its port, and with its `appProtocol`.
    pub fn service_speaking(
        &self,
        namespace: &str,
        name: &str,
        app: &str,
        port_name: &str,
        app_protocol: Option<&str>,
    ) -> anyhow::Result<ServiceAddresses> {
        let number = self.services.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        let (v4, v6) = (Ipv4Addr::new(10, 96, high, low), Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, number));
        let mut service = json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "type": "ClusterIP", "clusterIP": v4, "clusterIPs": [v4, v6], "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
                "selector": {"app": app}, "ports": [{"name": port_name, "protocol": "TCP", "port": 80, "targetPort": "http"}],
            },
        });
        if let Some(protocol) = app_protocol {
            service["spec"]["ports"][0]["appProtocol"] = json!(protocol);
        }
        self.store.create(Kind::Services, service)?;
        Ok(ServiceAddresses { v4, v6, port: 80 })
    }

    /// Makes a pod without an owner on this node.
    pub fn pod(&self, namespace: &str, name: &str, template: &PodTemplate) -> anyhow::Result<PodRef> {
        self.pod_of_value(namespace, name, template.to_value())
    }

    /// Makes a pod from any pod object; name, namespace and node are filled in.
    pub fn pod_of_value(&self, namespace: &str, name: &str, mut pod: Value) -> anyhow::Result<PodRef> {
        pod["metadata"]["namespace"] = json!(namespace);
        pod["metadata"]["name"] = json!(name);
        pod["spec"]["nodeName"] = json!(self.node_name);
        let pod = self.store.create(Kind::Pods, pod)?;
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        Ok(PodRef { namespace: namespace.to_owned(), name: name.to_owned(), uid })
    }

    /// Makes a Deployment's pods on this node.
    pub fn deployment(
        &self,
        namespace: &str,
        name: &str,
        replicas: usize,
        template: &PodTemplate,
    ) -> anyhow::Result<Deployment> {
        Deployment::create(&self.store, &self.node_name, namespace, name, replicas, &template.to_value())
    }

    /// Deletes a pod as a user does, with the pod's own grace.
    pub fn delete(&self, pod: &PodRef) -> anyhow::Result<()> {
        let grace = self.object(pod)?["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        self.store.delete_pod(&pod.namespace, &pod.name, grace)?;
        Ok(())
    }

    /// The kubelet, for what it does by itself elsewhere: evictions, failed probes.
    pub fn kubelet(&self) -> &Kubelet {
        &self.kubelet
    }

    /// A pod's object.
    pub fn object(&self, pod: &PodRef) -> anyhow::Result<Arc<Value>> {
        Ok(self.store.get(Kind::Pods, &pod.namespace, &pod.name)?)
    }

    /// A pod's addresses, IPv4 first; empty until it has a sandbox.
    pub fn addresses(&self, pod: &PodRef) -> anyhow::Result<Vec<IpAddr>> {
        let object = self.object(pod)?;
        let addresses = object["status"]["podIPs"].as_array().into_iter().flatten();
        Ok(addresses.filter_map(|address| address["ip"].as_str()?.parse().ok()).collect())
    }

    /// Waits until a pod's Ready condition has that value.
    pub fn wait_ready(&self, pod: &PodRef, ready: bool, timeout: Duration) -> anyhow::Result<()> {
        let wanted = if ready { "True" } else { "False" };
        let holds = |store: &Store| {
            let object = store.get(Kind::Pods, &pod.namespace, &pod.name);
            object.is_ok_and(|pod| {
                let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
                conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == wanted)
            })
        };
        if !self.store.wait_until(timeout, holds) {
            bail!("{} is not Ready={wanted} after {timeout:?}; {:?}", pod.name, self.failures());
        }
        Ok(())
    }

    /// Waits until a pod's object is gone.
    pub fn wait_gone(&self, pod: &PodRef, timeout: Duration) -> anyhow::Result<()> {
        if !self.store.wait_until(timeout, |store| store.get(Kind::Pods, &pod.namespace, &pod.name).is_err())
        {
            bail!("{} is still there after {timeout:?}; {:?}", pod.name, self.failures());
        }
        Ok(())
    }

    /// Waits until the journal has a step of the pod that fits, and says when it was (`CLOCK_MONOTONIC` ns).
    pub fn wait_step(
        &self,
        pod: &PodRef,
        timeout: Duration,
        fits: impl Fn(&Step) -> bool,
    ) -> anyhow::Result<u64> {
        let look = || Ok(self.journal.first(&pod.uid, &fits));
        wait_until("a step", timeout, POLL, look).with_context(|| {
            format!("{}: {:?}; {:?}", pod.name, self.journal.of_pod(&pod.uid), self.failures())
        })
    }

    /// Waits until the proxy sends new connections of a Service to each of these pods, in every address family of the Service.
    pub fn wait_routed(&self, service: &str, pods: &[PodRef], timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        for pod in pods {
            let object = self.store.get(Kind::Services, &pod.namespace, service)?;
            let has = |family: &str| {
                object["spec"]["ipFamilies"].as_array().is_some_and(|all| all.iter().any(|own| own == family))
            };
            for (family, is_v4) in
                [("IPv4", true), ("IPv6", false)].into_iter().filter(|(family, _)| has(family))
            {
                let left = deadline.saturating_duration_since(Instant::now());
                let fits = |step: &Step| matches!(step, Step::Rules { service: name, address, used: true, .. } if name == service && address.is_ipv4() == is_v4);
                self.wait_step(pod, left, fits).with_context(|| format!("{family} rules of {service}"))?;
            }
        }
        Ok(())
    }

    /// What went wrong inside the world, in words; empty when all is well.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = self.kubelet.failures();
        failures.extend(self.proxy.failures());
        failures
    }

    /// Ends the world; an error if something went wrong in it or if its cgroups are still there.
    pub fn shutdown(self) -> anyhow::Result<()> {
        let (failures, cgroup_root) = (self.failures(), self.cgroup_root().to_owned());
        drop(self);
        if !failures.is_empty() {
            bail!("in the world: {}", failures.join("; "));
        }
        if cgroup_root.exists() {
            bail!("the cgroup {} is still there", cgroup_root.display());
        }
        Ok(())
    }
}
