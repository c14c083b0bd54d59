//! Counting results and wording the verdict. Pure: lines in, text out.
//!
//! The counts are those that the harnesses print (`test result: ...`, the same from libtest and libtest-mimic); nothing is
//! guessed for a group that printed none.

use std::fmt::Write as _;
use std::time::Duration;

/// Sums over the result lines of one group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Result lines seen.
    pub(super) results: u64,
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
}

/// How a group ended.
pub(super) enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// One line of the verdict.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) outcome: Outcome,
    pub(super) tally: Tally,
    pub(super) took: Duration,
}

impl Tally {
    pub(super) fn add_line(&mut self, line: &str) {
        let Some(rest) = line.trim().strip_prefix("test result:") else { return };
        // `ok. 3 passed; 0 failed; 1 ignored; ...`
        let counts = rest.split_once('.').map_or("", |(_word, counts)| counts);
        self.results += 1;
        for part in counts.split(';') {
            let mut words = part.split_whitespace();
            let (Some(count), Some(what)) = (words.next().and_then(|n| n.parse::<u64>().ok()), words.next())
            else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// A success that shows no result ran no test: a failure.
pub(super) fn outcome(success: bool, status: &str, tally: &Tally) -> Outcome {
    match (success, tally) {
        (true, Tally { results: 0, .. }) => {
            Outcome::Failed("ended well but printed no test result".to_owned())
        }
        (true, Tally { failed: 0, .. }) => Outcome::Passed,
        (true, _) => Outcome::Failed("reported failures but ended well".to_owned()),
        (false, Tally { failed: 0, .. }) => {
            Outcome::Failed(format!("did not build or did not finish ({status})"))
        }
        (false, _) => Outcome::Failed("see above".to_owned()),
    }
}

/// Verdict, a line for each group, totals.
pub(super) fn report(groups: &[Group]) -> String {
    let failed = groups.iter().filter(|g| matches!(g.outcome, Outcome::Failed(_))).count();
    let skipped = groups.iter().filter(|g| matches!(g.outcome, Outcome::Skipped(_))).count();
    let mut text = String::from("\n");
    let verdict = match (failed, skipped) {
        (0, 0) => "tests: all passed".to_owned(),
        (0, n) => format!("tests: passed, but {n} of {} groups could not run here", groups.len()),
        (n, _) => format!("tests: FAILED ({n} of {} groups)", groups.len()),
    };
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes every write");
    line(verdict);
    let width = groups.iter().map(|g| g.name.len()).max().unwrap_or(0);
    let mut reasons: Vec<&str> = Vec::new();
    for Group { name, outcome, tally, took } in groups {
        let Tally { passed, failed, ignored, .. } = tally;
        let seconds = took.as_secs_f64();
        let counts = format!("{passed} passed, {failed} failed, {ignored} ignored  {seconds:.1} s");
        match outcome {
            Outcome::Passed => line(format!("  {name:width$}  ok       {counts}")),
            Outcome::Failed(why) => {
                let (first, rest) = why.split_once('\n').unwrap_or((why, ""));
                line(format!("  {name:width$}  FAILED   {counts}  {first}"));
                reasons.push(rest);
            }
            Outcome::Skipped(why) => {
                line(format!("  {name:width$}  skipped"));
                reasons.push(why);
            }
        }
    }
    // One reason usually holds for several groups.
    reasons.dedup();
    reasons.retain(|why| !why.is_empty());
    for why in reasons {
        line(why.to_owned());
    }
    let sum = |count: fn(&Tally) -> u64| groups.iter().map(|g| count(&g.tally)).sum::<u64>();
    line(format!(
        "{} passed, {} failed, {} ignored, {skipped} suites skipped",
        sum(|t| t.passed),
        sum(|t| t.failed),
        sum(|t| t.ignored)
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &str) -> Tally {
        let mut tally = Tally::default();
        lines.lines().for_each(|line| tally.add_line(line));
        tally
    }

    #[test]
    fn result_lines_of_several_binaries_add_up() {
        let lines = "running 3 tests\ntest a ... ok\n\
                     test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s\n\
                     test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(tally(lines), Tally { results: 2, passed: 7, failed: 2, ignored: 1 });
    }

    #[test]
    fn success_without_a_result_line_is_a_failure() {
        assert!(matches!(outcome(true, "", &tally("")), Outcome::Failed(_)));
        assert!(matches!(outcome(true, "", &tally("test result: ok. 0 passed; 0 failed;")), Outcome::Passed));
        assert!(matches!(
            outcome(true, "", &tally("test result: ok. 0 passed; 1 failed;")),
            Outcome::Failed(_)
        ));
        assert!(matches!(
            outcome(false, "", &tally("test result: ok. 3 passed; 0 failed;")),
            Outcome::Failed(_)
        ));
    }

    #[test]
    fn the_report_opens_with_the_verdict_and_closes_with_totals() {
        let took = Duration::from_millis(1500);
        let passed = Group {
            name: "unprivileged".to_owned(),
            outcome: Outcome::Passed,
            tally: Tally { results: 1, passed: 5, failed: 0, ignored: 0 },
            took,
        };
        let skipped = |name: &str| Group {
            name: name.to_owned(),
            outcome: Outcome::Skipped("  missing:    root".to_owned()),
            tally: Tally::default(),
            took: Duration::ZERO,
        };
        let text = report(&[passed, skipped("netns"), skipped("agent")]);
        assert!(text.starts_with("\ntests: passed, but 2 of 3 groups could not run here\n"), "{text}");
        assert!(text.contains("unprivileged  ok       5 passed, 0 failed, 0 ignored  1.5 s\n"), "{text}");
        assert_eq!(text.matches("missing:").count(), 1, "{text}");
        assert!(text.ends_with("5 passed, 0 failed, 0 ignored, 2 suites skipped\n"), "{text}");
    }

    #[test]
    fn a_reason_of_several_lines_stands_once_below_the_table() {
        let failed = |name: &str| Group {
            name: name.to_owned(),
            outcome: Outcome::Failed("cannot run here\n  missing:    BTF".to_owned()),
            tally: Tally::default(),
            took: Duration::ZERO,
        };
        let text = report(&[failed("netns"), failed("agent")]);
        assert_eq!(text.matches("cannot run here\n").count(), 2, "{text}");
        assert_eq!(text.matches("missing:").count(), 1, "{text}");
        assert!(text.starts_with("\ntests: FAILED (2 of 2 groups)\n"), "{text}");
    }
}
