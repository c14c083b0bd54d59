//! The HTTP server of the stand-in: a loopback port, its own thread and runtime, so that sync and async tests alike can use it.
//!
//! In: requests of an unmodified Kubernetes client. Out: lists, watches, objects, minimal discovery, `Status` errors. It can stop listening and
//! listen again on the same port ([`Server::stop`], [`Server::start`]). Plain HTTP only: a kubeconfig with `http://` is all a client needs.

mod answer;
mod listener;
mod write;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

use super::audit::{Audit, RequestSeen};
use super::faults::Faults;
use super::list::Pages;
use super::store::Store;

/// How long a command to the server's thread may take; it only opens or closes sockets.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// How the server is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// How often an idle watch gets a bookmark.
    pub bookmark_interval: Duration,
    /// If set, requests without this bearer token are answered 401, until [`Server::set_token`] takes another one.
    pub token: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        // The real server sends a bookmark about every minute.
        Self { address, bookmark_interval: Duration::from_secs(60), token: None }
    }
}

/// What the requests work on.
#[derive(Debug)]
struct Service {
    store: Store,
    faults: Faults,
    options: Options,
    token: Mutex<Option<String>>,
    audit: Audit,
    pages: Pages,
    open_watches: AtomicUsize,
}

impl Service {
    fn token(&self) -> Option<String> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
enum Command {
    Stop(SyncSender<io::Result<()>>),
    Start(SyncSender<io::Result<()>>),
}

/// A running API server stand-in; dropping it closes the port and every connection.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    service: Arc<Service>,
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `store` on a free loopback port with the default options.
    pub fn serve(store: &Store) -> io::Result<Self> {
        Self::serve_with(store, Options::default())
    }

    /// Serves `store`. The server lives in the network namespace of the calling thread.
    pub fn serve_with(store: &Store, options: Options) -> io::Result<Self> {
        let service = Arc::new(Service {
            store: store.clone(),
            faults: Faults::new(),
            token: Mutex::new(options.token.clone()),
            options,
            audit: Audit::default(),
            pages: Pages::default(),
            open_watches: AtomicUsize::new(0),
        });
        let (commands, received) = mpsc::channel(1);
        let (report, ready) = sync_channel(1);
        let its_service = Arc::clone(&service);
        let thread = std::thread::Builder::new()
            .name("apiserver".to_owned())
            .spawn(move || listener::run(its_service, received, &report))?;
        let address = wait_for(&ready)?;
        Ok(Self { address, service, commands: Some(commands), thread: Some(thread) })
    }

    /// The address it listens on; the same over every stop and start.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig for this server.
    pub fn kubeconfig(&self) -> String {
        let token = self.service.token().map_or_else(String::new, |token| format!("token: {token}"));
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: world\n\
             clusters: [{{name: world, cluster: {{server: 'http://{}'}}}}]\n\
             users: [{{name: agent, user: {{{token}}}}}]\n\
             contexts: [{{name: world, context: {{cluster: world, user: agent, namespace: default}}}}]\n",
            self.address
        )
    }

    /// From now on this is the only token that is taken; open watches go on, as on a real server.
    pub fn set_token(&self, token: &str) {
        *self.service.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.to_owned());
    }

    /// The store that it serves.
    pub fn store(&self) -> &Store {
        &self.service.store
    }

    /// The switches of its fault injection.
    pub fn faults(&self) -> &Faults {
        &self.service.faults
    }

    /// Closes the port and every connection: connects are refused until [`Self::start`]. The port stays reserved.
    pub fn stop(&self) -> io::Result<()> {
        self.command(Command::Stop)
    }

    /// Listens again on the same port after [`Self::stop`]; no effect while it listens.
    pub fn start(&self) -> io::Result<()> {
        self.command(Command::Start)
    }

    /// The requests seen so far, counted by what they asked for.
    pub fn requests(&self) -> Vec<RequestSeen> {
        self.service.audit.rows()
    }

    /// Watches that are open right now.
    pub fn open_watches(&self) -> usize {
        self.service.open_watches.load(Ordering::Acquire)
    }

    fn command(&self, command: impl FnOnce(SyncSender<io::Result<()>>) -> Command) -> io::Result<()> {
        let (report, done) = sync_channel(1);
        let commands = self.commands.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        commands.try_send(command(report)).map_err(io::Error::other)?;
        wait_for(&done)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed by its hook; a drop must not panic again.
            drop(thread.join());
        }
    }
}

fn wait_for<T>(done: &Receiver<io::Result<T>>) -> io::Result<T> {
    done.recv_timeout(COMMAND_TIMEOUT)
        .map_err(|error| io::Error::other(format!("the server's thread: {error}")))?
}
