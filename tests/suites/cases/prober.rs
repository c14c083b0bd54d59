//! Group C: what the attempts of one probe come to.

use anyhow::{Context as _, Result};
use probe_core::probes::ProbeType;
use probe_core::probes::spec::{Handler, Probe};
use probe_core::probes::verdict::{Attempt, Verdict, conclude};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Given {
    /// A container without such a probe.
    NoProbe,
    /// What one attempt after the other would see.
    Attempts { kind: ProbeType, seen: Vec<Attempt> },
    /// Specs, each with the handlers that it has.
    Specs(Vec<Probe>),
}

/// What comes of a case of this group.
pub(crate) fn run(given: &Value) -> Result<Value> {
    Ok(match Given::deserialize(given)? {
        Given::NoProbe => shown(&Verdict::NO_PROBE, 0),
        Given::Attempts { kind, seen } => {
            let concluded =
                (1..).zip(&seen).find_map(|(made, seen)| Some((conclude(kind, made, seen)?, made)));
            let (verdict, made) = concluded.context("more attempts are wanted than are given")?;
            shown(&verdict, made)
        }
        Given::Specs(specs) => specs.iter().map(|spec| json!(spec.handler().map(Handler::name))).collect(),
    })
}

fn shown(verdict: &Verdict, attempts: u32) -> Value {
    let event = verdict.event.as_ref().map(|event| json!({"reason": event.reason, "message": event.message}));
    json!({"result": verdict.result, "event": event, "attempts": attempts})
}
