//! What ended: the newest terminations and restarts, with a bound on their number and on the evidence that they keep.

use crate::termination::Termination;
use crate::time::Mono;
use crate::wallclock::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::VecDeque;

/// Evidence that all kept items have together: about 4 MB. Beyond it the oldest items lose theirs.
const EVIDENCE: usize = 20_000;

/// Something that carries a [`Termination`].
pub(crate) trait Item {
    fn termination(&self) -> &Termination;
    fn termination_mut(&mut self) -> &mut Termination;
}

impl Item for Termination {
    fn termination(&self) -> &Termination {
        self
    }
    fn termination_mut(&mut self) -> &mut Termination {
        self
    }
}

impl Item for crate::termination::Restart {
    fn termination(&self) -> &Termination {
        &self.container_restart
    }
    fn termination_mut(&mut self) -> &mut Termination {
        &mut self.container_restart
    }
}

/// A bounded list, oldest first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound(serialize = "T: Item + Serialize", deserialize = "T: Item + DeserializeOwned"))]
pub(crate) struct History<T> {
    #[serde(with = "with_began")]
    items: VecDeque<T>,
    /// A limit: not saved.
    #[serde(skip)]
    limit: usize,
    /// Follows from the items: not saved.
    #[serde(skip)]
    evidence: usize,
}

/// Saves items together with when they began, which their JSON form leaves out.
pub(crate) mod with_began {
    use super::*;

    pub(crate) fn serialize<T: Item + Serialize, S: Serializer>(
        items: &VecDeque<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let began = |item: &T| (item.termination().began, item.termination().began_wall);
        serializer.collect_seq(items.iter().map(|item| (began(item), item)))
    }

    pub(crate) fn deserialize<'de, T: Item + Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<VecDeque<T>, D::Error> {
        let mut saved = VecDeque::<((Mono, Timestamp), T)>::deserialize(deserializer)?;
        for ((began, began_wall), item) in &mut saved {
            let item = item.termination_mut();
            (item.began, item.began_wall) = (*began, *began_wall);
        }
        Ok(saved.into_iter().map(|(_, item)| item).collect())
    }
}

impl<T: Item> History<T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { items: VecDeque::new(), limit: limit.max(1), evidence: 0 }
    }

    /// Adds an item; false if the oldest had to go.
    pub(crate) fn push(&mut self, item: T) -> bool {
        self.evidence += item.termination().evidence.len();
        self.items.push_back(item);
        let fits = self.items.len() <= self.limit;
        if !fits && let Some(oldest) = self.items.pop_front() {
            self.evidence -= oldest.termination().evidence.len();
        }
        self.bound_evidence();
        fits
    }

    /// After a restore: what is not saved, and the bounds that hold now, `evidence` being that of one item. Tells how many
    /// items had to go.
    pub(crate) fn rebuild(&mut self, limit: usize, evidence: usize) -> usize {
        self.limit = limit.max(1);
        let surplus = self.items.len().saturating_sub(self.limit);
        self.items.drain(..surplus);
        for item in &mut self.items {
            let item = item.termination_mut();
            let count = item.evidence.len().saturating_sub(evidence);
            item.evidence.drain(..count);
            item.evidence_dropped =
                item.evidence_dropped.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
        self.evidence = self.items.iter().map(|item| item.termination().evidence.len()).sum();
        self.bound_evidence();
        surplus
    }

    fn bound_evidence(&mut self) {
        for item in &mut self.items {
            if self.evidence <= EVIDENCE {
                break;
            }
            let item = item.termination_mut();
            let count = item.evidence.len();
            self.evidence -= count;
            item.evidence_dropped =
                item.evidence_dropped.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            item.evidence = Vec::new();
        }
    }

    /// Newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &T> + '_ {
        self.items.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::termination::Evidence;
    use crate::test_data::termination;
    use crate::wallclock::Timestamp;
    use probe_ebpf::class::{Class, Confidence, Phase};

    #[test]
    fn the_oldest_goes_and_old_evidence_before_it() {
        let evidence = Evidence {
            at: Timestamp(0),
            class: Class::Refused,
            confidence: Confidence::Observed,
            phase: Phase::Stopping,
            peer: ([10, 0, 0, 1], 1).into(),
            local: ([10, 0, 0, 2], 80).into(),
            request: 1,
            attempts: 1,
            detail: String::new(),
            cause: None,
        };
        let mut history = History::new(3);
        for name in ["a", "b", "c", "d"] {
            let fits = history.push(termination(|t| {
                t.pod.name = name.to_owned();
                t.evidence = vec![evidence.clone(); EVIDENCE / 2];
            }));
            assert_eq!(fits, name != "d");
        }
        let kept: Vec<_> = history
            .newest_first()
            .map(|t| (t.pod.name.as_str(), t.evidence.len(), t.evidence_dropped))
            .collect();
        let half = EVIDENCE / 2;
        assert_eq!(kept, [("d", half, 0), ("c", half, 0), ("b", 0, u64::try_from(half).unwrap())]);
    }
}
