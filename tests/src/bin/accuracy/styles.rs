//! The table of the matrix: servers by shutdown style, each with the clients that it is loaded with, and what each row has to show.
//!
//! Data only. A row's confidence stands here and is held against what the agent says; an inferred one cites the blind spot of
//! docs/kernel.md that makes it so.

use world::load::ErrorKind;

use crate::clients::{
    CROWD, Clients, GRPC_KEPT, GRPC_LONG, GRPC_ONE_SHOT, GRPC_SATURATING, GRPC_STREAMS, H2_LONG, H2_ONE_SHOT,
    H2_SATURATING, H2_STREAMS, IMPATIENT, IMPATIENT_RST, KEPT, KEPT_BLIND, LATE_BODIES, LATE_SLOW_WRITERS,
    LONG, LONG_KEPT, ONE_SHOT, OPEN_LOOP, PIPELINING, PIPELINING_LONG, POST, REDIS_KEPT, REDIS_LONG,
    REDIS_ONE_SHOT, SATURATING, SLOW_READERS, SLOW_WRITERS, TLS_KEPT, TLS_LONG, TLS_ONE_SHOT, UPLOADS,
    VANISHING, VANISHING_BLIND,
};
use crate::rows::{BlindSpot, Confidence, Kind, Server, Stage, Style};

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
        clients_leave: false,
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

/// The same, and its clients are gone when the hook ends: time for a rolling update, for late requests and for the last answers.
const fn without_clients(style: Style) -> Style {
    control(Style { prestop_seconds: 12, clients_leave: true, ..style })
}

const fn saturating(style: Style, clients: &'static [Clients]) -> Style {
    Style { stage: Stage::Saturating, clients, ..style }
}

const fn streams(style: Style) -> Style {
    Style { confidence: STREAMS, ..style }
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
/// Records are all that there is to see: a server's farewell looks like an answer, and a request that is as short as this
/// generator's (74 bytes in its record) like the end of a handshake, if it is the first on its connection.
const TLS: Confidence = Confidence::Inferred(BlindSpot {
    cites: "TLS `close_notify`",
    classes: &["unread", "unanswered", "stale_reuse"],
    unseen: &[ErrorKind::Eof, ErrorKind::Reset],
});
/// Another protocol than HTTP: what a closed connection owes an answer for, its name alone does not tell.
const RAW: Confidence = Confidence::Inferred(BlindSpot {
    cites: "Protocols in which the client speaks last",
    classes: &["unread", "unanswered", "stale_reuse"],
    unseen: &[],
});
/// Everything was written, and the pod's network goes before all of it is taken.
const NOT_TAKEN: Confidence = Confidence::Inferred(BlindSpot {
    cites: "An answer that its reader has not taken when the pod's network goes",
    classes: &[],
    unseen: &[ErrorKind::Timeout],
});
/// What was sent at once is one request to the kernel: one loss at most, and none if one of the answers was written.
const AT_ONCE: Confidence = Confidence::Inferred(BlindSpot {
    cites: "Pipelining and multiplexing: any later write hides a request that was not answered.",
    classes: &[],
    unseen: &[ErrorKind::Eof, ErrorKind::Reset, ErrorKind::SendError],
});

/// What was lost on a connection of many streams is at least one, and none if one of the others was answered last.
const STREAMS: Confidence = Confidence::Inferred(BlindSpot {
    cites: "Pipelining and multiplexing: any later write hides a request that was not answered.",
    classes: STREAM_CLASSES,
    unseen: &[ErrorKind::Eof, ErrorKind::Reset, ErrorKind::SendError],
});
/// From the second request on, all fields of this generator's stand in HPACK's table: 13 bytes, as many as a WINDOW_UPDATE.
const SHORT: Confidence = Confidence::Inferred(BlindSpot {
    cites: "requests that are shorter than the table says",
    classes: STREAM_CLASSES,
    unseen: &[ErrorKind::Eof, ErrorKind::Reset, ErrorKind::SendError],
});
/// The server says with its GOAWAY which streams it has not looked at, and that is the last that it writes.
const DRAINED: Confidence = Confidence::Inferred(BlindSpot {
    cites: "A server's own `close_notify` or GOAWAY after the last read is a write",
    classes: STREAM_CLASSES,
    unseen: &[ErrorKind::StreamRefused, ErrorKind::Eof, ErrorKind::Reset],
});
/// Of what is lost on a connection of many streams no number is sure.
const STREAM_CLASSES: &[&str] = &["unaccepted", "unread", "unanswered", "stale_reuse", "truncated"];

const TESTSERVER_EXIT: Style = testserver("exit", &["--on-term", "exit"], BASIC);
const NGINX_FAST: Style = style(Server::Nginx, "fast", &[], BASIC);
const NGINX_QUIT: Style =
    Style { stop_signal: Some("SIGQUIT"), ..style(Server::Nginx, "graceful", &[], BASIC) };
const GUNICORN: Style = style(Server::Gunicorn, "graceful", &[], &[KEPT_BLIND, ONE_SHOT, LONG, SLOW_WRITERS]);
const GO_EXIT: Style = style(Server::Go, "default", &["-on-term", "default"], BASIC);
const GO_SHUTDOWN: &[&str] = &["-on-term", "shutdown"];
const GRPC_GRACEFUL: &[&str] = &["-on-term", "graceful"];
const GRPC: &[Clients] = &[GRPC_STREAMS, GRPC_LONG, GRPC_ONE_SHOT];
const STALL_ANSWERS: Style = testserver(
    "stall-answers",
    &["--on-term", "linger:4", "--stall-answers"],
    &[KEPT_BLIND, ONE_SHOT, IMPATIENT_RST],
);

/// Every style.
pub(crate) const STYLES: &[Style] = &[
    TESTSERVER_EXIT,
    Style { clients: &[OPEN_LOOP, LONG, LONG_KEPT, POST], ..TESTSERVER_EXIT },
    Style { clients: &[SLOW_WRITERS, LATE_BODIES], ..TESTSERVER_EXIT },
    Style { confidence: NOT_TAKEN, clients: &[SLOW_READERS], ..TESTSERVER_EXIT },
    Style { confidence: AT_ONCE, clients: &[PIPELINING, PIPELINING_LONG], ..TESTSERVER_EXIT },
    testserver("drain", &["--on-term", "drain"], BASIC),
    testserver("drain", &["--on-term", "drain"], &[LONG, POST, SLOW_WRITERS, LATE_BODIES]),
    Style { confidence: NOT_TAKEN, ..testserver("drain", &["--on-term", "drain"], &[SLOW_READERS]) },
    with_prestop(testserver("drain+prestop", &["--on-term", "drain"], &[ONE_SHOT])),
    // The hook ends while they write.
    control(Style {
        prestop_seconds: 3,
        ..testserver("drain+prestop", &["--on-term", "drain"], &[LATE_SLOW_WRITERS])
    }),
    without_clients(testserver(
        "drain+leave",
        &["--on-term", "drain"],
        &[KEPT, KEPT_BLIND, LONG_KEPT, LATE_BODIES],
    )),
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
    Style { clients: &[OPEN_LOOP, POST, SLOW_WRITERS], ..NGINX_FAST },
    Style { confidence: AT_ONCE, clients: &[PIPELINING], ..NGINX_FAST },
    NGINX_QUIT,
    Style { clients: &[SLOW_WRITERS], ..NGINX_QUIT },
    with_prestop(Style { shutdown: "graceful+prestop", clients: &[ONE_SHOT], ..NGINX_QUIT }),
    control(Style {
        shutdown: "graceful+prestop",
        prestop_seconds: 3,
        clients: &[LATE_SLOW_WRITERS],
        ..NGINX_QUIT
    }),
    without_clients(Style { shutdown: "graceful+leave", clients: &[KEPT], ..NGINX_QUIT }),
    GO_EXIT,
    Style { clients: &[LONG, POST, SLOW_WRITERS, LATE_BODIES], ..GO_EXIT },
    Style { confidence: AT_ONCE, clients: &[PIPELINING_LONG], ..GO_EXIT },
    style(Server::Go, "default+mptcp", &["-on-term", "default", "-mptcp"], &[KEPT_BLIND, LONG]),
    style(Server::Go, "shutdown", GO_SHUTDOWN, &[KEPT_BLIND, ONE_SHOT, LONG, SLOW_WRITERS, LATE_BODIES]),
    style(Server::Go, "shutdown+mptcp", &["-on-term", "shutdown", "-mptcp"], &[ONE_SHOT]),
    with_prestop(style(Server::Go, "shutdown+prestop", GO_SHUTDOWN, &[ONE_SHOT])),
    without_clients(style(Server::Go, "shutdown+leave", GO_SHUTDOWN, &[KEPT])),
    Style {
        confidence: TLS,
        ..style(Server::GoTls, "default", &["-on-term", "default"], &[TLS_KEPT, TLS_ONE_SHOT, TLS_LONG])
    },
    Style { confidence: TLS, ..style(Server::GoTls, "shutdown", GO_SHUTDOWN, &[TLS_KEPT]) },
    with_prestop(style(Server::GoTls, "shutdown+prestop", GO_SHUTDOWN, &[TLS_ONE_SHOT])),
    without_clients(style(Server::GoTls, "shutdown+leave", GO_SHUTDOWN, &[TLS_KEPT])),
    Style { confidence: SHORT, ..style(Server::GoH2c, "default", &["-on-term", "default"], &[H2_STREAMS]) },
    streams(style(Server::GoH2c, "default", &["-on-term", "default"], &[H2_LONG, H2_ONE_SHOT])),
    Style { confidence: SHORT, ..style(Server::GoH2c, "close", &["-on-term", "close"], &[H2_STREAMS]) },
    streams(style(Server::GoH2c, "close", &["-on-term", "close"], &[H2_LONG, H2_ONE_SHOT])),
    Style {
        confidence: DRAINED,
        ..style(Server::GoH2c, "shutdown", GO_SHUTDOWN, &[H2_STREAMS, H2_LONG, H2_ONE_SHOT])
    },
    with_prestop(style(Server::GoH2c, "shutdown+prestop", GO_SHUTDOWN, &[H2_ONE_SHOT])),
    streams(style(Server::Grpc, "default", &["-on-term", "default"], GRPC)),
    streams(style(Server::Grpc, "stop", &["-on-term", "stop"], GRPC)),
    Style { confidence: DRAINED, ..style(Server::Grpc, "graceful", GRPC_GRACEFUL, GRPC) },
    with_prestop(style(Server::Grpc, "graceful+prestop", GRPC_GRACEFUL, &[GRPC_ONE_SHOT, GRPC_KEPT])),
    style(Server::Python, "exit", &["exit"], &[KEPT_BLIND, ONE_SHOT, LONG, SLOW_WRITERS, LATE_BODIES]),
    style(Server::Python, "shutdown", &["shutdown"], &[KEPT_BLIND, ONE_SHOT, LONG]),
    with_prestop(style(Server::Python, "shutdown+prestop", &["shutdown"], &[ONE_SHOT])),
    GUNICORN,
    Style { shutdown: "quick", stop_signal: Some("SIGQUIT"), ..GUNICORN },
    with_prestop(Style { shutdown: "graceful+prestop", clients: &[ONE_SHOT], ..GUNICORN }),
    style(Server::Node, "exit", &["exit"], &[KEPT_BLIND, ONE_SHOT, LONG, POST, SLOW_WRITERS, LATE_BODIES]),
    style(Server::Node, "close", &["close"], &[KEPT_BLIND, ONE_SHOT, LONG]),
    with_prestop(style(Server::Node, "close+prestop", &["close"], &[ONE_SHOT])),
    Style { confidence: RAW, ..style(Server::Redis, "term", &[], &[REDIS_KEPT, REDIS_LONG]) },
    with_prestop(style(Server::Redis, "term+prestop", &[], &[REDIS_ONE_SHOT])),
    Style { confidence: CUT, ..style(Server::Java, "exit", &["exit"], &[KEPT_BLIND, ONE_SHOT, LATE_BODIES]) },
    Style { confidence: CUT, ..style(Server::Java, "stop", &["stop"], &[KEPT_BLIND, ONE_SHOT]) },
    with_prestop(style(Server::Java, "stop+prestop", &["stop"], &[ONE_SHOT])),
    saturating(TESTSERVER_EXIT, &[SATURATING, UPLOADS]),
    saturating(control(testserver("linger", &["--on-term", "linger:4"], BASIC)), &[CROWD]),
    saturating(NGINX_FAST, &[SATURATING]),
    saturating(GO_EXIT, &[SATURATING, UPLOADS]),
    saturating(
        Style { confidence: SHORT, ..style(Server::GoH2c, "default", &["-on-term", "default"], &[]) },
        &[H2_SATURATING],
    ),
    saturating(streams(style(Server::Grpc, "stop", &["-on-term", "stop"], &[])), &[GRPC_SATURATING]),
    Style {
        shutdown: "exit+address-gone",
        confidence: GONE,
        stage: Stage::AddressGone,
        clients: &[VANISHING, VANISHING_BLIND],
        ..TESTSERVER_EXIT
    },
];

/// Servers that the reduced form is without.
#[cfg(test)]
pub(crate) const LEFT_OUT: &[Server] = &[Server::GoTls, Server::Redis];
/// The reduced form: each other server and each sort of clients, in as few rows as that takes.
pub(crate) const QUICK: &[&str] = &[
    "testserver/exit/open-loop",
    "testserver/exit/long-requests-kept",
    "testserver/exit/slow-readers",
    "testserver/exit/pipelining-long",
    "testserver/drain/one-per-request",
    "testserver/drain+leave/keep-alive",
    "testserver/drain+prestop/slow-writers",
    "testserver/close-then-wait/keep-alive-blind",
    "testserver/stall-reads/impatient-reset",
    "testserver/stall-answers/impatient",
    "nginx/fast/keep-alive-blind",
    "nginx/fast/pipelining",
    "nginx/graceful/keep-alive",
    "go/default/one-per-request",
    "go/shutdown/long-requests",
    "go/shutdown/slow-writers",
    "go-h2c/default/streams-long",
    "grpc/stop/streams",
    "python/exit/keep-alive-blind",
    "gunicorn/graceful/keep-alive-blind",
    "python/shutdown+prestop/one-per-request",
    "node/exit/post",
    "node/exit/late-bodies",
    "java/stop/one-per-request",
    "testserver/exit/uploads",
    "testserver/linger/crowd",
    "nginx/fast/saturating",
    "testserver/exit+address-gone/one-per-request",
    "testserver/exit+address-gone/keep-alive-blind",
];
