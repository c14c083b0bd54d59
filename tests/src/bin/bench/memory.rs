//! Memory of an agent that watches 250 pods: real ones, each with its network namespace, cgroups, server and addresses, owned by 50
//! Deployments with a Service each, in 10 namespaces. The pods' objects carry an annotation of the size of a real pod's managed fields.
//!
//! `memory.current` is that of a cgroup of the agent's own, in the v2 tree where the memory controller is there, else in the v1 tree; it
//! includes the kernel's memory for the BPF maps. Taken after the first lists and three scrapes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use world::PodTemplate;
use world::controllers::Deployment;
use world::node::{Owner, v2_root};

use crate::kernel;
use crate::report::{Kind, Row};
use crate::site::{Site, Watcher};

const NAMESPACES: usize = 10;
const DEPLOYMENTS: usize = 5;
const REPLICAS: usize = 5;
/// Pods on the node that the budget is given for.
pub(crate) const PODS: usize = NAMESPACES * DEPLOYMENTS * REPLICAS;
/// About what managedFields take in a real pod.
const ANNOTATION_BYTES: usize = 6 * 1024;
const SCRAPES: usize = 3;
/// The longest wait for all pods to run.
const PODS_LIMIT: Duration = Duration::from_secs(180);
const PREFIX: &str = "drainscope-benchmemory";

/// Makes the pods, starts an agent in a cgroup of its own and measures both.
pub(crate) fn measure(site: &mut Site) -> anyhow::Result<Row> {
    site.set_agent(false)?;
    let began = Instant::now();
    let _pods = make_pods(site)?;
    eprintln!("bench: {PODS} pods run after {:.0} s", began.elapsed().as_secs_f64());
    let cgroup = MemoryCgroup::create();
    let program = match &cgroup {
        Ok(cgroup) => cgroup.wrap(&site.agent_program, site.world.node().directory())?,
        Err(_) => site.agent_program.clone(),
    };
    let watcher = Watcher::start(&site.world, &program, PODS as u64)?;
    for _ in 0..SCRAPES {
        watcher.agent.metrics()?;
    }
    let pid = watcher.agent.pid();
    let rss_bytes = kernel::memory(pid, "VmRSS")?;
    let rss_peak_bytes = kernel::memory(pid, "VmHWM")?;
    let current = cgroup.as_ref().ok().map(MemoryCgroup::current).transpose()?;
    // Dropped before its cgroup.
    drop(watcher);
    Ok(Row {
        rss_bytes: Some(rss_bytes),
        rss_peak_bytes: Some(rss_peak_bytes),
        memory_current_bytes: current,
        memory_current_reason: cgroup.err().map(|error| format!("{error:#}")),
        ..Row::new("250-pods", Kind::Memory)
    })
}

fn make_pods(site: &Site) -> anyhow::Result<Vec<Deployment>> {
    let mut deployments = Vec::new();
    for namespace in 0..NAMESPACES {
        let namespace = format!("team-{namespace}");
        for number in 0..DEPLOYMENTS {
            let name = format!("app-{number}");
            let mut template =
                PodTemplate { readiness_path: None, ..PodTemplate::testserver(&name, &[]) }.to_value();
            template["metadata"]["annotations"]["example.com/size"] = "x".repeat(ANNOTATION_BYTES).into();
            site.world.service(&namespace, &name, &name)?;
            let world = &site.world;
            deployments.push(Deployment::create(
                world.store(),
                world.node_name(),
                &namespace,
                &name,
                REPLICAS,
                &template,
            )?);
        }
    }
    let deadline = Instant::now() + PODS_LIMIT;
    for deployment in &deployments {
        deployment
            .wait_ready(deadline.saturating_duration_since(Instant::now()))
            .with_context(|| format!("{:?}", site.world.failures()))?;
    }
    Ok(deployments)
}

/// A cgroup with the memory controller, made for the agent and removed with this.
struct MemoryCgroup {
    directory: PathBuf,
    usage: &'static str,
}

impl MemoryCgroup {
    fn create() -> anyhow::Result<Self> {
        let owner = Owner::this_process(PREFIX)?;
        let v2 = Self::make(&v2_root()?, &owner, "memory.current");
        v2.or_else(|error| Self::make(&v1_root().context(error)?, &owner, "memory.usage_in_bytes"))
    }

    fn make(parent: &Path, owner: &Owner, usage: &'static str) -> anyhow::Result<Self> {
        for leftover in Owner::leftovers(PREFIX, parent)? {
            fs::remove_dir(&leftover).with_context(|| format!("remove {}", leftover.display()))?;
        }
        let directory = parent.join(owner.name());
        fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        let cgroup = Self { directory, usage };
        ensure!(
            cgroup.directory.join(usage).is_file(),
            "no {usage} in the cgroups below {}",
            parent.display()
        );
        Ok(cgroup)
    }

    /// A program that enters the cgroup and then becomes `program`.
    fn wrap(&self, program: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
        let script = directory.join("agent-in-its-cgroup");
        let (procs, program) = (self.directory.join("cgroup.procs"), program.display());
        fs::write(
            &script,
            format!("#!/bin/sh\necho $$ >'{}' && exec '{program}' \"$@\"\n", procs.display()),
        )?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700))?;
        Ok(script)
    }

    fn current(&self) -> anyhow::Result<u64> {
        let file = self.directory.join(self.usage);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        text.trim().parse().with_context(|| format!("{}: {text:?}", file.display()))
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // What cannot be removed now is a leftover of a dead owner at the next start.
        drop(fs::remove_dir(&self.directory));
    }
}

fn v1_root() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let is_it = |fields: &Vec<&str>| {
        fields.get(2) == Some(&"cgroup")
            && fields.get(3).is_some_and(|options| options.split(',').any(|one| one == "memory"))
    };
    let mount = fields.find(is_it).context("no memory controller of cgroup v1 is mounted")?;
    Ok(PathBuf::from(mount[1]))
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory, far below 2^53")]
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
