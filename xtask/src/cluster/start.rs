//! Brings the node's components up, in the order in which they need one another, and waits for each.
//!
//! Configuration files are those of `tests/cluster/conf`, with the few values filled in that differ between machines.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::build::Programs;
use super::node::Node;
use super::{Proxy, STATE, pki};
use crate::process;

/// Configuration, by its name in the node's folder.
const CONFIGURATION: [(&str, &str); 5] = [
    ("containerd.toml", include_str!("../../../tests/cluster/conf/containerd.toml")),
    ("cni/10-bridge.conflist", include_str!("../../../tests/cluster/conf/cni/10-bridge.conflist")),
    ("kubelet.yaml", include_str!("../../../tests/cluster/conf/kubelet.yaml")),
    ("kube-proxy.yaml", include_str!("../../../tests/cluster/conf/kube-proxy.yaml")),
    ("audit.yaml", include_str!("../../../tests/cluster/conf/audit.yaml")),
];
/// Where distributions and CNI's own archive put the plugins.
const CNI_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];
/// For one component; all of them take ten seconds on two idle cores.
const PATIENCE: Duration = Duration::from_secs(120);

const ETCD: &[&str] = &[
    "--name=cluster",
    "--data-dir=/var/lib/etcd",
    "--unsafe-no-fsync",
    "--log-level=warn",
    "--listen-client-urls=http://127.0.0.1:2379",
    "--advertise-client-urls=http://127.0.0.1:2379",
    "--listen-peer-urls=http://127.0.0.1:2380",
    "--initial-advertise-peer-urls=http://127.0.0.1:2380",
    "--initial-cluster=cluster=http://127.0.0.1:2380",
];
const APISERVER: &[&str] = &[
    "--bind-address=10.89.0.1",
    "--advertise-address=10.89.0.1",
    "--secure-port=6443",
    "--etcd-servers=http://127.0.0.1:2379",
    "--service-cluster-ip-range=10.96.0.0/16",
    "--authorization-mode=Node,RBAC",
    "--enable-admission-plugins=NodeRestriction",
    "--allow-privileged",
    "--client-ca-file=${STATE}/pki/ca.crt",
    "--tls-cert-file=${STATE}/pki/apiserver.crt",
    "--tls-private-key-file=${STATE}/pki/apiserver.key",
    "--service-account-key-file=${STATE}/pki/sa.pub",
    "--service-account-signing-key-file=${STATE}/pki/sa.key",
    "--service-account-issuer=https://kubernetes.default.svc",
    "--kubelet-certificate-authority=${STATE}/pki/ca.crt",
    "--kubelet-preferred-address-types=InternalIP",
    "--kubelet-client-certificate=${STATE}/pki/apiserver-kubelet.crt",
    "--kubelet-client-key=${STATE}/pki/apiserver-kubelet.key",
    "--audit-policy-file=${STATE}/conf/audit.yaml",
    "--audit-log-path=${STATE}/logs/audit.jsonl",
    "--audit-log-mode=blocking",
];
const CONTROLLER_MANAGER: &[&str] = &[
    "--kubeconfig=${STATE}/conf/controller-manager.kubeconfig",
    "--bind-address=127.0.0.1",
    "--leader-elect=false",
    "--use-service-account-credentials",
    "--service-account-private-key-file=${STATE}/pki/sa.key",
    "--root-ca-file=${STATE}/pki/ca.crt",
];
const SCHEDULER: &[&str] =
    &["--kubeconfig=${STATE}/conf/scheduler.kubeconfig", "--bind-address=127.0.0.1", "--leader-elect=false"];
const KUBELET: &[&str] = &[
    "--config=${FOLDER}/conf/kubelet.yaml",
    "--kubeconfig=${STATE}/conf/${NODE}.kubeconfig",
    "--hostname-override=${NODE}",
    "--node-ip=${ADDRESS}",
];

/// Whether everything of these nodes answers, and their kube-proxies work as wanted.
pub(super) fn is_up(nodes: &[Node], programs: &Programs, proxy: Proxy) -> bool {
    let is_wanted = |node: &Node| {
        let file = node.folder().join("conf/kube-proxy.yaml");
        let configured = fs::read_to_string(file).unwrap_or_default();
        configured.contains(&format!("mode: {}\n", proxy.name()))
    };
    nodes.iter().all(is_wanted) && nodes_are_ready(nodes, programs)
}

/// Starts all components in empty nodes; the first has the control plane.
pub(super) fn everything(nodes: &[Node], programs: &Programs, proxy: Proxy) -> Result<()> {
    let begun = Instant::now();
    let control_plane = nodes.first().context("there is a first node")?;
    pki::make()?;
    let start = |name: &str, args: &[&str]| daemon(control_plane, programs, name, args);
    let kubectl = |args: &[&str]| kubectl(control_plane, programs, args).is_ok();
    start("etcd", ETCD)?;
    start("kube-apiserver", APISERVER)?;
    for node in nodes {
        configure(node, proxy)?;
        daemon(node, programs, "containerd", &["--config=${FOLDER}/conf/containerd.toml"])?;
    }
    for node in nodes {
        wait("containerd", begun, || process::capture(&mut ctr(node, &["version"])).is_ok())?;
        for image in programs.images() {
            process::capture(ctr(node, &["images", "import"]).arg(&image))?;
        }
    }
    wait("kube-apiserver", begun, || kubectl(&["get", "--raw", "/readyz"]))?;
    start("kube-controller-manager", CONTROLLER_MANAGER)?;
    start("kube-scheduler", SCHEDULER)?;
    for node in nodes {
        daemon(node, programs, "kubelet", KUBELET)?;
        daemon(node, programs, "kube-proxy", &["--config=${FOLDER}/conf/kube-proxy.yaml"])?;
    }
    wait("every node", begun, || nodes_are_ready(nodes, programs))?;
    wait("default service account", begun, || kubectl(&["get", "serviceaccount", "default"]))
}

fn configure(node: &Node, proxy: Proxy) -> Result<()> {
    let holds_bridge = |folder: &&&str| Path::new(folder).join("bridge").is_file();
    let cni = CNI_FOLDERS.iter().find(holds_bridge).context("there are no CNI plugins")?;
    let conf = node.folder().join("conf");
    for (name, template) in CONFIGURATION {
        let text = node.filled(template).replace("${CNI_BIN}", cni).replace("${PROXY}", proxy.name());
        fs::write(conf.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    // Pods resolve no names.
    fs::write(conf.join("resolv.conf"), "").context("cannot write resolv.conf")
}

/// In a session of its own, its parent the node's first process: it outlives us and ends with the node.
fn daemon(node: &Node, programs: &Programs, name: &str, args: &[&str]) -> Result<()> {
    let file = node.folder().join("logs").join(name).with_extension("log");
    let log = File::create(&file).with_context(|| format!("cannot create {}", file.display()))?;
    let mut command = node.command("setsid");
    command.args(["--fork", name]).args(args.iter().map(|arg| node.filled(arg))).current_dir("/");
    programs.put_on_path(&mut command)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    process::run(&mut command)
}

fn ctr(node: &Node, args: &[&str]) -> Command {
    let mut command = node.command("ctr");
    command.args(["--namespace", "k8s.io"]).args(args);
    command
}

fn kubectl(node: &Node, programs: &Programs, args: &[&str]) -> Result<String> {
    let mut command = node.command("kubectl");
    programs.put_on_path(&mut command)?;
    command.env("KUBECONFIG", Path::new(STATE).join("conf/admin.kubeconfig")).args(args);
    process::capture(&mut command)
}

fn nodes_are_ready(nodes: &[Node], programs: &Programs) -> bool {
    let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    let Some(control_plane) = nodes.first() else { return false };
    nodes.iter().all(|node| {
        let status = kubectl(control_plane, programs, &["get", "node", &node.name(), "-o", path]);
        status.is_ok_and(|status| status == "True")
    })
}

fn wait(what: &str, begun: Instant, mut ready: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        if Instant::now() > deadline {
            bail!("{what} did not become ready in {} s", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(200));
    }
    eprintln!("cluster: {what}: ready after {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_placeholder_is_left_unfilled() {
        let args = [ETCD, APISERVER, CONTROLLER_MANAGER, SCHEDULER, KUBELET].concat();
        for text in CONFIGURATION.iter().map(|(_, template)| *template).chain(args) {
            for node in [Node::unheld(1), Node::unheld(2)] {
                let text = node.filled(text).replace("${CNI_BIN}", "").replace("${PROXY}", "");
                assert!(!text.contains("${"), "{text}");
            }
        }
    }
}
