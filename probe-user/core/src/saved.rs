//! The envelope of a saved monitor: what it is, in which format, and whether it is whole. What is inside is MessagePack
//! with field names ([`crate::monitor::Monitor::save`]).
//!
//! Rules for a change of the core's state, so that a newer agent reads what an older one saved: a new field has
//! `#[serde(default)]`; a removed one is ignored; a name of a closed set that goes, or a field that changes its meaning or
//! type, needs another [`FORMAT`]. `tests/saved` restores a state that was saved at the beginning of the format.
//!
//! Nothing here touches a file. The state is of one boot (its moments are of CLOCK_MONOTONIC): who keeps it must see to it
//! that it does not outlive the boot, as the pinned maps beside it do not.

use thiserror::Error;

/// Raised when an older state cannot be read any more.
pub const FORMAT: u32 = 1;

const MAGIC: [u8; 8] = *b"drainsc\n";
/// Magic, format and checksum.
const HEADER: usize = 16;

/// Why a saved state is not taken over. The agent begins anew then, and says so.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// Too short, or it begins otherwise.
    #[error("not a saved state")]
    NotSaved,
    /// Saved by a version that this one does not understand.
    #[error("saved in format {found}, this version reads {FORMAT}")]
    Format {
        /// Its format.
        found: u32,
    },
    /// Torn or changed.
    #[error("damaged: the checksum differs")]
    Checksum,
    /// Something inside is missing or has another type.
    #[error("not readable: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
    /// Of another node.
    #[error("of node {found}, this is {own}")]
    Node {
        /// Whose it is.
        found: String,
        /// Who asks.
        own: String,
    },
    /// The kernel side's tables have another size.
    #[error("made for {found} {table}, there are {own}")]
    Tables {
        /// `slots` or `containers`.
        table: &'static str,
        /// How many it is for.
        found: usize,
        /// How many there are.
        own: usize,
    },
    /// Its parts contradict each other.
    #[error("inconsistent: {0}")]
    Inconsistent(&'static str),
}

/// Begins a state: the body is appended, then [`seal`] completes it.
pub(crate) fn begin() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 << 10);
    bytes.extend(MAGIC);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// Writes the checksum into a state that has its body.
pub(crate) fn seal(bytes: &mut [u8]) {
    if let Some((header, body)) = bytes.split_at_mut_checked(HEADER) {
        header[12..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    }
}

/// The body of a state that is whole.
pub(crate) fn open(bytes: &[u8]) -> Result<&[u8], RestoreError> {
    let body = bytes.strip_prefix(&MAGIC).ok_or(RestoreError::NotSaved)?;
    let (format, body) = number(body)?;
    if format != FORMAT {
        return Err(RestoreError::Format { found: format });
    }
    let (checksum, body) = number(body)?;
    if crc32fast::hash(body) != checksum {
        return Err(RestoreError::Checksum);
    }
    Ok(body)
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), RestoreError> {
    let (number, rest) = bytes.split_first_chunk().ok_or(RestoreError::NotSaved)?;
    Ok((u32::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(body: &[u8]) -> Vec<u8> {
        let mut bytes = begin();
        bytes.extend(body);
        seal(&mut bytes);
        bytes
    }

    #[test]
    fn only_a_whole_state_of_this_format_opens() {
        let good = state(b"body");
        assert_eq!(open(&good).ok(), Some(&b"body"[..]));
        for length in 0..good.len() {
            assert!(open(&good[..length]).is_err(), "cut to {length}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&bad).is_err(), "bit {bit}");
        }
        let mut newer = good.clone();
        newer[8] = 2;
        assert!(matches!(open(&newer), Err(RestoreError::Format { found: 2 })));
        assert!(matches!(open(b""), Err(RestoreError::NotSaved)));
    }
}
