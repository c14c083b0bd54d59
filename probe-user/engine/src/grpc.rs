//! The gRPC probe: one `grpc.health.v1.Health/Check` over HTTP/2 in the clear, or with TLS where asked for.
//!
//! As in the kubelet a connection that fails is tried again until the timeout: there "refused" looks like a timeout. What it was
//! is in [`crate::Outcome::cause`].

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;

use crate::connect::{dial, join_host_port};
use crate::health;
use crate::http2::Client;
use crate::outcome::{Phase, Verdict};
use crate::quote::{duration, quoted};
use crate::tls::{Inside, handshake};
use crate::trace::Trace;
use crate::unary::{self, Call, DEADLINE_EXCEEDED, Status, UNIMPLEMENTED};
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
    let call = Call {
        scheme: if grpc.tls { "https" } else { "http" },
        authority: join_host_port(&grpc.host, i32::from(grpc.port)),
        path: "/grpc.health.v1.Health/Check",
        user_agent,
        message: health::request(&grpc.service),
        longest: MESSAGE_BYTES,
    };
    let mut message = Vec::new();
    let answer = unary::call(&mut client, &call, |bytes| message.extend_from_slice(bytes), trace).await;
    let answer = answer.and_then(|()| health::status(&message).ok_or_else(unary::no_wire_format));
    trace.leave();
    client.close().await;
    Ok(judge(answer, timeout))
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
        _ => format!("error: health rpc probe failed: {}", status.text()),
    }
}
