//! The pods' addresses: one number gives the IPv4 and the IPv6 address and the interface's MAC address.
//!
//! The MAC address follows from the number so that a reused address needs no neighbour discovery afresh, as with CNI plugins that announce it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// First and last host number of pods; 1 is the node.
const FIRST: u8 = 2;
const LAST: u8 = 254;

/// Which free address the next pod gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AddressReuse {
    /// The one that has been free for longest, as host-local IPAM does.
    #[default]
    Late,
    /// The lowest free one: an address is reused as soon as its pod is gone.
    AtOnce,
}

/// A pod's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodAddresses {
    host: u8,
}

impl PodAddresses {
    /// The node's own, which its hostNetwork pods have.
    pub const NODE: Self = Self { host: FIRST - 1 };

    /// In 10.77.0.0/24.
    pub fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.host)
    }

    /// In fd77::/64.
    pub fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(self.host))
    }

    /// Locally administered.
    pub fn mac(self) -> String {
        format!("02:42:0a:4d:00:{:02x}", self.host)
    }
}

/// Which addresses are taken.
#[derive(Debug)]
pub struct AddressPool {
    reuse: AddressReuse,
    taken: BTreeSet<u8>,
    last: u8,
}

impl AddressPool {
    /// A pool with nothing taken.
    pub fn new(reuse: AddressReuse) -> Self {
        Self { reuse, taken: BTreeSet::new(), last: LAST }
    }

    /// Changes the order of reuse from the next address on.
    pub fn set_reuse(&mut self, reuse: AddressReuse) {
        self.reuse = reuse;
    }

    /// Takes a free address; `None` if there is none.
    pub fn take(&mut self) -> Option<PodAddresses> {
        let start = match self.reuse {
            AddressReuse::Late => self.last + 1,
            AddressReuse::AtOnce => FIRST,
        };
        let host = (start..=LAST).chain(FIRST..=LAST).find(|host| !self.taken.contains(host))?;
        self.taken.insert(host);
        self.last = host;
        Some(PodAddresses { host })
    }

    /// Gives an address back.
    pub fn give_back(&mut self, addresses: PodAddresses) {
        self.taken.remove(&addresses.host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_pool_goes_round_before_it_reuses() {
        let mut pool = AddressPool::new(AddressReuse::Late);
        let first = pool.take().expect("free");
        pool.give_back(first);
        for _ in FIRST + 1..=LAST {
            let next = pool.take().expect("free");
            assert_ne!(next, first);
            pool.give_back(next);
        }
        assert_eq!(pool.take(), Some(first));
    }

    #[test]
    fn the_nodes_own_are_what_it_is_set_up_with_and_no_pool_has_them() {
        assert_eq!(PodAddresses::NODE.v4().to_string(), super::super::NODE_ADDRESS);
        let mut pool = AddressPool::new(AddressReuse::AtOnce);
        assert!(std::iter::from_fn(|| pool.take()).all(|taken| taken != PodAddresses::NODE));
    }

    #[test]
    fn an_eager_pool_reuses_at_once_and_a_full_pool_has_nothing() {
        let mut pool = AddressPool::new(AddressReuse::AtOnce);
        let first = pool.take().expect("free");
        let second = pool.take().expect("free");
        assert_ne!(first, second);
        pool.give_back(first);
        assert_eq!(pool.take(), Some(first));
        while pool.take().is_some() {}
        assert_eq!(pool.taken.len(), usize::from(LAST - FIRST) + 1);
    }
}
