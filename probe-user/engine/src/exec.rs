//! The exec probe: a command that the container runtime runs in a container, asked for as the kubelet asks (CRI v1, `ExecSync`), over
//! the runtime's socket.
//!
//! The runtime keeps to the timeout and kills the command; this end waits a while longer for it to say so. That a command did not end in
//! time is a failure; whatever keeps the runtime from running it says nothing of the container, and the kubelet discards the run.

use std::io;

use tokio::net::UnixStream;

use crate::cri;
use crate::http2::Client;
use crate::outcome::{Phase, Verdict};
use crate::quote::{duration, quoted, system_error};
use crate::trace::Trace;
use crate::unary::{self, Call, DEADLINE_EXCEEDED, Status, UNAVAILABLE};
use crate::{End, Exec, Probe};

/// Longest answer that is taken: the kubelet's bound. Runtimes cut each of the two outputs at as much.
const MESSAGE_BYTES: usize = 16 << 20;

/// Runs the probe.
pub(crate) async fn probe(exec: &Exec, probe: &Probe, trace: &mut Trace) -> End {
    let answer = ask(exec, probe, trace).await;
    // Of an answer by HTTP; the command's is its exit code.
    trace.status = None;
    match answer {
        Ok((0, output)) => (Verdict::Success, text(&output)),
        Ok((code, output)) => {
            trace.cause = Some(format!("exit code {code}"));
            (Verdict::Failure, text(&output))
        }
        Err(status) if status.code == DEADLINE_EXCEEDED => {
            trace.time_out();
            timed_out(exec, probe)
        }
        Err(status) => (Verdict::Unknown, status.text()),
    }
}

/// A command that did not end in time.
pub(crate) fn timed_out(exec: &Exec, probe: &Probe) -> End {
    let command = quoted(exec.command.join(" ").as_bytes());
    let timeout = duration(probe.timeout);
    (Verdict::Failure, format!("command timed out: {command} timed out after {timeout}"))
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// Exit code and output.
async fn ask(exec: &Exec, probe: &Probe, trace: &mut Trace) -> Result<(i32, Vec<u8>), Status> {
    trace.enter(Phase::Connect);
    let stream = match UnixStream::connect(&exec.socket).await {
        Ok(stream) => stream,
        Err(error) => {
            trace.leave();
            trace.cause = advice(exec, &error);
            let socket = exec.socket.display();
            return Err(unavailable(&format!("dial unix {socket}: connect: {}", system_error(&error))));
        }
    };
    trace.enter(Phase::FirstByte);
    let not_http2 = |error: h2::Error| unavailable(&format!("the runtime does not speak HTTP/2: {error}"));
    let mut client = Client::start(stream).await.map_err(not_http2)?;
    client.ready().await.map_err(not_http2)?;
    // The runtime knows whole seconds; 0 would be for ever.
    let seconds = probe.timeout.as_secs() + u64::from(probe.timeout.subsec_nanos() > 0);
    let call = Call {
        scheme: "http",
        // What clients of gRPC call whoever listens on a Unix socket.
        authority: "localhost".to_owned(),
        path: "/runtime.v1.RuntimeService/ExecSync",
        user_agent: &probe.user_agent,
        message: cri::request(&exec.container, &exec.command, seconds),
        longest: MESSAGE_BYTES,
    };
    let mut response = cri::Response::default();
    unary::call(&mut client, &call, |bytes| response.take(bytes), trace).await?;
    trace.leave();
    client.close().await;
    response.finish().ok_or_else(unary::no_wire_format)
}

fn unavailable(why: &str) -> Status {
    let message = format!(
        "connection error: desc = {}",
        quoted(format!("transport: Error while dialing: {why}").as_bytes())
    );
    Status { code: UNAVAILABLE, message }
}

/// What to do about a socket that cannot be connected to.
fn advice(exec: &Exec, error: &io::Error) -> Option<String> {
    let what = [
        (
            io::ErrorKind::NotFound,
            "is not there: name the socket of the node's container runtime; in a container, mount it",
        ),
        (io::ErrorKind::PermissionDenied, "may not be used by this user: a runtime's socket is root's"),
        (io::ErrorKind::ConnectionRefused, "has nobody who listens: the container runtime does not run"),
    ];
    let (_, what) = what.into_iter().find(|(kind, _)| *kind == error.kind())?;
    Some(format!("{} {what}", exec.socket.display()))
}
