//! The server's thread: accepts connections while it listens, and closes them all when it stops.
//!
//! The port is held by a second socket that is bound but never listens, so that nothing else can take it during an outage and connects
//! are refused as by a dead server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use super::{Command, Service};
use crate::apiserver::connection::{Connection, Tear};

/// Connections at once; further ones are closed at once.
const CONNECTION_LIMIT: usize = 1024;

/// The listen queue of a small server.
const BACKLOG: u32 = 128;

/// Serves until the command channel closes. Reports the address, or why there is none.
pub(super) fn run(
    service: Arc<Service>,
    commands: Receiver<Command>,
    report: &SyncSender<io::Result<SocketAddr>>,
) {
    let started = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        let reserved = runtime.block_on(async { bind(service.options.address) })?;
        let address = reserved.local_addr()?;
        let listener = runtime.block_on(async { listen(address) })?;
        Ok((runtime, reserved, listener, address))
    });
    match started {
        Ok((runtime, reserved, listener, address)) => {
            // Whoever waits for the report may have given up; the closed command channel then ends this thread.
            drop(report.send(Ok(address)));
            runtime.block_on(serve(service, commands, listener, address));
            drop(reserved);
        }
        Err(error) => drop(report.send(Err(error))),
    }
}

async fn serve(
    service: Arc<Service>,
    mut commands: Receiver<Command>,
    listener: TcpListener,
    address: SocketAddr,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                None => return,
                Some(Command::Stop(done)) => {
                    listener = None;
                    connections.shutdown().await;
                    drop(done.send(Ok(())));
                }
                Some(Command::Start(done)) => {
                    let result = if listener.is_some() { Ok(()) } else { listen(address).map(|new| listener = Some(new)) };
                    drop(done.send(result));
                }
            },
            Some(ended) = connections.join_next() => drop(ended),
            accepted = accept(listener.as_ref()) => {
                if let Ok((stream, _)) = accepted && connections.len() < CONNECTION_LIMIT {
                    connections.spawn(serve_connection(Arc::clone(&service), stream));
                }
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn serve_connection(service: Arc<Service>, stream: TcpStream) {
    let tear = Tear::default();
    // Delayed small writes would blur the arrival times of watch events.
    drop(stream.set_nodelay(true));
    let io = TokioIo::new(Connection::new(stream, tear.clone()));
    let handler = service_fn(move |request| {
        let (service, tear) = (Arc::clone(&service), tear.clone());
        async move { service.answer(request, &tear).await }
    });
    // Errors are the client's or an injected fault's business: the connection is closed either way.
    drop(http1::Builder::new().serve_connection(io, handler).await);
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bind(address)?.listen(BACKLOG)
}
