//! What a row of the matrix is: a server that stops in one way, the clients that it is loaded with, and what it has to show. The rows
//! themselves are in [`crate::styles`].

use std::collections::BTreeSet;

use world::load::ErrorKind;

use crate::clients::Clients;
use crate::styles::{QUICK, STYLES};

/// A server's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Server {
    /// The test world's own.
    Testserver,
    Nginx,
    /// net/http.
    Go,
    /// The same with TLS below HTTP/1.1.
    GoTls,
    /// The same with HTTP/2 in the clear.
    GoH2c,
    /// grpc-go with its health service.
    Grpc,
    /// http.server with a thread for each connection.
    Python,
    /// gunicorn with one worker process and threads.
    Gunicorn,
    /// redis-server, which speaks another protocol.
    Redis,
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
            Self::GoTls => "go-tls",
            Self::GoH2c => "go-h2c",
            Self::Grpc => "grpc",
            Self::Python => "python",
            Self::Gunicorn => "gunicorn",
            Self::Redis => "redis",
            Self::Node => "node",
            Self::Java => "java",
        }
    }

    /// What the kernel can tell of its clients' requests.
    pub(crate) fn requests(self) -> Requests {
        match self {
            Self::GoTls => Requests::Unnumbered,
            Self::GoH2c | Self::Grpc => Requests::Multiplexed,
            Self::Testserver
            | Self::Nginx
            | Self::Go
            | Self::Python
            | Self::Gunicorn
            | Self::Redis
            | Self::Node
            | Self::Java => Requests::Numbered,
        }
    }

    /// The name of its port, which says what it speaks.
    pub(crate) const fn port_name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::GoTls => "https",
            Self::GoH2c => "h2c",
            Self::Grpc => "grpc",
            Self::Testserver
            | Self::Nginx
            | Self::Go
            | Self::Python
            | Self::Gunicorn
            | Self::Node
            | Self::Java => "http",
        }
    }
}

/// How the requests of a connection look to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requests {
    /// One after the other, as the client numbers them.
    Numbered,
    /// One after the other. With TLS, exchanges of records are counted, and the handshake is some of them.
    Unnumbered,
    /// Many at once.
    Multiplexed,
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
    /// Its clients are done before any server is stopped: a request that crosses the server's close of a kept connection is a loss,
    /// and nobody's mistake.
    pub(crate) clients_leave: bool,
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
    use crate::styles::LEFT_OUT;

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
                "testserver/exit/slow-readers",
                "testserver/exit/pipelining",
                "testserver/exit/pipelining-long",
                "testserver/drain/slow-readers",
                "testserver/stall-answers/impatient",
                "nginx/fast/pipelining",
                "go/default/pipelining-long",
                "go-tls/default/keep-alive-blind",
                "go-tls/default/one-per-request",
                "go-tls/default/long-requests-kept",
                "go-tls/shutdown/keep-alive-blind",
                "go-h2c/default/streams",
                "go-h2c/default/streams-long",
                "go-h2c/default/one-per-request",
                "go-h2c/close/streams",
                "go-h2c/close/streams-long",
                "go-h2c/close/one-per-request",
                "go-h2c/shutdown/streams",
                "go-h2c/shutdown/streams-long",
                "go-h2c/shutdown/one-per-request",
                "grpc/default/streams",
                "grpc/default/streams-long",
                "grpc/default/one-per-request",
                "grpc/stop/streams",
                "grpc/stop/streams-long",
                "grpc/stop/one-per-request",
                "grpc/graceful/streams",
                "grpc/graceful/streams-long",
                "grpc/graceful/one-per-request",
                "redis/term/keep-alive-blind",
                "redis/term/long-requests-kept",
                "java/exit/keep-alive-blind",
                "java/exit/one-per-request",
                "java/exit/late-bodies",
                "java/stop/keep-alive-blind",
                "java/stop/one-per-request",
                "go-h2c/default/saturating",
                "grpc/stop/saturating",
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
        let all: Vec<Row> = all.into_iter().filter(|row| !LEFT_OUT.contains(&row.style.server)).collect();
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
