//! Clients that send rubbish to the agent's own ports while a rollout is measured: the agent answers others and misses nothing.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use world::PodTemplate;

use crate::site::{NAMESPACE, Site, failures};
use crate::{SOON, trial};
use world::clients::Load;

/// Bound on each of the rubbish's writes and reads.
const PATIENCE: Duration = Duration::from_millis(300);
/// The agent's metrics and API.
const PORTS: [u16; 2] = [10290, 10291];

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("rubbish on the agent's ports disturbs nothing", rubbish)]
}

fn rubbish() -> anyhow::Result<()> {
    let site = Site::start()?;
    let template = PodTemplate::testserver("web", &["--on-term", "exit"]);
    let mut deployment = site.deploy("web", 2, &template)?;
    let service = site.world.service(NAMESPACE, "web", "web")?;
    site.world.wait_routed("web", deployment.pods(), SOON)?;
    site.world.delays().proxy.set(Duration::from_secs(1));
    let clients = "--new 20 --new-rate 10 --keepalive 8 --keepalive-rate 20 --connect-timeout 1.5";
    let mut load = Load::start(&site.world, (service.v4, service.port), clients)?;
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let old = thread::scope(|scope| -> anyhow::Result<_> {
        for port in PORTS {
            let (stop, sent) = (&stop, &sent);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for piece in pieces() {
                        // The agent may hang up at any time.
                        if throw((Ipv4Addr::LOCALHOST, port).into(), &piece).is_ok() {
                            sent.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let rolled = load
            .run_for(Duration::from_secs(1))
            .and_then(|()| site.roll(&mut deployment, &template))
            .and_then(|old| load.run_for(Duration::from_secs(1)).map(|()| old));
        let answers = site.agent.get("/livez").and_then(|live| Ok((live.0, site.agent.get("/readyz")?.0)));
        stop.store(true, Ordering::Relaxed);
        ensure!(answers? == (200, 200), "the agent does not answer others");
        rolled
    })?;
    ensure!(sent.load(Ordering::Relaxed) > 20, "hardly any rubbish arrived");
    let tally = load.stop()?;
    ensure!(failures(&tally.attempts) > 0, "nothing was lost");
    site.judge("web", &tally.attempts, &old)?;
    site.finish()
}

/// Things that are no request, or far too much of one.
fn pieces() -> Vec<Vec<u8>> {
    let mut noise: Vec<u8> =
        (0..65_536_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    noise[0] = 0;
    let mut endless = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: ".to_vec();
    endless.resize(1 << 20, b'a');
    let mut many = b"GET /metrics HTTP/1.1\r\n".to_vec();
    (0..5000).for_each(|n| many.extend(format!("X-{n}: y\r\n").bytes()));
    vec![
        noise,
        endless,
        many,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"GET".to_vec(),
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        b"GET /api/v1/terminations?limit=-1&since=%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"GET /api/v1/terminations/%2e%2e/%00 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
    ]
}

fn throw(address: SocketAddr, piece: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(piece)?;
    let mut answer = [0; 1024];
    stream.read(&mut answer).map(drop)
}
