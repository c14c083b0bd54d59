//! Serves HTTP/1.1 with bounds: connections at a time, time for a request's head, its size, and the life of a connection.
//! A client that sends rubbish, sends slowly, reads slowly or says nothing is cut off and costs the others nothing. An
//! answer that goes on for as long as something happens asks for more than a connection's life by its [`Lease`].

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// Bounds of a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; further ones are closed at once.
    pub connections: usize,
    /// For a request's head, and between requests.
    pub head: Duration,
    /// For a whole connection, after which a request under way has a last [`Limits::head`] to finish. A reader that
    /// stalls cannot hold its place longer. What a [`Lease`] was extended by is not counted.
    pub life: Duration,
    /// Bytes of a request's head, and of what is buffered of a connection.
    pub buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            head: Duration::from_secs(10),
            life: Duration::from_secs(120),
            buffer: 16 << 10,
        }
    }
}

/// A connection's right to its place, in the extensions of each of its requests.
#[derive(Clone, Debug)]
pub struct Lease(watch::Sender<watch::Receiver<()>>);

impl Lease {
    /// The connection's life begins anew once `open` is closed. Whoever closes it bounds how long a reader may stall.
    pub fn extend(&self, open: watch::Receiver<()>) {
        self.0.send_replace(open);
    }

    fn new() -> (Self, watch::Receiver<watch::Receiver<()>>) {
        let (_closed, nothing) = watch::channel(());
        let (sender, receiver) = watch::channel(nothing);
        (Self(sender), receiver)
    }
}

/// Waits until a connection's life is over.
async fn lived(life: Duration, lease: watch::Receiver<watch::Receiver<()>>) {
    loop {
        tokio::time::sleep(life).await;
        let mut open = lease.borrow().clone();
        if open.has_changed().is_err() {
            return;
        }
        // It never changes: the wait ends when it closes.
        drop(open.changed().await);
    }
}

/// Opens a listening socket. Where the machine has no IPv6, `[::]` means all IPv4 addresses.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) && address.ip().is_unspecified() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        result => result,
    }
}

/// Serves until `stop` says so, and until connections under way have finished their request then.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors or the client is gone already: neither is worth more than a pause.
                tracing::debug!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!("too many connections: one was turned away");
            continue;
        };
        let (router, stop) = (router.clone(), stop.clone());
        tokio::spawn(async move {
            connection(stream, router, limits, stop).await;
            drop(place);
        });
    }
    drop(places.acquire_many(all).await);
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, mut stop: watch::Receiver<bool>) {
    let (lease, extended) = Lease::new();
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(lease.clone());
        router.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.buffer)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let done = tokio::select! {
        done = served.as_mut() => Some(done),
        () = lived(limits.life, extended) => None,
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let done = match done {
        Some(done) => Ok(done),
        None => {
            served.as_mut().graceful_shutdown();
            tokio::time::timeout(limits.head, served).await
        }
    };
    match done {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::trace!(%error, "a connection ended badly"),
        Err(_) => tracing::trace!("a connection was cut off"),
    }
}
