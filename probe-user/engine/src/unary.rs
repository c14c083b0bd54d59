//! One unary call of gRPC over a connection that is there: request, framing, status. What the messages mean is the caller's.
//!
//! The answer's message is handed on as it comes and never held here: how much of it is kept is for its reader to bound.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response, Version};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http2::Client;
use crate::quote::quoted;
use crate::trace::Trace;

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What is called, and who calls.
pub(crate) struct Call<'a> {
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// Host and port.
    pub(crate) authority: String,
    /// `/package.Service/Method`.
    pub(crate) path: &'static str,
    pub(crate) user_agent: &'a str,
    /// The request.
    pub(crate) message: Vec<u8>,
    /// Longest answer that is taken.
    pub(crate) longest: usize,
}

impl Call<'_> {
    fn request(&self, trace: &Trace) -> Result<Request<()>, Status> {
        let uri = format!("{}://{}{}", self.scheme, self.authority, self.path);
        Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(uri)
            .header("content-type", "application/grpc")
            .header("user-agent", self.user_agent)
            .header("te", "trailers")
            .header("grpc-timeout", timeout_value(trace.time_left()))
            .body(())
            .map_err(|error| internal(&error.to_string()))
    }

    /// The message behind its prefix.
    fn framed(&self) -> Bytes {
        let length = u32::try_from(self.message.len()).unwrap_or(u32::MAX);
        Bytes::from([&[0][..], &length.to_be_bytes(), &self.message].concat())
    }
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
pub(crate) struct Status {
    pub(crate) code: u32,
    pub(crate) message: String,
}

impl Status {
    /// As the Go client words it.
    pub(crate) fn text(&self) -> String {
        let name = usize::try_from(self.code).ok().and_then(|code| NAMES.get(code));
        let name = name.map_or_else(|| format!("Code({})", self.code), |name| (*name).to_owned());
        format!("rpc error: code = {name} desc = {}", self.message)
    }
}

const CANCELED: u32 = 1;
const UNKNOWN: u32 = 2;
pub(crate) const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
pub(crate) const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
pub(crate) const UNAVAILABLE: u32 = 14;

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

/// Makes the call; `take` is given the answer's message, piece by piece.
pub(crate) async fn call<S>(
    client: &mut Client<S>,
    call: &Call<'_>,
    mut take: impl FnMut(&[u8]),
    trace: &mut Trace,
) -> Result<(), Status>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = call.request(trace)?;
    let answer = client.call(request, Some(call.framed())).await.map_err(|error| match of_h2(&error) {
        // The server keeps to the timeout as well, and may be the first to say so.
        Status { code: CANCELED, message } if trace.time_left().is_zero() => {
            Status { code: DEADLINE_EXCEEDED, message }
        }
        status => status,
    })?;
    trace.status = Some(answer.status().as_u16());
    if let Some(status) = of_headers(answer.headers()) {
        // Trailers alone: a call without a message.
        return Err(if status.code == 0 { no_message() } else { status });
    }
    trace.first_byte();
    if let Some(status) = of_http(&answer) {
        return Err(status);
    }
    let mut stream = answer.into_body();
    let whole = message(client, &mut stream, call.longest, &mut take).await?;
    let trailers = client.drive(poll_fn(|cx| stream.poll_trailers(cx))).await.flatten();
    let trailers = trailers.map_err(|error| of_h2(&error))?;
    match trailers.as_ref().and_then(of_headers) {
        Some(status) if status.code != 0 => Err(status),
        Some(_) if whole => Ok(()),
        Some(_) => Err(no_message()),
        None => Err(internal("server closed the stream without sending trailers")),
    }
}

/// Reads the stream to its end; whether there was a message.
async fn message<S>(
    client: &mut Client<S>,
    stream: &mut RecvStream,
    longest: usize,
    take: &mut impl FnMut(&[u8]),
) -> Result<bool, Status>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut prefix = Vec::with_capacity(PREFIX);
    let (mut length, mut received) = (0, 0_usize);
    loop {
        let data = client.drive(poll_fn(|cx| stream.poll_data(cx))).await.map_err(|error| of_h2(&error))?;
        let Some(data) = data else { break };
        let data = data.map_err(|error| of_h2(&error))?;
        // Fails only once the stream is over, which the next read tells.
        drop(stream.flow_control().release_capacity(data.len()));
        let (start, body) = data.split_at(data.len().min(PREFIX - prefix.len()));
        prefix.extend_from_slice(start);
        if prefix.first().is_some_and(|compressed| *compressed != 0) {
            return Err(internal("grpc: compressed flag set with identity or empty encoding"));
        }
        if let Some(bytes) = prefix.get(1..PREFIX) {
            length = bytes.iter().fold(0_usize, |all, byte| all << 8 | usize::from(*byte));
            if length > longest {
                let message = format!("grpc: received message larger than max ({length} vs. {longest})");
                return Err(Status { code: RESOURCE_EXHAUSTED, message });
            }
        }
        take(&body[..body.len().min(length.saturating_sub(received))]);
        received += body.len();
        if received > longest {
            return Err(internal("more than one message"));
        }
    }
    match (prefix.len() == PREFIX, received >= length) {
        (false, _) => Ok(false),
        (true, true) => Ok(true),
        (true, false) => Err(internal("unexpected EOF")),
    }
}

fn no_message() -> Status {
    internal("cardinality violation: received no response message from non-server-streaming RPC")
}

pub(crate) fn internal(message: &str) -> Status {
    Status { code: INTERNAL, message: message.to_owned() }
}

/// A message that is none.
pub(crate) fn no_wire_format() -> Status {
    internal("grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data")
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

pub(crate) fn of_h2(error: &h2::Error) -> Status {
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
