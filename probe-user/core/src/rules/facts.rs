//! What the rules need of a pod's status, in small: phase, and of each container its name, id, state and what is said of it.

use crate::wallclock::Timestamp;
use serde::{Deserialize, Serialize};

/// `status.phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not all containers have run.
    #[default]
    Pending,
    /// At least one runs.
    Running,
    /// All have ended well for good.
    Succeeded,
    /// All have ended for good, not all well.
    Failed,
    /// Its node does not answer; or a phase that is not known here.
    #[serde(other)]
    Unknown,
}

impl Phase {
    /// No container of it will ever run again.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// State of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Not running, and not ended for good.
    #[default]
    Waiting,
    /// Runs.
    Running {
        /// `startedAt`.
        since: Timestamp,
    },
    /// Has ended.
    Terminated {
        /// `exitCode`.
        exit_code: i32,
    },
}

/// What a status says of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerStatus {
    /// Name in the spec.
    pub name: String,
    /// Container id; empty until there is one.
    pub id: String,
    /// State.
    pub state: ContainerState,
    /// `started`: its startup probe has passed, or it has none and runs.
    pub started: Option<bool>,
    /// `ready`.
    pub ready: bool,
}

/// What a pod's status says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PodStatus {
    /// Phase.
    pub phase: Phase,
    /// Regular containers.
    pub containers: Vec<ContainerStatus>,
    /// Init containers.
    pub init_containers: Vec<ContainerStatus>,
}

impl PodStatus {
    /// The status of a container that can be probed: one that has an id.
    pub(crate) fn probed_container(&self, name: &str) -> Option<&ContainerStatus> {
        let find = |all: &'_ [ContainerStatus]| {
            all.iter().position(|status| status.name == name && !status.id.is_empty())
        };
        let regular = find(&self.containers).and_then(|index| self.containers.get(index));
        regular.or_else(|| find(&self.init_containers).and_then(|index| self.init_containers.get(index)))
    }
}

/// `restartPolicy` of a pod or of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum RestartPolicy {
    /// However it ended.
    #[default]
    Always,
    /// Unless it ended well.
    OnFailure,
    /// Never.
    Never,
}

/// An exit code that has a container started again although its policy would not.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartRule {
    /// The codes are those that it is not for.
    #[serde(default)]
    pub not_in: bool,
    /// Exit codes.
    pub codes: Vec<i32>,
}

/// When a container is started again after its end. Not here: another container's rule that restarts all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restarts {
    /// The pod's policy.
    pub pod: RestartPolicy,
    /// The container's own, before the pod's; `Always` makes an init container a sidecar.
    pub own: Option<RestartPolicy>,
    /// `restartPolicyRules`, before both policies; they need one of its own. Of both actions, for either starts it again.
    pub rules: Vec<RestartRule>,
}

impl Restarts {
    /// Whether it starts again after this end.
    pub fn after(&self, exit_code: i32) -> bool {
        let matches = |rule: &RestartRule| rule.codes.contains(&exit_code) != rule.not_in;
        if self.own.is_some() && self.rules.iter().any(matches) {
            return true;
        }
        match self.own.unwrap_or(self.pod) {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_before_the_containers_policy_and_that_before_the_pods() {
        use RestartPolicy::{Always, Never, OnFailure};
        let rule = |not_in, codes: &[i32]| vec![RestartRule { not_in, codes: codes.to_vec() }];
        for (pod, own, rules, restarting, ending) in [
            (Always, None, vec![], &[0, 1][..], &[][..]),
            (OnFailure, None, vec![], &[1], &[0]),
            (Never, None, vec![], &[], &[0, 1]),
            (Always, Some(Never), vec![], &[], &[0, 1]),
            (Never, Some(Always), vec![], &[0, 1], &[]),
            (Always, Some(Never), rule(false, &[42]), &[42], &[0, 1]),
            (Always, Some(Never), rule(true, &[42]), &[0, 1], &[42]),
            (Never, None, rule(false, &[42]), &[], &[42]),
        ] {
            let restarts = Restarts { pod, own, rules };
            assert!(restarting.iter().all(|code| restarts.after(*code)), "{restarts:?}");
            assert!(!ending.iter().any(|code| restarts.after(*code)), "{restarts:?}");
        }
    }
}
