//! The decision as tables over facts, named by the case.

use super::*;

const UNREAD: Class = Class::Unread;
const UNANSWERED: Class = Class::Unanswered;
const ABANDONED: Class = Class::Abandoned;

/// A request was answered, and so many bytes were read after it without an answer; then the server closes.
fn read_after(protocol: Protocol, pending: u32) -> Closing {
    Closing {
        leaving: Leaving::Fin,
        accepted: true,
        client_fin: false,
        client_rst: false,
        unread: 0,
        received: true,
        read: true,
        written_since_read: pending == 0,
        unacked: false,
        known: true,
        received_last: false,
        protocol,
        pending,
        opening: false,
        one_way: false,
    }
}

/// The same with bytes that were not read: the server's close is a reset.
fn unread_after(protocol: Protocol, unread: u32) -> Closing {
    Closing { leaving: Leaving::Close, unread, ..read_after(protocol, 0) }
}

fn left_by_fin(before: Closing) -> Closing {
    Closing { client_fin: true, ..before }
}

fn left_by_rst(before: Closing) -> Closing {
    Closing { leaving: Leaving::Close, client_rst: true, ..before }
}

fn one_way(before: Closing) -> Closing {
    Closing { one_way: true, ..before }
}

/// Only its listener's end ends a connection that nobody took: by a reset, or by a FIN and a reset if it was made at that moment.
#[test]
fn what_nobody_took_is_unaccepted_however_it_is_ended() {
    let never_taken = |leaving, received| Closing {
        leaving,
        accepted: false,
        received,
        read: false,
        written_since_read: false,
        ..read_after(Protocol::Http, 0)
    };
    let unaccepted = Verdict::Lost(Class::Unaccepted, Confidence::Observed);
    for leaving in [Leaving::Fin, Leaving::Close] {
        for received in [false, true] {
            assert_eq!(closing(&never_taken(leaving, received)), unaccepted, "{leaving:?}, {received}");
        }
        assert_eq!(closing(&left_by_fin(never_taken(leaving, false))), Verdict::Idle, "{leaving:?}");
    }
}

/// Each fact has a place of its own in the number.
#[test]
fn facts_survive_the_way_through_a_number() {
    for number in 0..1_u32 << 12 {
        for protocol in Protocol::ALL {
            let bit = |place: u32| number >> place & 1;
            let bits = Bits {
                close: bit(0),
                accepted: bit(1),
                client_fin: bit(2),
                client_rst: bit(3),
                received: bit(4),
                read: bit(5),
                written_since_read: bit(6),
                unacked: bit(7),
                known: bit(8),
                received_last: bit(9),
                opening: bit(10),
                one_way: bit(11),
                protocol: protocol as u32,
            };
            let closing = Closing {
                leaving: if bit(0) == 0 { Leaving::Fin } else { Leaving::Close },
                accepted: bit(1) == 1,
                client_fin: bit(2) == 1,
                client_rst: bit(3) == 1,
                unread: 7,
                received: bit(4) == 1,
                read: bit(5) == 1,
                written_since_read: bit(6) == 1,
                unacked: bit(7) == 1,
                known: bit(8) == 1,
                received_last: bit(9) == 1,
                protocol,
                pending: 9,
                opening: bit(10) == 1,
                one_way: bit(11) == 1,
            };
            assert_eq!(Closing::from_bits(bits.pack(), 7, 9), closing);
        }
    }
}

#[test]
fn verdicts_survive_the_way_through_a_number() {
    let lost = Class::ALL
        .into_iter()
        .flat_map(|class| Confidence::ALL.map(|confidence| Verdict::Lost(class, confidence)));
    for verdict in [Verdict::Served, Verdict::Idle, Verdict::Pending].into_iter().chain(lost) {
        assert_eq!(Verdict::from_number(verdict.to_number()), verdict);
    }
}

fn shown(verdict: Verdict) -> Option<(Class, Confidence)> {
    match verdict {
        Verdict::Lost(class, confidence) => Some((class, confidence)),
        Verdict::Served | Verdict::Idle | Verdict::Pending => None,
    }
}

/// What was read or received last, with nothing written after it, by protocol.
#[test]
fn what_is_outstanding_is_weighed_by_the_hint() {
    use Protocol::{Http, Https, Multiplexed, Raw, Tls, Unknown};
    let inferred = |class| Some((class, Confidence::Inferred));
    let observed = |class| Some((class, Confidence::Observed));
    for (case, facts, wanted) in [
        ("plain: a byte is a request", read_after(Unknown, 1), observed(UNANSWERED)),
        ("plain, by name", read_after(Http, 1), observed(UNANSWERED)),
        ("plain, unread", unread_after(Http, 1), observed(UNREAD)),
        ("plain, the client left", left_by_fin(read_after(Unknown, 7)), inferred(UNANSWERED)),
        ("plain, the client reset", left_by_rst(read_after(Unknown, 7)), observed(ABANDONED)),
        ("https: close_notify of TLS 1.3 is read", left_by_fin(read_after(Https, 24)), None),
        ("https: and of TLS 1.2", read_after(Https, 31), None),
        ("https: and with CBC", read_after(Https, 53), None),
        ("https: one byte more is a request", read_after(Https, 54), inferred(UNANSWERED)),
        ("https: close_notify is unread", left_by_fin(unread_after(Https, 24)), None),
        ("https: a request is unread", unread_after(Https, 112), inferred(UNREAD)),
        (
            "https: a request is read, close_notify is not",
            Closing { pending: 112, written_since_read: false, ..unread_after(Https, 24) },
            inferred(UNREAD),
        ),
        ("https: the client gives a request up", left_by_rst(read_after(Https, 112)), inferred(ABANDONED)),
        ("https: the handshake ends", Closing { opening: true, ..read_after(Https, 80) }, None),
        (
            "https: so it does, and the client closes",
            Closing { opening: true, ..read_after(Https, 104) },
            None,
        ),
        (
            "https: the handshake ends with a request",
            Closing { opening: true, ..read_after(Https, 176) },
            inferred(UNANSWERED),
        ),
        (
            "https: the hello is unread",
            Closing { opening: true, read: false, ..unread_after(Https, 517) },
            inferred(UNREAD),
        ),
        ("tls: the client left after its last words", left_by_fin(read_after(Tls, 300)), None),
        ("tls: the server closed first", read_after(Tls, 300), inferred(UNANSWERED)),
        ("h2c: a WINDOW_UPDATE and a PING", read_after(Multiplexed, 30), None),
        ("h2c: a SETTINGS ACK is unread", unread_after(Multiplexed, 9), None),
        ("h2c: a request", read_after(Multiplexed, 31), inferred(UNANSWERED)),
        ("h2c: a request is unread", unread_after(Multiplexed, 60), inferred(UNREAD)),
        (
            "h2c: the client acknowledges, says goodbye and leaves",
            left_by_fin(read_after(Multiplexed, 81)),
            None,
        ),
        ("h2c: by RST", left_by_rst(read_after(Multiplexed, 81)), None),
        ("h2c: nobody reads that", left_by_fin(unread_after(Multiplexed, 81)), None),
        ("h2c: one byte more is a request", left_by_fin(read_after(Multiplexed, 82)), inferred(UNANSWERED)),
        ("h2c: and is given up", left_by_rst(read_after(Multiplexed, 82)), inferred(ABANDONED)),
        ("raw: the client left by FIN", left_by_fin(read_after(Raw, 300)), None),
        ("raw: it left with its last words unread", left_by_fin(unread_after(Raw, 300)), None),
        ("raw: it left by RST", left_by_rst(read_after(Raw, 300)), None),
        ("raw: the server closed on a question", read_after(Raw, 300), inferred(UNANSWERED)),
        ("raw: the server closed with one unread", unread_after(Raw, 300), inferred(UNREAD)),
        ("raw: the server closed on a farewell", read_after(Raw, 8), None),
        ("one-way: read and never answered", one_way(read_after(Unknown, 300)), None),
        ("one-way: the client left", one_way(left_by_fin(read_after(Raw, 300))), None),
        ("one-way: the client reset", one_way(left_by_rst(unread_after(Unknown, 300))), None),
        ("one-way: unread bytes are lost", one_way(unread_after(Unknown, 300)), inferred(UNREAD)),
        (
            "one-way: and after the client's FIN",
            one_way(left_by_fin(unread_after(Raw, 300))),
            inferred(UNREAD),
        ),
    ] {
        assert_eq!(shown(closing(&facts)), wanted, "{case}");
    }
}

/// What a client says about the connection does not hide that the answer before it is cut.
#[test]
fn an_answer_under_way_is_judged_without_the_chatter_after_it() {
    for protocol in [Protocol::Https, Protocol::Multiplexed] {
        let facts = Closing { unacked: true, ..read_after(protocol, 24) };
        assert_eq!(closing(&facts), Verdict::Pending, "{protocol:?}");
        let facts = Closing { unacked: true, ..unread_after(protocol, 24) };
        let cut = Verdict::Lost(Class::Truncated, Confidence::Inferred);
        assert_eq!(closing(&facts), cut, "{protocol:?}");
        assert_eq!(died_pending(protocol), (Class::Truncated, Confidence::Inferred));
    }
    assert_eq!(died_pending(Protocol::Http), (Class::Truncated, Confidence::Observed));
}

#[test]
fn data_after_the_close_is_a_request_if_it_is_large_enough_for_one() {
    for (protocol, most) in [
        (Protocol::Unknown, None),
        (Protocol::Http, None),
        (Protocol::Https, Some(53)),
        (Protocol::Tls, Some(53)),
        (Protocol::Multiplexed, Some(30)),
        (Protocol::Raw, Some(8)),
    ] {
        let confidence = if protocol.is_http1() { Confidence::Observed } else { Confidence::Inferred };
        let stale = Some((Class::StaleReuse, confidence));
        for bytes in [0, 8, 9, 24, 30, 31, 53, 54, 1460] {
            let wanted = if most.is_some_and(|most| bytes <= most) { None } else { stale };
            for before in [Verdict::Served, Verdict::Idle, Verdict::Pending] {
                assert_eq!(data_after_close(before, protocol, bytes), wanted, "{protocol:?}, {bytes} bytes");
            }
            let lost = Verdict::Lost(UNREAD, Confidence::Observed);
            assert_eq!(data_after_close(lost, protocol, bytes), None, "{protocol:?}, lost before");
        }
    }
}

#[test]
fn a_farewell_of_a_server_is_no_answer() {
    let frame = 9;
    let goaway = |text: &str| frame + 8 + u32::try_from(text.len()).unwrap();
    let ping = frame + 8;
    for (protocol, farewell) in [
        (Protocol::Unknown, 0),
        (Protocol::Http, 0),
        (Protocol::Raw, 0),
        (Protocol::Https, 53),
        (Protocol::Tls, 53),
        (Protocol::Multiplexed, goaway("graceful_stop") + ping),
    ] {
        assert_eq!(farewell_of_server(protocol), farewell, "{protocol:?}");
    }
}

#[test]
fn what_no_payload_decides_is_as_sure_with_every_protocol() {
    for protocol in Protocol::ALL {
        for class in Class::ALL {
            let is_sure = protocol.is_http1()
                || matches!(class, Class::Refused | Class::Overflow | Class::Blackholed | Class::Misrouted)
                || class == Class::Unaccepted && protocol != Protocol::Multiplexed;
            let confidence = confidence_of(protocol, class, Confidence::Observed);
            assert_eq!(confidence == Confidence::Observed, is_sure, "{protocol:?} {class:?}");
            assert_eq!(confidence_of(protocol, class, Confidence::Inferred), Confidence::Inferred);
        }
    }
}
