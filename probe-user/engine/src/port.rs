//! Which port a probe means: a number, the name of one of the container's ports, or a number written as text. No I/O.

use thiserror::Error;

use crate::quote::quoted;

/// A port as a probe has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRef<'a> {
    /// A number.
    Number(i32),
    /// A name, or a number written as text.
    Name(&'a str),
}

/// One of the probed container's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerPort<'a> {
    /// May be empty.
    pub name: &'a str,
    /// The number inside the container.
    pub number: i32,
}

/// Why there is no port; the kubelet discards the run (`Unknown`).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PortError {
    /// No port has the name, and it is no number.
    #[error("strconv.Atoi: parsing {}: invalid syntax", quoted(.0.as_bytes()))]
    NotFound(String),
    /// A number beyond all numbers.
    #[error("strconv.Atoi: parsing {}: value out of range", quoted(.0.as_bytes()))]
    OutOfRange(String),
    /// A number that is no port.
    #[error("invalid port number: {0}")]
    Invalid(i64),
}

/// Finds the port; of several with the name, the first.
///
/// # Errors
/// If there is none.
pub fn resolve_port(port: PortRef<'_>, ports: &[ContainerPort<'_>]) -> Result<u16, PortError> {
    let number = match port {
        PortRef::Number(number) => i64::from(number),
        PortRef::Name(name) => match ports.iter().find(|port| port.name == name) {
            Some(port) => i64::from(port.number),
            None => parsed(name)?,
        },
    };
    match u16::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(PortError::Invalid(number)),
    }
}

fn parsed(text: &str) -> Result<i64, PortError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PortError::NotFound(text.to_owned()));
    }
    // Only digits are left, so it can only be too large.
    text.parse().map_err(|_too_large| PortError::OutOfRange(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_by_number_then_name_then_digits() {
        let ports = [
            ContainerPort { name: "", number: 1 },
            ContainerPort { name: "foo", number: 8080 },
            ContainerPort { name: "foo", number: 9090 },
            ContainerPort { name: "81", number: 82 },
            ContainerPort { name: "bad", number: 70000 },
        ];
        for (port, expected) in [
            (PortRef::Number(443), Ok(443)),
            (PortRef::Name("foo"), Ok(8080)),
            (PortRef::Name("8080"), Ok(8080)),
            (PortRef::Name("+80"), Ok(80)),
            (PortRef::Name("81"), Ok(82)),
            (PortRef::Number(65535), Ok(65535)),
            (PortRef::Number(0), Err("invalid port number: 0")),
            (PortRef::Number(-1), Err("invalid port number: -1")),
            (PortRef::Number(65536), Err("invalid port number: 65536")),
            (PortRef::Name("bad"), Err("invalid port number: 70000")),
            (PortRef::Name("-5"), Err("invalid port number: -5")),
            (PortRef::Name("bar"), Err("strconv.Atoi: parsing \"bar\": invalid syntax")),
            (PortRef::Name("8 0"), Err("strconv.Atoi: parsing \"8 0\": invalid syntax")),
            (
                PortRef::Name("99999999999999999999"),
                Err("strconv.Atoi: parsing \"99999999999999999999\": value out of range"),
            ),
        ] {
            let found = resolve_port(port, &ports).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{port:?}");
        }
        assert_eq!(resolve_port(PortRef::Name(""), &[]), Err(PortError::NotFound(String::new())));
    }
}
