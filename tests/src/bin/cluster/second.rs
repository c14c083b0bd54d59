//! The second node, as the first sees it: its network, and the programs that run in it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use world::agent::Ports;
use world::node::NetNs;

use crate::kubelet;

/// A node of the cluster that is not this program's own.
pub(crate) struct Node {
    /// Of the process that holds its namespaces.
    pid: i32,
    network: NetNs,
}

impl Node {
    /// What `cargo xtask cluster up --nodes 2` left word of.
    pub(crate) fn find(state: &Path) -> anyhow::Result<Self> {
        let file = state.join("node-2/node.pid");
        let pid = fs::read_to_string(&file).context("the cluster has one node")?;
        let pid = pid.trim().parse().with_context(|| format!("{} holds no pid", file.display()))?;
        Ok(Self { pid, network: NetNs::of_process(pid)? })
    }

    /// A program in it.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--mount", "--"]).arg(program);
        command
    }

    /// Runs this as if from a process of it.
    pub(crate) fn inside<T: Send>(
        &self,
        action: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        self.network.inside(action)?
    }

    /// What its agent says; asked from [`Self::inside`].
    pub(crate) fn agent() -> Ports {
        Ports::new(std::path::PathBuf::new())
    }

    /// Gives it the agent's image.
    pub(crate) fn import(&self, image: &Path) -> anyhow::Result<()> {
        let mut ctr = self.command("ctr");
        let status = ctr.args(["--namespace", "k8s.io", "images", "import"]).arg(image).status();
        ensure!(status.context("start ctr")?.success(), "the second node did not take the image");
        Ok(())
    }

    /// Its kube-proxy goes on from where it stopped when this is dropped.
    pub(crate) fn stop_proxy(&self) -> anyhow::Result<Stopped> {
        let configuration = "node-2/conf/kube-proxy.yaml";
        let is_it = |words: &[String]| {
            words.first().is_some_and(|name| name == "kube-proxy")
                && words.iter().any(|word| word.ends_with(configuration))
        };
        let pid = kubelet::process(is_it)?.context("the second node has no kube-proxy")?.0;
        let pid = Pid::from_raw(pid);
        kill(pid, Signal::SIGSTOP).context("stop kube-proxy")?;
        Ok(Stopped(pid))
    }
}

/// A process that does not run.
pub(crate) struct Stopped(Pid);

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _continued = kill(self.0, Signal::SIGCONT);
    }
}
