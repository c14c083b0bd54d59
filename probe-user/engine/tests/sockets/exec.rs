//! The exec probe against sockets that are no container runtime, or a bad one. Runtimes that run commands are the conformance cases' matter.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use probe_engine::{Exec, Handler, Outcome, Phase, Probe, Verdict, run};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};

use crate::SECOND;
use crate::http2_server::{Habit, calls};

/// How much longer than a second the runtime has.
const GRACE: Duration = Duration::from_millis(300);

/// A socket's path; what is there goes with this.
struct Socket(PathBuf);

impl Socket {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("drainscope-exec-{}-{name}", std::process::id())))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Some tests make none.
        drop(std::fs::remove_file(&self.0));
    }
}

async fn ask(socket: &Path) -> Outcome {
    let handler = Handler::Exec(Exec {
        socket: socket.to_owned(),
        container: "c".to_owned(),
        command: vec!["cat".to_owned(), "/x".to_owned()],
        grace: GRACE,
    });
    run(&Probe { handler, timeout: SECOND, user_agent: "me".to_owned() }).await
}

/// Asks a listener that does this with each connection.
fn asked<F: Future<Output = ()>>(name: &str, habit: impl Fn(UnixStream) -> F) -> Outcome {
    let socket = Socket::new(name);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = UnixListener::bind(&socket.0).expect("a listener");
        let serving = async {
            loop {
                habit(listener.accept().await.expect("a connection").0).await;
            }
        };
        tokio::select! {
            outcome = ask(&socket.0) => outcome,
            () = serving => unreachable!("it serves for ever"),
        }
    })
}

fn speaking(name: &str, habit: Habit) -> Outcome {
    let (seen, _requests) = channel();
    asked(name, |stream| calls(stream, habit, seen.clone()))
}

#[test]
fn a_socket_that_cannot_be_used_says_what_to_do() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (absent, deserted) = (Socket::new("absent"), Socket::new("deserted"));
    drop(std::os::unix::net::UnixListener::bind(&deserted.0).expect("a listener"));
    for (socket, why, advice) in [
        (&absent, "no such file or directory", "is not there: name the socket"),
        (&deserted, "connection refused", "the container runtime does not run"),
    ] {
        let outcome = runtime.block_on(ask(&socket.0));
        assert_eq!((outcome.verdict, outcome.attempts), (Verdict::Unknown, 3), "{outcome:?}");
        assert!(outcome.output.ends_with(&format!("connect: {why}\"")), "{outcome:?}");
        assert!(outcome.cause.as_ref().is_some_and(|cause| cause.contains(advice)), "{outcome:?}");
    }
}

#[test]
fn what_is_no_runtime_is_an_error() {
    for (name, garbage) in
        [("garbage", &b"220 ready\r\n"[..]), ("silence", b""), ("http1", b"HTTP/1.1 400 Bad Request\r\n\r\n")]
    {
        let outcome = asked(name, |mut stream| async move {
            // The client may have left.
            drop(stream.write_all(garbage).await);
        });
        assert_eq!(outcome.verdict, Verdict::Unknown, "{name}: {outcome:?}");
        assert!(outcome.output.starts_with("rpc error: code = Unavailable desc = "), "{name}: {outcome:?}");
    }
}

#[test]
fn errors_of_the_runtime_are_discarded_but_for_its_timeout() {
    for (habit, expected) in [
        (Habit::Status(5, "no container"), "rpc error: code = NotFound desc = no container"),
        (Habit::Status(12, "unknown service"), "rpc error: code = Unimplemented desc = unknown service"),
        (Habit::Message(&[0x0a, 9]), "rpc error: code = Internal desc = grpc: failed to unmarshal"),
        (Habit::MessageAndStatus(13), "rpc error: code = Internal desc = late"),
        (Habit::NoTrailers, "rpc error: code = Internal desc = server closed the stream without"),
        (Habit::Http(503, "text/html"), "rpc error: code = Unavailable desc = unexpected HTTP status code"),
    ] {
        let outcome = speaking("errors", habit);
        assert_eq!((outcome.verdict, outcome.status), (Verdict::Unknown, None), "{habit:?}: {outcome:?}");
        assert!(outcome.output.starts_with(expected), "{habit:?}: {outcome:?}");
    }
    let outcome = speaking("timeout", Habit::Status(4, "timeout 1s exceeded"));
    assert_eq!((outcome.verdict, outcome.attempts), (Verdict::Failure, 1));
    assert_eq!(outcome.output, "command timed out: \"cat /x\" timed out after 1s");
    assert_eq!(outcome.timed_out_in, Some(Phase::FirstByte));
}

#[test]
fn a_runtime_that_never_answers_is_waited_for_a_while_longer_than_the_timeout() {
    let begun = Instant::now();
    let outcome = speaking("never", Habit::Silence);
    assert_eq!((outcome.verdict, outcome.attempts), (Verdict::Failure, 1));
    assert_eq!(outcome.output, "command timed out: \"cat /x\" timed out after 1s");
    assert!(begun.elapsed() >= SECOND + GRACE && begun.elapsed() < 10 * SECOND, "{:?}", begun.elapsed());
}

#[test]
fn an_answer_without_end_is_cut_off() {
    // Half a gibibyte is announced, which no runtime may send.
    let outcome = asked("endless", |stream| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        let mut kept = Vec::new();
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            let head = http::Response::builder()
                .header("content-type", "application/grpc")
                .body(())
                .expect("a head");
            let Ok(mut stream) = respond.send_response(head, false) else { return };
            drop(stream.send_data(Bytes::from_static(&[0, 0x20, 0, 0, 0, 0x0a]), false));
            kept.push(stream);
        }
    });
    assert_eq!(outcome.verdict, Verdict::Unknown);
    assert!(outcome.output.contains("received message larger than max"), "{outcome:?}");
}
