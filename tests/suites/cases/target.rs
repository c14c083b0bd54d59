//! What probes ask: a server on loopback with the habits of its case. It runs as tasks of the case's runtime and ends with it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Response};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::probe::closed_port;

/// The load suite's: of another name, and signed by nobody.
const CERTIFICATE: &[u8] = include_bytes!("../load/tls/certificate.pem");
const KEY: &[u8] = include_bytes!("../load/tls/key.pem");

/// What a server does.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Habits {
    /// Answers by path; any other path gets a 404.
    paths: BTreeMap<String, Answer>,
    /// With TLS.
    tls: bool,
    /// Connections wait in the queue for ever.
    never_accepts: bool,
    /// Speaks gRPC, and does this.
    grpc: Option<GrpcAnswer>,
}

/// An answer by HTTP/1.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Answer {
    status: u16,
    /// `OTHER` stands for the other server's address.
    location: String,
    body: String,
    /// A body of so many bytes instead.
    length: usize,
    /// Waits first.
    seconds: u64,
    /// These bytes instead of everything.
    raw: Option<String>,
}

/// An answer by gRPC.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum GrpcAnswer {
    /// The health status of this number.
    Serving(u8),
    /// The same after so many seconds.
    Late(u64),
    /// Does not have the health service.
    NoHealth,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// For comparison: Host by itself, names in order with all their values.
    pub(crate) fn shown(&self, text: &impl Fn(&str) -> String) -> Value {
        let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, value) in &self.headers {
            headers.entry(name).or_default().push(text(value));
        }
        let host = headers.remove("Host");
        let names: Vec<&&str> = headers.keys().collect();
        json!({"target": self.target, "host": host, "names": names, "headers": headers})
    }
}

#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    requests: Mutex<Vec<Request>>,
    other: AtomicU16,
}

/// A server, or a port without one.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) port: u16,
    seen: Arc<Seen>,
    /// Held open for a server that never accepts.
    _queue: Option<TcpListener>,
}

impl Target {
    /// Starts it.
    pub(crate) async fn of(habits: Option<&Habits>, other: Option<u16>) -> Result<Self> {
        let seen = Arc::new(Seen::default());
        seen.other.store(other.unwrap_or_default(), Ordering::SeqCst);
        let Some(habits) = habits.cloned() else {
            return Ok(Self { port: closed_port()?, seen, _queue: None });
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        if habits.never_accepts {
            return Ok(Self { port, seen, _queue: Some(listener) });
        }
        let acceptor = if habits.tls { Some(acceptor(habits.grpc.is_some())?) } else { None };
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, acceptor.clone(), habits.clone(), Arc::clone(&shared)));
            }
        });
        Ok(Self { port, seen, _queue: None })
    }

    /// Where the other server is.
    pub(crate) fn set_other(&self, port: u16) {
        self.seen.other.store(port, Ordering::SeqCst);
    }

    /// What it was asked by HTTP/1.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().expect("no task panicked").clone()
    }

    /// How many connected.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }
}

fn acceptor(grpc: bool) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(CERTIFICATE)?],
            PrivateKeyDer::from_pem_slice(KEY)?,
        )?;
    if grpc {
        config.alpn_protocols = vec![b"h2".to_vec()];
    }
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(stream: TcpStream, acceptor: Option<TlsAcceptor>, habits: Habits, seen: Arc<Seen>) {
    match acceptor {
        None => speak(stream, habits, seen).await,
        // A client without TLS is what some cases are about.
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                speak(stream, habits, seen).await;
            }
        }
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, habits: Habits, seen: Arc<Seen>) {
    match habits.grpc {
        Some(answer) => grpc(stream, &answer).await,
        None => http1(stream, &habits, &seen).await,
    }
}

async fn http1(mut stream: impl AsyncRead + AsyncWrite + Unpin, habits: &Habits, seen: &Seen) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // A client that leaves has no request.
        let Ok(1..) = stream.read_buf(&mut head).await else { return };
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.split("\r\n");
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let fields = lines.filter_map(|line| line.split_once(": "));
    let headers = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    seen.requests.lock().expect("no task panicked").push(Request { target, headers });
    let answer = habits.paths.get(&path).cloned().unwrap_or(Answer { status: 404, ..Answer::default() });
    tokio::time::sleep(Duration::from_secs(answer.seconds)).await;
    let body = if answer.length > 0 { "a".repeat(answer.length) } else { answer.body };
    let location = match answer.location.as_str() {
        "" => String::new(),
        location => {
            let other = format!("127.0.0.1:{}", seen.other.load(Ordering::SeqCst));
            format!("Location: {}\r\n", location.replace("OTHER", &other))
        }
    };
    let whole =
        format!("HTTP/1.1 {} X\r\n{location}Content-Length: {}\r\n\r\n{body}", answer.status, body.len());
    // A client that has its timeout behind it has gone.
    drop(stream.write_all(answer.raw.unwrap_or(whole).as_bytes()).await);
    drop(stream.shutdown().await);
    drop(stream.read_to_end(&mut Vec::new()).await);
}

async fn grpc(stream: impl AsyncRead + AsyncWrite + Unpin, answer: &GrpcAnswer) {
    // A client that speaks something else is what some cases are about.
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((_request, mut respond))) = connection.accept().await {
        let (number, status, message) = match answer {
            GrpcAnswer::Serving(number) => (*number, 0, ""),
            GrpcAnswer::Late(seconds) => {
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
                (1, 0, "")
            }
            GrpcAnswer::NoHealth => (0, 12, "unknown service grpc.health.v1.Health"),
        };
        let head = Response::builder().header("content-type", "application/grpc").body(()).expect("a head");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.into());
        trailers.insert("grpc-message", message.parse().expect("a value"));
        // The client may have left in between.
        let Ok(mut stream) = respond.send_response(head, false) else { return };
        if status == 0 {
            drop(stream.send_data(Bytes::from(vec![0, 0, 0, 0, 2, 8, number]), false));
        }
        drop(stream.send_trailers(trailers));
    }
}
