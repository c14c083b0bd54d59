//! The run's agent recorded from its start and replayed at the end: `/metrics` (`process_*` apart), terminations and findings of the replay are
//! the agent's, byte for byte. All rows share the agent, so there is one log; it holds for a row if the agent's last words have the row's
//! series, ends and findings, and the replay says just these. What else differs makes the whole run wrong.

use std::collections::BTreeMap;

use anyhow::Context as _;
use world::agent::{Agent, Recording, Words};
use world::wait::wait_until;

use crate::report::{Outcome, Report};
use crate::run::{POLL, SETTLING};

/// Ends the agent once nothing is under way any more, replays its log, and notes in the report how that differs, or why there is no replay.
pub(crate) fn compare(agent: Agent, recording: Recording, report: &mut Report) {
    if let Err(error) = try_compare(agent, recording, report) {
        report.replay.push(format!("{error:#}"));
    }
}

fn try_compare(mut agent: Agent, recording: Recording, report: &mut Report) -> anyhow::Result<()> {
    // A row does not wait for the ends of the pods that its update left, nor for the agent to hear of them.
    let is_quiet = || {
        let watched = agent.metrics()?.sum("drainscope_watched_pods", &[]);
        let quiet = watched < 0.5 && agent.terminations()?.iter().all(|end| end.state == "ended");
        Ok(quiet.then_some(()))
    };
    wait_until("the last ends", SETTLING, POLL, is_quiet)
        .with_context(|| format!("the agent's log: {}", agent.log()))?;
    eprintln!("accuracy: end the agent and replay its event log");
    let said = Words::last_of(&mut agent)?;
    let replayed = recording.replayed()?;
    report.replay = said.differences(&replayed);
    let (said, replayed) = (said.by_workload()?, replayed.by_workload()?);
    for outcome in &mut report.outcomes {
        let name = outcome.row.workload();
        let of = |words: &BTreeMap<String, Words>| words.get(&name).cloned().unwrap_or_default();
        let (said, replayed) = (of(&said), of(&replayed));
        outcome.replay = said.differences(&replayed);
        outcome.replay.extend(
            missing(outcome, &said).map(|what| format!("the agent's last words have no {what} of the row")),
        );
    }
    Ok(())
}

/// What the agent has to have said of a row in the end, and has not: then its replay shows nothing.
fn missing(outcome: &Outcome, said: &Words) -> Option<&'static str> {
    let is_lossy = outcome.measured.as_ref().is_ok_and(|measured| measured.attributed > 0);
    match said {
        Words { metrics, .. } if metrics.is_empty() => Some("series"),
        Words { terminations, .. } if terminations.is_empty() => Some("ends"),
        Words { findings, .. } if findings.is_empty() && is_lossy => Some("findings"),
        Words { .. } => None,
    }
}
