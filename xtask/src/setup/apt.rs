//! Reading apt: which of the machine's sources is Debian's own, and which version of a package matches an upstream one.
//!
//! Pure text in, plain values out; the only I/O is [`machine_sources`], under a root that tests choose. It never writes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// One `deb` source for one URI.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Source {
    /// Where the archive is, as apt takes it (`http:`, `mirror+file:`...).
    pub(crate) uri: String,
    /// Suites or codenames.
    pub(crate) suites: Vec<String>,
    /// `main`, `contrib`...
    pub(crate) components: Vec<String>,
    /// Keyring file, when the source names one.
    pub(crate) signed_by: Option<String>,
}

/// All enabled `deb` sources below `root`: sources.list first, then sources.list.d by name, as apt reads them.
pub(crate) fn machine_sources(root: &Path) -> Result<Vec<Source>> {
    let apt = root.join("etc/apt");
    let mut files = vec![apt.join("sources.list")];
    if let Ok(parts) = fs::read_dir(apt.join("sources.list.d")) {
        let mut parts: Vec<PathBuf> = parts.filter_map(|entry| Some(entry.ok()?.path())).collect();
        parts.sort();
        files.extend(parts);
    }
    let mut sources = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        let read = || fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()));
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => sources.extend(parse_one_line(&read()?)),
            Some("sources") => sources.extend(parse_deb822(&read()?)),
            _ => {}
        }
    }
    Ok(sources)
}

/// The classic format: `deb [options] uri suite component...`.
fn parse_one_line(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|r| r.starts_with([' ', '\t', '['])) else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(bracketed) => match bracketed.split_once(']') {
                Some(parts) => parts,
                None => continue,
            },
            None => ("", rest),
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else { continue };
        let signed_by = options.split_whitespace().find_map(|o| o.strip_prefix("signed-by="));
        sources.push(Source {
            uri,
            suites: vec![suite],
            components: words.collect(),
            signed_by: signed_by.map(str::to_owned),
        });
    }
    sources
}

/// The stanza format of `*.sources` (deb822): fields, continuation lines, stanzas apart by an empty line.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for stanza in stanzas(text) {
        let field =
            |name: &str| stanza.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim());
        let list = |name: &str| field(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let off = ["no", "false", "0", "off", "disable"].contains(&field("enabled").to_lowercase().as_str());
        if off || !list("types").iter().any(|t| t == "deb") {
            continue;
        }
        // The field may also hold the key itself; only a file can be named in a line of our own.
        let signed_by = Some(field("signed-by")).filter(|value| value.starts_with('/')).map(str::to_owned);
        for uri in list("uris") {
            let (suites, components) = (list("suites"), list("components"));
            sources.push(Source { uri, suites, components, signed_by: signed_by.clone() });
        }
    }
    sources
}

/// Stanzas as (lower-case field name, value with its continuation lines).
fn stanzas(text: &str) -> Vec<Vec<(String, String)>> {
    let mut all = vec![Vec::<(String, String)>::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some(stanza) = all.last_mut() else { break };
        if line.trim().is_empty() {
            all.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            stanza.push((key.trim().to_lowercase(), value.trim().to_owned()));
        }
    }
    all
}

/// The source that serves Debian itself: this release's `main`, signed by Debian's own keyring or by apt's default.
/// A vendor's repository may use the same suite and component names, but then it brings its own keyring.
pub(crate) fn debian_source<'a>(sources: &'a [Source], codename: &str) -> Option<&'a Source> {
    let is_main = |s: &&Source| {
        s.suites.iter().any(|suite| suite == codename)
            && s.components.iter().any(|c| c == "main")
            && !s.uri.starts_with("cdrom:")
    };
    let by_debian = |s: &&Source| s.signed_by.as_deref().is_some_and(|k| k.contains("debian-archive"));
    let by_default = |s: &&Source| s.signed_by.is_none();
    let mut candidates = sources.iter().filter(is_main);
    candidates.clone().find(by_debian).or_else(|| candidates.find(by_default))
}

/// The one-line source for another suite of the same archive.
pub(crate) fn one_line(source: &Source, keyring: Option<&str>, suite: &str) -> String {
    let options = keyring.map(|file| format!("[signed-by={file}] ")).unwrap_or_default();
    format!("deb {options}{} {suite} main\n", source.uri)
}

/// The newest binary package version in `apt-cache madison` output whose upstream part is exactly `upstream`.
pub(crate) fn version_of_upstream(madison: &str, upstream: &str) -> Option<String> {
    madison.lines().find_map(|line| {
        let mut columns = line.split('|').map(str::trim);
        let (_package, version, origin) = (columns.next()?, columns.next()?, columns.next()?);
        let binary = origin.ends_with("Packages");
        (binary && upstream_part(version) == upstream).then(|| version.to_owned())
    })
}

/// `1.95.0+dfsg1-2~bpo13+1` -> `1.95.0`: without epoch, Debian revision and the mark of a repacked tarball. A `~` stays:
/// `1.95.0~beta.2` comes before 1.95.0 and is not it.
fn upstream_part(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_epoch, rest)| rest);
    let version = version.rsplit_once('-').map_or(version, |(upstream, _revision)| upstream);
    version.split_once('+').map_or(version, |(upstream, _repack)| upstream)
}

/// A field of os-release, without quotes.
pub(crate) fn os_release_field(os_release: &str, name: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests;
