//! What clients, probes, scrapers and the pod itself do without losing anything. Each function is one scene; it checks that what it does
//! really went the way that it says, and tells how many client connections the agent should have seen.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context as _, ensure};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike as _};
use world::load::{ErrorKind as LoadError, Summary};

use crate::SOON;

use super::place::{PORT, Place, TIMES, answer, ask, connect, read_end, request, reset};

/// A second listener of the pod, which no service names.
pub(super) const SCRAPED: u16 = 9090;
/// Ports on which nobody ever listened.
const UNUSED: u16 = 20_000;
/// What a client says last and wants no answer to: to the server it is the beginning of something.
const LAST_WORDS: &[u8] = b"goodbye";

/// A pod and what happens to it.
pub(super) struct Scene {
    /// The Deployment's name.
    pub(super) name: &'static str,
    /// The server's listeners are closed from the stop signal on.
    pub(super) closes: bool,
    /// Name and `appProtocol` of the Service's port.
    pub(super) speaks: (&'static str, Option<&'static str>),
    /// The kernel cannot tell what clients do from a request that is lost.
    pub(super) taken_for: Option<Loss>,
    pub(super) play: fn(&Place, bool) -> anyhow::Result<Played>,
}

/// What each time of a scene is taken for.
#[derive(Clone, Copy)]
pub(super) struct Loss {
    pub(super) class: &'static str,
    pub(super) confidence: &'static str,
    /// By pods that run, too.
    pub(super) running: bool,
}

/// What the port of a Service says of plain HTTP/1.
pub(super) const HTTP: (&str, Option<&str>) = ("http", None);

const UNANSWERED: Loss = Loss { class: "unanswered", confidence: "inferred", running: true };
const STALE: Loss = Loss { class: "stale_reuse", confidence: "observed", running: true };
/// What the client of a running pod gives up, it would have had answered.
const ABANDONED: Loss = Loss { class: "abandoned", confidence: "observed", running: false };

/// What came of a scene.
#[derive(Default)]
pub(super) struct Played {
    /// Client connections that the pod's kernel completed.
    pub(super) connections: u64,
    /// Connections that stay until the pod closes them.
    pub(super) kept: Vec<TcpStream>,
}

const fn open(name: &'static str, play: fn(&Place, bool) -> anyhow::Result<Played>) -> Scene {
    Scene { name, closes: false, speaks: HTTP, taken_for: None, play }
}

/// Every scene.
pub(super) const SCENES: &[Scene] = &[
    open("kept-idle", kept_idle),
    open("closed-by-server", closed_by_server),
    open("left-unused-by-fin", |place, _| left_unused(place, drop_it)),
    open("left-unused-by-rst", |place, _| left_unused(place, reset)),
    open("left-answered-by-fin", |place, _| left_answered(place, drop_it)),
    open("left-answered-by-rst", |place, _| left_answered(place, reset)),
    open("half-close", half_close),
    open("bad-requests", bad_requests),
    open("probes", probes),
    Scene { closes: true, ..open("probes-refused", probes) },
    open("scrapes", scrapes),
    Scene { closes: true, ..open("scrapes-refused", scrapes) },
    open("port-scan", port_scan),
    open("loopback", |place, _| inside(place, [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])),
    open("own-address", |place, _| inside(place, [0, 1].map(|nth| place.at(nth, PORT).ip()))),
    open("outbound", outbound),
    Scene { taken_for: Some(UNANSWERED), ..open("last-words-fin", |place, _| last_words(place, drop_it)) },
    Scene { taken_for: Some(ABANDONED), ..open("last-words-rst", |place, _| last_words(place, reset)) },
    Scene { taken_for: Some(UNANSWERED), ..open("one-way", one_way) },
    Scene { taken_for: Some(STALE), ..open("close-notify", close_notify) },
    Scene { speaks: ("tcp-db", None), ..open("last-words-fin-tcp", |place, _| last_words(place, drop_it)) },
    Scene {
        speaks: ("http", Some("mysql")),
        ..open("last-words-rst-mysql", |place, _| last_words(place, reset))
    },
    Scene { speaks: ("https", None), ..open("close-notify-https", close_notify) },
    Scene { speaks: ("http", Some("kubernetes.io/h2c")), ..open("control-frames-h2c", control_frames) },
];

fn played(connections: usize) -> anyhow::Result<Played> {
    Ok(Played { connections: u64::try_from(connections)?, kept: Vec::new() })
}

fn drop_it(stream: TcpStream) -> anyhow::Result<()> {
    drop(stream);
    Ok(())
}

fn get(headers: &str) -> String {
    request("GET /", headers)
}

fn is_ok(stream: &mut TcpStream) -> anyhow::Result<()> {
    let status = ask(stream, &get(""))?;
    ensure!(status == 200, "answered by {status}");
    Ok(())
}

/// Idle connections, half of them never used, which the server closes when it drains.
fn kept_idle(place: &Place, _: bool) -> anyhow::Result<Played> {
    let keep = || -> anyhow::Result<Vec<TcpStream>> {
        let mut kept = Vec::new();
        for nth in 0..TIMES {
            let mut stream = connect(place.at(nth, PORT))?;
            if nth % 4 < 2 {
                is_ok(&mut stream)?;
            }
            kept.push(stream);
        }
        Ok(kept)
    };
    Ok(Played { kept: place.client.inside(keep)??, ..played(TIMES)? })
}

/// The server answers and closes; the client closes after it, or resets what is closed already.
fn closed_by_server(place: &Place, _: bool) -> anyhow::Result<Played> {
    place.each(|nth, address| {
        let mut stream = connect(address)?;
        let status = ask(&mut stream, &get("Connection: close\r\n"))?;
        ensure!(status == 200, "answered by {status}");
        read_end(&mut stream)?;
        if nth % 4 < 2 { drop_it(stream) } else { reset(stream) }
    })?;
    played(TIMES)
}

fn left_unused(place: &Place, leave: fn(TcpStream) -> anyhow::Result<()>) -> anyhow::Result<Played> {
    place.each(|_, address| leave(connect(address)?))?;
    played(TIMES)
}

fn left_answered(place: &Place, leave: fn(TcpStream) -> anyhow::Result<()>) -> anyhow::Result<Played> {
    place.each(|nth, address| {
        let mut stream = connect(address)?;
        for _ in 0..=nth % 3 {
            is_ok(&mut stream)?;
        }
        leave(stream)
    })?;
    played(TIMES)
}

/// Clients that end their side with the request, and are answered long after their FIN came.
fn half_close(place: &Place, _: bool) -> anyhow::Result<Played> {
    place.client.inside(|| -> anyhow::Result<()> {
        let mut streams = Vec::new();
        for nth in 0..TIMES {
            let mut stream = connect(place.at(nth, PORT))?;
            let headers = if nth % 4 < 2 { "" } else { "Connection: close\r\n" };
            stream.write_all(request("GET /?delay_ms=100", headers).as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            streams.push(stream);
        }
        for mut stream in streams {
            let status = answer(&mut stream)?;
            ensure!(status == 200, "answered by {status}");
            read_end(&mut stream)?;
        }
        Ok(())
    })??;
    played(TIMES)
}

/// Clients that speak last, as a database's do: after the answer they send something that wants none, and leave.
fn last_words(place: &Place, leave: fn(TcpStream) -> anyhow::Result<()>) -> anyhow::Result<Played> {
    place.each(|_, address| {
        let mut stream = connect(address)?;
        is_ok(&mut stream)?;
        stream.write_all(LAST_WORDS)?;
        leave(stream)
    })?;
    played(TIMES)
}

/// Clients that answer the server's end before they close, as those of TLS do, by as many bytes as TLS 1.3 takes for it.
fn close_notify(place: &Place, _: bool) -> anyhow::Result<Played> {
    place.each(|_, address| {
        let mut stream = connect(address)?;
        let status = ask(&mut stream, &get("Connection: close\r\n"))?;
        ensure!(status == 200, "answered by {status}");
        read_end(&mut stream)?;
        Ok(stream.write_all(&[0; 24])?)
    })?;
    played(TIMES)
}

/// Clients that say, after the last answer, what those of HTTP/2 say: a WINDOW_UPDATE and a PING before they leave, or a GOAWAY when the
/// server has.
fn control_frames(place: &Place, _: bool) -> anyhow::Result<Played> {
    place.each(|nth, address| {
        let mut stream = connect(address)?;
        if nth % 4 < 2 {
            is_ok(&mut stream)?;
            stream.write_all(&[0; 13])?;
            return Ok(stream.write_all(&[0; 17])?);
        }
        let status = ask(&mut stream, &get("Connection: close\r\n"))?;
        ensure!(status == 200, "answered by {status}");
        read_end(&mut stream)?;
        Ok(stream.write_all(&[0; 17])?)
    })?;
    played(TIMES)
}

/// Clients that send and never want an answer, as log shippers do.
fn one_way(place: &Place, _: bool) -> anyhow::Result<Played> {
    place.each(|_, address| {
        let mut stream = connect(address)?;
        stream.write_all(LAST_WORDS)?;
        stream.write_all(LAST_WORDS)?;
        drop_it(stream)
    })?;
    played(TIMES)
}

/// Requests that are answered by 4xx and 5xx, rubbish among them.
fn bad_requests(place: &Place, _: bool) -> anyhow::Result<Played> {
    place.each(|nth, address| {
        let mut stream = connect(address)?;
        for status in [404, 429, 500, 502, 503] {
            let answered = ask(&mut stream, &request(&format!("GET /status/{status}"), ""))?;
            ensure!(answered == status, "{status} is answered by {answered}");
        }
        let body = "x".repeat(100);
        let post = request("POST /status/413", "Content-Length: 100\r\n") + &body;
        let answered = ask(&mut stream, &post)?;
        ensure!(answered == 413, "a body is answered by {answered}");
        if nth % 4 < 2 {
            let answered = ask(&mut stream, "\u{1} is no request\r\n\r\n")?;
            ensure!(answered == 400, "rubbish is answered by {answered}");
            read_end(&mut stream)?;
        }
        Ok(())
    })?;
    played(TIMES)
}

fn is_refused(address: SocketAddr) -> anyhow::Result<()> {
    let refused =
        connect(address).err().and_then(|error| Some(error.downcast_ref::<std::io::Error>()?.kind()));
    ensure!(refused == Some(ErrorKind::ConnectionRefused), "{address}: {refused:?} in place of a refusal");
    Ok(())
}

/// The kubelet's two sorts of probe, from the node straight to the pod, besides its own.
fn probes(place: &Place, closed: bool) -> anyhow::Result<Played> {
    place.node.inside(|| {
        (0..TIMES).try_for_each(|nth| {
            let address = place.at(nth, PORT);
            if closed {
                return is_refused(address);
            }
            let mut stream = connect(address)?;
            if nth % 4 < 2 {
                return Ok(());
            }
            let status = ask(&mut stream, &request("GET /readyz", "Connection: close\r\n"))?;
            ensure!(status == 200, "answered by {status}");
            Ok(())
        })
    })??;
    played(0)
}

/// A scraper at a port that the pod declares and no service names.
fn scrapes(place: &Place, closed: bool) -> anyhow::Result<Played> {
    place.client.inside(|| {
        (0..TIMES).try_for_each(|nth| {
            let address = place.at(nth, SCRAPED);
            if closed { is_refused(address) } else { is_ok(&mut connect(address)?) }
        })
    })??;
    played(0)
}

fn port_scan(place: &Place, _: bool) -> anyhow::Result<Played> {
    place.client.inside(|| {
        (UNUSED..).take(TIMES).try_for_each(|port| (0..2).try_for_each(|nth| is_refused(place.at(nth, port))))
    })??;
    played(0)
}

fn failed_by(summary: &Summary, error: LoadError) -> anyhow::Result<()> {
    let total = &summary.total;
    let times = u64::try_from(TIMES)?;
    ensure!(total.failed == times && total.by_error.get(&error) == Some(&times), "{error:?}: {total:?}");
    Ok(())
}

/// A container of the pod talks to its neighbour: answered, closed unanswered, refused.
fn inside(place: &Place, addresses: [IpAddr; 2]) -> anyhow::Result<Played> {
    for address in addresses {
        let served = place.load_from_pod((address, PORT).into(), "")?;
        ensure!(served.total.ok == u64::try_from(TIMES)?, "{:?}", served.total);
        failed_by(&place.load_from_pod((address, PORT).into(), "--path /drop")?, LoadError::Eof)?;
        failed_by(&place.load_from_pod((address, UNUSED).into(), "")?, LoadError::ConnectRefused)?;
    }
    played(0)
}

/// The pod's own connections to servers elsewhere: one resets, one never answers, one does not listen, one answers.
fn outbound(place: &Place, _: bool) -> anyhow::Result<Played> {
    let host = place.client_address()?;
    let listen = || place.client.inside(|| TcpListener::bind((host, 0)))?.context("listen");
    let (resetting, silent, serving, gone) = (listen()?, listen()?, listen()?, listen()?);
    let refusing = gone.local_addr()?;
    drop(gone);
    thread::scope(|scope| -> anyhow::Result<()> {
        let resetter = scope.spawn(|| take(&resetting, reset));
        let server = scope.spawn(|| take(&serving, say_no_content));
        let short = "--timeout 0.2";
        failed_by(&place.load_from_pod(resetting.local_addr()?, "")?, LoadError::Reset)?;
        let served = place.load_from_pod(serving.local_addr()?, "")?;
        ensure!(served.total.by_status.get(&204) == Some(&u64::try_from(TIMES)?), "{:?}", served.total);
        failed_by(&place.load_from_pod(silent.local_addr()?, short)?, LoadError::Timeout)?;
        failed_by(&place.load_from_pod(refusing, "")?, LoadError::ConnectRefused)?;
        for thread in [resetter, server] {
            thread.join().ok().context("a server panicked")??;
        }
        Ok(())
    })?;
    played(0)
}

/// Takes the pod's connections, one after another, and does this to each when its request is there.
fn take(listener: &TcpListener, action: fn(TcpStream) -> anyhow::Result<()>) -> anyhow::Result<()> {
    // The bound on each accept.
    setsockopt(listener, ReceiveTimeout, &TimeVal::seconds(SOON.as_secs().try_into()?))?;
    for _ in 0..TIMES {
        let (mut stream, _) = listener.accept().context("wait for the pod's connection")?;
        stream.set_read_timeout(Some(SOON))?;
        let length = stream.read(&mut [0; 4096])?;
        ensure!(length > 0, "the pod sent nothing");
        action(stream)?;
    }
    Ok(())
}

fn say_no_content(mut stream: TcpStream) -> anyhow::Result<()> {
    Ok(stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")?)
}
