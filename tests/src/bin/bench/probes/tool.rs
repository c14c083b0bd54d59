//! The probers: how each is started on a CPU of its own with the same targets, and what its process has used.
//!
//! Not here: what is made of it. A prober lives for one window: none profits from what it had before.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use world::node::NetNs;
use world::wait::wait_for;

use super::Handler;
use super::asker::{Asker, Asks};
use super::target::address;
use crate::{cpus, kernel};

/// Where blackbox_exporter listens and cloudprober shows its metrics: their usual ports, in a network of our own.
const BLACKBOX: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9115);
/// The longest wait for a program.
const SOON: Duration = Duration::from_secs(30);

/// What probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tool {
    Drainscope,
    BlackboxExporter,
    Cloudprober,
}

impl Tool {
    pub(crate) const ALL: [Self; 3] = [Self::Drainscope, Self::BlackboxExporter, Self::Cloudprober];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Drainscope => "drainscope",
            Self::BlackboxExporter => "blackbox_exporter",
            Self::Cloudprober => "cloudprober",
        }
    }
}

/// What it takes to start them.
#[derive(Debug)]
pub(crate) struct Kit {
    prober: PathBuf,
    blackbox: PathBuf,
    cloudprober: PathBuf,
    /// Of the probers' configuration files and log; it goes with this.
    folder: PathBuf,
    /// The CPU that is theirs.
    cpu: usize,
}

impl Kit {
    /// Our prober lies beside this program. An error names what is missing. The calling thread, and what it starts from now on, stay on another CPU than
    /// the probers.
    pub(crate) fn new(blackbox: &Path, cloudprober: &Path) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("find the own program")?;
        Self::of(&own.with_file_name("prober"), blackbox, cloudprober)
    }

    fn of(prober: &Path, blackbox: &Path, cloudprober: &Path) -> anyhow::Result<Self> {
        for (name, file) in
            [("our prober", prober), ("blackbox_exporter", blackbox), ("cloudprober", cloudprober)]
        {
            ensure!(
                file.is_file(),
                "{name} is missing: there is no {}; `cargo xtask bench probes` builds it",
                file.display()
            );
        }
        let [first, .., last] = cpus::usable()?[..] else {
            bail!("it needs two CPUs: one is the probers' alone")
        };
        cpus::stay_on(&[first])?;
        let folder = std::env::temp_dir().join(format!("drainscope-bench-probes-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let [prober, blackbox, cloudprober] = [prober, blackbox, cloudprober].map(Path::to_owned);
        Ok(Self { prober, blackbox, cloudprober, folder, cpu: last })
    }

    /// What the prober that ran last has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn spawn(
        &self,
        program: &Path,
        arguments: &[String],
        stdin: Stdio,
        stdout: Stdio,
    ) -> anyhow::Result<Prober> {
        let log = File::create(self.folder.join("log"))?;
        let mut command = NetNs::current()?.command(program);
        command.args(arguments).stdin(stdin).stdout(stdout).stderr(log);
        // A child has the CPUs of the thread that makes it.
        let own = cpus::usable()?;
        cpus::stay_on(&[self.cpu])?;
        let child = command.spawn();
        cpus::stay_on(&own)?;
        let child = child.with_context(|| format!("start {}", program.display()))?;
        Ok(Prober { child, told: None, asker: None })
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        // Nothing depends on it.
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// What a prober does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub(crate) handler: Handler,
    /// So many targets, each once a second.
    pub(crate) targets: u32,
    pub(crate) port: u16,
}

/// How late probes have begun; their results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Starts {
    pub(crate) probes: u64,
    pub(crate) failed: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// A running prober; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Prober {
    child: Child,
    told: Option<BufReader<ChildStdout>>,
    asker: Option<Asker>,
}

impl Prober {
    /// Starts `tool`.
    pub(crate) fn start(kit: &Kit, tool: Tool, work: Work) -> anyhow::Result<Self> {
        match tool {
            Tool::Drainscope => {
                let mut prober = kit.spawn(&kit.prober, &ours(work), Stdio::piped(), Stdio::piped())?;
                prober.told = prober.child.stdout.take().map(BufReader::new);
                Ok(prober)
            }
            Tool::Cloudprober => {
                let config = kit.folder.join("cloudprober.cfg");
                fs::write(&config, cloudprober(work))?;
                let arguments =
                    [format!("--config_file={}", config.display()), "--cloud_metadata=none".to_owned()];
                kit.spawn(&kit.cloudprober, &arguments, Stdio::null(), Stdio::null())
            }
            Tool::BlackboxExporter => Self::asked(kit, asks(work)),
        }
    }

    /// A blackbox_exporter that is asked for its health as often as it is for probes: what the mere asking costs.
    pub(crate) fn only_asked(kit: &Kit, work: Work) -> anyhow::Result<Self> {
        let paths = vec!["/-/healthy".to_owned()];
        Self::asked(kit, Asks { paths, good: "Healthy", ..asks(work) })
    }

    fn asked(kit: &Kit, asks: Asks) -> anyhow::Result<Self> {
        let config = kit.folder.join("blackbox.yml");
        fs::write(&config, BLACKBOX_CONFIG)?;
        let arguments =
            [format!("--config.file={}", config.display()), format!("--web.listen-address={BLACKBOX}")];
        let mut prober = kit.spawn(&kit.blackbox, &arguments, Stdio::null(), Stdio::null())?;
        let listens = || Ok(TcpStream::connect(BLACKBOX).is_ok());
        wait_for("blackbox_exporter listens", SOON, listens).with_context(|| kit.log())?;
        prober.asker = Some(Asker::start(asks)?);
        Ok(prober)
    }

    /// User and system time of its process so far.
    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        kernel::cpu_time(self.child.id())
    }

    /// Most memory that it has had.
    pub(crate) fn peak_bytes(&self) -> anyhow::Result<u64> {
        kernel::memory(self.child.id(), "VmHWM")
    }

    /// Good answers to what was asked for.
    pub(crate) fn answered(&self) -> u64 {
        self.asker.as_ref().map_or(0, Asker::answered)
    }

    /// Answers that say that a probe did not succeed.
    pub(crate) fn bad(&self) -> u64 {
        self.asker.as_ref().map_or(0, Asker::bad)
    }

    /// What ours says of the probes that have begun since it was last asked.
    pub(crate) fn take_starts(&mut self) -> anyhow::Result<Option<Starts>> {
        let (Some(told), Some(stdin)) = (&mut self.told, &mut self.child.stdin) else { return Ok(None) };
        stdin.write_all(b"\n")?;
        let mut line = String::new();
        told.read_line(&mut line)?;
        serde_json::from_str(&line).map(Some).with_context(|| format!("our prober says {line:?}"))
    }

    /// Ends it; an error if it has ended by itself.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        let asked = self.asker.take().map_or(Ok(()), Asker::end);
        if let Some(status) = self.child.try_wait()? {
            bail!("the prober has ended by itself: {status}");
        }
        asked
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn ours(work: Work) -> [String; 3] {
    [work.handler.word().to_owned(), work.port.to_string(), work.targets.to_string()]
}

const BLACKBOX_CONFIG: &str = "modules:
  http:
    prober: http
    timeout: 1s
    http: {preferred_ip_protocol: ip4, ip_protocol_fallback: false}
  tcp:
    prober: tcp
    timeout: 1s
    tcp: {preferred_ip_protocol: ip4, ip_protocol_fallback: false}
";

fn asks(work: Work) -> Asks {
    let target = |number| match work.handler {
        Handler::Http => format!("http://{}:{}/healthz", address(number), work.port),
        Handler::Tcp => format!("{}:{}", address(number), work.port),
    };
    let module = work.handler.word();
    Asks {
        server: BLACKBOX,
        rate: work.targets,
        paths: (0..work.targets)
            .map(|number| format!("/probe?module={module}&target={}", target(number)))
            .collect(),
        good: "\nprobe_success 1\n",
    }
}

/// Begins one target a millisecond, the least that it can. Its results are exported every 10 s, after a window's end; to a file they would go too, unless another
/// surfacer is named.
fn cloudprober(work: Work) -> String {
    let hosts: Vec<String> = (0..work.targets).map(|number| address(number).to_string()).collect();
    let (sort, path) = match work.handler {
        Handler::Http => ("HTTP", "relative_url: \"/healthz\""),
        Handler::Tcp => ("TCP", ""),
    };
    format!(
        "probe {{\n  name: \"bench\"\n  type: {sort}\n  interval: \"1s\"\n  timeout: \"900ms\"\n  targets {{ host_names: \"{}\" }}\n  \
         {}_probe {{ port: {} interval_between_targets_msec: 1 {path} }}\n}}\nsurfacer {{ type: PROMETHEUS }}\n",
        hosts.join(","),
        work.handler.word(),
        work.port
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_peer_is_named_with_what_mends_it() {
        let own = std::env::current_exe().expect("the own program");
        let none = Path::new("/none/such");
        for (prober, blackbox, cloudprober, name) in [
            (none, own.as_path(), own.as_path(), "our prober"),
            (&own, none, &own, "blackbox_exporter"),
            (&own, &own, none, "cloudprober"),
        ] {
            let error = Kit::of(prober, blackbox, cloudprober).expect_err("it is not there");
            let expected =
                format!("{name} is missing: there is no /none/such; `cargo xtask bench probes` builds it");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn every_tool_is_told_of_the_same_targets() {
        let work = |handler| Work { handler, targets: 300, port: 7 };
        let asks = asks(work(Handler::Tcp));
        assert_eq!((asks.rate, asks.paths.len()), (300, 300));
        assert_eq!(asks.paths[299], "/probe?module=tcp&target=127.1.1.44:7");
        let text = cloudprober(work(Handler::Http));
        assert!(text.contains("\"127.1.0.1,127.1.0.2,") && text.contains(",127.1.1.44\""), "{text}");
        assert!(text.contains("http_probe { port: 7 "), "{text}");
        assert_eq!(ours(work(Handler::Http)), ["http", "7", "300"]);
    }
}
