//! Puts the agent together, runs it, and ends it in order: sources, driver, servers, signals. The only place that knows
//! all parts.

use crate::args::LogFormat;
use crate::clock::mono_now;
use crate::config::Config;
use crate::driver::announce::Announcer;
use crate::driver::{Driver, Links, Parts};
use crate::host::cgroup::{self, Hierarchy};
use crate::host::conntrack;
use crate::host::rules::{self, Watched};
use crate::http::{self, App, Start, server};
use crate::journal::Journal;
use crate::kernel::{Kernel, KernelConfig, PinError, Pins};
use crate::kube::client::{Api, ConnectError};
use crate::kube::events::{self, outbox::Outbox};
use crate::kube::namespaces;
use crate::kube::probed::Source;
use crate::kube::retry::Timing;
use crate::kube::table::WatchTable;
use crate::kube::watch::{Shared, Watch};
use crate::kubelet::{self, Readings};
use crate::mirror::Mirror;
use crate::mirror::runner::{KUBE_PROBE, Runner};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use probe_core::event::{Event, Fact, WatchHealth};
use probe_core::limits::Limits;
use probe_core::monitor::Monitor;
use probe_core::termination::Termination;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// How long the watches of a namespace outlive its last pod here: the traffic tail of a pod that is gone is settled by
/// then.
const LINGER: Duration = Duration::from_secs(120);

/// At the end, how long answers under way may take: the rest of an event log has to reach its reader.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The agent cannot start, or its core has gone; it exits with status 2.
#[derive(Debug, Error)]
pub enum RunError {
    /// No way to the API.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A server's address cannot be had.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A thread cannot be had.
    #[error("a thread cannot be started: {0}")]
    Thread(io::Error),
    /// Signals cannot be received.
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    /// The driver's task ended by itself, which is a defect.
    #[error("the driver ended: {0}")]
    Driver(tokio::task::JoinError),
}

/// What there is of the kernel side, and why not more.
pub struct KernelSide {
    /// The loaded programs.
    pub kernel: Option<Kernel>,
    /// Why there are none.
    pub error: Option<String>,
    /// The cgroup hierarchy.
    pub hierarchy: Option<Hierarchy>,
    /// Why there is none.
    pub cgroup_error: Option<String>,
    /// Why nothing is pinned, if something shall be.
    pub pin_error: Option<String>,
    /// What the agent before this one saved of itself.
    pub saved: Option<Vec<u8>>,
}

impl KernelSide {
    /// Loads and attaches what this kernel can run, or takes over what an agent before this one left. Takes a second or
    /// two and blocks meanwhile. An error only if another agent is at work here.
    pub fn load(config: &Config) -> Result<Self, PinError> {
        if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
            // Needed before 5.11 only; where it is, loading fails and says so.
            tracing::info!(%error, "RLIMIT_MEMLOCK cannot be raised");
        }
        let (hierarchy, cgroup_error) = match cgroup::hierarchy(&config.cgroup_root) {
            Ok(hierarchy) => (Some(hierarchy), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let settings = KernelConfig {
            cgroup_root: config.cgroup_root.clone(),
            debug_log: config.kernel_log,
            silence: config.silence,
            ring_bytes: Some(config.ring_bytes),
        };
        let (pins, pin_error) = match config.pin_dir.as_deref().map(Pins::open).transpose() {
            Ok(pins) => (pins, None),
            Err(error @ PinError::Busy(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "nothing is pinned: what happens while no agent runs is not counted");
                (None, Some(error.to_string()))
            }
        };
        let saved = pins.as_ref().and_then(Pins::saved);
        let (kernel, error) = match Kernel::load(&settings, pins) {
            Ok(kernel) => {
                tracing::info!(heritage = ?kernel.heritage(), "kernel programs run");
                (Some(kernel), None)
            }
            Err(error) => {
                tracing::error!(%error, "no kernel program runs: terminations are seen through the API alone");
                (None, Some(error.to_string()))
            }
        };
        Ok(Self { kernel, error, hierarchy, cgroup_error, pin_error, saved })
    }

    /// No kernel side, for this reason.
    #[must_use]
    pub fn none(why: &str) -> Self {
        Self {
            kernel: None,
            error: Some(why.to_owned()),
            hierarchy: None,
            cgroup_error: None,
            pin_error: None,
            saved: None,
        }
    }
}

/// A running agent.
pub struct Running {
    /// Where metrics and health are served.
    pub listen: SocketAddr,
    /// Where the API is served.
    pub api_listen: SocketAddr,
    /// The driver.
    pub links: Links,
    /// Health of the watches.
    pub table: Arc<WatchTable>,
    stop: watch::Sender<bool>,
    driver: JoinHandle<Vec<Termination>>,
    sources: JoinSet<()>,
    servers: JoinSet<()>,
}

impl Running {
    /// Stops sources, driver and servers in this order; the terminations that were not over yet.
    pub async fn stop(mut self) -> Result<Vec<Termination>, RunError> {
        self.sources.abort_all();
        self.stop.send_replace(true);
        let unfinished = self.driver.await.map_err(RunError::Driver)?;
        let answered = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_ANSWERS, answered).await.is_err() {
            tracing::debug!("a client was cut off in the middle of an answer");
        }
        Ok(unfinished)
    }
}

/// Starts all parts. An API that cannot be reached is no error: the watches keep trying.
pub async fn start(
    config: &Config,
    mut side: KernelSide,
    timing: Timing,
    format: LogFormat,
) -> Result<Running, RunError> {
    let api = Api::connect(config.kubeconfig.as_deref()).await?;
    let public = bind(config.listen).await?;
    let private = bind(config.api_listen).await?;
    if !config.api_listen.ip().is_loopback() {
        tracing::warn!(address = %config.api_listen, "the API shows clients' addresses and is not on loopback");
    }
    let local = |listener: &tokio::net::TcpListener, asked| listener.local_addr().unwrap_or(asked);
    let (listen, api_listen) = (local(&public, config.listen), local(&private, config.api_listen));

    let hooks = side.kernel.as_ref().map(|kernel| kernel.hooks().to_vec()).unwrap_or_default();
    let pins = side.kernel.as_ref().and_then(|kernel| {
        let directory = kernel.pins()?.directory().to_owned();
        Some((directory, kernel.heritage().clone()))
    });
    let start = Start {
        node: config.node_name.clone(),
        at: mono_now(),
        kernel_error: side.error,
        hooks,
        cgroup_error: side.cgroup_error,
        pins,
        pin_error: side.pin_error,
        probes: config.probes,
    };
    let kernel_log = side.kernel.as_mut().filter(|_| config.kernel_log).and_then(Kernel::take_log);
    let mut monitor = monitor(config, side.kernel.is_some(), side.saved.as_deref());
    let known = monitor.known();
    for (watch, namespace) in known.watches.clone() {
        // It was in sync when the agent before this one died; what changed since then comes late.
        let fact = Fact::Watch { watch, namespace, health: WatchHealth::Broken };
        monitor.handle(Event { at: mono_now(), fact });
    }
    let outbox = config.events.then(Arc::<Outbox>::default);
    let (asker, questions, lookups) = conntrack::queue();
    let (driver, links) = Driver::new(Parts {
        announcer: outbox.as_ref().map(|outbox| Announcer::new(&monitor, Arc::clone(outbox))),
        monitor,
        kernel: side.kernel,
        hierarchy: side.hierarchy,
        journal: Journal { format },
        asker: config.conntrack.then_some(asker),
        kernel_log: kernel_log.map(|mut log| Box::new(move || log.flush()) as Box<dyn FnMut() + Send>),
        own_pod: config.pod_uid.clone().or_else(cgroup::own_pod_uid),
    });
    let (stop, stopping) = watch::channel(false);
    let driver = tokio::spawn(driver.run(stopping.clone()));

    let table = Arc::new(WatchTable::default());
    let shared = Shared { api, sink: links.sink.clone(), table: Arc::clone(&table), timing };
    let (wanted, namespaces) = watch::channel::<Option<BTreeSet<String>>>(None);
    let mut sources = JoinSet::new();
    if let Some(outbox) = outbox.clone() {
        sources.spawn(events::run(outbox, shared.api.clone(), timing, config.node_name.clone()));
    }
    let pods = known.pods.iter().map(|(uid, key)| (key.clone(), uid.clone()));
    let mirror = mirror(config);
    sources.spawn(Runner::new(mirror.clone(), KUBE_PROBE).with_runtime(config.cri_socket.as_deref()).run());
    let probed = Source::new(mirror.clone(), config.probes);
    sources.spawn(
        Watch::pods(shared.clone(), &config.node_name, wanted).remembering(pods).probing(probed).run(),
    );
    sources.spawn(async move { namespaces::run(shared, namespaces, LINGER, &known).await });

    let rules = follow_rules(config, &links)?;
    if config.conntrack {
        questions.start(links.sink.clone()).map_err(RunError::Thread)?;
    }

    let app = App {
        links: links.clone(),
        table: Arc::clone(&table),
        rules,
        lookups,
        outbox,
        mirror,
        readings: ask_kubelet(config, &links, &mut sources),
        start: Arc::new(start),
    };
    let servers = serve(app, public, private, stopping);
    tracing::info!(node = config.node_name, %listen, %api_listen, "drainscope runs");
    Ok(Running { listen, api_listen, links, table, stop, driver, sources, servers })
}

fn serve(
    app: App,
    public: tokio::net::TcpListener,
    private: tokio::net::TcpListener,
    stopping: watch::Receiver<bool>,
) -> JoinSet<()> {
    let mut servers = JoinSet::new();
    let limits = server::Limits::default;
    servers.spawn(server::serve(public, http::public(app.clone()), limits(), stopping.clone()));
    servers.spawn(server::serve(private, http::private(app), limits(), stopping));
    servers
}

/// The core as the agent before this one left it, or a new one.
fn monitor(config: &Config, kernel: bool, saved: Option<&[u8]>) -> Monitor {
    let limits = limits(config, kernel);
    match saved.filter(|_| kernel).map(|saved| Monitor::restore(saved, limits, config.node_name.clone())) {
        Some(Ok(monitor)) => return monitor,
        Some(Err(error)) => {
            tracing::warn!(%error, "what the agent before this one had counted cannot be taken over");
        }
        None => {}
    }
    Monitor::new(limits, config.node_name.clone())
}

/// Follows the service proxy's rules, if that is wanted.
fn follow_rules(config: &Config, links: &Links) -> Result<Watched, RunError> {
    let rules = Watched::default();
    if let Some(bytes) = config.proxy_rules {
        rules::start(links.sink.clone(), rules.clone(), bytes).map_err(RunError::Thread)?;
    }
    Ok(rules)
}

/// Reads the kubelet's own verdicts, if somebody said where it is.
fn ask_kubelet(config: &Config, links: &Links, sources: &mut JoinSet<()>) -> Readings {
    let readings = Readings::default();
    if let Some(settings) = config.kubelet.clone() {
        let (kubeconfig, sink) = (config.kubeconfig.clone(), links.sink.clone());
        sources.spawn(kubelet::run(settings, kubeconfig, sink, readings.clone()));
    }
    readings
}

/// No pod is mirrored yet.
fn mirror(config: &Config) -> Mirror {
    let mirror = Mirror::new(config.mirror);
    let ttl_ns = u64::try_from(config.series_ttl.as_nanos()).unwrap_or(u64::MAX);
    mirror.manager().limit_series(config.series_limit, ttl_ns);
    mirror
}

/// Without a kernel side there are no slots to give away: pods are known, but not watched.
fn limits(config: &Config, kernel: bool) -> Limits {
    let mut limits = Limits {
        history: config.history,
        series: config.series_limit,
        series_ttl_ns: u64::try_from(config.series_ttl.as_nanos()).unwrap_or(u64::MAX),
        ..Limits::default()
    };
    if !kernel {
        (limits.slots, limits.containers) = (0, 0);
    }
    limits
}

async fn bind(address: SocketAddr) -> Result<tokio::net::TcpListener, RunError> {
    server::bind(address).await.map_err(|error| RunError::Listen { address, error })
}

/// Runs the agent until a signal. After SIGTERM it serves on until the node's other pods are gone or its grace is over, so
/// that a node's last terminations are seen too; a second signal, or SIGINT, ends it at once.
pub async fn agent(config: &Config, side: KernelSide, format: LogFormat) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let mut running = start(config, side, Timing::default(), format).await?;
    let told = tokio::select! {
        _ = terminate.recv() => true,
        _ = interrupt.recv() => false,
        // It ends by itself only by a panic, and then nothing is counted any more.
        ended = &mut running.driver => return ended.map(drop).map_err(RunError::Driver),
    };
    if told {
        let left = *running.links.others.borrow();
        tracing::info!(?left, grace = ?config.grace, "SIGTERM: serving on while other pods are left on the node");
        tokio::select! {
            _ = running.links.others.wait_for(|left| *left == Some(0)) => {}
            () = tokio::time::sleep(config.grace) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
    let unfinished = running.stop().await?;
    tracing::info!(unfinished = unfinished.len(), "drainscope ends");
    for termination in &unfinished {
        Journal { format }.termination(termination);
    }
    Ok(())
}
