//! Percent escapes of URLs, by the rules of Go's `net/url` for paths. No I/O.

use crate::quote::quoted;

/// Stands for itself in a path that is escaped anew.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@'
        )
}

/// May be left as it was written.
pub(crate) fn is_escaped(path: &str) -> bool {
    path.bytes().all(|byte| is_plain(byte) || b"!'()*[]%".contains(&byte))
}

/// Escapes what does not stand for itself in a path.
pub(crate) fn escaped(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for &byte in path {
        match is_plain(byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The bytes that the escapes stand for.
pub(crate) fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            out.push(byte);
            at += 1;
            continue;
        }
        let escape = &bytes[at..(at + 3).min(bytes.len())];
        let digits = escape.get(1..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit())).map(|d| u8::from_str_radix(d, 16)) {
            Some(Ok(byte)) => out.push(byte),
            _ => return Err(format!("invalid URL escape {}", quoted(escape))),
        }
        at += 3;
    }
    Ok(out)
}
