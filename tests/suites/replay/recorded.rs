//! The decision function over recorded kernel facts: `recorded.tsv` has one connection a line, from runs in which the
//! client's fate is known. A run whose note says `blind` documents a blind spot: its verdict is the one that the rule can
//! give, not the one that the client saw.

use probe_ebpf::class::{Class, Confidence};
use probe_ebpf::decide::{Closing, Leaving, Verdict, closing, data_after_close, died_pending};
use probe_ebpf::protocol::Protocol;
use std::collections::BTreeSet;

/// Class and confidence in the words of the table; what follows a close decides last.
fn verdict_of(facts: &Closing, after: &[&str]) -> String {
    let before = closing(facts);
    let mut lost = match before {
        Verdict::Lost(class, confidence) => Some((class, confidence)),
        Verdict::Served | Verdict::Idle | Verdict::Pending => None,
    };
    let mut acked = false;
    for event in after {
        match *event {
            "fin_acked" => acked = true,
            "data_after_close" => {
                let more = data_after_close(before, facts.protocol, 27);
                assert!(lost.is_none() || more.is_none(), "one attempt, one class");
                lost = lost.or(more);
            }
            other => panic!("{other}"),
        }
    }
    if before == Verdict::Pending && !acked {
        lost = Some(died_pending(facts.protocol));
    }
    match lost {
        None if before == Verdict::Idle => "idle".to_owned(),
        None => "served".to_owned(),
        Some((class, Confidence::Observed)) => class.name().to_owned(),
        Some((class, Confidence::Inferred)) => format!("{} inferred", class.name()),
    }
}

struct Row<'a> {
    run: &'a str,
    facts: Closing,
    after: Vec<&'a str>,
    want: &'a str,
    note: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let lines = include_str!("recorded.tsv").lines().filter(|line| !line.starts_with('#')).skip(1);
    lines
        .map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let [
                run,
                _,
                leaving,
                accepted,
                fin,
                rst,
                unread,
                received,
                read,
                written,
                unacked,
                after,
                want,
                note,
            ] = columns[..]
            else {
                panic!("{line}")
            };
            let yes = |word: &str| match word {
                "yes" => true,
                "no" => false,
                _ => panic!("{line}"),
            };
            let facts = Closing {
                leaving: match leaving {
                    "fin" => Leaving::Fin,
                    "close" => Leaving::Close,
                    _ => panic!("{line}"),
                },
                accepted: yes(accepted),
                client_fin: yes(fin),
                client_rst: yes(rst),
                unread: unread.parse().unwrap(),
                received: yes(received),
                read: yes(read),
                written_since_read: yes(written),
                unacked: yes(unacked),
                known: true,
                received_last: false,
                protocol: Protocol::Unknown,
                pending: 0,
                opening: false,
                one_way: false,
            };
            Row { run, facts, after: after.split(',').filter(|word| *word != "-").collect(), want, note }
        })
        .collect()
}

#[test]
fn every_recorded_connection_gets_the_wanted_class() {
    let rows = rows();
    let runs: BTreeSet<&str> = rows.iter().map(|row| row.run).collect();
    assert_eq!((rows.len(), runs.len()), (44, 34));
    for row in rows {
        assert_eq!(verdict_of(&row.facts, &row.after), row.want, "{}: {}", row.run, row.note);
    }
}

/// Without its start the agent falls back on the order of segments; what does not rest on that order stays observed.
#[test]
fn a_connection_older_than_the_agent_is_never_observed_as_unanswered() {
    for row in rows() {
        for received_last in [false, true] {
            let facts =
                Closing { known: false, read: false, written_since_read: false, received_last, ..row.facts };
            if let Verdict::Lost(class, confidence) = closing(&facts) {
                let rests_on_order = matches!(class, Class::Unanswered | Class::Abandoned | Class::Truncated);
                assert_eq!(confidence == Confidence::Inferred, rests_on_order, "{}: {}", row.run, row.note);
            }
        }
    }
}
