//! Which of a pod's addresses this node's service proxy sends new connections to, and when it ceased to. Told by the
//! proxy's own rules, so the API's watches have no part in it.

use crate::endpoints::WATCH_SKEW_NS;
use crate::time::Mono;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The rules' history of one pod.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Routes {
    /// Addresses that rules lead to now.
    used: BTreeSet<IpAddr>,
    /// When the last of them was taken out.
    left: Option<Mono>,
    /// When it turned out that one had gone, nobody knows when.
    missed: Option<Mono>,
}

impl Routes {
    /// Rules lead to the address.
    pub(crate) fn enter(&mut self, address: IpAddr) {
        self.used.insert(address);
        (self.left, self.missed) = (None, None);
    }

    /// They do not any more, since this moment.
    pub(crate) fn leave(&mut self, address: IpAddr, at: Mono) {
        if self.used.remove(&address) {
            self.left = self.left.max(Some(at));
        }
    }

    /// They do not any more, since an unknown moment before this one.
    pub(crate) fn lose(&mut self, address: IpAddr, at: Mono) {
        if self.used.remove(&address) {
            self.missed = Some(at);
        }
    }

    /// Rules still lead to the pod.
    pub(crate) fn is_used(&self) -> bool {
        !self.used.is_empty()
    }

    /// When the last address was taken out, as an effect of what began at `since`; `None` if that is not known.
    pub(crate) fn programmed(&self, since: Mono) -> Option<Mono> {
        if self.is_used() || self.is_missed(since) { None } else { effect(self.left, since) }
    }

    /// The moment is not known because notifications of the rules were lost.
    pub(crate) fn is_missed(&self, since: Mono) -> bool {
        effect(self.missed, since).is_some()
    }
}

/// The proxy may learn of a deletion before this agent does.
fn effect(at: Option<Mono>, since: Mono) -> Option<Mono> {
    at.filter(|at| at.after(WATCH_SKEW_NS) >= since)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);
    const SEEN: Mono = Mono(10 * WATCH_SKEW_NS);

    #[test]
    fn the_last_address_tells() {
        let mut routes = Routes::default();
        assert_eq!(routes.programmed(SEEN), None, "never used");
        routes.enter(V4);
        routes.enter(V6);
        routes.leave(V4, SEEN.after(5));
        assert_eq!(routes.programmed(SEEN), None, "IPv6 is left");
        routes.leave(V6, SEEN.after(7));
        routes.leave(V4, SEEN.after(9));
        assert_eq!(routes.programmed(SEEN), Some(SEEN.after(7)), "what is out cannot leave again");
        routes.enter(V4);
        assert_eq!(routes.programmed(SEEN), None, "it came back");
    }

    #[test]
    fn what_left_long_before_is_no_effect() {
        let mut routes = Routes::default();
        routes.enter(V4);
        routes.leave(V4, SEEN);
        assert_eq!(routes.programmed(SEEN.after(WATCH_SKEW_NS)), Some(SEEN));
        assert_eq!(routes.programmed(SEEN.after(WATCH_SKEW_NS + 1)), None);
    }

    #[test]
    fn one_address_that_went_unseen_leaves_the_moment_unknown() {
        let mut routes = Routes::default();
        routes.enter(V4);
        routes.enter(V6);
        routes.lose(V4, SEEN.after(5));
        routes.leave(V6, SEEN.after(7));
        assert_eq!((routes.programmed(SEEN), routes.is_missed(SEEN)), (None, true));
        assert!(
            !routes.is_missed(SEEN.after(2 * WATCH_SKEW_NS)),
            "a later deletion has nothing to do with it"
        );
        routes.enter(V4);
        routes.leave(V4, SEEN.after(9));
        assert_eq!((routes.programmed(SEEN), routes.is_missed(SEEN)), (Some(SEEN.after(9)), false));
    }
}
