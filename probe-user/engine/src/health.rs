//! The two messages of `grpc.health.v1.Health/Check`. One field each: written by hand. No I/O.

use crate::protobuf::{push_bytes, varint};

/// A `HealthCheckRequest`.
pub(crate) fn request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        push_bytes(&mut message, 1, service.as_bytes());
    }
    message
}

/// The status of a `HealthCheckResponse`; none if it is no message. Other fields are passed over.
pub(crate) fn status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let skipped = match tag & 7 {
            0 => {
                let value = varint(&mut message)?;
                if tag >> 3 == 1 {
                    status = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        message = message.get(skipped..)?;
    }
    Some(status)
}

/// The name of a status; a number without one is written as it is.
pub(crate) fn name_of(status: u64) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        1 => "SERVING".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_the_service() {
        assert_eq!(request(""), [0; 0]);
        assert_eq!(request("ab"), [0x0a, 2, b'a', b'b']);
        let long = request(&"x".repeat(300));
        assert_eq!((&long[..3], long.len()), (&[0x0a, 0xac, 2][..], 303));
    }

    #[test]
    fn answers_have_a_status_among_what_else_there_is() {
        for (message, expected) in [
            (&[][..], Some(0)),
            (&[8, 1], Some(1)),
            (&[8, 1, 8, 2], Some(2)),
            (&[0x12, 2, 9, 9, 8, 3, 0x1d, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0, 0, 0, 0], Some(3)),
            (&[8], None),
            (&[8, 0x80], None),
            (&[0x12, 9], None),
            (&[0x0b], None),
            (&[0xff; 11], None),
        ] {
            assert_eq!(status(message), expected, "{message:?}");
        }
    }
}
