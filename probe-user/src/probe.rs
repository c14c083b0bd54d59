//! `drainscope probe`: turns what the user typed into probes, runs them one after another and shows what came of them.
//! What a probe does is [`probe_engine`]'s matter.

pub mod command;
pub mod pod;
mod show;
pub mod spec;
mod target;

pub use target::TargetError;

use crate::args::{Output, ProbeRunArgs};
use probe_engine::{Outcome, Verdict};
use show::Summary;
use std::io::{self, Write};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

/// Runs the probes and writes one result after another; `color` says whether verdicts may have colours. True if there were
/// some and all succeeded; an interrupt ends the row, not the summary.
///
/// # Errors
/// If a result cannot be written.
pub async fn run(
    args: &ProbeRunArgs,
    probe: &target::Target,
    color: bool,
    out: &mut impl Write,
) -> io::Result<bool> {
    let mut ticks = interval(probe.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut summary = Summary::default();
    while args.how.repeat == 0 || summary.probes() < args.how.repeat {
        let next = async {
            ticks.tick().await;
            probe_engine::run(&probe.probe).await
        };
        let outcome = tokio::select! {
            outcome = next => outcome,
            _ = interrupts.recv() => break,
        };
        summary.add(&outcome);
        let text = match (args.how.output, args.how.repeat) {
            (Output::Json, _) => show::json(probe, &outcome),
            (Output::Table, 1) => show::details(probe, &outcome, color),
            (Output::Table, _) => show::line(summary.probes(), probe, &outcome, color),
        };
        out.write_all(text.as_bytes())?;
        out.flush()?;
    }
    if args.how.output == Output::Table && args.how.repeat != 1 {
        out.write_all(summary.text().as_bytes())?;
    }
    Ok(summary.all_succeeded())
}

/// What the probe that was typed is.
///
/// # Errors
/// If it is none.
pub fn target(args: &ProbeRunArgs) -> Result<target::Target, TargetError> {
    target::Target::new(args)
}

const fn succeeded(outcome: &Outcome) -> bool {
    matches!(outcome.verdict, Verdict::Success | Verdict::Warning)
}
