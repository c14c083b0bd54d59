//! What a run amounts to: counts, errors, throughput by window, latency percentiles. Written as JSON and read back by whoever judges.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::attempt::ErrorKind;

/// The tally of a whole run. Times are `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Where the attempts went.
    pub target: SocketAddr,
    /// Start of the run.
    pub start_ns: u64,
    /// End of the last attempt.
    pub end_ns: u64,
    /// Start of the run by the wall clock, in nanoseconds since 1970, to put it beside other logs.
    pub start_unix_ns: u64,
    /// All clients.
    pub total: ByKind,
    /// The keep-alive clients.
    pub keepalive: ByKind,
    /// The clients with a connection for each request.
    pub new: ByKind,
    /// Throughput over time.
    pub windows: Windows,
    /// Source ports that were taken by something else and passed over.
    pub ports_skipped: u64,
    /// The walk over source addresses and ports has begun anew: a pair may have been used more than once.
    pub ports_reused: bool,
}

/// The tally of one sort of client.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ByKind {
    /// Clients.
    pub clients: u32,
    /// Attempts: `ok` and `failed` together.
    pub requests: u64,
    /// Attempts that got a complete response, whatever its status.
    pub ok: u64,
    /// Attempts that did not.
    pub failed: u64,
    /// Slots of a fixed schedule that were due before the end and never tried, because the client was still busy.
    pub unsent: u64,
    /// Failed attempts by error.
    pub by_error: BTreeMap<ErrorKind, u64>,
    /// Complete responses by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Connections that were made.
    pub connections: u64,
    /// Idle connections that a looking client found closed by the server and replaced: no failures.
    pub found_closed: u64,
    /// Bytes of responses.
    pub received: u64,
    /// Time from the start of an answered attempt (its connect, if it made one) to the end of its response.
    pub latency: Latency,
    /// The same from the moment that the schedule wanted; absent in a closed loop.
    pub latency_from_due: Option<Latency>,
}

/// Percentiles of a latency, in nanoseconds; exact to three digits, answered attempts only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// Values.
    pub count: u64,
    /// Average.
    pub mean_ns: u64,
    /// Median.
    pub p50_ns: u64,
    /// 75th percentile.
    pub p75_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// Largest.
    pub max_ns: u64,
}

/// Attempts that ended in each window of the run; window `i` begins at `start_ns + i * length_ns`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Start of the first window.
    pub start_ns: u64,
    /// Length of each.
    pub length_ns: u64,
    /// Answered attempts.
    pub ok: Vec<u64>,
    /// Failed attempts.
    pub failed: Vec<u64>,
    /// Attempts after the last window that is kept.
    pub beyond: u64,
}
