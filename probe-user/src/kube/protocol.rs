//! What names in the API say that a port speaks: `appProtocol`, port names, kinds of probes. A name that says nothing is
//! no error.

use crate::kube::objects::Probe;
use probe_ebpf::protocol::Protocol;

/// By `appProtocol`: a name of the IANA registry, one of Kubernetes' own, or a load balancer's in capitals.
#[must_use]
pub fn of_app_protocol(name: &str) -> Option<Protocol> {
    let name = name.to_ascii_lowercase();
    of_word(name.strip_prefix("kubernetes.io/").unwrap_or(&name))
}

/// By the name of a port: the word before the first `-`, as service meshes have it.
#[must_use]
pub fn of_port_name(name: &str) -> Option<Protocol> {
    of_word(name.split('-').next().unwrap_or_default())
}

/// By the kind of a probe. One that only connects says nothing.
#[must_use]
pub fn of_probe(probe: &Probe) -> Option<Protocol> {
    if let Some(get) = &probe.http_get {
        let is_secure = get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
        return Some(if is_secure { Protocol::Https } else { Protocol::Http });
    }
    probe.grpc.as_ref().map(|_| Protocol::Multiplexed)
}

fn of_word(word: &str) -> Option<Protocol> {
    Some(match word {
        "http" | "http1" => Protocol::Http,
        "https" | "grpcs" => Protocol::Https,
        "tls" | "ssl" | "wss" | "amqps" | "imaps" | "ldaps" | "rediss" | "smtps" => Protocol::Tls,
        "http2" | "h2c" | "grpc" => Protocol::Multiplexed,
        "tcp" | "ws" | "amqp" | "cassandra" | "cql" | "ftp" | "imap" | "kafka" | "ldap" | "memcache"
        | "memcached" | "mongo" | "mongodb" | "mqtt" | "mysql" | "nats" | "postgres" | "postgresql"
        | "redis" | "smtp" | "ssh" | "syslog" => Protocol::Raw,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocols() {
        for (name, wanted) in [
            ("http", Some(Protocol::Http)),
            ("HTTPS", Some(Protocol::Https)),
            ("HTTP2", Some(Protocol::Multiplexed)),
            ("kubernetes.io/h2c", Some(Protocol::Multiplexed)),
            ("kubernetes.io/ws", Some(Protocol::Raw)),
            ("kubernetes.io/wss", Some(Protocol::Tls)),
            ("grpc", Some(Protocol::Multiplexed)),
            ("tls", Some(Protocol::Tls)),
            ("postgresql", Some(Protocol::Raw)),
            ("example.com/http", None),
            ("http-alt", None),
            ("", None),
        ] {
            assert_eq!(of_app_protocol(name), wanted, "{name}");
        }
    }

    #[test]
    fn port_names() {
        for (name, wanted) in [
            ("http", Some(Protocol::Http)),
            ("http-admin", Some(Protocol::Http)),
            ("https-api", Some(Protocol::Https)),
            ("grpc-web", Some(Protocol::Multiplexed)),
            ("http2", Some(Protocol::Multiplexed)),
            ("tcp-dns", Some(Protocol::Raw)),
            ("tls-", Some(Protocol::Tls)),
            ("mongo", Some(Protocol::Raw)),
            ("httpx", None),
            ("my-http", None),
            ("-http", None),
            ("metrics", None),
            ("", None),
        ] {
            assert_eq!(of_port_name(name), wanted, "{name}");
        }
    }

    #[test]
    fn kinds_of_probes() {
        for (probe, wanted) in [
            (r#"{"httpGet": {"port": 80}}"#, Some(Protocol::Http)),
            (r#"{"httpGet": {"port": 80, "scheme": "HTTP"}}"#, Some(Protocol::Http)),
            (r#"{"httpGet": {"port": 443, "scheme": "HTTPS"}}"#, Some(Protocol::Https)),
            (r#"{"grpc": {"port": 9000}}"#, Some(Protocol::Multiplexed)),
            (r#"{"tcpSocket": {"port": 9000}}"#, None),
            (r#"{"exec": {"command": ["true"]}}"#, None),
        ] {
            let parsed: Probe = serde_json::from_str(probe).expect("a probe");
            assert_eq!(of_probe(&parsed), wanted, "{probe}");
        }
    }
}
