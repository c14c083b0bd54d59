//! When kube-proxy synced its rules, by its own metrics: end and length of each sync while it was watched. It says what kube-proxy measured of itself.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use world::agent::Metrics;

/// As kube-proxy's configuration has it.
const METRICS: ([u8; 4], u16) = ([127, 0, 0, 1], 10249);
const FAMILY: [&str; 1] = ["ip_family=\"IPv4\""];
const LAST: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
const LENGTH: &str = "kubeproxy_sync_proxy_rules_duration_seconds";
/// Syncs are a second apart at least (minSyncPeriod).
const POLL: Duration = Duration::from_millis(100);
/// The bounds on an answer.
const PATIENCE: Duration = Duration::from_secs(5);
const ANSWER_BYTES: u64 = 4 << 20;

/// One sync, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sync {
    /// It began at this moment or later: its length is taken after its end.
    pub(crate) begin: f64,
    /// Its rules were in force before.
    pub(crate) end: f64,
}

/// Every sync until it is over, and the last one before.
pub(crate) fn watch(over: &AtomicBool) -> anyhow::Result<Vec<Sync>> {
    let mut syncs = Vec::new();
    let mut before = read()?;
    syncs.push(Sync { begin: before.last, end: before.last });
    while !over.load(Ordering::Relaxed) {
        thread::sleep(POLL);
        let now = read()?;
        if same(now.count, before.count) {
            continue;
        }
        ensure!(same(now.count, before.count + 1.0), "{before:?}, then {now:?}: a sync was not seen");
        ensure!(now.last > before.last, "{before:?}, then {now:?}: a sync failed");
        syncs.push(Sync { begin: now.last - (now.sum - before.sum), end: now.last });
        before = now;
    }
    Ok(syncs)
}

/// Its counters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    last: f64,
    /// Syncs.
    pub(crate) count: f64,
    /// Seconds that they took together.
    pub(crate) sum: f64,
}

/// What kube-proxy says now.
pub(crate) fn read() -> anyhow::Result<Reading> {
    let metrics = Metrics::parse(&fetch().context("ask kube-proxy")?)?;
    let value = |name: &str| {
        ensure!(metrics.has(name, &FAMILY), "kube-proxy has no {name}");
        Ok(metrics.sum(name, &FAMILY))
    };
    Ok(Reading {
        last: value(LAST)?,
        count: value(&format!("{LENGTH}_count"))?,
        sum: value(&format!("{LENGTH}_sum"))?,
    })
}

/// By HTTP/1.0, so that the answer is not chunked.
fn fetch() -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&METRICS.into(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the header")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{head}");
    Ok(body.to_owned())
}

/// Whether two counts are the same.
fn same(one: f64, other: f64) -> bool {
    (one - other).abs() < 0.5
}
