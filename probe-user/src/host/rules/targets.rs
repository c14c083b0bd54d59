//! Where kube-proxy's rules send connections, in the whole cluster: the elements of its anonymous maps, one map for each
//! Service's port. Only which endpoint is in none any more is of interest: what a node of the pod itself cannot see of
//! other nodes' proxies. Services with session affinity have chains instead, which are not followed.

use super::message::{Element, Family, Message};
use std::collections::{BTreeMap, BTreeSet};

/// Elements of all maps; beyond it none is followed. Some 10 MB.
const ELEMENTS: usize = 65_536;
/// Changes in one transaction: each element goes and comes.
const CHANGES: usize = 4 * ELEMENTS;

type Map = (Family, String);

/// The maps.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    maps: BTreeMap<Map, Vec<Element>>,
    /// In how many maps each is.
    uses: BTreeMap<Element, u32>,
    /// What the transaction under way has done so far.
    pending: Vec<Change>,
    pending_elements: usize,
    elements: usize,
    is_full: bool,
}

#[derive(Debug)]
enum Change {
    Went(Map),
    Came(Map, Vec<Element>),
}

impl Targets {
    /// Takes a message; once a transaction is in force, tells which endpoints are in no map any more.
    pub(crate) fn take(&mut self, message: &Message) -> Vec<Element> {
        if self.is_full {
            return Vec::new();
        }
        match message {
            Message::MapRemoved(family, name) => self.pending.push(Change::Went((*family, name.clone()))),
            Message::Mapped(family, name, elements) => {
                self.pending_elements += elements.len();
                self.pending.push(Change::Came((*family, name.clone()), elements.clone()));
            }
            Message::Committed => return self.commit(),
            Message::MapMade(..)
            | Message::SetMade(_)
            | Message::SetRemoved(_)
            | Message::Came(_)
            | Message::Went(_)
            | Message::Done { .. }
            | Message::Refused(_)
            | Message::Other => {}
        }
        if self.pending.len().max(self.pending_elements) > CHANGES {
            self.give_up();
        }
        Vec::new()
    }

    /// There are more than are followed.
    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }

    fn commit(&mut self) -> Vec<Element> {
        self.pending_elements = 0;
        let mut touched = BTreeSet::new();
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Went(map) => {
                    let elements = self.maps.remove(&map).unwrap_or_default();
                    self.elements -= elements.len();
                    for element in elements {
                        if let Some(uses) = self.uses.get_mut(&element) {
                            *uses = uses.saturating_sub(1);
                        }
                        touched.insert(element);
                    }
                }
                Change::Came(map, elements) => {
                    self.elements += elements.len();
                    for element in &elements {
                        *self.uses.entry(*element).or_default() += 1;
                    }
                    self.maps.entry(map).or_default().extend(elements);
                }
            }
        }
        touched.retain(|element| self.uses.get(element) == Some(&0));
        for element in &touched {
            self.uses.remove(element);
        }
        if self.elements > ELEMENTS {
            self.give_up();
        }
        touched.into_iter().collect()
    }

    fn give_up(&mut self) {
        *self = Self { is_full: true, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn element(host: u8) -> Element {
        Element { address: IpAddr::from([10, 0, 0, host]), port: Some(80) }
    }

    fn mapped(name: &str, hosts: &[u8]) -> Message {
        Message::Mapped(Family::V4, name.to_owned(), hosts.iter().copied().map(element).collect())
    }

    fn removed(name: &str) -> Message {
        Message::MapRemoved(Family::V4, name.to_owned())
    }

    fn transaction(targets: &mut Targets, messages: &[Message]) -> Vec<Element> {
        for message in messages {
            assert_eq!(targets.take(message), [], "nothing is in force before the end");
        }
        targets.take(&Message::Committed)
    }

    #[test]
    fn an_endpoint_leaves_with_the_last_map_that_has_it() {
        let mut targets = Targets::default();
        assert_eq!(
            transaction(
                &mut targets,
                &[mapped("__map0", &[1]), mapped("__map0", &[2]), mapped("__map1", &[1])]
            ),
            []
        );
        // A rule that is written anew: its map takes the name of the one before.
        assert_eq!(
            transaction(&mut targets, &[removed("__map0"), mapped("__map0", &[2])]),
            [],
            "1 is in __map1"
        );
        assert_eq!(transaction(&mut targets, &[removed("__map1")]), [element(1)]);
        assert_eq!(transaction(&mut targets, &[removed("__map1"), removed("__map0")]), [element(2)]);
        assert!(targets.uses.is_empty() && targets.maps.is_empty() && targets.elements == 0);
    }

    #[test]
    fn too_many_are_not_followed_any_more() {
        let mut targets = Targets::default();
        let many = Message::Mapped(Family::V4, "__map0".to_owned(), vec![element(1); ELEMENTS + 1]);
        assert_eq!(transaction(&mut targets, &[mapped("__map1", &[2]), many]), []);
        assert!(targets.is_full() && targets.uses.is_empty());
        assert_eq!(transaction(&mut targets, &[removed("__map1")]), []);
        let mut targets = Targets::default();
        for _ in 0..=CHANGES {
            targets.take(&removed("__map1"));
        }
        assert!(targets.is_full());
    }
}
