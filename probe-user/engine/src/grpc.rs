//! The gRPC probe: one `grpc.health.v1.Health/Check` over HTTP/2 in the clear, or with TLS where asked for.
//!
//! As in the kubelet a connection that fails is tried again until the timeout: there "refused" looks like a timeout. What it was
//! is in [`crate::Outcome::cause`].

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use crate::connect::{dial, join_host_port};
use crate::health::{self, PREFIX};
use crate::http2::Client;
use crate::outcome::{Phase, Verdict};
use crate::quote::{duration, quoted};
use crate::tls::{Inside, handshake};
use crate::trace::Trace;
use crate::{End, Grpc};

/// Waiting time after the first dial that failed, and what it grows by (gRPC's connection backoff, without its jitter).
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_FACTOR: f64 = 1.6;
const MAX_BACKOFF: Duration = Duration::from_secs(120);

/// Longest answer that is taken; the real one has two bytes.
const MESSAGE_BYTES: usize = 64 << 10;

/// Runs the probe.
pub(crate) async fn probe(grpc: &Grpc, user_agent: &str, timeout: Duration, trace: &mut Trace) -> End {
    let mut backoff = FIRST_BACKOFF;
    loop {
        match connected(grpc, user_agent, timeout, trace).await {
            Ok(end) => return end,
            Err(text) => trace.cause = Some(text),
        }
        trace.leave();
        sleep(backoff).await;
        backoff = backoff.mul_f64(BACKOFF_FACTOR).min(MAX_BACKOFF);
    }
}

/// The text of a run that the timeout has ended.
pub(crate) fn timed_out(grpc: &Grpc, timeout: Duration, trace: &Trace) -> End {
    let text = if trace.halfway {
        too_late(timeout)
    } else {
        let timeout = duration(timeout);
        let address = join_host_port(&grpc.host, i32::from(grpc.port));
        let address = quoted(address.as_bytes());
        format!("timeout: failed to connect service {address} within {timeout}: context deadline exceeded")
    };
    (Verdict::Failure, text)
}

fn too_late(timeout: Duration) -> String {
    format!("timeout: health rpc did not complete within {}", duration(timeout))
}

/// Connects and asks; an error is one of the connection, to be tried again.
async fn connected(
    grpc: &Grpc,
    user_agent: &str,
    timeout: Duration,
    trace: &mut Trace,
) -> Result<End, String> {
    let stream = dial(&grpc.host, i32::from(grpc.port), trace).await?;
    if grpc.tls {
        let tls = handshake(stream, &grpc.host, Inside::Grpc, trace).await?;
        return check(tls, grpc, user_agent, timeout, trace).await;
    }
    check(stream, grpc, user_agent, timeout, trace).await
}

async fn check<S>(
    stream: S,
    grpc: &Grpc,
    user_agent: &str,
    timeout: Duration,
    trace: &mut Trace,
) -> Result<End, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    trace.protocol = Some("HTTP/2.0");
    trace.enter(Phase::FirstByte);
    let not_http2 = |error: h2::Error| format!("the server does not speak HTTP/2: {error}");
    let mut client = Client::start(stream).await.map_err(not_http2)?;
    client.ready().await.map_err(not_http2)?;
    trace.halfway = true;
    trace.cause = None;
    let answer = match request(grpc, user_agent, trace) {
        Ok(request) => call(&mut client, request, &grpc.service, trace).await,
        Err(text) => Err(Status { code: INTERNAL, message: text }),
    };
    trace.leave();
    client.close().await;
    Ok(judge(answer, timeout))
}

fn request(grpc: &Grpc, user_agent: &str, trace: &Trace) -> Result<Request<()>, String> {
    let authority = join_host_port(&grpc.host, i32::from(grpc.port));
    let uri = Uri::builder()
        .scheme(if grpc.tls { "https" } else { "http" })
        .authority(authority)
        .path_and_query("/grpc.health.v1.Health/Check");
    Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(uri.build().map_err(|error| error.to_string())?)
        .header("content-type", "application/grpc")
        .header("user-agent", user_agent)
        .header("te", "trailers")
        .header("grpc-timeout", timeout_value(trace.time_left()))
        .body(())
        .map_err(|error| error.to_string())
}

/// At most eight digits and a unit.
fn timeout_value(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    match (left.as_micros(), left.as_millis()) {
        (micros, _) if micros <= MOST => format!("{micros}u"),
        (_, millis) if millis <= MOST => format!("{millis}m"),
        _ => format!("{}S", u128::from(left.as_secs()).min(MOST)),
    }
}

/// Another end of a call than a message.
struct Status {
    code: u32,
    message: String,
}

const CANCELED: u32 = 1;
const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

/// Names of the status codes, in order.
const NAMES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

async fn call<S>(
    client: &mut Client<S>,
    request: Request<()>,
    service: &str,
    trace: &mut Trace,
) -> Result<u64, Status>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let body = Bytes::from(health::request(service));
    let answer = client.call(request, Some(body)).await.map_err(|error| match of_h2(&error) {
        // The server keeps to the timeout as well, and may be the first to say so.
        Status { code: CANCELED, message } if trace.time_left().is_zero() => {
            Status { code: DEADLINE_EXCEEDED, message }
        }
        status => status,
    })?;
    trace.first_byte();
    trace.status = Some(answer.status().as_u16());
    if let Some(status) = of_headers(answer.headers()) {
        // Trailers alone: a call without a message.
        return Err(if status.code == 0 { no_message() } else { status });
    }
    if let Some(status) = of_http(&answer) {
        return Err(status);
    }
    let mut stream = answer.into_body();
    let message = message(client, &mut stream).await?;
    let trailers = client.drive(poll_fn(|cx| stream.poll_trailers(cx))).await.flatten();
    let trailers = trailers.map_err(|error| of_h2(&error))?;
    match trailers.as_ref().and_then(of_headers) {
        Some(status) if status.code != 0 => return Err(status),
        Some(_) => {}
        None => return Err(internal("server closed the stream without sending trailers")),
    }
    match message.as_deref().map(health::status) {
        Some(Some(status)) => Ok(status),
        Some(None) => Err(internal(
            "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data",
        )),
        None => Err(no_message()),
    }
}

/// The first message; none if the stream has no whole one.
async fn message<S>(client: &mut Client<S>, stream: &mut RecvStream) -> Result<Option<Vec<u8>>, Status>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut received = Vec::new();
    loop {
        let data = client.drive(poll_fn(|cx| stream.poll_data(cx))).await.map_err(|error| of_h2(&error))?;
        let Some(data) = data else { break };
        let data = data.map_err(|error| of_h2(&error))?;
        received.extend_from_slice(&data);
        // Fails only once the stream is over, which the next read tells.
        drop(stream.flow_control().release_capacity(data.len()));
        if received.first().is_some_and(|compressed| *compressed != 0) {
            return Err(internal("grpc: compressed flag set with identity or empty encoding"));
        }
        let length = received
            .get(1..PREFIX)
            .map(|bytes| bytes.iter().fold(0_usize, |all, b| all << 8 | usize::from(*b)));
        if let Some(length) = length.filter(|length| *length > MESSAGE_BYTES) {
            let message = format!("grpc: received message larger than max ({length} vs. {MESSAGE_BYTES})");
            return Err(Status { code: RESOURCE_EXHAUSTED, message });
        }
        if received.len() > PREFIX + MESSAGE_BYTES {
            return Err(internal("more than one message"));
        }
    }
    let Some(length) = received.get(1..PREFIX) else { return Ok(None) };
    let length = length.iter().fold(0_usize, |all, byte| all << 8 | usize::from(*byte));
    match received.get(PREFIX..PREFIX + length) {
        Some(message) => Ok(Some(message.to_vec())),
        None => Err(internal("unexpected EOF")),
    }
}

fn no_message() -> Status {
    internal("cardinality violation: received no response message from non-server-streaming RPC")
}

fn internal(message: &str) -> Status {
    Status { code: INTERNAL, message: message.to_owned() }
}

/// `grpc-status` and `grpc-message`, if there are any.
fn of_headers(headers: &HeaderMap) -> Option<Status> {
    let code =
        headers.get("grpc-status")?.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(UNKNOWN);
    let message =
        headers.get("grpc-message").map_or_else(String::new, |value| percent_decoded(value.as_bytes()));
    Some(Status { code, message })
}

/// An answer that is not gRPC's.
fn of_http(answer: &Response<RecvStream>) -> Option<Status> {
    let kind = answer.headers().get("content-type").map_or("", |value| value.to_str().unwrap_or_default());
    let is_grpc = kind == "application/grpc"
        || kind.starts_with("application/grpc+")
        || kind.starts_with("application/grpc;");
    if answer.status() == 200 && is_grpc {
        return None;
    }
    let code = match answer.status().as_u16() {
        400 => INTERNAL,
        401 => 16,
        403 => 7,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    };
    let status = answer.status();
    let mut message = format!(
        "unexpected HTTP status code received from server: {} ({})",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default()
    );
    if !is_grpc {
        message += &match kind {
            "" => "; malformed header: missing HTTP content-type".to_owned(),
            kind => format!("; transport: received unexpected content-type {}", quoted(kind.as_bytes())),
        };
    }
    Some(Status { code, message })
}

fn of_h2(error: &h2::Error) -> Status {
    let code = match error.reason().filter(|_| error.is_reset()) {
        Some(Reason::CANCEL) => CANCELED,
        Some(Reason::REFUSED_STREAM) => UNAVAILABLE,
        Some(Reason::ENHANCE_YOUR_CALM) => RESOURCE_EXHAUSTED,
        Some(Reason::INADEQUATE_SECURITY) => 7,
        Some(
            Reason::NO_ERROR | Reason::PROTOCOL_ERROR | Reason::INTERNAL_ERROR | Reason::FLOW_CONTROL_ERROR,
        ) => INTERNAL,
        Some(_) => UNKNOWN,
        // The connection is lost.
        None => UNAVAILABLE,
    };
    let message = match error.reason().filter(|_| error.is_reset()) {
        Some(reason) => format!("stream terminated by RST_STREAM with error code: {reason:?}"),
        None => format!("error reading from server: {error}"),
    };
    Status { code, message }
}

fn percent_decoded(text: &[u8]) -> String {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((&byte, after)) = rest.split_first() {
        let escape =
            after.get(..2).filter(|_| byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match escape.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                rest = &after[2..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn judge(answer: Result<u64, Status>, timeout: Duration) -> End {
    match answer {
        Ok(1) => (Verdict::Success, "service healthy".to_owned()),
        Ok(status) => {
            let name = health::name_of(status);
            (Verdict::Failure, format!("service unhealthy (responded with {})", quoted(name.as_bytes())))
        }
        Err(status) if status.code == DEADLINE_EXCEEDED => (Verdict::Failure, too_late(timeout)),
        Err(status) => (Verdict::Failure, judge_status(&status)),
    }
}

fn judge_status(status: &Status) -> String {
    let message = &status.message;
    match status.code {
        UNIMPLEMENTED => format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        ),
        code => {
            let name = usize::try_from(code).ok().and_then(|code| NAMES.get(code));
            let name = name.map_or_else(|| format!("Code({code})"), |name| (*name).to_owned());
            format!("error: health rpc probe failed: rpc error: code = {name} desc = {message}")
        }
    }
}
