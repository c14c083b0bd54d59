//! The kubelet's own verdicts on this node's probes: a task that reads its `/metrics/probes` now and then.
//!
//! In: where the kubelet is, and what vouches for it. Out: readings for the core, and for the servers how the asking goes. Bounded in time and
//! bytes; what fails is counted, named and tried again. Nothing else is asked of the kubelet, and its answer sends the agent nowhere else.

pub mod text;

use crate::clock::mono_now;
use crate::feature::{Asking, State};
use crate::kube::client::{self, ConnectError, Trust};
use crate::kube::retry::{Backoff, Timing, brief};
use hyper::body::Body as _;
use hyper::{Request, StatusCode, Uri};
use kube::Client;
use kube::client::Body;
use probe_core::event::{Event, Fact};
use probe_core::time::Mono;
use probe_core::verdicts::Reading;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;
use text::{Parser, TextError};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::timeout;

const PATH: &str = "/metrics/probes";
/// How long a reading may take unless somebody says otherwise: what Prometheus gives a scrape.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Longest pause after failures, should the period not be longer.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// What the flags say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `https`, host and port.
    pub url: Uri,
    /// From one reading to the next.
    pub period: Duration,
    /// Longest that one may take.
    pub patience: Duration,
    /// What vouches for the kubelet.
    pub trust: Trust,
}

/// A reading that failed; each is tried again, after a longer pause each time.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There are no credentials to show, or no authority to check.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No connection, no TLS, or the answer broke off.
    #[error("{0}")]
    Unreachable(String),
    /// It took too long.
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
    /// 401: the credentials are read anew.
    #[error(
        "the kubelet answered 401: it does not take the agent's credentials (its --authentication-token-webhook is needed)"
    )]
    Unauthorized,
    /// 403.
    #[error("the kubelet answered 403: the agent's ClusterRole lacks the verb get of nodes/metrics")]
    Forbidden,
    /// Another status.
    #[error("the kubelet answered {0} to GET {PATH}")]
    Status(StatusCode),
    /// An answer that is none, or more than is read.
    #[error("the kubelet's answer: {0}")]
    Text(#[from] TextError),
}

impl ReadError {
    /// Its place in the counts.
    fn kind(&self) -> Ended {
        match self {
            Self::Connect(_) | Self::Unreachable(_) => Ended::Unreachable,
            Self::Timeout(_) => Ended::Timeout,
            Self::Unauthorized => Ended::Unauthorized,
            Self::Forbidden => Ended::Forbidden,
            Self::Status(_) => Ended::Status,
            Self::Text(TextError::TooLarge(_)) => Ended::TooLarge,
            Self::Text(TextError::Malformed(_)) => Ended::Malformed,
        }
    }
}

/// How a reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With counts.
    Read,
    /// 403.
    Forbidden,
    /// No metrics of a kubelet.
    Malformed,
    /// Another status.
    Status,
    /// Too late.
    Timeout,
    /// Beyond the bounds.
    TooLarge,
    /// 401.
    Unauthorized,
    /// No connection, or a certificate that nobody vouches for.
    Unreachable,
}

impl Ended {
    /// Every kind, in the order of counts.
    pub const ALL: [Self; 8] = [
        Self::Read,
        Self::Forbidden,
        Self::Malformed,
        Self::Status,
        Self::Timeout,
        Self::TooLarge,
        Self::Unauthorized,
        Self::Unreachable,
    ];

    /// Its name in `/status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Forbidden => "forbidden",
            Self::Malformed => "malformed",
            Self::Status => "status",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::Unauthorized => "unauthorized",
            Self::Unreachable => "unreachable",
        }
    }
}

/// How the asking goes: its counts are as [`Ended::ALL`].
pub type Readings = Asking<{ Ended::ALL.len() }>;

/// Reads on, for as long as the agent runs.
pub async fn run(
    settings: Settings,
    kubeconfig: Option<PathBuf>,
    sink: mpsc::Sender<Event>,
    readings: Readings,
) {
    readings.set(State::Failed("not asked yet".to_owned()));
    let pauses = Timing {
        backoff_min: settings.period,
        backoff_max: PAUSE_MAX.max(settings.period),
        ..Timing::default()
    };
    let mut backoff = Backoff::new(pauses);
    let mut connection = Connection { settings, kubeconfig, client: None };
    loop {
        let pause = match connection.read().await {
            Ok((reading, answered)) => {
                readings.count(Ended::Read as usize);
                if readings.set(State::Active) {
                    tracing::info!(url = %connection.settings.url, "the kubelet's verdicts are read");
                }
                let fact = Fact::Verdicts(Box::new(reading));
                if sink.send(Event { at: answered, fact }).await.is_err() {
                    return;
                }
                backoff.reset();
                connection.settings.period
            }
            Err(error) => {
                let why = error.to_string();
                readings.count(error.kind() as usize);
                if readings.set(State::Failed(why.clone())) {
                    tracing::warn!(url = %connection.settings.url, "the kubelet's verdicts cannot be read: {why}");
                }
                backoff.failed()
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// The way to the kubelet.
struct Connection {
    settings: Settings,
    kubeconfig: Option<PathBuf>,
    /// Made from the credentials as they were last read.
    client: Option<Client>,
}

impl Connection {
    /// One reading, and when its last byte was here.
    async fn read(&mut self) -> Result<(Reading, Mono), ReadError> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let Settings { url, trust, .. } = &self.settings;
                let client = client::connect_kubelet(self.kubeconfig.as_deref(), url, trust).await?;
                self.client.insert(client).clone()
            }
        };
        let asked = mono_now();
        let patience = self.settings.patience;
        let read = timeout(patience, counters(&client)).await;
        let read = read.unwrap_or(Err(ReadError::Timeout(patience)));
        if matches!(read, Err(ReadError::Unauthorized | ReadError::Unreachable(_))) {
            // A rotated token or authority is in its file before the library looks there again.
            self.client = None;
        }
        let parser = read?;
        let answered = mono_now();
        let (life, told) = parser.finish()?;
        Ok((Reading { asked, life, told }, answered))
    }
}

/// Reads the whole answer.
async fn counters(client: &Client) -> Result<Parser, ReadError> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static(PATH);
    let answer = client.send(request).await.map_err(|error| no_answer(&brief(&error)))?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => return Err(ReadError::Unauthorized),
        StatusCode::FORBIDDEN => return Err(ReadError::Forbidden),
        other => return Err(ReadError::Status(other)),
    }
    let mut parser = Parser::default();
    let mut body = pin!(answer.into_body());
    while let Some(frame) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let frame = frame.map_err(|error| no_answer(&error.to_string()))?;
        if let Ok(bytes) = frame.into_data() {
            parser.take(&bytes)?;
        }
    }
    Ok(parser)
}

/// What to do where nobody vouches for the kubelet's certificate, which is the usual trouble.
fn no_answer(why: &str) -> ReadError {
    let hint = if why.contains("certificate") {
        ": pass --kubelet-certificate-authority with what signed it, or --kubelet-insecure-tls if it signed itself"
    } else {
        ""
    };
    ReadError::Unreachable(format!("{why}{hint}"))
}
