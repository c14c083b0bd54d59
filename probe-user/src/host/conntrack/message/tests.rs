//! Requests and answers as a kernel 6.18 took and sent them, and what they say.

use super::*;
use std::fmt::Write as _;

const REQUEST: &str = "\
    48000000010101000000000000000000020000003400028014000180080001000a090002080002000a0800021c0002800500010006000000\
    060002001f90000006000300a0280000";
/// A connect that nobody answered yet.
const UNANSWERED: &str = "\
    d40000000001020000000000e31c0000020000003400018014000180080001000a080002080002000a6000011c0002800500010006000000\
    06000200a028000006000300005000003400028014000180080001000a090002080002000a0800021c000280050001000600000006000200\
    1f90000006000300a028000008000300000001a8080008000000000008000c005852341408000b0000000003080007000000007430000480\
    2c0001800500010001000000050002000a000000050003000000000006000400030000000600050000000000";
/// The same entry after the next connect from the same port was reset.
const RESET: &str = "\
    d40000000001020000000000ec1c0000020000003400018014000180080001000a080002080002000a6000011c0002800500010006000000\
    06000200a028000006000300005000003400028014000180080001000a090002080002000a0800021c000280050001000600000006000200\
    1f90000006000300a028000008000300000001aa080008000000000008000c005852341408000b0000000002080007000000000930000480\
    2c0001800500010008000000050002000a000000050003000000000006000400030000000600050020000000";
const NONE: &str = "\
    5c0000000200000000000000ed1c0000feffffff480000000101010000000000000000000200000034000280140001800800010\
    00a090002080002000a0800021c0002800500010006000000060002001f90000006000300a0290000";
const REQUEST_V6: &str = "\
    600000000101010000000000000000000a0000004c0002802c00018014000300fd77000000000000000000000000000214000400fd770000\
    0000000000000000000000011c0002800500010006000000060002001f90000006000300a4100000";
const UNANSWERED_V6: &str = "\
    040100000001020000000000f71c00000a0000004c0001802c00018014000300fd77000000000000000000000000000114000400fd960000\
    0000000000000000000000011c000280050001000600000006000200a410000006000300005000004c0002802c00018014000300fd770000\
    00000000000000000000000214000400fd7700000000000000000000000000011c0002800500010006000000060002001f90000006000300\
    a410000008000300000001a8080008000000000008000c00b18699b308000b00000000030800070000000076300004802c00018005000100\
    01000000050002000a000000050003000000000006000400030000000600050000000000";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hex")).collect()
}

fn address(ip: &str, port: u16) -> Address {
    Address { ip: ip.parse().expect("an address"), port }
}

#[test]
fn a_request_names_the_way_back() {
    for (source, destination, expected) in [
        (address("10.9.0.2", 8080), address("10.8.0.2", 41_000), REQUEST),
        (address("fd77::2", 8080), address("fd77::1", 42_000), REQUEST_V6),
    ] {
        let mut hex = String::new();
        for byte in request(&Tuple { source, destination }) {
            write!(hex, "{byte:02x}").expect("a string");
        }
        assert_eq!(hex, expected);
    }
}

#[test]
fn an_answer_tells_where_the_client_meant_to_go_and_what_came_back() {
    let original = address("10.96.0.1", 80);
    let unanswered = Answer { original, replied: false, state: EntryState::SynSent, left_seconds: 116 };
    assert_eq!(answer(&bytes(UNANSWERED)).expect("an answer"), Some(unanswered));
    let reset = Answer { original, replied: true, state: EntryState::Close, left_seconds: 9 };
    assert_eq!(answer(&bytes(RESET)).expect("an answer"), Some(reset));
    let of_v6 = Answer { original: address("fd96::1", 80), left_seconds: 118, ..unanswered };
    assert_eq!(answer(&bytes(UNANSWERED_V6)).expect("an answer"), Some(of_v6));
    assert_eq!(answer(&bytes(NONE)).expect("an answer"), None);
    let entry = reset.entry(Mono(SECOND), Mono(2 * SECOND));
    assert_eq!((entry.expires, entry.expired), (Mono(10 * SECOND - TICK_NS), Mono(12 * SECOND + TICK_NS)));
}

#[test]
fn a_refusal_has_its_reason() {
    let refused = |number: i32| {
        let mut datagram = bytes(NONE);
        datagram[16..20].copy_from_slice(&number.to_ne_bytes());
        answer(&datagram).expect_err("refused")
    };
    assert!(matches!(refused(-1), SocketError::NotAllowed));
    assert!(matches!(refused(-22), SocketError::Io(_)));
}

#[test]
fn what_is_torn_or_changed_is_an_error_or_an_answer_and_never_a_panic() {
    for whole in [UNANSWERED, UNANSWERED_V6, NONE].map(bytes) {
        for length in 0..whole.len() {
            assert!(answer(&whole[..length]).is_err(), "{length} bytes");
        }
        for at in 0..whole.len() {
            for byte in [0, 1, 4, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = byte;
                drop(answer(&changed));
            }
        }
    }
    let mut no_state = bytes(UNANSWERED);
    let protocol = no_state.windows(4).position(|four| four == [0x30, 0, 0x04, 0x80]).expect("its state");
    no_state[protocol + 2] = 0x3f;
    assert!(answer(&no_state).is_err(), "an entry without the state of TCP");
}
