//! The server's command line: where it listens and how it behaves after its stop signal.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// What the server does at SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnTerm {
    /// Exits at once, whatever is pending.
    Exit,
    /// Stops listening, answers what it has, closes idle connections, then exits.
    Drain,
    /// Serves on for so long, then drains.
    Linger(Duration),
    /// Installs no handler: as pid 1 of a pid namespace the kernel then ignores the signal.
    Ignore,
    /// Closes the listener and every connection at once, but lives on for so long.
    CloseThenWait(Duration),
}

impl FromStr for OnTerm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (style, seconds) =
            text.split_once(':').map_or((text, None), |(style, seconds)| (style, Some(seconds)));
        let duration = || {
            let seconds = seconds.ok_or_else(|| format!("{style} needs seconds, as in {style}:2"))?;
            let seconds =
                seconds.parse().map_err(|error| format!("{seconds:?} is no number of seconds: {error}"))?;
            Duration::try_from_secs_f64(seconds).map_err(|error| format!("{seconds} seconds: {error}"))
        };
        match (style, seconds) {
            ("exit", None) => Ok(Self::Exit),
            ("drain", None) => Ok(Self::Drain),
            ("ignore", None) => Ok(Self::Ignore),
            ("linger", _) => duration().map(Self::Linger),
            ("close-then-wait", _) => duration().map(Self::CloseThenWait),
            _ => Err(format!(
                "{text:?} is none of exit, drain, ignore, linger:SECONDS, close-then-wait:SECONDS"
            )),
        }
    }
}

/// HTTP/1.1 server of the test world.
#[derive(Clone, Debug, clap::Parser)]
pub(crate) struct Options {
    /// Address and port to listen on, repeatable; `[::]` takes IPv4 as well (v4-mapped).
    #[arg(long, default_value = "[::]:8080")]
    pub(crate) listen: Vec<SocketAddr>,

    /// Name in the answers' bodies.
    #[arg(long, env = "POD_NAME", default_value = "testserver")]
    pub(crate) name: String,

    /// What SIGTERM does: exit, drain, linger:SECONDS, ignore, close-then-wait:SECONDS.
    #[arg(long, default_value = "drain")]
    pub(crate) on_term: OnTerm,

    /// With linger: accept nothing more after SIGTERM (the listener stays open), exit at the end.
    #[arg(long)]
    pub(crate) no_accept_after_term: bool,

    /// With linger: close what is accepted after SIGTERM at once, exit at the end.
    #[arg(long)]
    pub(crate) close_accepted_after_term: bool,

    /// With linger: accept but read nothing more after SIGTERM, exit at the end.
    #[arg(long)]
    pub(crate) stall_reads: bool,

    /// With linger: read but answer nothing more after SIGTERM, exit at the end.
    #[arg(long)]
    pub(crate) stall_answers: bool,

    /// Serve on a second thread and end the first, as language runtimes may: the last thread to exit is then not the first.
    #[arg(long)]
    pub(crate) second_thread: bool,

    /// Answer /readyz with 503 from SIGTERM on.
    #[arg(long)]
    pub(crate) unready_on_term: bool,

    /// Length of the accept queue.
    #[arg(long, default_value_t = 4096)]
    pub(crate) backlog: i32,

    /// Connections held at a time; more wait in the accept queue.
    #[arg(long, default_value_t = 16_384)]
    pub(crate) max_connections: usize,
}

impl Options {
    /// Whether the server exits at the end of its linger time rather than drains: what it stalled must stay unanswered.
    pub(crate) fn stalls(&self) -> bool {
        self.no_accept_after_term || self.close_accepted_after_term || self.stall_reads || self.stall_answers
    }
}
