//! A server of HTTP/2, in the clear or with TLS, that has one habit and ends with its test.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{SendResponse, handshake};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use probe_engine::{Grpc, Handler};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::tls::configuration;

/// What the server does with a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Habit {
    /// Answers with these bytes as message and `grpc-status: 0`.
    Message(&'static [u8]),
    /// Trailers alone.
    Status(u32, &'static str),
    /// A message, then another status.
    MessageAndStatus(u32),
    /// Something that is not gRPC.
    Http(u16, &'static str),
    /// Resets the stream.
    Reset(Reason),
    /// Never answers.
    Silence,
    /// Gives the call up once the client's own timeout is over, as servers of gRPC do.
    KeepsTheTimeout,
    /// A message without a status.
    NoTrailers,
    /// An HTTP answer with a body of so many bytes.
    Body(u16, usize),
}

/// Speaks HTTP/2, with TLS or without; ends with its test.
pub(crate) struct Http2Server {
    pub(crate) port: u16,
    pub(crate) requests: Receiver<Request<()>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Http2Server {
    pub(crate) fn new(habit: Habit, tls: Option<&[&str]>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
        Self::on(listener, habit, tls)
    }

    pub(crate) fn on(listener: TcpListener, habit: Habit, tls: Option<&[&str]>) -> Self {
        listener.set_nonblocking(true).expect("an option");
        let port = listener.local_addr().expect("an address").port();
        let acceptor = tls.map(|protocols| TlsAcceptor::from(configuration(protocols)));
        let (seen, requests) = channel();
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                let accepting = async {
                    loop {
                        let (stream, _) = listener.accept().await.expect("a connection");
                        tokio::spawn(serve(stream, acceptor.clone(), habit, seen.clone()));
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        };
        Self { port, requests, stop: Some(stop), thread: Some(std::thread::spawn(serve)) }
    }

    pub(crate) fn grpc(&self, service: &str, tls: bool) -> Handler {
        Handler::Grpc(Grpc {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            service: service.to_owned(),
            tls,
        })
    }
}

impl Drop for Http2Server {
    fn drop(&mut self) {
        // A server that has panicked does not listen.
        let _unheard = self.stop.take().expect("stopped once").send(());
        let ended = self.thread.take().expect("joined once").join();
        if !std::thread::panicking() {
            ended.expect("the server did not panic");
        }
    }
}

async fn serve(stream: TcpStream, acceptor: Option<TlsAcceptor>, habit: Habit, seen: Sender<Request<()>>) {
    match acceptor {
        // A client that speaks no TLS is what some tests are about.
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                calls(stream, habit, seen).await;
            }
        }
        None => calls(stream, habit, seen).await,
    }
}

pub(crate) async fn calls(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    habit: Habit,
    seen: Sender<Request<()>>,
) {
    // So is one that speaks no HTTP/2.
    let Ok(mut connection) = handshake(stream).await else { return };
    let mut kept = Vec::new();
    while let Some(Ok((request, answer))) = connection.accept().await {
        let (parts, body) = request.into_parts();
        let timeout =
            parts.headers.get("grpc-timeout").and_then(|value| value.to_str().ok()).map(str::to_owned);
        drop(seen.send(Request::from_parts(parts, ())));
        if let Habit::KeepsTheTimeout = habit {
            tokio::spawn(cancel_after(timeout, answer));
            continue;
        }
        kept.extend(answer_call(body, answer, habit));
    }
}

/// `timeout` as gRPC writes it, in microseconds.
async fn cancel_after(timeout: Option<String>, mut answer: SendResponse<Bytes>) {
    let micros =
        timeout.as_deref().and_then(|value| value.strip_suffix('u')?.parse().ok()).expect("a timeout");
    tokio::time::sleep(Duration::from_micros(micros)).await;
    answer.send_reset(Reason::CANCEL);
}

/// Gives back what has to live on.
fn answer_call(
    body: RecvStream,
    mut answer: SendResponse<Bytes>,
    habit: Habit,
) -> Option<(RecvStream, SendResponse<Bytes>)> {
    let head = |kind: &str, status: u16| {
        Response::builder().status(status).header("content-type", kind).body(()).expect("an answer")
    };
    let trailers = |code: u32, message: &str| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.into());
        trailers.insert("grpc-message", message.parse().expect("a value"));
        trailers
    };
    let framed = |message: &[u8]| {
        let length = u32::try_from(message.len()).expect("short");
        Bytes::from([&[0][..], &length.to_be_bytes(), message].concat())
    };
    match habit {
        Habit::Message(message) => {
            let mut stream = answer.send_response(head("application/grpc", 200), false).expect("a stream");
            stream.send_data(framed(message), false).expect("a stream");
            stream.send_trailers(trailers(0, "")).expect("a stream");
        }
        Habit::Status(code, message) => {
            let mut head = head("application/grpc", 200);
            head.headers_mut().extend(trailers(code, message));
            answer.send_response(head, true).expect("a stream");
        }
        Habit::MessageAndStatus(code) => {
            let mut stream = answer.send_response(head("application/grpc", 200), false).expect("a stream");
            stream.send_data(framed(&[8, 1]), false).expect("a stream");
            stream.send_trailers(trailers(code, "late")).expect("a stream");
        }
        Habit::Http(status, kind) => {
            answer.send_response(head(kind, status), true).expect("a stream");
        }
        Habit::Reset(reason) => answer.send_reset(reason),
        Habit::Silence | Habit::KeepsTheTimeout => return Some((body, answer)),
        Habit::NoTrailers => {
            let mut stream = answer.send_response(head("application/grpc", 200), false).expect("a stream");
            stream.send_data(framed(&[8, 1]), true).expect("a stream");
        }
        Habit::Body(status, length) => {
            let mut stream = answer.send_response(head("text/plain", status), false).expect("a stream");
            stream.send_data(Bytes::from(vec![b'a'; length]), true).expect("a stream");
        }
    }
    None
}
