//! From services and endpoint slices to nftables text: which endpoints are used, and the transaction that makes it so.
//!
//! Laid out like kube-proxy's nftables mode where it matters to an observer: table `kube-proxy`, one rule per service port that picks by an
//! anonymous `numgen random` map, and the set `hairpin-connections` with one element per endpoint in use, as version 1.36 has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use probe_core::rules::endpoint::EndpointConditions;
use probe_core::rules::proxy::{Use, in_use};
use serde::Deserialize as _;
use serde_json::Value;

/// Namespace and name.
pub(super) type Key = (String, String);

/// One service port on one service address, and where its connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    address: IpAddr,
    port: u64,
    endpoints: BTreeSet<(IpAddr, u64)>,
}

/// What the rules say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    targets: Vec<Target>,
    /// Pods that connections go to, by service name, pod uid and pod address.
    pub(super) used: BTreeSet<(String, String, IpAddr)>,
}

impl Rules {
    /// The rules for these services and slices; which endpoints are used is the core's to say.
    pub(super) fn of(services: &BTreeMap<Key, Arc<Value>>, slices: &BTreeMap<Key, Arc<Value>>) -> Self {
        let mut rules = Self::default();
        for ((namespace, name), service) in services {
            let own = |slice: &Value| {
                slice["metadata"]["namespace"] == namespace.as_str()
                    && slice["metadata"]["labels"]["kubernetes.io/service-name"] == name.as_str()
            };
            let slices: Vec<&Value> =
                slices.values().map(|slice| &**slice).filter(|slice| own(slice)).collect();
            let addresses = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
            for address in addresses.filter_map(|address| address.as_str()?.parse::<IpAddr>().ok()) {
                for port in service["spec"]["ports"].as_array().into_iter().flatten() {
                    rules.add(name, address, port, &slices);
                }
            }
        }
        rules
    }

    fn add(&mut self, service: &str, address: IpAddr, port: &Value, slices: &[&Value]) {
        let Some(number) = port["port"].as_u64() else { return };
        let port_name = port["name"].as_str().unwrap_or_default();
        let mut found = Vec::new();
        for slice in slices {
            let mut ports = slice["ports"].as_array().into_iter().flatten();
            let slice_port = ports.find(|port| port["name"].as_str().unwrap_or_default() == port_name);
            let Some(target_port) = slice_port.and_then(|port| port["port"].as_u64()) else { continue };
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                let Some(Ok(pod)) = endpoint["addresses"][0].as_str().map(str::parse::<IpAddr>) else {
                    continue;
                };
                let uid = endpoint["targetRef"]["uid"].as_str().unwrap_or_default();
                let conditions = EndpointConditions::deserialize(&endpoint["conditions"]).unwrap_or_default();
                if pod.is_ipv4() != address.is_ipv4() {
                    continue;
                }
                found.push((conditions.effective(), (pod, target_port), uid));
            }
        }
        let wanted = in_use(found.iter().map(|(conditions, ..)| *conditions));
        let chosen: BTreeMap<_, _> = found
            .into_iter()
            .filter(|(conditions, ..)| wanted != Use::Never && conditions.usable() == wanted)
            .map(|(_, endpoint, uid)| (endpoint, uid))
            .collect();
        self.used.extend(chosen.iter().map(|((pod, _), uid)| (service.to_owned(), (*uid).to_owned(), *pod)));
        self.targets.push(Target { address, port: number, endpoints: chosen.into_keys().collect() });
    }

    /// All endpoints in use.
    fn endpoints(&self) -> BTreeSet<(IpAddr, u64)> {
        self.targets.iter().flat_map(|target| target.endpoints.iter().copied()).collect()
    }

    /// The transaction that turns the rules `before` into these.
    pub(super) fn transaction(&self, before: &Self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        for family in ["ip", "ip6"] {
            writeln!(
                text,
                "flush chain {family} kube-proxy services\nflush chain {family} kube-proxy no-endpoints"
            )?;
        }
        for Target { address, port, endpoints } in &self.targets {
            let family = family_of(*address);
            if endpoints.is_empty() {
                writeln!(
                    text,
                    "add rule {family} kube-proxy no-endpoints {family} daddr {address} tcp dport {port} reject"
                )?;
                continue;
            }
            let map: Vec<_> = endpoints
                .iter()
                .enumerate()
                .map(|(index, (pod, port))| format!("{index} : {pod} . {port}"))
                .collect();
            let count = endpoints.len();
            writeln!(
                text,
                "add rule {family} kube-proxy services {family} daddr {address} tcp dport {port} \
                 dnat {family} to numgen random mod {count} map {{ {} }}",
                map.join(", ")
            )?;
        }
        let (old, new) = (before.endpoints(), self.endpoints());
        for (verb, endpoints) in [("delete", old.difference(&new)), ("add", new.difference(&old))] {
            for (address, port) in endpoints {
                let family = family_of(*address);
                writeln!(
                    text,
                    "{verb} element {family} kube-proxy hairpin-connections {{ {address} . {address} . tcp . {port} }}"
                )?;
            }
        }
        Ok(text)
    }
}

fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// Tables, sets and chains without services. Rules reject only what begins: no reject may hit an old connection.
pub(super) fn skeleton() -> String {
    let table = |family: &str, kind: &str, pods: &str, services: &str| {
        format!(
            "table {family} kube-proxy {{
  set hairpin-connections {{ type {kind} . {kind} . inet_proto . inet_service; }}
  chain services {{ }}
  chain no-endpoints {{ }}
  chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
  chain nat-output {{ type nat hook output priority -100; jump services; }}
  chain nat-postrouting {{
    type nat hook postrouting priority 100;
    {family} saddr . {family} daddr . meta l4proto . th dport @hairpin-connections masquerade
    # The pods share a bridge: without this, answers between pods would not come back through the node.
    ct status dnat {family} saddr {pods} {family} daddr {pods} masquerade
  }}
  chain filter-input {{
    type filter hook input priority -110;
    ct state new jump no-endpoints
    # No rule has rewritten it. Elsewhere it would leave the node; while a transaction commits, a look-up may find nothing, and then the
    # client's next SYN does.
    ct state new {family} daddr {services} drop
  }}
  chain filter-forward {{ type filter hook forward priority -110; ct state new jump no-endpoints; }}
  chain filter-output {{ type filter hook output priority -110; ct state new jump no-endpoints; }}
}}
"
        )
    };
    table("ip", "ipv4_addr", "10.77.0.0/24", "10.96.0.0/16")
        + &table("ip6", "ipv6_addr", "fd77::/64", "fd96::/112")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(endpoints: &Value) -> Rules {
        let key = |name: &str| ("n".to_owned(), name.to_owned());
        let service = json!({"spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"name": "http", "port": 80}]}});
        let slice = json!({
            "metadata": {"namespace": "n", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        });
        Rules::of(
            &BTreeMap::from([(key("web"), Arc::new(service))]),
            &BTreeMap::from([(key("web-1"), Arc::new(slice))]),
        )
    }

    fn endpoint(address: &str, ready: bool, serving: bool, terminating: bool) -> Value {
        json!({
            "addresses": [address], "targetRef": {"uid": address},
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        })
    }

    fn one_used(pod: &str) -> BTreeSet<(String, String, IpAddr)> {
        BTreeSet::from([("web".to_owned(), pod.to_owned(), pod.parse().expect("an address"))])
    }

    #[test]
    fn terminating_endpoints_are_used_only_when_none_is_ready() {
        let both = rules(&json!([
            endpoint("10.77.0.2", true, true, false),
            endpoint("10.77.0.3", false, true, true)
        ]));
        assert_eq!(both.used, one_used("10.77.0.2"));
        let one = rules(&json!([
            endpoint("10.77.0.3", false, true, true),
            endpoint("10.77.0.4", false, false, true)
        ]));
        assert_eq!(one.used, one_used("10.77.0.3"));
    }

    #[test]
    fn a_service_without_endpoints_rejects() {
        let text = rules(&json!([])).transaction(&Rules::default()).expect("text");
        assert!(text.contains("no-endpoints ip daddr 10.96.0.1 tcp dport 80 reject"), "{text}");
    }

    #[test]
    fn an_endpoint_that_leaves_takes_its_set_element_along() {
        let before = rules(&json!([
            endpoint("10.77.0.2", true, true, false),
            endpoint("10.77.0.3", true, true, false)
        ]));
        let after = rules(&json!([endpoint("10.77.0.3", true, true, false)]));
        let text = after.transaction(&before).expect("text");
        assert!(
            text.contains(
                "delete element ip kube-proxy hairpin-connections { 10.77.0.2 . 10.77.0.2 . tcp . 8080 }"
            ),
            "{text}"
        );
        assert!(text.contains("numgen random mod 1 map { 0 : 10.77.0.3 . 8080 }"), "{text}");
        assert!(!text.contains("add element"), "{text}");
    }
}
