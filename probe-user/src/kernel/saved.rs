//! What the agent saves of itself in a pinned map, so that its successor goes on where it was killed: bytes whose meaning
//! is the core's. Written in two halves in turn; the header, one map entry, says which half is whole.

use aya::maps::{HashMap, MapData, MapError};
use probe_ebpf::wire::{SAVED_CHUNK, SAVED_CHUNKS};
use thiserror::Error;

/// Entries of each half; one is left for the header.
const HALF: u32 = (SAVED_CHUNKS - 1) / 2;
/// Key of the header: half and length, four bytes each.
const HEADER: u32 = u32::MAX;

type Chunk = [u8; SAVED_CHUNK];

/// The state was not saved: a successor would go on from the one before.
#[derive(Debug, Error)]
pub enum SaveError {
    /// More than the map takes.
    #[error("{0} bytes of state are more than the map takes (32 MB)")]
    TooLong(usize),
    /// The map refused.
    #[error("save the agent's state: {0}")]
    Map(#[from] MapError),
}

/// The map.
pub(super) struct Saved {
    map: HashMap<MapData, u32, Chunk>,
    /// The half that is whole.
    half: u32,
    /// Chunks in each half.
    chunks: [u32; 2],
}

impl Saved {
    pub(super) fn new(map: HashMap<MapData, u32, Chunk>) -> Self {
        let mut saved = Self { map, half: 1, chunks: [0; 2] };
        if let Some((half, _)) = saved.header() {
            saved.half = half;
        }
        for key in saved.map.keys().filter_map(Result::ok).filter(|key| *key != HEADER) {
            let chunks = &mut saved.chunks[(key / HALF).min(1) as usize];
            *chunks = (*chunks).max(key % HALF + 1);
        }
        saved
    }

    /// What was saved last, if anything was.
    pub(super) fn load(&self) -> Option<Vec<u8>> {
        let (half, length) = self.header()?;
        let mut bytes = Vec::with_capacity(length);
        for key in half * HALF.. {
            if bytes.len() >= length {
                break;
            }
            bytes.extend(self.map.get(&key, 0).ok()?);
        }
        bytes.truncate(length);
        Some(bytes)
    }

    /// Saves.
    pub(super) fn save(&mut self, bytes: &[u8]) -> Result<(), SaveError> {
        let chunks = bytes.chunks(SAVED_CHUNK);
        let (Ok(count), Ok(length)) = (u32::try_from(chunks.len()), u32::try_from(bytes.len())) else {
            return Err(SaveError::TooLong(bytes.len()));
        };
        if count > HALF {
            return Err(SaveError::TooLong(bytes.len()));
        }
        let half = 1 - self.half;
        for (key, part) in (half * HALF..).zip(chunks) {
            let mut chunk = [0; SAVED_CHUNK];
            chunk[..part.len()].copy_from_slice(part);
            self.map.insert(key, chunk, 0)?;
        }
        let mut header = [0; SAVED_CHUNK];
        header[..4].copy_from_slice(&half.to_ne_bytes());
        header[4..8].copy_from_slice(&length.to_ne_bytes());
        self.map.insert(HEADER, header, 0)?;
        self.half = half;
        // What a longer one left behind.
        let before = std::mem::replace(&mut self.chunks[half as usize], count);
        for key in count..before {
            self.map.remove(&(half * HALF + key))?;
        }
        Ok(())
    }

    fn header(&self) -> Option<(u32, usize)> {
        let header = self.map.get(&HEADER, 0).ok()?;
        let word = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let (half, length) = (word(0)?, usize::try_from(word(4)?).ok()?);
        (half < 2 && length <= HALF as usize * SAVED_CHUNK).then_some((half, length))
    }
}
