//! What a run does: target, clients, schedule, timeouts, ports, outputs. Checked once before any socket is opened.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Clients at once: each is a thread with two histograms of a quarter MiB.
const CLIENT_LIMIT: u32 = 1024;

/// The largest request body; of requests that are sent at once, all together.
const BODY_LIMIT: usize = 16 * 1024 * 1024;

/// Requests sent at once: what a socket buffer takes without waiting.
const PIPELINE_LIMIT: u32 = 64;

/// Requests at once on a connection of HTTP/2: what a server allows that has not said anything else yet.
const STREAM_LIMIT: u32 = 100;

/// What a run does.
#[derive(Clone, Debug)]
pub struct Config {
    /// The one address that every attempt goes to.
    pub target: SocketAddr,
    /// Clients that keep their connection.
    pub keepalive: u32,
    /// Clients that open a connection for each request.
    pub new: u32,
    /// Requests a second of each keep-alive client; `None` is a saturating closed loop.
    pub keepalive_rate: Option<f64>,
    /// Requests a second of each new-connection client; `None` is a saturating closed loop.
    pub new_rate: Option<f64>,
    /// Keep-alive clients write without looking for the server's FIN or RST.
    pub blind: bool,
    /// The request's path.
    pub path: String,
    /// Bytes of a POST body; 0 sends a GET.
    pub body: usize,
    /// Speak TLS below it.
    pub tls: bool,
    /// Speak redis in place of HTTP: ask PING, or for the head of a list that stays empty, which is answered after so many seconds.
    pub redis: Option<u32>,
    /// Speak HTTP/2 in the clear, without asking first, with so many requests under way at most on a kept connection; 0 speaks HTTP/1.
    pub streams: u32,
    /// Over HTTP/2, ask the health service of gRPC, with a header `delay-ms` of so many milliseconds.
    pub grpc: Option<u32>,
    /// Requests that a keep-alive client sends at once; it then reads their answers. Each is an attempt.
    pub pipeline: u32,
    /// Bytes a second at which an answer is read; `None` is as they come.
    pub read_rate: Option<u64>,
    /// Bytes a second at which a request is written, in pieces; `None` is at once. A client does not read while it writes.
    pub write_rate: Option<u64>,
    /// How long after a request's head its body follows.
    pub body_delay: Duration,
    /// The bound on each connect.
    pub connect_timeout: Duration,
    /// The bound from the start of sending to the end of the response.
    pub timeout: Duration,
    /// Source addresses, used in turn; empty takes the one that the routes choose.
    pub sources: Vec<IpAddr>,
    /// First and last source port; `None` takes the system's ephemeral range.
    pub ports: Option<(u16, u16)>,
    /// Close every connection with RST: no TIME_WAIT is left.
    pub linger0: bool,
    /// End of the run; `None` runs until stopped or `max_requests`.
    pub duration: Option<Duration>,
    /// Attempts in all; `None` is no bound.
    pub max_requests: Option<u64>,
    /// Where attempts are logged, one JSON object a line.
    pub log: Option<PathBuf>,
    /// Log the successful attempts too.
    pub log_all: bool,
    /// The length of a throughput window.
    pub window: Duration,
}

/// A configuration that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// No clients yet, GET /, closed loop, connects 5 s, requests 10 s, windows of 1 s, until stopped.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            keepalive: 0,
            new: 0,
            keepalive_rate: None,
            new_rate: None,
            blind: false,
            path: "/".to_owned(),
            body: 0,
            tls: false,
            redis: None,
            streams: 0,
            grpc: None,
            pipeline: 1,
            read_rate: None,
            write_rate: None,
            body_delay: Duration::ZERO,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            sources: Vec::new(),
            ports: None,
            linger0: false,
            duration: None,
            max_requests: None,
            log: None,
            log_all: false,
            window: Duration::from_secs(1),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let clients = self.keepalive.saturating_add(self.new);
        let rate_ok =
            |rate: Option<f64>| rate.is_none_or(|rate| rate.is_finite() && (0.001..=1e6).contains(&rate));
        let timeout_ok =
            |timeout: Duration| (Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&timeout);
        let at_once = self.body.saturating_mul(usize::try_from(self.pipeline).unwrap_or(usize::MAX));
        let path_ok = self.path.starts_with('/') && self.path.bytes().all(|byte| byte.is_ascii_graphic());
        let family_ok = self.sources.iter().all(|source| source.is_ipv4() == self.target.is_ipv4());
        for (holds, reason) in [
            (clients > 0, "no clients: give keep-alive or new-connection clients"),
            (clients <= CLIENT_LIMIT, "too many clients"),
            (
                rate_ok(self.keepalive_rate) && rate_ok(self.new_rate),
                "a rate must lie between 0.001 and 1000000 a second",
            ),
            (
                timeout_ok(self.connect_timeout) && timeout_ok(self.timeout),
                "timeouts must lie between 1 ms and 1 h",
            ),
            (path_ok, "the path must begin with / and hold visible ASCII only"),
            ((1..=PIPELINE_LIMIT).contains(&self.pipeline), "between 1 and 64 requests can be sent at once"),
            (at_once <= BODY_LIMIT, "the bodies sent at once are larger than 16 MiB"),
            (self.redis.is_none() || self.body == 0, "a request of redis has no body"),
            (self.streams <= STREAM_LIMIT, "more than 100 requests on a connection"),
            (
                self.streams == 0 || self.is_plain(),
                "a client of HTTP/2 sends plain GET requests only, and always looks",
            ),
            (self.grpc.is_none() || self.streams > 0, "gRPC needs HTTP/2"),
            (
                self.read_rate != Some(0) && self.write_rate != Some(0),
                "a client reads and writes a byte a second or more",
            ),
            (
                self.body_delay.is_zero() || (self.body > 0 && self.pipeline == 1),
                "only the body of a request that is sent alone can be late",
            ),
            (family_ok, "source and target addresses must be of one family"),
            (self.target.port() != 0, "the target needs a port"),
            (
                self.ports.is_none_or(|(first, last)| first > 0 && first <= last),
                "the source port range is empty",
            ),
            (self.window >= Duration::from_millis(1), "a window must be 1 ms or longer"),
        ] {
            if !holds {
                return Err(ConfigError(reason.to_owned()));
            }
        }
        Ok(())
    }
}

impl Config {
    /// Without what only clients of HTTP/1 and redis do.
    fn is_plain(&self) -> bool {
        let paced = self.read_rate.is_some() || self.write_rate.is_some();
        !self.blind && self.body == 0 && !self.tls && self.redis.is_none() && self.pipeline == 1 && !paced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config { keepalive: 1, ..Config::new(SocketAddr::from(([127, 0, 0, 1], 80))) }
    }

    #[test]
    fn nonsense_is_refused() {
        config().check().expect("the base is valid");
        let v6 = IpAddr::from([0_u16; 8]);
        for (wrong, config) in [
            ("clients", Config { keepalive: 0, ..config() }),
            ("many", Config { new: u32::MAX, ..config() }),
            ("rate", Config { new_rate: Some(0.0), ..config() }),
            ("nan", Config { keepalive_rate: Some(f64::NAN), ..config() }),
            ("timeout", Config { timeout: Duration::ZERO, ..config() }),
            ("path", Config { path: "/a b".to_owned(), ..config() }),
            ("family", Config { sources: vec![v6], ..config() }),
            ("ports", Config { ports: Some((2000, 1000)), ..config() }),
            ("pipeline", Config { pipeline: 0, ..config() }),
            ("at once", Config { pipeline: 2, body: BODY_LIMIT, ..config() }),
            ("redis body", Config { redis: Some(0), body: 1, ..config() }),
            ("streams", Config { streams: STREAM_LIMIT + 1, ..config() }),
            ("blind streams", Config { streams: 1, blind: true, ..config() }),
            ("grpc", Config { grpc: Some(0), ..config() }),
            ("read rate", Config { read_rate: Some(0), ..config() }),
            ("late nothing", Config { body_delay: Duration::from_secs(1), ..config() }),
            ("window", Config { window: Duration::ZERO, ..config() }),
        ] {
            assert!(config.check().is_err(), "{wrong}");
        }
    }
}
