//! `drainscope advise probes`: reads workloads from files or the API, has the core check them ([`probe_core::advise`]) and shows what it
//! says. Runs no probe, and writes nothing to the API.

mod manifest;
mod source;
mod table;

pub use source::SourceError;

use crate::args::Output;
use crate::args::advise::AdviseProbesArgs;
use manifest::Workload;
use probe_core::advise::{Level, Report, advise};
use serde::Serialize;
use source::Source;

/// What is told.
#[derive(Debug)]
pub struct Advice {
    /// For stdout.
    pub text: String,
    /// For stderr: objects that were passed over.
    pub remarks: Vec<String>,
    /// Something was found.
    pub has_findings: bool,
}

/// Of one workload.
#[derive(Debug, Serialize)]
struct Checked {
    source: String,
    kind: String,
    namespace: Option<String>,
    name: String,
    #[serde(flatten)]
    report: Report,
}

/// How many findings of each level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    errors: usize,
    warnings: usize,
    notes: usize,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    counts: Counts,
    workloads: &'a [Checked],
}

/// Checks all that the command line names. `colours`: stdout can show them.
pub async fn probes(args: &AdviseProbesArgs, colours: bool) -> Result<Advice, SourceError> {
    let mut checked = Vec::new();
    let mut remarks = Vec::new();
    for source in source::read_all(args).await? {
        let Source { name, manifest } = source;
        if !manifest.passed_over.is_empty() {
            let passed_over = manifest::some_of(&manifest.passed_over);
            remarks.push(table::printable(&format!("{name}: passed over {passed_over}")));
        }
        checked.extend(manifest.workloads.into_iter().map(|workload| check(args, name.clone(), workload)));
    }
    let counts = Counts::of(&checked);
    let text = match args.output {
        Output::Json => {
            let document = Document { counts, workloads: &checked };
            // Strings, numbers and lists alone: none of it can fail to be written.
            serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
        }
        Output::Table => table::text(&checked, counts, colours),
    };
    Ok(Advice { text, remarks, has_findings: counts != Counts::default() })
}

fn check(args: &AdviseProbesArgs, source: String, workload: Workload) -> Checked {
    let owner = workload.owner(args.pods_per_node);
    let mut report = advise(&workload.pod, owner);
    let least = Level::from(args.level);
    report.findings.retain(|finding| finding.level >= least);
    Checked { source, kind: workload.kind, namespace: workload.namespace, name: workload.name, report }
}

impl Counts {
    fn of(checked: &[Checked]) -> Self {
        let mut counts = Self::default();
        for finding in checked.iter().flat_map(|checked| &checked.report.findings) {
            *match finding.level {
                Level::Error => &mut counts.errors,
                Level::Warning => &mut counts.warnings,
                Level::Note => &mut counts.notes,
            } += 1;
        }
        counts
    }
}
