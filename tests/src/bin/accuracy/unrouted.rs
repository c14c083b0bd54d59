//! Attempts that never left for a pod: the service proxy's rules let them through to the node, which refuses them.
//!
//! Service addresses are the node's own (see `world::node`), so a SYN that no rule rewrites ends there. A service without endpoints does that,
//! and so does the kernel while it commits a transaction: a look-up in a map that is just being replaced may find nothing. Such
//! an attempt is no pod's loss. It is known by its packet, which a rule notes here, and by nothing else.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use world::World;
use world::load::{Attempt, Stage};
use world::node::{find_program, run_with_input};

/// Remembers where each SYN to a service address came from that reached the node itself.
const TABLE: &str = "table ip accuracy {
  set unrouted { type ipv4_addr . inet_service; flags dynamic; size 65535; }
  chain input {
    type filter hook input priority -300;
    ip daddr 10.96.0.0/16 tcp flags & (syn | ack) == syn add @unrouted { ip saddr . tcp sport }
  }
}
";

/// Begins to note them.
pub(crate) fn note(world: &World) -> anyhow::Result<()> {
    run_with_input(world.node().network(), &find_program("nft")?, &["-f", "-"], TABLE)
}

/// Where those came from that were noted so far.
pub(crate) fn noted(world: &World) -> anyhow::Result<BTreeSet<SocketAddr>> {
    let mut list = world.node_command(find_program("nft")?);
    let output = list.args(["-j", "list", "set", "ip", "accuracy", "unrouted"]).output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    parse(&serde_json::from_slice(&output.stdout).context("nft's JSON")?)
}

/// Takes out of `attempts` the refused connects that came from there.
pub(crate) fn take(attempts: &mut Vec<Attempt>, noted: &BTreeSet<SocketAddr>) -> Vec<Attempt> {
    let is_unrouted =
        |attempt: &mut Attempt| attempt.stage == Some(Stage::Connect) && noted.contains(&attempt.local);
    attempts.extract_if(.., is_unrouted).collect()
}

fn parse(listing: &Value) -> anyhow::Result<BTreeSet<SocketAddr>> {
    let objects = listing["nftables"].as_array().context("nft lists nothing")?;
    let set = objects.iter().find_map(|object| object.get("set")).context("nft lists no set")?;
    let source = |element: &Value| -> anyhow::Result<SocketAddr> {
        let (address, port) = (&element["concat"][0], &element["concat"][1]);
        let address: Ipv4Addr = address.as_str().context("no address")?.parse()?;
        Ok(SocketAddr::from((address, u16::try_from(port.as_u64().context("no port")?)?)))
    };
    let elements = set["elem"].as_array().into_iter().flatten();
    elements.map(|element| source(element).with_context(|| format!("an element {element}"))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use world::load::{ClientKind, ErrorKind};

    use super::*;

    fn listing(elements: &Value) -> Value {
        let mut set = json!({"family": "ip", "name": "unrouted", "table": "accuracy", "size": 65535});
        if !elements.is_null() {
            set["elem"] = elements.clone();
        }
        json!({"nftables": [{"metainfo": {"json_schema_version": 1}}, {"set": set}]})
    }

    fn refused(port: u16, stage: Stage) -> Attempt {
        Attempt {
            t_ns: 1,
            start_ns: 1,
            end_ns: 2,
            due_ns: None,
            client: 0,
            kind: ClientKind::New,
            local: SocketAddr::from(([10, 78, 0, 2], port)),
            remote: SocketAddr::from(([10, 96, 0, 1], 80)),
            nth: 1,
            status: None,
            error: Some(ErrorKind::ConnectRefused),
            stage: Some(stage),
            sent: 0,
            received: 0,
            errno: None,
        }
    }

    #[test]
    fn a_set_is_read_whether_it_has_elements_or_not() {
        assert!(parse(&listing(&Value::Null)).expect("an empty set").is_empty());
        let two = json!([{"concat": ["10.78.0.2", 4169]}, {"concat": ["10.78.0.3", 1]}]);
        let noted = parse(&listing(&two)).expect("a set");
        assert_eq!(noted.len(), 2);
        assert!(noted.contains(&SocketAddr::from(([10, 78, 0, 2], 4169))));
        assert!(parse(&listing(&json!([{"concat": ["10.78.0.2", 70_000]}]))).is_err());
        assert!(parse(&json!({"nftables": []})).is_err());
    }

    #[test]
    fn only_connects_from_a_noted_source_are_taken() {
        let noted = BTreeSet::from([SocketAddr::from(([10, 78, 0, 2], 7))]);
        let mut attempts =
            vec![refused(7, Stage::Connect), refused(8, Stage::Connect), refused(7, Stage::FirstByte)];
        let taken = take(&mut attempts, &noted);
        assert_eq!((taken.len(), attempts.len()), (1, 2));
        assert_eq!(taken.first().map(|attempt| attempt.local.port()), Some(7));
    }
}
