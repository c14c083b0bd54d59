//! URLs by the rules of Go's `net/url`, which decide what a probe's path and a redirect's `Location` mean: a path is a
//! reference with a query of its own, escapes are kept where they are valid, dots are resolved in redirects only. No I/O.

use std::fmt;

use crate::connect::join_host_port;
use crate::escape::{escaped, is_escaped, unescaped};
use crate::quote::quoted;

/// A URL or a reference to one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Url {
    /// In lower case; empty in a reference.
    pub(crate) scheme: String,
    /// What follows a scheme without a slash.
    pub(crate) opaque: String,
    /// Name and password as written.
    pub(crate) user: Option<String>,
    /// Host and port as written.
    pub(crate) host: String,
    /// Escaped.
    path: String,
    /// Without the question mark.
    query: Option<String>,
    fragment: Option<String>,
}

impl Url {
    /// What a probe asks for: the path of the specification at this host. What cannot be parsed is taken as a plain path.
    pub(crate) fn of_probe(scheme: &str, host: &str, port: u16, path: &str) -> Self {
        let mut url = Self::parse(path)
            .unwrap_or_else(|_plain| Self { path: escaped(path.as_bytes()), ..Self::default() });
        scheme.clone_into(&mut url.scheme);
        url.host = join_host_port(host, i32::from(port));
        if !url.path.is_empty() && !url.path.starts_with('/') {
            url.path.insert(0, '/');
        }
        url
    }

    /// Parses a URL or reference; the error is Go's text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (rest, fragment) = match text.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (text, None),
        };
        let failed = |why: String| format!("parse {}: {why}", quoted(text.as_bytes()));
        if rest.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err(failed("net/url: invalid control character in URL".to_owned()));
        }
        let mut url = Self::parse_rest(rest).map_err(failed)?;
        if let Some(fragment) = fragment {
            unescaped(fragment).map_err(failed)?;
            url.fragment = Some(fragment.to_owned());
        }
        Ok(url)
    }

    fn parse_rest(text: &str) -> Result<Self, String> {
        let (scheme, rest) = split_scheme(text)?;
        let mut url = Self { scheme: scheme.to_ascii_lowercase(), ..Self::default() };
        let mut rest = match rest.split_once('?') {
            Some((rest, query)) => {
                url.query = Some(query.to_owned());
                rest
            }
            None => rest,
        };
        if !rest.starts_with('/') {
            if !url.scheme.is_empty() {
                rest.clone_into(&mut url.opaque);
                return Ok(url);
            }
            if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
                return Err("first path segment in URL cannot contain colon".to_owned());
            }
        }
        if (!url.scheme.is_empty() || !rest.starts_with("///")) && rest.starts_with("//") {
            let authority = &rest[2..];
            let end = authority.find('/').unwrap_or(authority.len());
            url.set_authority(&authority[..end])?;
            rest = &authority[end..];
        }
        url.set_path(rest)?;
        Ok(url)
    }

    fn set_authority(&mut self, authority: &str) -> Result<(), String> {
        let host = match authority.rsplit_once('@') {
            Some((user, host)) => {
                if !user
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte))
                {
                    return Err("net/url: invalid userinfo".to_owned());
                }
                unescaped(user)?;
                self.user = Some(user.to_owned());
                host
            }
            None => authority,
        };
        let name_end = match host.starts_with('[') {
            true => host.rfind(']').ok_or("missing ']' in host")? + 1,
            false => host.find(':').unwrap_or(host.len()),
        };
        let port = &host[name_end..];
        if !port.is_empty()
            && !port.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
        {
            return Err(format!("invalid port {} after host", quoted(port.as_bytes())));
        }
        // An escape means nothing in a host that a probe could reach; of an address's zone it is the one way to write it.
        if let Some(at) = host.find('%').filter(|_| !host.starts_with('[')) {
            let escape = host.get(at..(at + 3).min(host.len())).unwrap_or("%");
            return Err(format!("invalid URL escape {}", quoted(escape.as_bytes())));
        }
        if let Some(bad) = host.chars().find(|&c| c.is_ascii() && !is_of_host(c)) {
            return Err(format!("invalid character {} in host name", quoted(bad.to_string().as_bytes())));
        }
        host.clone_into(&mut self.host);
        Ok(())
    }

    fn set_path(&mut self, path: &str) -> Result<(), String> {
        let plain = unescaped(path)?;
        self.path = if is_escaped(path) { path.to_owned() } else { escaped(&plain) };
        Ok(())
    }

    /// What this reference means in a document at `base`.
    pub(crate) fn resolve(base: &Self, reference: &Self) -> Self {
        let mut url = reference.clone();
        if reference.scheme.is_empty() {
            base.scheme.clone_into(&mut url.scheme);
        }
        if !reference.scheme.is_empty() || !reference.host.is_empty() || reference.user.is_some() {
            url.path = resolved_path(&reference.path, "");
            return url;
        }
        if reference.path.is_empty() && reference.query.is_none() {
            base.query.clone_into(&mut url.query);
            if reference.fragment.is_none() {
                base.fragment.clone_into(&mut url.fragment);
            }
        }
        base.host.clone_into(&mut url.host);
        base.user.clone_into(&mut url.user);
        url.path = resolved_path(&base.path, &reference.path);
        url
    }

    /// Host without port and brackets.
    pub(crate) fn hostname(&self) -> &str {
        match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.host.split(':').next().unwrap_or_default(),
        }
    }

    /// The port that is written or the scheme's own; a number that is none is left to the dialer to refuse.
    pub(crate) fn port(&self) -> i32 {
        let after_host = self.host.rsplit(']').next().unwrap_or_default();
        match after_host.rsplit_once(':').map_or("", |(_, port)| port) {
            "" if self.scheme == "https" => 443,
            "" => 80,
            port => port.parse().unwrap_or(i32::MAX),
        }
    }

    /// Path and query as they are sent.
    pub(crate) fn request_target(&self) -> String {
        let path = if self.path.is_empty() { "/" } else { &self.path };
        match &self.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        }
    }

    /// The same without name and password.
    pub(crate) fn without_user(&self) -> Self {
        Self { user: None, ..self.clone() }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            write!(f, "{}:", self.scheme)?;
        }
        if !self.opaque.is_empty() {
            f.write_str(&self.opaque)?;
        } else {
            if !self.host.is_empty() || !self.scheme.is_empty() {
                f.write_str("//")?;
            }
            if let Some(user) = &self.user {
                write!(f, "{user}@")?;
            }
            f.write_str(&self.host)?;
            f.write_str(&self.path)?;
        }
        if let Some(query) = &self.query {
            write!(f, "?{query}")?;
        }
        match &self.fragment {
            Some(fragment) => write!(f, "#{fragment}"),
            None => Ok(()),
        }
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => return Ok(("", text)),
        }
    }
    Ok(("", text))
}

const fn is_of_host(character: char) -> bool {
    character.is_ascii_alphanumeric()
        || matches!(
            character,
            '-' | '_'
                | '.'
                | '~'
                | '!'
                | '$'
                | '&'
                | '\''
                | '('
                | ')'
                | '*'
                | '+'
                | ','
                | ';'
                | '='
                | ':'
                | '['
                | ']'
                | '<'
                | '>'
                | '"'
                | '%'
        )
}

/// The path that `reference` leads to from `base`, without dots.
fn resolved_path(base: &str, reference: &str) -> String {
    let full = match reference {
        "" => base.to_owned(),
        _ if reference.starts_with('/') => reference.to_owned(),
        _ => format!("{}{reference}", &base[..base.rfind('/').map_or(0, |at| at + 1)]),
    };
    if full.is_empty() {
        return full;
    }
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = full.trim_start_matches('/').split('/').collect();
    for segment in &segments {
        match *segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    let open = matches!(segments.last(), Some(&("." | ".."))) && !kept.is_empty();
    format!("/{}{}", kept.join("/"), if open { "/" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_probe_is_a_reference() {
        for (path, url, target) in [
            ("", "http://localhost:93", "/"),
            ("/path", "http://localhost:93/path", "/path"),
            ("/x?q=1#f", "http://localhost:93/x?q=1#f", "/x?q=1"),
            ("x", "http://localhost:93/x", "/x"),
            ("?x=1", "http://localhost:93?x=1", "/?x=1"),
            ("//foo/bar", "http://localhost:93/bar", "/bar"),
            ("http://u:p@other/p", "http://u:p@localhost:93/p", "/p"),
            ("a:b", "http:b", "/"),
            ("1a:b", "http://localhost:93/1a:b", "/1a:b"),
            ("/a b", "http://localhost:93/a%20b", "/a%20b"),
            ("/a%2Fb", "http://localhost:93/a%2Fb", "/a%2Fb"),
            ("/%zz", "http://localhost:93/%25zz", "/%25zz"),
            ("/a\tb", "http://localhost:93/a%09b", "/a%09b"),
            ("/a\"b?c d\"", "http://localhost:93/a%22b?c d\"", "/a%22b?c d\""),
            ("/é", "http://localhost:93/%C3%A9", "/%C3%A9"),
            ("/[x]", "http://localhost:93/[x]", "/[x]"),
            ("/./a/../b", "http://localhost:93/./a/../b", "/./a/../b"),
            ("/a;b,c@d$e&f=g+h!*()'", "http://localhost:93/a;b,c@d$e&f=g+h!*()'", "/a;b,c@d$e&f=g+h!*()'"),
        ] {
            let of_probe = Url::of_probe("http", "localhost", 93, path);
            assert_eq!(
                (of_probe.to_string().as_str(), of_probe.request_target().as_str()),
                (url, target),
                "{path}"
            );
        }
        assert_eq!(Url::of_probe("https", "::1", 443, "/").to_string(), "https://[::1]:443/");
    }

    #[test]
    fn redirects_are_resolved_against_the_last_url() {
        let base = Url::parse("http://10.0.0.1:8080/a/b?q#f").expect("a URL");
        for (location, expected) in [
            ("/new", "http://10.0.0.1:8080/new"),
            ("c", "http://10.0.0.1:8080/a/c"),
            ("../x/./y/../z", "http://10.0.0.1:8080/x/z"),
            ("../../..", "http://10.0.0.1:8080/"),
            ("./", "http://10.0.0.1:8080/a/"),
            ("..", "http://10.0.0.1:8080/"),
            (".", "http://10.0.0.1:8080/a/"),
            ("?x", "http://10.0.0.1:8080/a/b?x"),
            ("#g", "http://10.0.0.1:8080/a/b?q#g"),
            ("//other:1/x", "http://other:1/x"),
            ("https://h", "https://h"),
            ("HTTPS://h/a/../b", "https://h/b"),
        ] {
            let reference = Url::parse(location).expect("a reference");
            assert_eq!(Url::resolve(&base, &reference).to_string(), expected, "{location}");
        }
    }

    #[test]
    fn what_is_no_url_says_why() {
        for (text, expected) in [
            ("http://%zz/", "parse \"http://%zz/\": invalid URL escape \"%zz\""),
            ("/%2", "parse \"/%2\": invalid URL escape \"%2\""),
            (":x", "parse \":x\": missing protocol scheme"),
            ("1:x", "parse \"1:x\": first path segment in URL cannot contain colon"),
            ("http://h:x/", "parse \"http://h:x/\": invalid port \":x\" after host"),
            ("http://[::1/", "parse \"http://[::1/\": missing ']' in host"),
            ("http://a b/", "parse \"http://a b/\": invalid character \" \" in host name"),
            ("a\nb", "parse \"a\\nb\": net/url: invalid control character in URL"),
        ] {
            assert_eq!(Url::parse(text), Err(expected.to_owned()));
        }
    }

    #[test]
    fn host_and_port_are_told_apart() {
        for (url, host, port) in [
            ("http://h", "h", 80),
            ("https://h", "h", 443),
            ("http://h:8080/x", "h", 8080),
            ("http://h:", "h", 80),
            ("http://[::1]", "::1", 80),
            ("https://[fe80::1]:1", "fe80::1", 1),
            ("http://h:99999", "h", 99999),
            ("http://h:99999999999", "h", i32::MAX),
        ] {
            let url = Url::parse(url).expect("a URL");
            assert_eq!((url.hostname(), url.port()), (host, port));
        }
    }
}
