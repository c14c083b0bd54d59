//! Where the programs keep what a look at the tables said of a namespace and port, and how an entry names that. Pure
//! arithmetic; what is kept and for how long is in `programs/known.rs`.
//!
//! An entry has two words, which several CPUs may write at once. Index and the upper half of each word are the whole key, and
//! both words name the epoch, so that words of two writers do not fit together.

use crate::wire::{KNOWN, SLOTS};

/// Bits of a namespace's cookie that have room in a key; cookies are counted from the boot on.
const COOKIE_BITS: u32 = 28;
/// Bits of a key: cookie and port.
const KEY_BITS: u32 = COOKIE_BITS + 16;
/// Odd, so that multiplying by it takes no two keys to one number.
const SPREAD: u64 = 0x9e3_779b_97f5;
/// Low bits of the second word, for what was found; above them are as many of the epoch as fit.
const FOUND_BITS: u32 = 11;
/// Found: the namespace is nobody's. Other numbers are a slot's and 1; 0 is nothing.
pub const NOBODYS: u32 = (1 << FOUND_BITS) - 1;
const FOUND: u64 = NOBODYS as u64;

const _: () = assert!(KNOWN == 1 << (KEY_BITS - 32) && SLOTS < NOBODYS);

/// The place of a key, and how its entry begins in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the entry.
    pub index: u32,
    /// The first word.
    name: u64,
    /// The second word without what was found.
    rest: u64,
}

impl Place {
    /// The place of a port in a namespace; `None` if the cookie has no room. Of the epoch 32 bits count.
    #[inline(always)]
    #[must_use]
    pub fn of(epoch: u64, cookie: u64, port: u16) -> Option<Self> {
        if cookie >> COOKIE_BITS != 0 {
            return None;
        }
        let spread = (cookie << 16 | u64::from(port)).wrapping_mul(SPREAD);
        let key = spread << 32;
        Some(Self {
            index: (spread >> 32) as u32 & (KNOWN - 1),
            name: key | epoch & 0xffff_ffff,
            rest: key | epoch << FOUND_BITS & 0xffff_ffff,
        })
    }

    /// The words of an entry.
    #[inline(always)]
    #[must_use]
    pub fn words(&self, found: u32) -> [u64; 2] {
        [self.name, self.rest | u64::from(found) & FOUND]
    }

    /// What these words say was found: 0 if they are not of this key and epoch.
    #[inline(always)]
    #[must_use]
    pub fn found(&self, [name, found]: [u64; 2]) -> u32 {
        if name == self.name && found & !FOUND == self.rest { (found & FOUND) as u32 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::HashMap;
    use std::vec::Vec;

    fn place(epoch: u64, cookie: u64, port: u16) -> Place {
        Place::of(epoch, cookie, port).expect("room for the cookie")
    }

    /// Cookies as they are given out: in batches of 4096, one for each CPU.
    fn keys() -> impl Iterator<Item = (u64, u16)> {
        let cookies = [1, 2, 3, 4095, 4096, 4097, 8193, 8194, 65_536, 65_537, 1 << 20, (1 << 28) - 1];
        cookies.into_iter().flat_map(|cookie| [0, 1, 80, 443, 8080, 8081, 65_535].map(|port| (cookie, port)))
    }

    #[test]
    fn what_was_found_is_found_again_in_its_epoch_only() {
        for (cookie, port) in keys() {
            for found in [1, 2, 1024, NOBODYS] {
                let words = place(7, cookie, port).words(found);
                assert_eq!(place(7, cookie, port).found(words), found);
                assert_eq!(place(8, cookie, port).found(words), 0);
                // Further on than the second word tells.
                assert_eq!(place(7 + (1 << 21), cookie, port).found(words), 0);
            }
        }
    }

    #[test]
    fn an_empty_entry_says_nothing() {
        for (cookie, port) in keys() {
            assert_eq!(place(0, cookie, port).found([0, 0]), 0);
        }
    }

    #[test]
    fn a_cookie_without_room_has_no_place() {
        assert_eq!(Place::of(1, 1 << 28, 80), None);
        assert_eq!(Place::of(1, u64::MAX, 80), None);
    }

    #[test]
    fn words_of_two_writers_do_not_fit_together() {
        let writers: Vec<Place> =
            keys().flat_map(|(cookie, port)| [3, 4].map(|epoch| place(epoch, cookie, port))).collect();
        for one in &writers {
            for other in writers.iter().filter(|other| *other != one) {
                let mixed = [one.words(1)[0], other.words(2)[1]];
                for reader in [one, other] {
                    // At one index: elsewhere they cannot mix.
                    assert!(one.index != other.index || reader.found(mixed) == 0, "{one:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn no_two_keys_of_an_index_have_the_same_name() {
        let mut seen = HashMap::new();
        for cookie in 1..2000 {
            for port in [0, 80, 8080] {
                let place = place(1, cookie, port);
                let before = seen.insert((place.index, place.name), (cookie, port));
                assert_eq!(before, None, "{cookie} {port}");
            }
        }
    }
}
