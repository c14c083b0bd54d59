//! Conformance cases: what Kubernetes does, written down in `tests/cases/GROUP.yaml`, against what this workspace's code does.
//!
//! One test for each case, named by its id. A case has what is `given` and what to `expect`; a group's runner is told the first alone
//! and says what came of it, so no runner can agree with an expectation that it does not meet. `--ids` prints the ids that run;
//! `--invert` spoils each expected value in turn and requires that the case then fails (both: `cargo xtask cases`).

#[path = "cases/case.rs"]
mod case;
#[path = "cases/command.rs"]
mod command;
#[path = "cases/endpoints.rs"]
mod endpoints;
#[path = "cases/invert.rs"]
mod invert;
#[path = "cases/manager.rs"]
mod manager;
#[path = "cases/one_container.rs"]
mod one_container;
#[path = "cases/probe.rs"]
mod probe;
#[path = "cases/prober.rs"]
mod prober;
#[path = "cases/proxy.rs"]
mod proxy;
#[path = "cases/readiness.rs"]
mod readiness;
#[path = "cases/target.rs"]
mod target;
#[path = "cases/termination.rs"]
mod termination;
#[path = "cases/trigger.rs"]
mod trigger;
#[path = "cases/worker.rs"]
mod worker;

use std::process::ExitCode;

use case::{Case, Group};
use libtest_mimic::{Arguments, Trial};

/// The groups: the letter that its ids begin with, its file, its runner.
const GROUPS: &[Group] = &[
    Group { letter: 'A', text: include_str!("../cases/A.yaml"), run: probe::run },
    Group { letter: 'B', text: include_str!("../cases/B.yaml"), run: probe::run },
    Group { letter: 'C', text: include_str!("../cases/C.yaml"), run: prober::run },
    Group { letter: 'D', text: include_str!("../cases/D.yaml"), run: worker::run },
    Group { letter: 'E', text: include_str!("../cases/E.yaml"), run: readiness::run },
    Group { letter: 'F', text: include_str!("../cases/F.yaml"), run: termination::run },
    Group { letter: 'G', text: include_str!("../cases/G.yaml"), run: endpoints::run },
    Group { letter: 'H', text: include_str!("../cases/H.yaml"), run: trigger::run },
    Group { letter: 'I', text: include_str!("../cases/I.yaml"), run: proxy::run },
];

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == "--outcome") {
        return outcome();
    }
    let cases = match case::load(GROUPS) {
        Ok(cases) => cases,
        Err(error) => {
            print(&format!("cases: {error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let own: Vec<String> = std::env::args().skip(1).collect();
    let filter = own.iter().find(|word| !word.starts_with('-')).map_or("", String::as_str);
    let chosen: Vec<&Case> = cases.iter().filter(|case| case.title().contains(filter)).collect();
    match own.iter().find(|word| word.starts_with('-')).map(String::as_str) {
        Some("--ids") => {
            chosen.iter().for_each(|case| print(&case.id));
            ExitCode::SUCCESS
        }
        Some("--invert") => invert::run(&chosen),
        _ => {
            let trials = cases.into_iter().map(trial).collect();
            libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
        }
    }
}

/// Runs what is given on standard input, for a case that has this program run once more.
fn outcome() -> ExitCode {
    let given = serde_json::from_reader(std::io::stdin()).map_err(Into::into);
    match given.and_then(|given| probe::run(&given)) {
        Ok(outcome) => {
            print(&outcome.to_string());
            ExitCode::SUCCESS
        }
        Err(error) => {
            print(&format!("cases: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn trial(case: Case) -> Trial {
    let kind = if case.source_derived { "kubelet-source behaviour" } else { "" };
    Trial::test(case.title(), move || {
        let actual = case.outcome().map_err(|error| format!("{error:#}"))?;
        case.judge(&case.expect, &actual).map_err(Into::into)
    })
    .with_kind(kind)
}

#[expect(clippy::print_stdout, reason = "a test program tells the person who runs it")]
fn print(line: &str) {
    println!("{line}");
}
