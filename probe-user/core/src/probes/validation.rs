//! What the API refuses of a probe, in its own words. To be asked after [`Probe::with_defaults`], as the API does.

use super::ProbeType;
use super::spec::{Grpc, HttpGet, Port, Probe};
use std::fmt;

const TWO_HANDLERS: &str = "may not specify more than 1 handler type";
const HEADER_NAME: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', \
                           regex used for validation is '[-A-Za-z0-9]+')";

/// One field and what is wrong with it; its text is the API's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Path of the field.
    pub field: String,
    /// What the API says of it.
    pub why: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

/// All that is wrong with a probe at this path, such as `spec.containers[0].livenessProbe`.
pub fn invalid(probe: &Probe, kind: ProbeType, path: &str) -> Vec<Invalid> {
    let mut found = Found { path, list: Vec::new() };
    found.handlers(probe);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if value < 0 {
            found.value(field, value, "must be greater than or equal to 0");
        }
    }
    if let Some(grace) = probe.termination_grace_period_seconds.filter(|grace| *grace <= 0) {
        found.value("terminationGracePeriodSeconds", grace, "must be greater than 0");
    }
    match (kind, probe.termination_grace_period_seconds) {
        (ProbeType::Readiness, Some(grace)) => {
            found.value("terminationGracePeriodSeconds", grace, "must not be set for readinessProbes");
        }
        (ProbeType::Liveness | ProbeType::Startup, _) if probe.success_threshold != 1 => {
            found.value("successThreshold", probe.success_threshold, "must be 1");
        }
        _ => {}
    }
    found.list
}

struct Found<'a> {
    path: &'a str,
    list: Vec<Invalid>,
}

impl Found<'_> {
    fn add(&mut self, field: &str, why: String) {
        let field = if field.is_empty() { self.path.to_owned() } else { format!("{}.{field}", self.path) };
        self.list.push(Invalid { field, why });
    }

    fn value(&mut self, field: &str, value: impl fmt::Display, why: &str) {
        self.add(field, format!("Invalid value: {value}: {why}"));
    }

    /// The first handler is looked at, every other one is refused.
    fn handlers(&mut self, probe: &Probe) {
        let mut any = false;
        let mut first = |found: &mut Self, field: &str| {
            if any {
                found.add(field, format!("Forbidden: {TWO_HANDLERS}"));
            }
            !std::mem::replace(&mut any, true)
        };
        if let Some(exec) = &probe.exec
            && first(self, "exec")
            && exec.command.is_empty()
        {
            self.add("exec.command", "Required value".to_owned());
        }
        if let Some(http) = &probe.http_get
            && first(self, "httpGet")
        {
            self.http(http);
        }
        if let Some(tcp) = &probe.tcp_socket
            && first(self, "tcpSocket")
        {
            self.port("tcpSocket.port", &tcp.port);
        }
        if let Some(grpc) = &probe.grpc
            && first(self, "grpc")
        {
            self.grpc(grpc);
        }
        if !any {
            self.add("", "Required value: must specify a handler type".to_owned());
        }
    }

    fn http(&mut self, http: &HttpGet) {
        if http.path.is_empty() {
            self.add("httpGet.path", "Required value".to_owned());
        }
        self.port("httpGet.port", &http.port);
        if !matches!(http.scheme.as_str(), "HTTP" | "HTTPS") {
            self.unsupported("httpGet.scheme", &http.scheme, "\"HTTP\", \"HTTPS\"");
        }
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        for header in &http.http_headers {
            if header.name.is_empty() || !header.name.bytes().all(is_letter) {
                self.value("httpGet.httpHeaders", format_args!("{:?}", header.name), HEADER_NAME);
            }
        }
        match http.protocol.as_deref() {
            None | Some("HTTP1") => {}
            Some("HTTP2") => {
                if http.scheme != "HTTP" {
                    let scheme = format_args!("{:?}", http.scheme);
                    self.value("httpGet.scheme", scheme, "must be HTTP when protocol is HTTP2");
                }
                if !http.host.is_empty() {
                    let host = format_args!("{:?}", http.host);
                    self.value("httpGet.host", host, "must be empty when protocol is HTTP2");
                }
            }
            Some(other) => self.unsupported("httpGet.protocol", other, "\"HTTP1\", \"HTTP2\""),
        }
    }

    fn grpc(&mut self, grpc: &Grpc) {
        self.port("grpc.port", &Port::Number(grpc.port));
        if let Some(other) = grpc.mode.as_deref().filter(|mode| !matches!(*mode, "Plaintext" | "TLS")) {
            self.unsupported("grpc.mode", other, "\"Plaintext\", \"TLS\"");
        }
    }

    fn unsupported(&mut self, field: &str, value: &str, supported: &str) {
        self.add(field, format!("Unsupported value: {value:?}: supported values: {supported}"));
    }

    /// A number from 1 to 65535, or a name as IANA has them for services.
    fn port(&mut self, field: &str, port: &Port) {
        let name = match port {
            Port::Number(1..=65_535) => return,
            Port::Number(number) => {
                return self.value(field, number, "must be between 1 and 65535, inclusive");
            }
            Port::Name(name) => name,
        };
        let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        for (wrong, why) in [
            (name.len() > 15, "must be no more than 15 characters"),
            (
                name.is_empty() || !name.bytes().all(is_part),
                "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            ),
            (!name.bytes().any(|byte| byte.is_ascii_lowercase()), "must contain at least one letter (a-z)"),
            (name.contains("--"), "must not contain consecutive hyphens"),
            (name.starts_with('-') || name.ends_with('-'), "must not begin or end with a hyphen"),
        ] {
            if wrong {
                self.value(field, format_args!("{name:?}"), why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(probe: &str, kind: ProbeType) -> Vec<String> {
        let probe: Probe = serde_json::from_str(probe).unwrap();
        invalid(&probe.with_defaults(), kind, "p").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_the_api_takes_has_nothing_wrong() {
        for probe in [
            r#"{"exec":{"command":["true"]}}"#,
            r#"{"httpGet":{"port":"http"},"initialDelaySeconds":null}"#,
            r#"{"httpGet":{"port":80,"scheme":"HTTPS","httpHeaders":[{"name":"Host","value":"x"}]}}"#,
            r#"{"tcpSocket":{"port":65535}}"#,
            r#"{"grpc":{"port":1,"service":"x"}}"#,
        ] {
            for kind in ProbeType::ALL {
                assert_eq!(texts(probe, kind), <[String; 0]>::default(), "{probe}");
            }
        }
    }

    #[test]
    fn each_refusal_has_the_words_of_the_api() {
        use ProbeType::{Liveness, Readiness, Startup};
        for (probe, kind, wanted) in [
            ("{}", Liveness, "p: Required value: must specify a handler type"),
            (r#"{"exec":{}}"#, Liveness, "p.exec.command: Required value"),
            (
                r#"{"tcpSocket":{"port":1},"grpc":{"port":0}}"#,
                Liveness,
                "p.grpc: Forbidden: may not specify more than 1 handler type",
            ),
            (
                r#"{"tcpSocket":{"port":1},"successThreshold":2}"#,
                Startup,
                "p.successThreshold: Invalid value: 2: must be 1",
            ),
            (
                r#"{"tcpSocket":{"port":1},"terminationGracePeriodSeconds":5}"#,
                Readiness,
                "p.terminationGracePeriodSeconds: Invalid value: 5: must not be set for readinessProbes",
            ),
            (
                r#"{"tcpSocket":{"port":1},"terminationGracePeriodSeconds":0}"#,
                Liveness,
                "p.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
            ),
            (
                r#"{"tcpSocket":{"port":1},"periodSeconds":-1}"#,
                Readiness,
                "p.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                r#"{"tcpSocket":{"port":0}}"#,
                Readiness,
                "p.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                r#"{"grpc":{"port":70000}}"#,
                Readiness,
                "p.grpc.port: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                r#"{"httpGet":{"port":"80"}}"#,
                Readiness,
                "p.httpGet.port: Invalid value: \"80\": must contain at least one letter (a-z)",
            ),
            (
                r#"{"httpGet":{"port":80,"scheme":"ftp"}}"#,
                Readiness,
                "p.httpGet.scheme: Unsupported value: \"ftp\": supported values: \"HTTP\", \"HTTPS\"",
            ),
            (
                r#"{"httpGet":{"port":80,"httpHeaders":[{"name":"a b"}]}}"#,
                Readiness,
                "p.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
            ),
        ] {
            assert_eq!(texts(probe, kind), [wanted], "{probe}");
        }
        assert_eq!(
            texts(r#"{"tcpSocket":{"port":"-A--too-long-for-iana"}}"#, Readiness).len(),
            4,
            "every rule of names speaks for itself"
        );
    }
}
