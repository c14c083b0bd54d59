//! The load generator's command line: flags in, the attempt log and the summary out.
//!
//! It ends by itself after `--duration` or `--max-requests`, on SIGTERM or SIGINT, and with `--stop-on-stdin-eof` when its standard input
//! closes; attempts under way are finished first. Exit status 0 whatever the attempts met: the summary tells.
#![expect(clippy::print_stdout, reason = "the summary on standard output is this program's job")]

use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use world::load::{Config, Stopper, start};

/// Load without retries, HTTP/1.1 unless told: every attempt is made once and every failed one is logged.
#[derive(Debug, Parser)]
#[command(name = "load")]
struct Args {
    /// Where requests go: `A.B.C.D:port` or `[v6]:port`
    #[arg(long)]
    target: SocketAddr,
    /// Clients that send one request after another on a kept connection
    #[arg(long, default_value_t = 0)]
    keepalive: u32,
    /// Clients that open a connection for each request
    #[arg(long, default_value_t = 0)]
    new: u32,
    /// Requests a second of each client [default: as fast as the answers come]
    #[arg(long)]
    rate: Option<f64>,
    /// The same for keep-alive clients only
    #[arg(long)]
    keepalive_rate: Option<f64>,
    /// The same for new-connection clients only
    #[arg(long)]
    new_rate: Option<f64>,
    /// Keep-alive clients do not look for the server's FIN before they write
    #[arg(long)]
    blind: bool,
    /// The path to request
    #[arg(long, default_value = "/")]
    path: String,
    /// Send a POST with so many bytes
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    body: usize,
    /// Speak TLS below it; any certificate will do
    #[arg(long)]
    tls: bool,
    /// Speak redis: ask for the head of an empty list, which takes so many seconds; 0 asks PING
    #[arg(long, value_name = "SECONDS")]
    redis: Option<u32>,
    /// Speak HTTP/2 in the clear, with so many requests under way at most on a kept connection
    #[arg(long, default_value_t = 0, value_name = "STREAMS")]
    http2: u32,
    /// Over HTTP/2, ask the health service of gRPC, with a header `delay-ms` of so many milliseconds
    #[arg(long, value_name = "MS")]
    grpc: Option<u32>,
    /// Keep-alive clients send so many requests at once; each is an attempt, and a rate counts them together
    #[arg(long, default_value_t = 1, value_name = "REQUESTS")]
    pipeline: u32,
    /// Read answers slowly: so many bytes a second
    #[arg(long, value_name = "BYTES")]
    read_rate: Option<u64>,
    /// Write requests slowly: so many bytes a second
    #[arg(long, value_name = "BYTES")]
    write_rate: Option<u64>,
    /// Send the body so long after the head, in seconds
    #[arg(long, default_value = "0", value_parser = seconds, value_name = "SECONDS")]
    body_delay: Duration,
    /// Bound on each connect, in seconds
    #[arg(long, default_value = "5", value_parser = seconds, value_name = "SECONDS")]
    connect_timeout: Duration,
    /// Bound on each request from sending to the end of the response, in seconds
    #[arg(long, default_value = "10", value_parser = seconds, value_name = "SECONDS")]
    timeout: Duration,
    /// Source addresses, used in turn [default: the one that the routes choose]
    #[arg(long, value_delimiter = ',')]
    source: Vec<IpAddr>,
    /// Source ports, `FIRST-LAST` [default: the ephemeral range]
    #[arg(long, value_parser = port_range)]
    ports: Option<(u16, u16)>,
    /// Close connections with RST, so that no TIME_WAIT is left
    #[arg(long)]
    linger0: bool,
    /// End after so many seconds
    #[arg(long, value_parser = seconds, value_name = "SECONDS")]
    duration: Option<Duration>,
    /// End after so many attempts
    #[arg(long)]
    max_requests: Option<u64>,
    /// End when standard input closes
    #[arg(long)]
    stop_on_stdin_eof: bool,
    /// Log failed attempts here, one JSON object a line
    #[arg(long)]
    log: Option<PathBuf>,
    /// Log the successful attempts too
    #[arg(long, requires = "log")]
    log_all: bool,
    /// Write the summary here [default: standard output]
    #[arg(long)]
    summary: Option<PathBuf>,
    /// Length of a throughput window
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    window: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Blocked before the first thread exists, so that only the waiting thread takes them.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block().context("block signals")?;
    let running = start(config(&args))?;
    stop_on_signal(signals, running.stopper());
    if args.stop_on_stdin_eof {
        stop_on_eof(running.stopper());
    }
    let summary = serde_json::to_string_pretty(&running.wait()?)?;
    match &args.summary {
        Some(path) => fs::write(path, summary + "\n").with_context(|| format!("write {}", path.display()))?,
        None => println!("{summary}"),
    }
    Ok(())
}

fn config(args: &Args) -> Config {
    Config {
        keepalive: args.keepalive,
        new: args.new,
        keepalive_rate: args.keepalive_rate.or(args.rate),
        new_rate: args.new_rate.or(args.rate),
        blind: args.blind,
        path: args.path.clone(),
        body: args.body,
        tls: args.tls,
        redis: args.redis,
        streams: args.http2,
        grpc: args.grpc,
        pipeline: args.pipeline,
        read_rate: args.read_rate,
        write_rate: args.write_rate,
        body_delay: args.body_delay,
        connect_timeout: args.connect_timeout,
        timeout: args.timeout,
        sources: args.source.clone(),
        ports: args.ports,
        linger0: args.linger0,
        duration: args.duration,
        max_requests: args.max_requests,
        log: args.log.clone(),
        log_all: args.log_all,
        window: Duration::from_millis(args.window),
        ..Config::new(args.target)
    }
}

fn stop_on_signal(signals: SigSet, stopper: Stopper) {
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            stopper.stop();
        }
    });
}

fn stop_on_eof(stopper: Stopper) {
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        while std::io::stdin().lock().read(&mut bytes).is_ok_and(|count| count > 0) {}
        stopper.stop();
    });
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').ok_or("expected FIRST-LAST")?;
    let port = |text: &str| text.parse::<u16>().map_err(|error| error.to_string());
    Ok((port(first)?, port(last)?))
}
