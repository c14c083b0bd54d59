//! The kubelet stand-in's HTTPS server, as far as `/metrics/probes` goes: a certificate, a bearer token, and the counts; or one of the ways in
//! which a kubelet does not answer.
//!
//! One connection at a time, one request each: its only client is an agent. Not here: every other path, client certificates.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::socket::{Shutdown, shutdown};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use super::verdicts::Verdicts;

/// The authority that signed [`Certificate::Signed`], as PEM.
pub const AUTHORITY: &str = include_str!("metrics/ca.pem");

/// Longest head of a request.
const HEAD_BYTES: usize = 16 << 10;
/// How long a client may keep the server waiting.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the server shows for itself. Made for this, both; they sign nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// For 127.0.0.1, signed by [`AUTHORITY`].
    Signed,
    /// As a kubelet makes one for itself: for its node's name, by nobody else.
    OfItsOwn,
}

/// How it answers who shows the right token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    /// With its counts.
    Counts,
    /// With this status and nothing else.
    Status(&'static str),
    /// With this text.
    Text(&'static str),
    /// With a body that has no end.
    Endless,
    /// With half its counts, and then the connection is cut.
    Cut,
    /// Not at all.
    Silent,
}

#[derive(Debug)]
struct Shared {
    verdicts: Verdicts,
    token: Mutex<String>,
    manner: Mutex<Manner>,
    /// Seconds since 1970.
    started: Mutex<f64>,
    /// What was asked: path and credentials.
    asked: Mutex<Vec<(String, String)>>,
    stop: AtomicBool,
}

/// A running server; dropping it closes its port.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl MetricsServer {
    /// Serves these counts on a free loopback port in the calling thread's network, to who has this token.
    pub fn start(verdicts: &Verdicts, certificate: Certificate, token: &str) -> anyhow::Result<Self> {
        let config = configuration(certificate)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port for the kubelet")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            verdicts: verdicts.clone(),
            token: Mutex::new(token.to_owned()),
            manner: Mutex::new(Manner::Counts),
            started: Mutex::new(1.7e9),
            asked: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let its = Arc::clone(&shared);
        let incoming = listener.try_clone()?;
        let run = move || {
            for stream in incoming.incoming() {
                if its.stop.load(Ordering::Relaxed) {
                    return;
                }
                // A client that breaks off is that client's trouble.
                drop(stream.and_then(|stream| its.serve(stream, &config)));
            }
        };
        let thread = thread::Builder::new().name("kubelet-https".to_owned()).spawn(run)?;
        Ok(Self { address, listener, shared, thread: Some(thread) })
    }

    /// As `--kubelet-metrics` takes it.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// From now on this is the token.
    pub fn set_token(&self, token: &str) {
        token.clone_into(&mut lock(&self.shared.token));
    }

    /// From now on it answers so.
    pub fn set_manner(&self, manner: Manner) {
        *lock(&self.shared.manner) = manner;
    }

    /// As after a restart: no verdict is counted, and it began later.
    pub fn restart(&self, pod_uids: &[&str]) {
        // Nobody reads meanwhile.
        let mut started = lock(&self.shared.started);
        *started += 60.0;
        for uid in pod_uids {
            self.shared.verdicts.remove(uid);
        }
    }

    /// Path and credentials of each request so far.
    pub fn asked(&self) -> Vec<(String, String)> {
        lock(&self.shared.asked).clone()
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes it, from whatever network: a world that was dropped before has taken this thread out of its own.
        let _woken = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream, config: &Arc<ServerConfig>) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        let mut both = Stream::new(&mut tls, &mut stream);
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES {
            if both.read(&mut byte)? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let credentials = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
        });
        let credentials = credentials.unwrap_or_default();
        lock(&self.asked).push((path.clone(), credentials.clone()));
        let is_known = credentials == format!("Bearer {}", lock(&self.token));
        let manner = lock(&self.manner).clone();
        match manner {
            _ if !is_known => answer(&mut both, "401 Unauthorized", "Unauthorized")?,
            _ if path != "/metrics/probes" => answer(&mut both, "404 Not Found", "")?,
            Manner::Status(status) => answer(&mut both, status, "")?,
            Manner::Text(text) => answer(&mut both, "200 OK", text)?,
            Manner::Counts => answer(&mut both, "200 OK", &self.text())?,
            Manner::Cut => {
                let text = self.text();
                write!(
                    both,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}",
                    text.len(),
                    &text[..text.len() / 2]
                )?;
                return both.flush();
            }
            Manner::Endless => {
                both.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                while both.write_all(&[b'x'; 1024]).is_ok() {}
                return Ok(());
            }
            // Until the client has had enough.
            Manner::Silent => drop(both.read(&mut byte)),
        }
        tls.send_close_notify();
        while tls.wants_write() {
            tls.write_tls(&mut stream)?;
        }
        Ok(())
    }

    fn text(&self) -> String {
        let started = lock(&self.started);
        self.verdicts.text(*started)
    }
}

fn answer(stream: &mut impl io::Write, status: &str, body: &str) -> io::Result<()> {
    // Where a redirect would lead; others do not look at it.
    let head =
        format!("Location: https://127.0.0.1:1/\r\nConnection: close\r\nContent-Length: {}", body.len());
    write!(stream, "HTTP/1.1 {status}\r\n{head}\r\n\r\n{body}")?;
    stream.flush()
}

fn configuration(certificate: Certificate) -> anyhow::Result<Arc<ServerConfig>> {
    let (certificate, key): (&[u8], &[u8]) = match certificate {
        Certificate::Signed => (include_bytes!("metrics/signed.pem"), include_bytes!("metrics/signed.key")),
        Certificate::OfItsOwn => (include_bytes!("metrics/self.pem"), include_bytes!("metrics/self.key")),
    };
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate)?],
            PrivateKeyDer::from_pem_slice(key)?,
        )?;
    Ok(Arc::new(config))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
