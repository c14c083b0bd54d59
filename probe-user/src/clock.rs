//! The two clocks of the agent: the monotonic one that stamps every event (the kernel side stamps with the same one) and
//! the wall clock that the core samples. Nothing else in the crate asks the time of events anywhere else.

use nix::time::{ClockId, clock_gettime};
use probe_core::time::Mono;

/// CLOCK_MONOTONIC, as `bpf_ktime_get_ns` has it.
#[must_use]
pub fn mono_now() -> Mono {
    Mono(nanoseconds(ClockId::CLOCK_MONOTONIC))
}

/// Nanoseconds since 1970.
#[must_use]
pub fn unix_now_ns() -> i64 {
    i64::try_from(nanoseconds(ClockId::CLOCK_REALTIME)).unwrap_or(i64::MAX)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("Linux always has this clock");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
