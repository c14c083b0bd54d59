//! A run: starts a thread for each client, stops them, merges their tallies.
//!
//! The threads share one source port counter, the end of the run, and a ticket counter if the attempts are bounded; each has its own counters
//! for progress. A client's local trouble ends the whole run.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use super::attempt::ClientKind;
use super::client::{Client, Schedule};
use super::clock::{SECOND_NS, nanos, now_ns};
use super::config::{Config, ConfigError};
use super::connection::LocalError;
use super::log::Writer;
use super::ports::Ports;
use super::summary::Summary;
use super::tally::Tally;
use super::tls::{Tls, client_config};

/// Clients need little stack; the default of 2 MiB would cost address space only, but with thousands of clients that shows.
const STACK_BYTES: usize = 256 * 1024;

/// Why a run could not begin or go on. Failed attempts are none of these.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log cannot be written, or a thread or the port range cannot be had.
    #[error("load generator: {0}")]
    Io(#[from] io::Error),
    /// No connection could be tried, for a reason of this machine.
    #[error("load generator: {0}")]
    Local(String),
    /// TLS cannot be had at all.
    #[error("load generator: {0}")]
    Tls(#[from] rustls::Error),
    /// A client's thread has panicked.
    #[error("a client's thread has panicked")]
    Panic,
}

impl From<LocalError> for LoadError {
    fn from(error: LocalError) -> Self {
        Self::Local(error.to_string())
    }
}

/// What all clients see.
#[derive(Debug)]
pub(super) struct Shared {
    end_ns: AtomicU64,
    /// Attempts that may still begin, if they are bounded.
    tickets: Option<AtomicU64>,
    ports: Ports,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Shared {
    pub(super) fn end_ns(&self) -> u64 {
        self.end_ns.load(Ordering::Relaxed)
    }

    pub(super) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The state of a new connection, if this run's speak TLS.
    pub(super) fn tls(&self, server: SocketAddr) -> Result<Option<Tls>, LoadError> {
        let Some(config) = &self.tls else { return Ok(None) };
        Ok(Some(Tls::new(Arc::clone(config), server)?))
    }

    /// Whether one more attempt may begin.
    pub(super) fn take_ticket(&self) -> bool {
        let Some(tickets) = &self.tickets else { return true };
        tickets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// No attempt begins from now on.
    fn stop(&self) {
        self.end_ns.fetch_min(now_ns(), Ordering::Relaxed);
    }
}

/// One client's counters for whoever watches the run; on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Live {
    ok: AtomicU64,
    failed: AtomicU64,
}

impl Live {
    pub(super) fn count(&self, ok: bool) {
        let counter = if ok { &self.ok } else { &self.failed };
        // Only the client itself writes: a plain addition will do.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// Attempts that have ended so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// With a complete response.
    pub ok: u64,
    /// Without.
    pub failed: u64,
}

/// Ends a run from another thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Shared>);

impl Stopper {
    /// No attempt begins from now on; those under way are finished, within their timeouts.
    pub fn stop(&self) {
        self.0.stop();
    }
}

/// A run under way. Dropping it stops the run but does not wait for it.
#[derive(Debug)]
pub struct Running {
    config: Arc<Config>,
    shared: Arc<Shared>,
    live: Arc<[Live]>,
    start_ns: u64,
    start_unix_ns: u64,
    clients: Vec<(ClientKind, JoinHandle<Result<Tally, LoadError>>)>,
}

/// Runs to the end.
pub fn run(config: Config) -> Result<Summary, LoadError> {
    start(config)?.wait()
}

/// Starts the clients, in the network namespace of the calling thread.
pub fn start(config: Config) -> Result<Running, LoadError> {
    config.check()?;
    let log = config.log.as_ref().map(|path| {
        // Emptied first, then only appended to: each client writes through its own handle.
        File::create(path)?;
        OpenOptions::new().append(true).open(path)
    });
    let log = log.transpose()?;
    let ports = Ports::new(&config)?;
    let start_ns = now_ns();
    let start_unix_ns = SystemTime::now().duration_since(UNIX_EPOCH).map(nanos).unwrap_or_default();
    let end_ns = config.duration.map_or(u64::MAX, |duration| start_ns.saturating_add(nanos(duration)));
    let shared = Arc::new(Shared {
        end_ns: AtomicU64::new(end_ns),
        tickets: config.max_requests.map(AtomicU64::new),
        ports,
        tls: config.tls.then(client_config).transpose()?,
    });
    let live = (0..config.keepalive + config.new).map(|_| Live::default()).collect();
    let mut running =
        Running { config: Arc::new(config), shared, live, start_ns, start_unix_ns, clients: Vec::new() };
    running.spawn_all(log.as_ref())?;
    Ok(running)
}

impl Running {
    fn spawn_all(&mut self, log: Option<&File>) -> Result<(), LoadError> {
        let (keepalive, new) = (self.config.keepalive, self.config.new);
        for index in 0..keepalive {
            self.spawn(
                ClientKind::Keepalive,
                index,
                schedule(self.config.keepalive_rate, self.start_ns, index, keepalive),
                log,
            )?;
        }
        for index in 0..new {
            self.spawn(
                ClientKind::New,
                keepalive + index,
                schedule(self.config.new_rate, self.start_ns, index, new),
                log,
            )?;
        }
        Ok(())
    }

    fn spawn(
        &mut self,
        kind: ClientKind,
        id: u32,
        schedule: Option<Schedule>,
        log: Option<&File>,
    ) -> Result<(), LoadError> {
        let (config, shared, live) =
            (Arc::clone(&self.config), Arc::clone(&self.shared), Arc::clone(&self.live));
        let log = Writer::new(log.map(File::try_clone).transpose()?);
        let start_ns = self.start_ns;
        let client = move || {
            let tally = Tally::new(&config, start_ns, schedule.is_some());
            let live =
                usize::try_from(id).ok().and_then(|id| live.get(id)).expect("each client has its counters");
            let client = Client { config: &config, shared: &shared, live, id, kind, schedule, log, tally };
            let result = client.run();
            if result.is_err() {
                shared.stop();
            }
            result
        };
        let thread =
            std::thread::Builder::new().name(format!("client-{id}")).stack_size(STACK_BYTES).spawn(client)?;
        self.clients.push((kind, thread));
        Ok(())
    }

    /// Attempts that have ended so far.
    pub fn progress(&self) -> Progress {
        self.live.iter().fold(Progress::default(), |sum, live| Progress {
            ok: sum.ok + live.ok.load(Ordering::Relaxed),
            failed: sum.failed + live.failed.load(Ordering::Relaxed),
        })
    }

    /// What can stop it from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.shared))
    }

    /// No attempt begins from now on; those under way are finished, within their timeouts.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Waits for the end of the run and adds it up.
    pub fn wait(mut self) -> Result<Summary, LoadError> {
        let mut keepalive = Tally::new(&self.config, self.start_ns, self.config.keepalive_rate.is_some());
        let mut new = Tally::new(&self.config, self.start_ns, self.config.new_rate.is_some());
        let mut first_error = None;
        for (kind, thread) in std::mem::take(&mut self.clients) {
            match (thread.join(), kind) {
                (Ok(Ok(tally)), ClientKind::Keepalive) => keepalive.merge(&tally),
                (Ok(Ok(tally)), ClientKind::New) => new.merge(&tally),
                (Ok(Err(error)), _) => drop(first_error.get_or_insert(error)),
                (Err(_), _) => drop(first_error.get_or_insert(LoadError::Panic)),
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        let (keepalive_summary, new_summary) =
            (keepalive.summary(self.config.keepalive), new.summary(self.config.new));
        let mut total = keepalive;
        total.merge(&new);
        let (ports, connections) = (self.shared.ports(), total.connections);
        let total_summary = total.summary(self.config.keepalive + self.config.new);
        let refused_or_made = connections + connect_failures(&total_summary);
        Ok(Summary {
            target: self.config.target,
            start_ns: self.start_ns,
            end_ns: total.end_ns,
            start_unix_ns: self.start_unix_ns,
            keepalive: keepalive_summary,
            new: new_summary,
            ports_skipped: ports.used().saturating_sub(refused_or_made),
            ports_reused: ports.used() > ports.pairs(),
            windows: total.into_windows(),
            total: total_summary,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// The first request of each client is due a little later than that of the one before, so that the clients do not march in step.
fn schedule(rate: Option<f64>, start_ns: u64, index: u32, clients: u32) -> Option<Schedule> {
    let rate = rate?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the rate is checked to lie between 0.001 and 1e6"
    )]
    let interval_ns = ((SECOND_NS as f64 / rate) as u64).max(1);
    let offset_ns = interval_ns / u64::from(clients.max(1)) * u64::from(index);
    Some(Schedule { next_ns: start_ns + offset_ns, interval_ns })
}

fn connect_failures(total: &super::summary::ByKind) -> u64 {
    use super::attempt::ErrorKind::{ConnectRefused, ConnectReset, ConnectTimeout, ConnectUnreachable};
    let count = |error| total.by_error.get(&error).copied().unwrap_or(0);
    [ConnectRefused, ConnectReset, ConnectTimeout, ConnectUnreachable].into_iter().map(count).sum()
}
