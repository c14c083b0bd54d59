//! The load generator against small servers with one bad habit each: the tally is exact, the error kinds and connections are the right ones.
//!
//! Unprivileged, loopback only. How fast it is, is a matter for the bench.

#[path = "load/answers.rs"]
mod answers;
#[path = "load/command.rs"]
mod command;
#[path = "load/failures.rs"]
mod failures;
#[path = "load/http2.rs"]
mod http2;
#[path = "load/pace.rs"]
mod pace;
#[path = "load/ports.rs"]
mod ports;
#[path = "load/schedule.rs"]
mod schedule;
#[path = "load/server.rs"]
mod server;
#[path = "load/tls.rs"]
mod tls;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use world::load::{Attempt, Config, Summary, read_log, run};

/// A file of this test alone, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("load-suite-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test that never wrote its file has none to remove.
        drop(std::fs::remove_file(&self.0));
    }
}

/// Runs with the log on; gives the summary and the logged attempts.
fn run_logged(config: Config) -> (Summary, Vec<Attempt>) {
    let log = Scratch::new();
    let summary = run(Config { log: Some(log.0.clone()), ..config }).expect("a run without local trouble");
    let attempts = read_log(&log.0).expect("a readable log");
    let logged = attempts.iter().filter(|attempt| !attempt.ok()).count();
    assert_eq!(
        u64::try_from(logged).expect("fits"),
        summary.total.failed,
        "every failed attempt is logged once"
    );
    assert_eq!(summary.total.requests, summary.total.ok + summary.total.failed);
    let windows = &summary.windows;
    assert_eq!(windows.ok.iter().sum::<u64>(), summary.total.ok);
    assert_eq!(windows.failed.iter().sum::<u64>(), summary.total.failed);
    assert_eq!(summary.total.latency.count, summary.total.ok);
    (summary, attempts)
}
