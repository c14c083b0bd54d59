//! The command itself: flags, files, and the ways to end it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use world::load::{ErrorKind, Summary, read_log};

use crate::Scratch;
use crate::server::{OK, Server, answer_all, read_request, reset, serve};

fn load(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load"));
    command.arg("--target").arg(server.address.to_string()).args(arguments);
    command
}

fn connected(server: &Server) {
    let begin = Instant::now();
    while server.peers().is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(10), "the command connects");
        std::thread::yield_now();
    }
}

fn finish(mut child: Child, summary: &Scratch) -> Summary {
    assert!(child.wait().expect("an exit status").success());
    let text = std::fs::read(&summary.0).expect("a summary");
    serde_json::from_slice(&text).expect("a valid summary")
}

#[test]
fn files_hold_the_failures_and_the_tally() {
    let server = serve(|mut stream, number| {
        read_request(&mut stream).expect("a request");
        if number % 2 == 0 { reset(stream) } else { answer_all_after(stream) }
    });
    let (log, summary) = (Scratch::new(), Scratch::new());
    let arguments = ["--new", "1", "--max-requests", "10", "--window", "100", "--timeout", "0.5"];
    let child = load(&server, &arguments).arg("--log").arg(&log.0).arg("--summary").arg(&summary.0).spawn();
    let summary = finish(child.expect("started"), &summary);
    assert_eq!((summary.new.ok, summary.new.failed), (5, 5));
    assert_eq!(summary.new.by_error.get(&ErrorKind::Reset), Some(&5));
    let attempts = read_log(&log.0).expect("a log");
    let failed: Vec<_> = server.peers().into_iter().step_by(2).collect();
    assert_eq!(attempts.iter().map(|attempt| attempt.local).collect::<Vec<_>>(), failed);
    let text = std::fs::read_to_string(&log.0).expect("a log");
    let first: serde_json::Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    assert_eq!(
        (&first["error"], &first["stage"], &first["kind"]),
        (&"reset".into(), &"first_byte".into(), &"new".into())
    );
    assert_eq!(first["remote"], server.address.to_string());
}

fn answer_all_after(mut stream: std::net::TcpStream) {
    use std::io::Write as _;
    stream.write_all(OK).expect("the client reads");
    answer_all(stream, OK);
}

#[test]
fn it_ends_on_sigterm_and_when_its_input_closes() {
    for by_signal in [true, false] {
        let server = serve(|stream, _| answer_all(stream, OK));
        let summary = Scratch::new();
        let arguments = ["--keepalive", "2", "--rate", "100", "--stop-on-stdin-eof"];
        let mut child = load(&server, &arguments)
            .arg("--summary")
            .arg(&summary.0)
            .stdin(Stdio::piped())
            .spawn()
            .expect("started");
        connected(&server);
        if by_signal {
            kill(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGTERM)
                .expect("signalled");
        } else {
            drop(child.stdin.take());
        }
        let summary = finish(child, &summary);
        assert!(summary.total.ok >= 1, "by signal: {by_signal}");
        assert_eq!(summary.total.failed, 0);
    }
}

#[test]
fn nonsense_is_refused_before_anything_is_sent() {
    let server = serve(|stream, _| answer_all(stream, OK));
    for arguments in
        [&["--rate", "5"][..], &["--new", "1", "--source", "::1"], &["--new", "1", "--path", "x"]]
    {
        let output = load(&server, arguments).output().expect("ran");
        assert!(!output.status.success(), "{arguments:?}");
        assert!(BufReader::new(&*output.stderr).lines().next().is_some(), "{arguments:?}: it says why");
    }
    assert!(server.peers().is_empty());
}
