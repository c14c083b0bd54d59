//! What the agent concludes, as log lines on stderr: each termination when it ends, as one JSON line, and each finding.
//! With `--log-format json` the lines are the JSON itself, so that a log pipeline needs no second parser.

use crate::args::LogFormat;
use probe_core::finding::{Finding, Severity};
use probe_core::termination::Termination;
use serde_json::json;
use std::io::Write as _;

/// Writes conclusions to the log.
#[derive(Clone, Copy, Debug)]
pub struct Journal {
    /// The log's form.
    pub format: LogFormat,
}

impl Journal {
    /// A termination that ended, or one that the agent's own end cuts off.
    pub fn termination(self, termination: &Termination) {
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        match self.format {
            LogFormat::Json => line(&json!({ "termination": termination })),
            LogFormat::Text => match serde_json::to_string(termination) {
                Ok(text) => tracing::info!("termination {text}"),
                Err(error) => tracing::error!(%error, "a termination cannot be written as JSON"),
            },
        }
    }

    /// A finding.
    pub fn finding(self, finding: &Finding) {
        if self.format == LogFormat::Json {
            if tracing::enabled!(tracing::Level::INFO) {
                line(&json!({ "finding": finding }));
            }
            return;
        }
        let (code, pod) = (finding.code.as_ref(), format!("{}/{}", finding.pod.namespace, finding.pod.name));
        match finding.severity {
            Severity::Info => tracing::info!(code, pod, remedy = finding.remedy, "{}", finding.summary),
            Severity::Warning | Severity::Error => {
                tracing::warn!(code, pod, remedy = finding.remedy, "{}", finding.summary);
            }
        }
    }
}

/// A log that nobody can take any more is no reason to stop counting.
fn line(value: &serde_json::Value) {
    drop(writeln!(std::io::stderr().lock(), "{value}"));
}
