//! A probe as a pod's spec has it, and the API's defaults. What the API refuses is in `validation`.

use serde::{Deserialize, Deserializer};

/// `livenessProbe`, `readinessProbe` or `startupProbe`, in the API's own form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Probe {
    /// A command in the container.
    pub exec: Option<Exec>,
    /// HTTP or HTTPS.
    pub http_get: Option<HttpGet>,
    /// A connection, nothing more.
    pub tcp_socket: Option<TcpSocket>,
    /// The gRPC health protocol.
    pub grpc: Option<Grpc>,
    /// Whole seconds after the container's start in which it is not asked.
    #[serde(deserialize_with = "nullable")]
    pub initial_delay_seconds: i32,
    /// Time that one attempt has.
    #[serde(deserialize_with = "nullable")]
    pub timeout_seconds: i32,
    /// Time from one probe to the next.
    #[serde(deserialize_with = "nullable")]
    pub period_seconds: i32,
    /// Successes in a row that make a success.
    #[serde(deserialize_with = "nullable")]
    pub success_threshold: i32,
    /// Failures in a row that make a failure.
    #[serde(deserialize_with = "nullable")]
    pub failure_threshold: i32,
    /// Grace of the kill that a failure causes, in place of the pod's.
    pub termination_grace_period_seconds: Option<i64>,
}

/// A command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Exec {
    /// Program and arguments; no shell.
    #[serde(deserialize_with = "nullable")]
    pub command: Vec<String>,
}

/// A GET request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpGet {
    /// Path and query.
    #[serde(deserialize_with = "nullable")]
    pub path: String,
    /// Port.
    #[serde(deserialize_with = "nullable")]
    pub port: Port,
    /// Another host than the pod.
    #[serde(deserialize_with = "nullable")]
    pub host: String,
    /// `HTTP` or `HTTPS`.
    #[serde(deserialize_with = "nullable")]
    pub scheme: String,
    /// Headers in place of, or besides, the kubelet's own.
    #[serde(deserialize_with = "nullable")]
    pub http_headers: Vec<HttpHeader>,
    /// `HTTP1` or `HTTP2` (in the clear, without an upgrade); alpha in 1.37.
    pub protocol: Option<String>,
}

/// A header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HttpHeader {
    /// Name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// Value.
    #[serde(deserialize_with = "nullable")]
    pub value: String,
}

/// A connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TcpSocket {
    /// Port.
    #[serde(deserialize_with = "nullable")]
    pub port: Port,
    /// Another host than the pod.
    #[serde(deserialize_with = "nullable")]
    pub host: String,
}

/// A call of the gRPC health service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Grpc {
    /// Port; a number only.
    #[serde(deserialize_with = "nullable")]
    pub port: i32,
    /// The service that is asked about; empty: the server itself.
    pub service: Option<String>,
    /// `Plaintext` or `TLS`; alpha in 1.37.
    pub mode: Option<String>,
}

/// A number or a name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Port {
    /// A number.
    Number(i32),
    /// The name of a port of the container, or a number in words.
    Name(String),
}

impl Default for Port {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// The one handler that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler<'a> {
    /// A command.
    Exec(&'a Exec),
    /// HTTP or HTTPS.
    HttpGet(&'a HttpGet),
    /// A connection.
    TcpSocket(&'a TcpSocket),
    /// gRPC.
    Grpc(&'a Grpc),
}

impl Handler<'_> {
    /// As the field is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::HttpGet(_) => "httpGet",
            Self::TcpSocket(_) => "tcpSocket",
            Self::Grpc(_) => "grpc",
        }
    }
}

impl Probe {
    /// With the API's defaults in place of what is not set. 0 is a real value of `initialDelaySeconds` alone.
    #[must_use]
    pub fn with_defaults(mut self) -> Self {
        let or = |value: &mut i32, default| {
            if *value == 0 {
                *value = default;
            }
        };
        or(&mut self.timeout_seconds, 1);
        or(&mut self.period_seconds, 10);
        or(&mut self.success_threshold, 1);
        or(&mut self.failure_threshold, 3);
        if let Some(http) = &mut self.http_get {
            if http.path.is_empty() {
                "/".clone_into(&mut http.path);
            }
            if http.scheme.is_empty() {
                "HTTP".clone_into(&mut http.scheme);
            }
        }
        if let Some(grpc) = &mut self.grpc {
            grpc.service.get_or_insert_default();
        }
        self
    }

    /// The handler; of several, which the API would refuse, the one that the kubelet takes.
    pub fn handler(&self) -> Option<Handler<'_>> {
        let exec = self.exec.as_ref().map(Handler::Exec);
        let http = || self.http_get.as_ref().map(Handler::HttpGet);
        let tcp = || self.tcp_socket.as_ref().map(Handler::TcpSocket);
        let grpc = || self.grpc.as_ref().map(Handler::Grpc);
        exec.or_else(http).or_else(tcp).or_else(grpc)
    }
}

/// `null` is as good as nothing, as for the API itself.
pub fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
