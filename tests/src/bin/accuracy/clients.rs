//! The clients that rows are loaded with, as arguments of the load generator.
//!
//! None of them retries. Rates are fixed schedules that do not wait for the server (an open loop), except where there is none (a closed
//! loop).

/// One sort of clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clients {
    pub(crate) name: &'static str,
    pub(crate) arguments: &'static str,
    /// Requests that they send at once.
    pub(crate) at_once: u32,
}

const fn clients(name: &'static str, arguments: &'static str) -> Clients {
    Clients { name, arguments, at_once: 1 }
}

/// They look whether the server has closed before they write.
pub(crate) const KEPT: Clients = clients("keep-alive", "--keepalive 120 --keepalive-rate 4");
/// They do not look.
pub(crate) const KEPT_BLIND: Clients =
    clients("keep-alive-blind", "--keepalive 40 --keepalive-rate 5 --blind");
/// A connection for each request.
pub(crate) const ONE_SHOT: Clients = clients("one-per-request", "--new 90 --new-rate 5");
/// Both, at a rate.
pub(crate) const OPEN_LOOP: Clients =
    clients("open-loop", "--keepalive 30 --keepalive-rate 8 --new 60 --new-rate 5 --blind");
/// Few, and as fast as the answers come.
pub(crate) const SATURATING: Clients = clients("saturating", "--keepalive 40");
/// Two seconds in flight of each two and a half.
pub(crate) const LONG: Clients = clients("long-requests", "--new 160 --new-rate 0.4 --path /?delay_ms=2000");
/// The same on kept connections.
pub(crate) const LONG_KEPT: Clients =
    clients("long-requests-kept", "--keepalive 160 --keepalive-rate 0.4 --path /?delay_ms=2000");
/// Bodies that no socket buffer of a fresh connection holds.
pub(crate) const POST: Clients = clients("post", "--keepalive 40 --keepalive-rate 5 --blind --body 65536");
/// Bodies so large that a server always ends in the midst of some.
pub(crate) const UPLOADS: Clients = clients("uploads", "--keepalive 24 --body 16777216");
/// So many that clients and server often close at the same moment.
pub(crate) const CROWD: Clients = clients("crowd", "--new 100 --new-rate 20");
/// They give up before a stalled server ends, and close.
pub(crate) const IMPATIENT: Clients = clients("impatient", "--keepalive 40 --keepalive-rate 5 --timeout 1");
/// The same with a reset.
pub(crate) const IMPATIENT_RST: Clients =
    clients("impatient-reset", "--keepalive 40 --keepalive-rate 5 --timeout 1 --linger0");
/// Four requests in one write, often.
pub(crate) const PIPELINING: Clients =
    Clients { at_once: 4, ..clients("pipelining", "--keepalive 40 --keepalive-rate 5 --blind --pipeline 4") };
/// The same, and the four answers take two seconds of each two and a half.
pub(crate) const PIPELINING_LONG: Clients = Clients {
    at_once: 4,
    ..clients("pipelining-long", "--keepalive 80 --keepalive-rate 0.4 --pipeline 4 --path /?delay_ms=500")
};
/// Eight seconds for an answer that socket buffers hold: it is on its way when the server has long forgotten it.
pub(crate) const SLOW_READERS: Clients =
    clients("slow-readers", "--new 90 --new-rate 0.1 --read-rate 16384 --timeout 20 --path /?bytes=131072");
/// Two seconds for the head of a request.
pub(crate) const SLOW_WRITERS: Clients = clients("slow-writers", "--new 160 --new-rate 0.4 --write-rate 30");
/// Three seconds, and as many as a control needs: each has a connection of its own, and new ones come late for a second or so only.
pub(crate) const LATE_SLOW_WRITERS: Clients =
    clients("slow-writers", "--new 700 --new-rate 0.36 --write-rate 20");
/// The head at once, the body a second and a half later.
pub(crate) const LATE_BODIES: Clients =
    clients("late-bodies", "--keepalive 160 --keepalive-rate 0.5 --body 1024 --body-delay 1.5");
/// [`KEPT_BLIND`] in TLS.
pub(crate) const TLS_KEPT: Clients =
    clients("keep-alive-blind", "--tls --keepalive 40 --keepalive-rate 5 --blind");
/// Fewer than [`ONE_SHOT`]: a handshake takes its time.
pub(crate) const TLS_ONE_SHOT: Clients = clients("one-per-request", "--tls --new 60 --new-rate 4");
/// [`LONG_KEPT`] in TLS.
pub(crate) const TLS_LONG: Clients =
    clients("long-requests-kept", "--tls --keepalive 160 --keepalive-rate 0.4 --path /?delay_ms=2000");
/// [`KEPT_BLIND`] of redis.
pub(crate) const REDIS_KEPT: Clients =
    clients("keep-alive-blind", "--redis 0 --keepalive 40 --keepalive-rate 5 --blind");
/// [`ONE_SHOT`] of redis.
pub(crate) const REDIS_ONE_SHOT: Clients = clients("one-per-request", "--redis 0 --new 90 --new-rate 5");
/// [`LONG_KEPT`] of redis.
pub(crate) const REDIS_LONG: Clients =
    clients("long-requests-kept", "--redis 2 --keepalive 160 --keepalive-rate 0.4");
/// Connections of HTTP/2, on each of which short requests follow one another closely.
pub(crate) const H2_STREAMS: Clients = clients("streams", "--http2 16 --keepalive 48 --keepalive-rate 12");
/// Eight of two seconds under way on each of them.
pub(crate) const H2_LONG: Clients =
    clients("streams-long", "--http2 16 --keepalive 48 --keepalive-rate 4 --path /?delay_ms=2000");
/// Fewer than [`ONE_SHOT`], of HTTP/2: each connection begins with an exchange of settings.
pub(crate) const H2_ONE_SHOT: Clients = clients("one-per-request", "--http2 1 --new 60 --new-rate 4");
/// [`SATURATING`] of HTTP/2, with several requests under way on each connection.
pub(crate) const H2_SATURATING: Clients = clients("saturating", "--http2 4 --keepalive 32");
/// [`H2_STREAMS`] of gRPC.
pub(crate) const GRPC_STREAMS: Clients =
    clients("streams", "--http2 16 --grpc 0 --keepalive 48 --keepalive-rate 12");
/// [`H2_LONG`] of gRPC.
pub(crate) const GRPC_LONG: Clients =
    clients("streams-long", "--http2 16 --grpc 2000 --keepalive 48 --keepalive-rate 4");
/// A few kept connections of gRPC: a server that announces its end beforehand leaves none of their requests behind.
pub(crate) const GRPC_KEPT: Clients =
    clients("keep-alive", "--http2 8 --grpc 0 --keepalive 10 --keepalive-rate 20");
/// [`H2_ONE_SHOT`] of gRPC.
pub(crate) const GRPC_ONE_SHOT: Clients =
    clients("one-per-request", "--http2 1 --grpc 0 --new 60 --new-rate 4");
/// [`H2_SATURATING`] of gRPC.
pub(crate) const GRPC_SATURATING: Clients = clients("saturating", "--http2 4 --grpc 0 --keepalive 32");
/// [`ONE_SHOT`] that do not wait long for an address that is gone.
pub(crate) const VANISHING: Clients =
    clients("one-per-request", "--new 200 --new-rate 2 --connect-timeout 1.5 --timeout 5");
/// [`KEPT_BLIND`] in the same way.
pub(crate) const VANISHING_BLIND: Clients = clients(
    "keep-alive-blind",
    "--keepalive 40 --keepalive-rate 5 --blind --connect-timeout 1.5 --timeout 3",
);
