//! Text as the kubelet's messages have it: quoted strings, durations, system errors. Go's conventions, so that messages can be
//! compared with the kubelet's events.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// In double quotes, with escapes for what does not print.
pub(crate) fn quoted(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for chunk in text.utf8_chunks() {
        for character in chunk.valid().chars() {
            push_escaped(&mut out, character);
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _infallible = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

fn push_escaped(out: &mut String, character: char) {
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        c if c < ' ' || c == '\x7f' => {
            let _infallible = write!(out, "\\x{:02x}", u32::from(c));
        }
        c if c.is_control() => {
            let _infallible = write!(out, "\\u{:04x}", u32::from(c));
        }
        c => out.push(c),
    }
}

/// `1s`, `1m0s`, `1.5s`, `250ms`.
pub(crate) fn duration(time: Duration) -> String {
    let (seconds, nanos) = (time.as_secs(), time.subsec_nanos());
    if seconds == 0 {
        return match nanos {
            0 => "0s".to_owned(),
            1..1_000 => format!("{nanos}ns"),
            1_000..1_000_000 => decimal(u64::from(nanos), 1_000) + "µs",
            _ => decimal(u64::from(nanos), 1_000_000) + "ms",
        };
    }
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let rest = decimal(rest * 1_000_000_000 + u64::from(nanos), 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// `value / unit` without superfluous zeros; `unit` is a power of ten.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, part) = (value / unit, value % unit);
    if part == 0 {
        return whole.to_string();
    }
    let width = usize::try_from(unit.ilog10()).unwrap_or_default();
    format!("{whole}.{}", format!("{part:0width$}").trim_end_matches('0'))
}

/// The system's words for an error, without number, in lower case.
pub(crate) fn system_error(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    characters
        .next()
        .map(|first| first.to_lowercase().collect::<String>() + characters.as_str())
        .unwrap_or_default()
}

/// An error of an established connection; the end of the stream is `EOF`.
pub(crate) fn read_error(error: &io::Error, ends: Option<(SocketAddr, SocketAddr)>) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "EOF".to_owned();
    }
    let text = system_error(error);
    match ends {
        Some((local, peer)) if error.raw_os_error().is_some() => {
            format!("read tcp {local}->{peer}: read: {text}")
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_in_go() {
        for (text, expected) in [
            (&b"SSH-2.0"[..], r#""SSH-2.0""#),
            (b"\x00\x01\"\\\xff", r#""\x00\x01\"\\\xff""#),
            (b"\x07\x08\t\n\x0b\x0c\r\x7f", r#""\a\b\t\n\v\f\r\x7f""#),
            ("é\u{85}".as_bytes(), r#""é\u0085""#),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }

    #[test]
    fn durations_are_written_as_in_go() {
        for (nanos, expected) in [
            (0, "0s"),
            (999, "999ns"),
            (1_500, "1.5µs"),
            (250_000_000, "250ms"),
            (1_000_000_000, "1s"),
            (1_050_000_000, "1.05s"),
            (60_000_000_000, "1m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_661_500_000_000, "1h1m1.5s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), expected);
        }
    }
}
