//! The endpoints that the service proxy's set has, brought on by transactions. What a transaction does to an address is
//! known when it is in force; what it takes out and puts in again has not left.

use super::message::{Element, Family, Message};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Endpoints on one node, and changes in one transaction: a node has 250 pods or so.
const ELEMENTS: usize = 16_384;

/// More than the table takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// The set's elements, of both families.
#[derive(Debug, Default)]
pub(crate) struct Table {
    elements: BTreeSet<Element>,
    /// Families that have the set.
    families: BTreeSet<Family>,
    /// What the transaction under way has done so far.
    pending: Vec<Change>,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Set(Family, bool),
    Element(Element, bool),
}

impl Table {
    /// There is a set that can be followed.
    pub(crate) fn is_visible(&self) -> bool {
        !self.families.is_empty()
    }

    /// The addresses of all elements, each once.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.elements.iter().map(|element| element.address).collect();
        addresses.dedup();
        addresses
    }

    /// Takes a message; once a transaction is in force, tells which addresses came to be used (`true`) and ceased to be.
    pub(crate) fn take(&mut self, message: Message) -> Result<Vec<(IpAddr, bool)>, Full> {
        match message {
            Message::SetMade(family) => self.pending.push(Change::Set(family, true)),
            Message::SetRemoved(family) => self.pending.push(Change::Set(family, false)),
            Message::Came(elements) => self.note(elements, true),
            Message::Went(elements) => self.note(elements, false),
            Message::Committed => return self.commit(),
            Message::MapMade(..)
            | Message::MapRemoved(..)
            | Message::Mapped(..)
            | Message::Done { .. }
            | Message::Refused(_)
            | Message::Other => {}
        }
        if self.pending.len() > ELEMENTS { Err(Full) } else { Ok(Vec::new()) }
    }

    fn note(&mut self, elements: Vec<Element>, came: bool) {
        self.pending.extend(elements.into_iter().map(|element| Change::Element(element, came)));
    }

    fn commit(&mut self) -> Result<Vec<(IpAddr, bool)>, Full> {
        let pending = std::mem::take(&mut self.pending);
        let mut touched = BTreeSet::new();
        for change in &pending {
            match change {
                Change::Set(family, _) => touched.extend(self.of(*family).map(|element| element.address)),
                Change::Element(element, _) => {
                    touched.insert(element.address);
                }
            }
        }
        let before: Vec<(IpAddr, bool)> =
            touched.into_iter().map(|address| (address, self.uses(address))).collect();
        for change in pending {
            match change {
                Change::Set(family, true) => {
                    self.families.insert(family);
                }
                Change::Set(family, false) => {
                    self.families.remove(&family);
                    self.elements.retain(|element| Family::of(element.address) != family);
                }
                Change::Element(element, true) => {
                    self.families.insert(Family::of(element.address));
                    self.elements.insert(element);
                }
                Change::Element(element, false) => {
                    self.elements.remove(&element);
                }
            }
        }
        if self.elements.len() > ELEMENTS {
            return Err(Full);
        }
        let now = before.into_iter().map(|(address, was)| (address, was, self.uses(address)));
        Ok(now.filter(|(_, was, is)| was != is).map(|(address, _, is)| (address, is)).collect())
    }

    fn of(&self, family: Family) -> impl Iterator<Item = &Element> {
        self.elements.iter().filter(move |element| Family::of(element.address) == family)
    }

    fn uses(&self, address: IpAddr) -> bool {
        let first = Element { address, port: None };
        self.elements.range(first..).next().is_some_and(|element| element.address == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(host: u8, port: u16) -> Element {
        Element { address: IpAddr::from([10, 0, 0, host]), port: Some(port) }
    }

    fn transaction(table: &mut Table, messages: Vec<Message>) -> Result<Vec<(u8, bool)>, Full> {
        for message in messages {
            assert_eq!(table.take(message), Ok(Vec::new()), "nothing is in force before the end");
        }
        let host = |address| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        };
        Ok(table.take(Message::Committed)?.into_iter().map(|(address, used)| (host(address), used)).collect())
    }

    #[test]
    fn an_address_leaves_with_its_last_port() {
        let mut table = Table::default();
        let came = Message::Came(vec![element(1, 80), element(1, 90), element(2, 80)]);
        assert_eq!(transaction(&mut table, vec![came]), Ok(vec![(1, true), (2, true)]));
        assert_eq!(transaction(&mut table, vec![Message::Went(vec![element(1, 80)])]), Ok(vec![]));
        assert_eq!(transaction(&mut table, vec![Message::Went(vec![element(1, 90)])]), Ok(vec![(1, false)]));
        assert_eq!(table.addresses(), [IpAddr::from([10, 0, 0, 2])]);
    }

    #[test]
    fn what_a_transaction_takes_out_and_puts_in_again_has_not_left() {
        let mut table = Table::default();
        let all = vec![element(1, 80), element(2, 80)];
        assert!(transaction(&mut table, vec![Message::Came(all.clone())]).is_ok());
        let anew = vec![
            Message::SetRemoved(Family::V4),
            Message::SetMade(Family::V4),
            Message::Came(vec![element(2, 80), element(3, 80)]),
        ];
        assert_eq!(transaction(&mut table, anew), Ok(vec![(1, false), (3, true)]));
        assert_eq!(
            transaction(
                &mut table,
                vec![Message::Went(vec![element(2, 80)]), Message::Came(vec![element(2, 80)])]
            ),
            Ok(vec![])
        );
    }

    #[test]
    fn it_is_visible_while_a_family_has_the_set() {
        let mut table = Table::default();
        assert!(!table.is_visible());
        let made = vec![Message::SetMade(Family::V4), Message::SetMade(Family::V6)];
        assert_eq!(transaction(&mut table, made), Ok(vec![]));
        assert_eq!(transaction(&mut table, vec![Message::SetRemoved(Family::V4)]), Ok(vec![]));
        assert!(table.is_visible());
        assert_eq!(transaction(&mut table, vec![Message::SetRemoved(Family::V6)]), Ok(vec![]));
        assert!(!table.is_visible());
    }

    #[test]
    fn a_transaction_without_end_is_refused() {
        let mut table = Table::default();
        let many = Message::Came(vec![element(1, 80); ELEMENTS]);
        assert_eq!(table.take(many), Ok(Vec::new()));
        assert_eq!(table.take(Message::Went(vec![element(1, 80)])), Err(Full));
    }
}
