//! The table of the matrix: servers by shutdown style, each with the clients that it is loaded with, and what each row has to show.
//!
//! Data only. A row's confidence stands here and is held against what the agent says; an inferred one cites the blind spot of
//! docs/kernel.md that makes it so.

use std::collections::BTreeSet;

use world::load::ErrorKind;

use crate::clients::{
    CROWD, Clients, FEW_KEPT, IMPATIENT, IMPATIENT_RST, KEPT, KEPT_BLIND, LONG, LONG_KEPT, ONE_SHOT,
    OPEN_LOOP, POST, SATURATING, UPLOADS, VANISHING, VANISHING_BLIND,
};

/// A server's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Server {
    /// The test world's own.
    Testserver,
    Nginx,
    /// net/http.
    Go,
    /// http.server with a thread for each connection.
    Python,
    /// node:http.
    Node,
    /// com.sun.net.httpserver.
    Java,
}

impl Server {
    /// As reports and filters name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Testserver => "testserver",
            Self::Nginx => "nginx",
            Self::Go => "go",
            Self::Python => "python",
            Self::Node => "node",
            Self::Java => "java",
        }
    }
}

/// What a row has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Requests are lost: at least [`LEAST_LOSSES`].
    Lossy,
    /// Nothing is lost although at least [`LEAST_LATE`] requests come late.
    Control,
}

/// Losses that a lossy row has at least.
pub(crate) const LEAST_LOSSES: u64 = 20;
/// Late requests that a control row answers at least.
pub(crate) const LEAST_LATE: u64 = 200;

/// What the agent is sure of in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confidence {
    /// Each loss is: it has a partner on the other side, without exception.
    Observed,
    /// Some losses are inferred, or cannot be seen.
    Inferred(BlindSpot),
}

/// Why a row is inferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlindSpot {
    /// What of docs/kernel.md says so, word by word.
    pub(crate) cites: &'static str,
    /// The classes that may be inferred.
    pub(crate) classes: &'static [&'static str],
    /// What a client may meet without any evidence.
    pub(crate) unseen: &'static [ErrorKind],
}

/// The node's delays while rows run, and how many rows may be under load at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Endpoints follow after a second; a pod's address outlives that.
    Usual,
    /// One row at a time takes all of the machine; addresses live longer, as everything takes longer.
    Saturating,
    /// Endpoints follow after two seconds, a pod's address goes with its last process.
    AddressGone,
}

impl Stage {
    /// In the order in which they run.
    pub(crate) const ALL: [Self; 3] = [Self::Usual, Self::Saturating, Self::AddressGone];
}

/// A server in one shutdown style.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) server: Server,
    pub(crate) shutdown: &'static str,
    /// The server's arguments that make it stop so.
    pub(crate) arguments: &'static [&'static str],
    /// In place of SIGTERM.
    pub(crate) stop_signal: Option<&'static str>,
    pub(crate) prestop_seconds: u64,
    pub(crate) kind: Kind,
    pub(crate) confidence: Confidence,
    pub(crate) stage: Stage,
    pub(crate) clients: &'static [Clients],
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) style: Style,
    pub(crate) clients: Clients,
}

impl Row {
    /// Its name for people and filters.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}/{}", self.style.server.name(), self.style.shutdown, self.clients.name)
    }

    /// Its Deployment, Service and `app` label.
    pub(crate) fn workload(&self) -> String {
        self.name().replace(['/', '+'], "-")
    }
}

/// A style with losses in the usual stage; the table says what differs.
const fn style(
    server: Server,
    shutdown: &'static str,
    arguments: &'static [&'static str],
    clients: &'static [Clients],
) -> Style {
    Style {
        server,
        shutdown,
        arguments,
        stop_signal: None,
        prestop_seconds: 0,
        kind: Kind::Lossy,
        confidence: Confidence::Observed,
        stage: Stage::Usual,
        clients,
    }
}

const fn testserver(
    shutdown: &'static str,
    arguments: &'static [&'static str],
    clients: &'static [Clients],
) -> Style {
    style(Server::Testserver, shutdown, arguments, clients)
}

/// It serves on until nobody is sent to it any more.
const fn control(style: Style) -> Style {
    Style { kind: Kind::Control, ..style }
}

/// The same by a preStop hook: longer than the endpoints' delay, and long enough for [`LEAST_LATE`] requests.
const fn with_prestop(style: Style) -> Style {
    control(Style { prestop_seconds: 6, ..style })
}

const fn saturating(style: Style, clients: &'static [Clients]) -> Style {
    Style { stage: Stage::Saturating, clients, ..style }
}

const BASIC: &[Clients] = &[KEPT, KEPT_BLIND, ONE_SHOT];

/// Drops of packets to an address without a pod are what there is to see.
const GONE: Confidence = Confidence::Inferred(BlindSpot {
    cites: "An address that is gone looks different for each network plugin",
    classes: &["blackholed", "stale_reuse"],
    unseen: &[ErrorKind::ConnectTimeout, ErrorKind::ConnectUnreachable, ErrorKind::Timeout],
});
/// A client that gives up by closing looks like one that has said its last word.
const LAST_WORDS: Confidence = Confidence::Inferred(BlindSpot {
    cites: "Protocols in which the client speaks last",
    classes: &["unanswered"],
    unseen: &[],
});
/// This server writes the head and the body of an answer one after the other: its exit may come between the two.
const CUT: Confidence = Confidence::Inferred(BlindSpot {
    cites: "Acked truncation: an answer cut after everything that was written has been acknowledged looks served.",
    classes: &[],
    unseen: &[ErrorKind::Truncated],
});

const TESTSERVER_EXIT: Style = testserver("exit", &["--on-term", "exit"], BASIC);
const NGINX_FAST: Style = style(Server::Nginx, "fast", &[], BASIC);
const NGINX_QUIT: Style =
    Style { stop_signal: Some("SIGQUIT"), ..style(Server::Nginx, "graceful", &[], BASIC) };
const GO_EXIT: Style = style(Server::Go, "default", &["-on-term", "default"], BASIC);
const GO_SHUTDOWN: &[&str] = &["-on-term", "shutdown"];
const STALL_ANSWERS: Style = testserver(
    "stall-answers",
    &["--on-term", "linger:4", "--stall-answers"],
    &[KEPT_BLIND, ONE_SHOT, IMPATIENT_RST],
);

/// Every style.
pub(crate) const STYLES: &[Style] = &[
    TESTSERVER_EXIT,
    Style { clients: &[OPEN_LOOP, LONG, LONG_KEPT, POST], ..TESTSERVER_EXIT },
    testserver("drain", &["--on-term", "drain"], BASIC),
    testserver("drain", &["--on-term", "drain"], &[LONG, POST]),
    with_prestop(testserver("drain+prestop", &["--on-term", "drain"], &[ONE_SHOT, FEW_KEPT, LONG_KEPT])),
    control(testserver("linger", &["--on-term", "linger:4"], &[ONE_SHOT])),
    testserver("close-then-wait", &["--on-term", "close-then-wait:3"], BASIC),
    testserver(
        "close-accepted",
        &["--on-term", "linger:3", "--close-accepted-after-term"],
        &[KEPT_BLIND, ONE_SHOT],
    ),
    testserver("no-accept", &["--on-term", "linger:3", "--no-accept-after-term"], &[KEPT_BLIND, ONE_SHOT]),
    testserver(
        "stall-reads",
        &["--on-term", "linger:4", "--stall-reads"],
        &[KEPT_BLIND, ONE_SHOT, IMPATIENT, IMPATIENT_RST],
    ),
    STALL_ANSWERS,
    Style { confidence: LAST_WORDS, clients: &[IMPATIENT], ..STALL_ANSWERS },
    NGINX_FAST,
    Style { clients: &[OPEN_LOOP, POST], ..NGINX_FAST },
    NGINX_QUIT,
    with_prestop(Style { shutdown: "graceful+prestop", clients: &[ONE_SHOT, FEW_KEPT], ..NGINX_QUIT }),
    GO_EXIT,
    Style { clients: &[LONG, POST], ..GO_EXIT },
    style(Server::Go, "default+mptcp", &["-on-term", "default", "-mptcp"], &[KEPT_BLIND, LONG]),
    style(Server::Go, "shutdown", GO_SHUTDOWN, &[KEPT_BLIND, ONE_SHOT, LONG]),
    style(Server::Go, "shutdown+mptcp", &["-on-term", "shutdown", "-mptcp"], &[ONE_SHOT]),
    with_prestop(style(Server::Go, "shutdown+prestop", GO_SHUTDOWN, &[ONE_SHOT, FEW_KEPT])),
    style(Server::Python, "exit", &["exit"], &[KEPT_BLIND, ONE_SHOT, LONG]),
    style(Server::Python, "shutdown", &["shutdown"], &[KEPT_BLIND, ONE_SHOT, LONG]),
    with_prestop(style(Server::Python, "shutdown+prestop", &["shutdown"], &[ONE_SHOT])),
    style(Server::Node, "exit", &["exit"], &[KEPT_BLIND, ONE_SHOT, LONG, POST]),
    style(Server::Node, "close", &["close"], &[KEPT_BLIND, ONE_SHOT, LONG]),
    with_prestop(style(Server::Node, "close+prestop", &["close"], &[ONE_SHOT])),
    Style { confidence: CUT, ..style(Server::Java, "exit", &["exit"], &[KEPT_BLIND, ONE_SHOT]) },
    Style { confidence: CUT, ..style(Server::Java, "stop", &["stop"], &[KEPT_BLIND, ONE_SHOT]) },
    with_prestop(style(Server::Java, "stop+prestop", &["stop"], &[ONE_SHOT])),
    saturating(TESTSERVER_EXIT, &[SATURATING, UPLOADS]),
    saturating(control(testserver("linger", &["--on-term", "linger:4"], BASIC)), &[CROWD]),
    saturating(NGINX_FAST, &[SATURATING]),
    saturating(GO_EXIT, &[SATURATING, UPLOADS]),
    Style {
        shutdown: "exit+address-gone",
        confidence: GONE,
        stage: Stage::AddressGone,
        clients: &[VANISHING, VANISHING_BLIND],
        ..TESTSERVER_EXIT
    },
];

/// The reduced form: each server and each sort of clients, in as few rows as that takes.
const QUICK: &[&str] = &[
    "testserver/exit/open-loop",
    "testserver/exit/long-requests-kept",
    "testserver/drain/one-per-request",
    "testserver/drain+prestop/few-keep-alive",
    "testserver/close-then-wait/keep-alive-blind",
    "testserver/stall-reads/impatient-reset",
    "testserver/stall-answers/impatient",
    "nginx/fast/keep-alive-blind",
    "nginx/graceful/keep-alive",
    "go/default/one-per-request",
    "go/shutdown/long-requests",
    "python/exit/keep-alive-blind",
    "python/shutdown+prestop/one-per-request",
    "node/exit/post",
    "node/close/keep-alive-blind",
    "java/stop/one-per-request",
    "testserver/exit/uploads",
    "testserver/linger/crowd",
    "nginx/fast/saturating",
    "testserver/exit+address-gone/one-per-request",
    "testserver/exit+address-gone/keep-alive-blind",
];

/// The rows, in order: all of them or those of the reduced form, and of these the ones whose names contain `only`.
pub(crate) fn rows(reduced: bool, only: Option<&str>) -> Vec<Row> {
    STYLES
        .iter()
        .flat_map(|&style| style.clients.iter().map(move |&clients| Row { style, clients }))
        .filter(|row| !reduced || QUICK.contains(&row.name().as_str()))
        .filter(|row| only.is_none_or(|only| row.name().contains(only)))
        .collect()
}

/// The servers that these rows need.
pub(crate) fn servers(rows: &[Row]) -> BTreeSet<Server> {
    rows.iter().map(|row| row.style.server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What blind spots are cited from.
    const KERNEL: &str = include_str!("../../../../docs/kernel.md");

    #[test]
    fn names_are_unique_and_fit_a_label() {
        let rows = rows(false, None);
        let names: BTreeSet<String> = rows.iter().map(Row::workload).collect();
        assert_eq!(names.len(), rows.len());
        for name in names {
            // A pod's name has seventeen characters more.
            assert!(name.len() <= 46, "{name} is too long");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        }
    }

    #[test]
    fn an_inferred_row_cites_a_blind_spot_that_is_there() {
        for row in rows(false, None) {
            if let Confidence::Inferred(BlindSpot { cites, classes, unseen }) = row.style.confidence {
                assert!(!classes.is_empty() || !unseen.is_empty(), "{}", row.name());
                assert!(KERNEL.contains(cites), "{}: docs/kernel.md does not say so", row.name());
            }
        }
    }

    #[test]
    fn inferred_rows_are_these_and_no_others() {
        let inferred: Vec<String> = rows(false, None)
            .iter()
            .filter(|row| row.style.confidence != Confidence::Observed)
            .map(Row::name)
            .collect();
        assert_eq!(
            inferred,
            [
                "testserver/stall-answers/impatient",
                "java/exit/keep-alive-blind",
                "java/exit/one-per-request",
                "java/stop/keep-alive-blind",
                "java/stop/one-per-request",
                "testserver/exit+address-gone/one-per-request",
                "testserver/exit+address-gone/keep-alive-blind",
            ]
        );
    }

    #[test]
    fn controls_serve_longer_than_the_endpoints_delay() {
        for row in rows(false, None) {
            let serves_on = row.style.prestop_seconds > 0 || row.style.arguments.contains(&"linger:4");
            let stalls = row.style.arguments.iter().any(|argument| argument.starts_with("--stall"));
            assert_eq!(row.style.kind == Kind::Control, serves_on && !stalls, "{}", row.name());
        }
    }

    #[test]
    fn the_reduced_form_has_every_server_and_every_sort_of_clients() {
        let (all, reduced) = (rows(false, None), rows(true, None));
        assert_eq!(reduced.len(), QUICK.len(), "each name is a row's");
        assert_eq!(servers(&reduced), servers(&all));
        let sorts = |rows: &[Row]| rows.iter().map(|row| row.clients.name).collect::<BTreeSet<_>>();
        assert_eq!(sorts(&reduced), sorts(&all));
    }

    #[test]
    fn a_filter_takes_any_part_of_the_name() {
        assert!(rows(false, Some("go/")).iter().all(|row| row.style.server == Server::Go));
        assert_eq!(rows(false, Some("nginx/fast/keep-alive-blind")).len(), 1);
        assert!(rows(false, Some("no such row")).is_empty());
    }
}
