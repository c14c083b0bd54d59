//! The sender of Kubernetes Events against the API server stand-in: what it sends, what it gives up, and that a flood stays within its bounds.

use super::agent::eventually;
use super::*;
use drainscope::kube::events::outbox::{Outbox, State, WAITING};
use drainscope::kube::events::run;
use probe_core::event::Workload;
use probe_core::notice::{About, Notice};
use probe_core::wallclock::Timestamp;
use world::apiserver::Kind;

/// Events at once (`BURST`), and then one a second.
const BURST: usize = 20;

/// The sender, at work.
struct Sender {
    _runtime: Runtime,
    outbox: Arc<Outbox>,
}

impl Sender {
    fn of(server: &Server) -> Self {
        let (runtime, api) = connected(server);
        let outbox = Arc::<Outbox>::default();
        runtime.spawn(run(Arc::clone(&outbox), api, timing(), NODE.into()));
        Self { _runtime: runtime, outbox }
    }

    fn state(&self) -> State {
        self.outbox.state()
    }
}

fn of_pod(name: &str) -> Notice {
    Notice {
        name: format!("{name}.00000001"),
        namespace: "shop".into(),
        about: About::Pod { name: name.into(), uid: format!("uid-{name}") },
        message: format!("1 request lost at the end of {name}"),
        count: 1,
        first: Timestamp(1_700_000_000_000_000_000),
        last: Timestamp(1_700_000_001_000_000_000),
    }
}

fn of_workload(count: u64) -> Notice {
    let workload = Workload { kind: "Deployment".into(), name: "api".into() };
    let message = format!("{count} requests lost");
    Notice { count, message, about: About::Workload(workload), ..of_pod("api") }
}

fn requests(server: &Server, verb: &str) -> u64 {
    let seen = server.requests();
    seen.iter().filter(|seen| seen.verb == verb && seen.resource == "events").map(|seen| seen.count).sum()
}

#[test]
fn an_event_is_made_once_and_one_that_grows_is_changed() {
    let store = Store::new();
    let server = serve(&store);
    let sender = Sender::of(&server);
    let counts =
        |created, repeated, updated| State { sent: [created, repeated, updated], ..State::default() };
    sender.outbox.push(of_pod("api-1"));
    eventually("the first", || sender.state() == counts(1, 0, 0));
    sender.outbox.push(of_pod("api-1"));
    eventually("the same again", || sender.state() == counts(1, 1, 0));
    sender.outbox.push(of_workload(1));
    eventually("the workload's", || sender.state() == counts(2, 1, 0));
    sender.outbox.push(of_workload(2));
    eventually("its growth", || sender.state() == counts(2, 1, 1));
    let event = store.get(Kind::Events, "shop", "api.00000001").expect("it is there");
    assert_eq!((&event["count"], &event["message"]), (&json!(2), &json!("2 requests lost")));
    assert_eq!(event["involvedObject"]["apiVersion"], "apps/v1");
    // The API server forgets Events after an hour.
    store.remove(Kind::Events, "shop", "api.00000001").expect("removed");
    sender.outbox.push(of_workload(3));
    eventually("a new one in its place", || sender.state() == counts(3, 1, 1));
    let event = store.get(Kind::Events, "shop", "api.00000001").expect("it is there");
    assert_eq!((&event["count"], &event["reportingInstance"]), (&json!(3), &json!(NODE)));
    assert_eq!(store.list(Kind::Events).1.len(), 2);
}

#[test]
fn what_the_api_refuses_is_given_up_and_what_it_cannot_do_now_is_tried_again() {
    let store = Store::new();
    let server = serve(&store);
    let sender = Sender::of(&server);
    server.faults().forbid("create", Kind::Events, true);
    sender.outbox.push(of_pod("a"));
    let named = "cannot create events in shop: the API answered 403: events is forbidden: User \"agent\" cannot create resource \"events\"";
    eventually("the refusal is named", || sender.state().error.is_some_and(|error| error.starts_with(named)));
    assert_eq!(sender.state().dropped, [1, 0, 0], "forbidden");
    server.faults().forbid("create", Kind::Events, false);
    sender.outbox.push(Notice { message: "x".repeat(2000), ..of_pod("b") });
    eventually("what is invalid is given up", || sender.state().dropped == [1, 0, 1]);
    for code in [500, 429, 401] {
        let before = sender.state().sent[0];
        server.faults().fail_requests(3, code, None);
        sender.outbox.push(of_pod(&format!("after-{code}")));
        eventually("it comes in the end", || sender.state().sent[0] == before + 1);
    }
    server.faults().fail_requests(u32::MAX, 500, None);
    sender.outbox.push(of_pod("poison"));
    eventually("what the server fails on each time holds the others up no longer", || {
        sender.state().dropped == [1, 0, 2]
    });
    server.faults().clear();
    sender.outbox.push(of_pod("last"));
    eventually("the next one", || sender.state().sent[0] == 4);
    let expected = State { sent: [4, 0, 0], dropped: [1, 0, 2], ..State::default() };
    assert_eq!(sender.state(), expected, "and nothing is left to complain of");
    assert_eq!(store.list(Kind::Events).1.len(), 4);
}

#[test]
fn a_flood_stays_within_its_bounds_and_is_accounted_for() {
    let store = Store::new();
    let server = serve(&store);
    server.stop().expect("stopped");
    let sender = Sender::of(&server);
    let began = std::time::Instant::now();
    sender.outbox.push(of_workload(1));
    eventually("the sender tries", || sender.state().error.is_some() && sender.state().waiting == 0);
    for count in 2..7 {
        sender.outbox.push(of_workload(count));
    }
    assert_eq!(sender.state().waiting, 1, "what grows takes one place");
    for number in 1..3 * WAITING {
        sender.outbox.push(of_pod(&format!("p{number}")));
    }
    let full = u64::try_from(2 * WAITING).expect("small");
    let expected = State { waiting: WAITING, dropped: [0, full, 0], ..sender.state() };
    assert_eq!(sender.state(), expected, "all accounted for");
    server.start().expect("started");
    let burst = u64::try_from(BURST).expect("small");
    eventually("the burst", || sender.state().sent.iter().sum::<u64>() >= burst);
    let asked = requests(&server, "create") + requests(&server, "patch");
    let most = burst + began.elapsed().as_secs() + 1;
    assert!(asked <= most, "{asked} requests in {:?}", began.elapsed());
}
