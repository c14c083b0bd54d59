//! From monotonic to wall clock time, by the newest sample, and its text form (RFC 3339 with nanoseconds, UTC).

use crate::time::Mono;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A jump of the wall clock against the monotonic clock that is counted as a step.
const STEP_NS: u64 = 1_000_000_000;
const NS: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// Unix time in nanoseconds; written as RFC 3339 with nine decimals where people read it, as the number in saved state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.div_euclid(NS);
        let (year, month, day) = civil(seconds.div_euclid(DAY));
        let of_day = seconds.rem_euclid(DAY);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        let ns = self.0.rem_euclid(NS);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ns:09}Z")
    }
}

impl Timestamp {
    /// Reads RFC 3339, as the API writes it: with `Z` or an offset, with or without fractions of a second.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u32>().ok().map(i64::from);
        let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
        if !text.is_ascii() || separators.iter().any(|(at, byte)| text.as_bytes().get(*at) != Some(byte)) {
            return None;
        }
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
        let days = days_of(year, month, day);
        if civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let rest = text.get(19..)?;
        let fraction = rest
            .strip_prefix('.')
            .map_or("", |rest| &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()]);
        let zone = if fraction.is_empty() { rest } else { rest.get(1 + fraction.len()..)? };
        let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
        let ns = digits.fold(0, |ns, digit| ns * 10 + i64::from(digit - b'0'));
        let offset = match zone {
            "Z" => 0,
            _ => {
                let at = text.len() - zone.len();
                let seconds = number(at + 1..at + 3)? * 3600 + number(at + 4..at + 6)? * 60;
                match (zone.as_bytes().first()?, zone.len(), zone.as_bytes().get(3)?) {
                    (b'+', 6, b':') => seconds,
                    (b'-', 6, b':') => -seconds,
                    _ => return None,
                }
            }
        };
        let seconds = days * DAY + hour * 3600 + minute * 60 + second - offset;
        i64::try_from(i128::from(seconds) * i128::from(NS) + i128::from(ns)).ok().map(Self)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

/// From the number alone: nothing reads the text form back.
impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i64::deserialize(deserializer).map(Self)
    }
}

/// Days since 1970 to year, month and day of the proleptic Gregorian calendar (H. Hinnant, "chrono-compatible low-level
/// date algorithms", `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The inverse of [`civil`], by the same source (`days_from_civil`).
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

/// Difference between the two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offset(i64);

impl Offset {
    /// The wall clock at this moment.
    pub fn wall(self, at: Mono) -> Timestamp {
        Timestamp(i64::try_from(at.0).unwrap_or(i64::MAX).saturating_add(self.0))
    }
}

/// The newest sample of the wall clock.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WallClock {
    offset: Option<Offset>,
}

impl WallClock {
    /// Takes a sample; true if the wall clock stepped since the last one.
    pub(crate) fn sample(&mut self, at: Mono, unix_ns: i64) -> bool {
        let offset = unix_ns.saturating_sub(i64::try_from(at.0).unwrap_or(i64::MAX));
        let stepped = self.offset.is_some_and(|old| old.0.abs_diff(offset) > STEP_NS);
        self.offset = Some(Offset(offset));
        stepped
    }

    /// The difference that holds now; none before the first sample.
    pub(crate) fn offset(&self) -> Option<Offset> {
        self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_read_as_rfc_3339_with_nanoseconds() {
        for (unix_ns, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_795_305_599_999_999_999, "2026-11-21T23:59:59.999999999Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
            (i64::MIN, "1677-09-21T00:12:43.145224192Z"),
        ] {
            assert_eq!(Timestamp(unix_ns).to_string(), text);
        }
    }

    #[test]
    fn the_text_form_is_read_back() {
        for unix_ns in [0, 1, -1, 1_767_225_600_123_456_789, 951_782_399_000_000_000, i64::MAX, i64::MIN] {
            let text = Timestamp(unix_ns).to_string();
            assert_eq!(Timestamp::parse(&text), Some(Timestamp(unix_ns)), "{text}");
        }
        let wanted = Timestamp::parse("2026-03-01T10:00:00Z");
        assert_eq!(wanted, Some(Timestamp(1_772_359_200_000_000_000)));
        for same in ["2026-03-01T12:30:00+02:30", "2026-03-01T08:00:00-02:00", "2026-03-01T10:00:00.0Z"] {
            assert_eq!(Timestamp::parse(same), wanted, "{same}");
        }
        for odd in [
            "",
            "2026-03-01",
            "2026-02-30T10:00:00Z",
            "2026-03-01T24:00:00Z",
            "2026-03-01T10:00:00",
            "2026-03-01T10:00:00+2:00",
            "2026-03-01T10:00:00.5",
            "9999-12-31T23:59:59Z",
            "2026-03-01T10:00:0éZ",
        ] {
            assert_eq!(Timestamp::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_step_is_told_from_slewing() {
        let mut clock = WallClock::default();
        assert!(!clock.sample(Mono(5), 1_000_000_000_005));
        assert!(!clock.sample(Mono(10), 1_000_000_000_020));
        assert!(clock.sample(Mono(20), 1_003_000_000_020));
        assert_eq!(clock.offset().map(|o| o.wall(Mono(21))), Some(Timestamp(1_003_000_000_021)));
    }
}
