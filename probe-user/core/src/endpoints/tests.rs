//! What several slices say of a pod, fallback, stages of a removal, vacancies, bounds.

use super::*;
use crate::event::Endpoint;

fn key(name: &str) -> Key {
    Key { namespace: "shop".to_owned(), name: name.to_owned() }
}

fn slice(name: &str, endpoints: &[(&str, bool, bool, bool)]) -> Slice {
    let endpoints = endpoints
        .iter()
        .map(|(uid, ready, serving, terminating)| Endpoint {
            pod_uid: (*uid).to_owned(),
            ready: *ready,
            serving: *serving,
            terminating: *terminating,
        })
        .collect();
    Slice { key: key(name), service: "api".to_owned(), ports: vec![8080], hints: Vec::new(), endpoints }
}

#[test]
fn a_pod_is_ready_while_any_slice_says_so() {
    let mut all = Endpoints::default();
    assert!(all.put_slice(slice("api-1", &[("u", true, true, false)]), 9, 9).is_ok());
    assert!(all.put_slice(slice("api-2", &[("u", false, true, true)]), 9, 9).is_ok());
    assert!(all.status(&key("api"), "u").ready);
    all.remove_slice(&key("api-1"));
    assert_eq!(
        all.status(&key("api"), "u"),
        Status { present: true, ready: false, serving: true, terminating: true }
    );
    assert_eq!(all.services_of("shop", "u"), BTreeSet::from([key("api")]));
    assert_eq!(all.ports(&key("api"), "u"), BTreeSet::from([8080]));
}

#[test]
fn fallback_is_traffic_that_the_proxy_sends_on_purpose() {
    let mut all = Endpoints::default();
    let service = |headless, publish_not_ready| Service {
        key: key("api"),
        headless,
        publish_not_ready,
        ..Service::default()
    };
    assert!(all.put_slice(slice("api-1", &[("u", false, true, true)]), 9, 9).is_ok());
    let status = all.status(&key("api"), "u");
    assert!(!all.is_fallback(&key("api"), status), "unknown service");
    assert!(all.put_service(&service(false, false), 9).is_ok());
    assert!(all.is_fallback(&key("api"), status), "no ready endpoint");
    assert!(all.put_slice(slice("api-2", &[("v", true, true, false)]), 9, 9).is_ok());
    assert!(!all.is_fallback(&key("api"), status), "v is ready");
    assert!(all.put_service(&service(false, true), 9).is_ok());
    assert!(all.is_fallback(&key("api"), status), "publishes not-ready addresses");
    assert!(all.put_service(&service(true, true), 9).is_ok());
    assert!(!all.is_fallback(&key("api"), status), "headless");
}

#[test]
fn the_slowest_service_counts_and_a_return_to_ready_takes_the_step_back() {
    let yes = Status { present: true, ready: true, serving: true, terminating: false };
    let no = Status { ready: false, terminating: true, ..yes };
    let mut fast = Membership::default();
    let mut slow = Membership::default();
    fast.update(Mono(1), yes, false);
    slow.update(Mono(1), yes, false);
    fast.update(Mono(10), no, false);
    assert_eq!(reached([&fast, &slow].into_iter(), Stage::NotReady, Mono(5)), None);
    slow.update(Mono(30), no, false);
    assert_eq!(reached([&fast, &slow].into_iter(), Stage::NotReady, Mono(5)), Some(Mono(30)));
    slow.update(Mono(40), yes, false);
    assert_eq!(reached([&fast, &slow].into_iter(), Stage::NotReady, Mono(5)), None);
    slow.update(Mono(50), Status::default(), false);
    assert_eq!(reached([&fast, &slow].into_iter(), Stage::NotReady, Mono(5)), Some(Mono(50)));
    assert_eq!(reached([&slow].into_iter(), Stage::Gone, Mono(5)), Some(Mono(50)));
}

#[test]
fn what_went_unready_long_before_is_no_effect_of_the_deletion() {
    let mut membership = Membership::default();
    membership.update(
        Mono(1),
        Status { present: true, ready: true, serving: true, terminating: false },
        false,
    );
    membership.update(
        Mono(2),
        Status { present: true, ready: false, serving: false, terminating: false },
        false,
    );
    let late = Mono(WATCH_SKEW_NS * 5);
    assert_eq!(reached([&membership].into_iter(), Stage::NotReady, late), None);
    assert_eq!(reached(std::iter::empty(), Stage::NotReady, late), None);
}

#[test]
fn a_vacancy_begins_with_the_endpoint_that_was_the_last_and_ends_with_the_next() {
    let mut all = Endpoints::default();
    assert!(!all.is_vacant(&key("api"), Status::default()), "unknown service");
    let service = Service {
        key: key("api"),
        addresses: vec![IpAddr::from([10, 96, 0, 1])],
        ports: vec![80, 443],
        ..Service::default()
    };
    assert!(all.put_service(&service, 9).is_ok());
    assert_eq!(all.targets(&key("api")).map(|(_, port)| port).collect::<Vec<_>>(), [80, 443]);
    let mut first = Membership::default();
    let mut last = Membership::default();
    for (at, u, v) in [
        (1, (true, true, false), (true, true, false)),
        // It stops serving while the other is ready.
        (2, (false, false, true), (true, true, false)),
        // The other serves while it terminates: it is used.
        (3, (false, false, true), (false, true, true)),
        (4, (false, false, true), (false, false, true)),
        (5, (false, false, true), (false, false, true)),
    ] {
        let of = |name, (ready, serving, terminating)| (name, ready, serving, terminating);
        assert!(all.put_slice(slice("api-1", &[of("u", u), of("v", v)]), 9, 9).is_ok());
        let vacant = all.is_vacant(&key("api"), Status::default());
        assert_eq!(vacant, at >= 4);
        for (uid, membership) in [("u", &mut first), ("v", &mut last)] {
            let status = all.status(&key("api"), uid);
            assert_eq!(all.is_vacant(&key("api"), status), vacant);
            membership.update(Mono(at), status, vacant);
        }
    }
    assert_eq!(first.vacancy, None);
    assert_eq!(last.vacancy, Some(Vacancy { from: Mono(4), until: None }));
    assert!(all.put_slice(slice("api-2", &[("w", true, true, false)]), 9, 9).is_ok());
    for at in [6, 7] {
        last.update(Mono(at), all.status(&key("api"), "v"), all.is_vacant(&key("api"), Status::default()));
    }
    assert_eq!(last.vacancy, Some(Vacancy { from: Mono(4), until: Some(Mono(6)) }));
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut all = Endpoints::default();
    assert!(all.put_slice(slice("a", &[("u", true, true, false)]), 1, 1).is_ok());
    assert_eq!(all.put_slice(slice("b", &[]), 1, 9), Err(Full));
    assert_eq!(
        all.put_slice(slice("a", &[("u", true, true, false), ("v", true, true, false)]), 9, 1),
        Err(Full)
    );
    assert!(all.status(&key("api"), "u").ready);
    assert!(all.put_slice(slice("a", &[("v", true, true, false)]), 1, 1).is_ok());
}
