//! The run's agent recorded from its start and replayed at the end: `/metrics` (`process_*` apart), terminations and findings of the replay are
//! the agent's, byte for byte. All rows share the agent, so there is one log, and what differs in it makes the whole run wrong.

use anyhow::Context as _;
use world::agent::{Agent, LastWords, Recording};
use world::wait::wait_until;

use crate::run::{POLL, SETTLING};

/// Ends the agent once nothing is under way any more; how the replay differs, or why there is none, in words.
pub(crate) fn differences(agent: Agent, recording: Recording) -> Vec<String> {
    replayed(agent, recording).unwrap_or_else(|error| vec![format!("{error:#}")])
}

fn replayed(mut agent: Agent, recording: Recording) -> anyhow::Result<Vec<String>> {
    // A row does not wait for the ends of the pods that its update left, nor for the agent to hear of them.
    let is_quiet = || {
        let watched = agent.metrics()?.sum("drainscope_watched_pods", &[]);
        let quiet = watched < 0.5 && agent.terminations()?.iter().all(|end| end.state == "ended");
        Ok(quiet.then_some(()))
    };
    wait_until("the last ends", SETTLING, POLL, is_quiet)
        .with_context(|| format!("the agent's log: {}", agent.log()))?;
    eprintln!("accuracy: end the agent and replay its event log");
    let words = LastWords::of(&mut agent)?;
    recording.differences(&words, true)
}
