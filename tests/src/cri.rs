//! A container runtime as exec probes need one: CRI v1's `ExecSync` over a real Unix socket, by a server that really runs the command.
//!
//! Containers are names that it was given; a command runs beside this process, in a process group of its own, which is killed when the call's
//! timeout is over. Errors have the codes and words of containerd. Not here: every other call, namespaces, streaming.

use std::path::Path;
use std::pin::pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// gRPC's codes.
const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const NOT_FOUND: u32 = 5;
const UNIMPLEMENTED: u32 = 12;

/// What is kept of each output; the rest is read and dropped.
const OUTPUT_BYTES: usize = 16 << 20;

/// How long what is left of a killed command may hold its outputs.
const DRAIN: Duration = Duration::from_secs(1);

/// Longest request.
const REQUEST_BYTES: usize = 1 << 20;

/// The runtime; it and its socket end with this, commands that still run first.
#[derive(Debug)]
pub struct Runtime {
    counts: Arc<Counts>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    started: AtomicUsize,
    ended: AtomicUsize,
}

impl Runtime {
    /// Listens on a socket that is not there yet, and has these containers.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(socket: &Path, containers: &[&str]) -> Result<Self> {
        let listener = std::os::unix::net::UnixListener::bind(socket)
            .with_context(|| format!("listen on {}", socket.display()))?;
        listener.set_nonblocking(true)?;
        let containers: Arc<[String]> = containers.iter().map(|id| (*id).to_owned()).collect();
        let counts = Arc::new(Counts::default());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(&counts);
        let serve = move || {
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener).expect("it does not block");
                let accepting = async {
                    while let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(calls(stream, Arc::clone(&containers), Arc::clone(&shared)));
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        };
        Ok(Self { counts, stop: Some(stop), thread: Some(std::thread::spawn(serve)) })
    }

    /// How many commands were started.
    pub fn started(&self) -> usize {
        self.counts.started.load(Ordering::SeqCst)
    }

    /// How many of them have ended, with all that they started: nobody holds their outputs any more.
    pub fn ended(&self) -> usize {
        self.counts.ended.load(Ordering::SeqCst)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // A thread that has ended does not listen.
        let _unheard = self.stop.take().map(|stop| stop.send(()));
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(ended.is_some_and(|ended| ended.is_ok()), "the runtime's thread panicked");
        }
    }
}

/// A command's process group, killed with this: of a call that nobody waits for any more, and when its time is over.
struct Group(Pid);

impl Drop for Group {
    fn drop(&mut self) {
        // Nobody may be left in it.
        let _gone = killpg(self.0, Signal::SIGKILL);
    }
}

async fn calls(stream: UnixStream, containers: Arc<[String]>, counts: Arc<Counts>) {
    // A client that speaks no HTTP/2 is none.
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (containers, counts) = (Arc::clone(&containers), Arc::clone(&counts));
        tokio::spawn(async move {
            let ended = exec_sync(request, &containers, &counts).await;
            answer(respond, ended);
        });
    }
}

/// A code and what is said.
type Status = (u32, String);

/// Sends it, unless the client has left.
fn answer(mut respond: SendResponse<Bytes>, ended: Result<Vec<u8>, Status>) {
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    let mut trailers = HeaderMap::new();
    match ended {
        Ok(message) => {
            let Ok(mut stream) = respond.send_response(head, false) else { return };
            let length = u32::try_from(message.len()).expect("two outputs and a number");
            drop(stream.send_data(Bytes::from([&[0][..], &length.to_be_bytes(), &message].concat()), false));
            trailers.insert("grpc-status", 0.into());
            drop(stream.send_trailers(trailers));
        }
        Err((code, text)) => {
            head.headers_mut().insert("grpc-status", code.into());
            let text = text.parse().expect("text without control characters");
            head.headers_mut().insert("grpc-message", text);
            drop(respond.send_response(head, true));
        }
    }
}

async fn exec_sync(
    request: Request<h2::RecvStream>,
    containers: &[String],
    counts: &Counts,
) -> Result<Vec<u8>, Status> {
    let path = request.uri().path().to_owned();
    if path != "/runtime.v1.RuntimeService/ExecSync" {
        return Err((UNIMPLEMENTED, format!("unknown method {path}")));
    }
    let mut body = request.into_body();
    let mut message = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        drop(body.flow_control().release_capacity(data.len()));
        message.extend_from_slice(&data);
        if message.len() > REQUEST_BYTES {
            return Err((UNKNOWN, "a request that is too long".to_owned()));
        }
    }
    let asked = Asked::decode(message.get(5..).unwrap_or_default())
        .map_err(|error| (UNKNOWN, format!("no ExecSyncRequest: {error}")))?;
    let container = &asked.container;
    if !containers.contains(container) {
        return Err((
            NOT_FOUND,
            format!("an error occurred when try to find container \"{container}\": not found"),
        ));
    }
    run(&asked, counts).await
}

/// Runs the command; the message that answers.
async fn run(asked: &Asked, counts: &Counts) -> Result<Vec<u8>, Status> {
    let failed = |why: &str| (UNKNOWN, format!("failed to exec in container: {why}"));
    let (program, args) = asked.command.split_first().ok_or_else(|| failed("no command"))?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| failed(&format!("exec: \"{program}\": {error}")))?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).expect("it was not waited for");
    let group = Group(Pid::from_raw(pid));
    counts.started.fetch_add(1, Ordering::SeqCst);
    let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let mut ending = pin!(async {
        let ended = tokio::join!(kept(stdout), kept(stderr), child.wait());
        counts.ended.fetch_add(1, Ordering::SeqCst);
        ended
    });
    // 0 is for ever.
    let seconds = if asked.timeout == 0 { u64::MAX } else { asked.timeout };
    let ended = timeout(Duration::from_secs(seconds), &mut ending).await;
    drop(group);
    let Ok((stdout, stderr, status)) = ended else {
        // Whoever left the group may hold on.
        let _killed = timeout(DRAIN, ending).await;
        let timeout = format!("timeout {seconds}s exceeded: context deadline exceeded");
        return Err((DEADLINE_EXCEEDED, format!("failed to exec in container: {timeout}")));
    };
    let code = status.map_err(|error| failed(&error.to_string()))?.code().unwrap_or(137);
    let mut message = Vec::new();
    for (tag, bytes) in [(0x0a, &stdout), (0x12, &stderr)] {
        message.push(tag);
        push_varint(&mut message, bytes.len() as u64);
        message.extend_from_slice(bytes);
    }
    message.push(0x18);
    push_varint(&mut message, u64::try_from(code).unwrap_or_default());
    Ok(message)
}

/// Reads to the end and keeps a part.
async fn kept(mut pipe: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut kept, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(count @ 1..) = pipe.read(&mut piece).await {
        let room = OUTPUT_BYTES - kept.len();
        kept.extend_from_slice(&piece[..count.min(room)]);
    }
    kept
}

/// An `ExecSyncRequest`.
#[derive(Debug, Default)]
struct Asked {
    container: String,
    command: Vec<String>,
    timeout: u64,
}

impl Asked {
    fn decode(mut bytes: &[u8]) -> Result<Self> {
        let mut asked = Self::default();
        while !bytes.is_empty() {
            match varint(&mut bytes)? {
                0x18 => asked.timeout = varint(&mut bytes)?,
                tag @ (0x0a | 0x12) => {
                    let length = usize::try_from(varint(&mut bytes)?)?;
                    let (text, rest) = bytes.split_at_checked(length).context("it is cut off")?;
                    bytes = rest;
                    let text = String::from_utf8(text.to_vec())?;
                    if tag == 0x0a { asked.container = text } else { asked.command.push(text) }
                }
                tag => bail!("tag {tag}"),
            }
        }
        Ok(asked)
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().context("it is cut off")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    bail!("a number of more than 64 bits")
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}
