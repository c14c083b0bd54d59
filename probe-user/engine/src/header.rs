//! The request that a probe sends: which headers it has, in which order and form. No I/O.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::escape::unescaped;
use crate::quote::quoted;
use crate::url::Url;

/// Written from other sources or not at all.
const NOT_WRITTEN: [&str; 5] = ["Host", "User-Agent", "Content-Length", "Transfer-Encoding", "Trailer"];

/// Belong to a connection and have no place in HTTP/2.
const OF_CONNECTION: [&str; 5] =
    ["Connection", "Proxy-Connection", "Keep-Alive", "Upgrade", "Transfer-Encoding"];

/// Headers by canonical name; one name may have several values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(BTreeMap<String, Vec<String>>);

impl Headers {
    /// The user's, and the probe's own where the user has none. An empty `Accept` removes it.
    pub(crate) fn of_probe(of_user: &[(String, String)], user_agent: &str) -> Self {
        let mut headers = Self::default();
        for (name, value) in of_user {
            headers.0.entry(canonical(name)).or_default().push(value.clone());
        }
        headers.0.entry("User-Agent".to_owned()).or_insert_with(|| vec![user_agent.to_owned()]);
        headers.0.entry("Accept".to_owned()).or_insert_with(|| vec!["*/*".to_owned()]);
        if headers.first("Accept").is_empty() {
            headers.0.remove("Accept");
        }
        headers
    }

    /// The first value, or nothing.
    pub(crate) fn first(&self, name: &str) -> &str {
        self.0.get(name).and_then(|values| values.first()).map_or("", String::as_str)
    }

    pub(crate) fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), vec![value]);
    }

    /// Name or value that cannot be sent, in the kubelet's words.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, values) in &self.0 {
            if !is_token(name) {
                return Err(format!("net/http: invalid header field name {}", quoted(name.as_bytes())));
            }
            if values.iter().flat_map(|value| value.bytes()).any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
                return Err(format!("net/http: invalid header field value for {}", quoted(name.as_bytes())));
            }
        }
        Ok(())
    }

    /// Name and password of the URL, unless a header has some.
    fn authorization(&self, url: &Url) -> Option<String> {
        let user = url.user.as_ref().filter(|_| self.first("Authorization").is_empty())?;
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let plain = [unescaped(name).ok()?, b":".to_vec(), unescaped(password).ok()?].concat();
        Some(format!("Basic {}", BASE64_STANDARD.encode(plain)))
    }

    /// The head of an HTTP/1.1 request: Host, User-Agent, the others by name, and that the connection ends with it.
    pub(crate) fn http1(&self, url: &Url, host: &str) -> Vec<u8> {
        let mut head = format!("GET {} HTTP/1.1\r\nHost: {host}\r\n", url.request_target());
        for (name, value) in self.written(url) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let upgrades = !self.first("Upgrade").is_empty() && self.connection_has("upgrade");
        if !self.connection_has("close") && !upgrades {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Headers of an HTTP/2 request beside its pseudo-headers, names in lower case.
    pub(crate) fn http2(&self, url: &Url) -> Vec<(String, String)> {
        self.written(url)
            .filter(|(name, _)| !OF_CONNECTION.contains(&name.as_str()))
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect()
    }

    fn written(&self, url: &Url) -> impl Iterator<Item = (String, String)> {
        let agent = self.first("User-Agent").trim_matches([' ', '\t']);
        let agent = (!agent.is_empty()).then(|| ("User-Agent".to_owned(), agent.to_owned()));
        let mut others: Vec<(String, String)> = self
            .0
            .iter()
            .filter(|(name, _)| !NOT_WRITTEN.contains(&name.as_str()))
            .flat_map(|(name, values)| {
                values.iter().map(|value| (name.clone(), value.trim_matches([' ', '\t']).to_owned()))
            })
            .collect();
        if let Some(value) = self.authorization(url) {
            others.retain(|(name, _)| name != "Authorization");
            let at = others.partition_point(|(name, _)| name.as_str() < "Authorization");
            others.insert(at, ("Authorization".to_owned(), value));
        }
        agent.into_iter().chain(others)
    }

    fn connection_has(&self, token: &str) -> bool {
        self.first("Connection").split(',').any(|part| part.trim().eq_ignore_ascii_case(token))
    }
}

/// `Foo-Bar`; a name that is none is left as it is.
pub(crate) fn canonical(name: &str) -> String {
    if !is_token(name) {
        return name.to_owned();
    }
    let mut upper = true;
    let each = name.chars().map(|character| {
        let cased = if upper { character.to_ascii_uppercase() } else { character.to_ascii_lowercase() };
        upper = character == '-';
        cased
    });
    each.collect()
}

/// What the header Host says: the user's host or the URL's, without the zone of an address; nothing if it is no host at all.
pub(crate) fn host_of(host: &str) -> String {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"!$%&()*+,-.:;='[]_~".contains(&byte);
    if !host.bytes().all(valid) {
        return String::new();
    }
    match (host.find('%'), host.rfind(']')) {
        (Some(zone), Some(end)) if host.starts_with('[') && zone < end => {
            format!("{}{}", &host[..zone], &host[end..])
        }
        _ => host.to_owned(),
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(of_user: &[(&str, &str)]) -> String {
        let of_user: Vec<_> = of_user.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let url = Url::of_probe("http", "10.0.0.1", 80, "/");
        let headers = Headers::of_probe(&of_user, "kube-probe/1.36");
        let text = String::from_utf8(headers.http1(&url, "10.0.0.1:80")).expect("text");
        text.strip_prefix("GET / HTTP/1.1\r\nHost: 10.0.0.1:80\r\n").expect("begins").replace("\r\n", "|")
    }

    #[test]
    fn a_request_has_the_headers_of_the_kubelet() {
        for (of_user, expected) in [
            (&[][..], "User-Agent: kube-probe/1.36|Accept: */*|Connection: close||"),
            (&[("user-agent", "")], "Accept: */*|Connection: close||"),
            (&[("User-Agent", "a"), ("User-Agent", "b")], "User-Agent: a|Accept: */*|Connection: close||"),
            (&[("Accept", "")], "User-Agent: kube-probe/1.36|Connection: close||"),
            (&[("Accept", ""), ("accept", "b")], "User-Agent: kube-probe/1.36|Connection: close||"),
            (
                &[("Accept", "a"), ("accept", "b")],
                "User-Agent: kube-probe/1.36|Accept: a|Accept: b|Connection: close||",
            ),
            (
                &[("FOO-bAR", "x"), ("pragma", "y"), ("X", " pad ")],
                "User-Agent: kube-probe/1.36|Accept: */*|Foo-Bar: x|Pragma: y|X: pad|Connection: close||",
            ),
            (
                &[("Connection", "keep-alive")],
                "User-Agent: kube-probe/1.36|Accept: */*|Connection: keep-alive|Connection: close||",
            ),
            (&[("Connection", "close")], "User-Agent: kube-probe/1.36|Accept: */*|Connection: close||"),
            (
                &[("connection", "Upgrade"), ("Upgrade", "x")],
                "User-Agent: kube-probe/1.36|Accept: */*|Connection: Upgrade|Upgrade: x||",
            ),
            (
                &[("Content-Length", "5"), ("Transfer-Encoding", "chunked"), ("Trailer", "x"), ("Host", "h")],
                "User-Agent: kube-probe/1.36|Accept: */*|Connection: close||",
            ),
        ] {
            assert_eq!(head(of_user), expected);
        }
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        for (name, value, expected) in [
            ("X Y", "z", Err("net/http: invalid header field name \"X Y\"")),
            ("x", "a\nb", Err("net/http: invalid header field value for \"X\"")),
            ("x", "a\tb\u{e9}", Ok(())),
        ] {
            let headers = Headers::of_probe(&[(name.to_owned(), value.to_owned())], "a");
            assert_eq!(headers.check(), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn the_host_is_the_users_if_it_is_one() {
        for (host, expected) in
            [("h:1", "h:1"), ("a b", ""), ("[fe80::1%25eth0]:80", "[fe80::1]:80"), ("é", "")]
        {
            assert_eq!(host_of(host), expected);
        }
    }
}
