//! The monotonic clock in nanoseconds, and sleeping until a moment of it. `Instant` would do, but its value cannot be written to a log.

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use std::time::Duration;

pub(super) const SECOND_NS: u64 = 1_000_000_000;

/// Now, on the clock of the kernel's own time stamps.
pub(super) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has a monotonic clock");
    u64::try_from(now.tv_sec()).unwrap_or(0) * SECOND_NS + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

/// Sleeps until a moment; returns early when a signal comes, so the caller looks at the clock again.
pub(super) fn sleep_until(moment_ns: u64) {
    let moment = TimeSpec::from_duration(Duration::from_nanos(moment_ns));
    match clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &moment) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => unreachable!("a valid clock and time: {error}"),
    }
}

/// A length of time as nanoseconds; 584 years is enough.
pub(super) fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}
