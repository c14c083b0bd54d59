//! The one way to wait for what gives no sign of its own: it is looked at now and then, with a bound.
//!
//! Not here: what has a wake-up of its own (the store's changes, a delayed watch, a child's pipe).

use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;

/// How often something is looked at, unless its looker says otherwise: short beside everything that is waited for.
pub const POLL: Duration = Duration::from_millis(20);

/// Looks every `period` until there is something; an error if that takes longer than `timeout`, or if a look fails.
pub fn wait_until<T>(
    what: &str,
    timeout: Duration,
    period: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        // The time is taken first: the last look comes after the deadline, however long this thread was kept from the CPU.
        let is_last = Instant::now() >= deadline;
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(!is_last, "waited {timeout:?} in vain for {what}");
        thread::sleep(period);
    }
}

/// The same for what is there or not.
pub fn wait_for(
    what: &str,
    timeout: Duration,
    mut holds: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    wait_until(what, timeout, POLL, || Ok(holds()?.then_some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    #[test]
    fn it_looks_until_there_is_something() {
        let mut looks = 0;
        let mut third = || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        };
        assert_eq!(wait_until("the third", Duration::from_secs(60), SHORT, &mut third).expect("it comes"), 3);
    }

    #[test]
    fn it_looks_once_more_after_the_deadline_and_says_what_it_waited_for() {
        let mut looks = 0;
        let mut never = || {
            looks += 1;
            Ok(None::<()>)
        };
        let error = wait_until("rain", Duration::ZERO, SHORT, &mut never).expect_err("it never comes");
        assert_eq!((error.to_string().as_str(), looks), ("waited 0ns in vain for rain", 1));
        let error = wait_for("an answer", Duration::from_secs(60), || anyhow::bail!("no such file"));
        assert_eq!(error.expect_err("a look fails").to_string(), "no such file");
    }
}
