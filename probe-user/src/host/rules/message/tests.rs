//! Datagrams as a kernel 6.18 sent them while `nft` made a table like kube-proxy 1.36's, and what they say.

use super::*;

/// Two tables, a set in each, two elements in one of them.
const MADE: &str = "\
    40000000000a0000010000001f470000020000020f0001006b7562652d70726f7879000008000300000000010c00040000000000\
    00000001080002000000000040000000000a0000020000001f4700000a0000020f0001006b7562652d70726f7879000008000300\
    000000010c00040000000000000000020800020000000000b0000000090a0004030000001f470000020000020f0001006b756265\
    2d70726f78790000180002006861697270696e2d636f6e6e656374696f6e73000c001000000000000000000108000400001c730d\
    080005000000001032000d00000400000000030800040d0000000100071c73657276696365206861697270696e20636f6e6e6563\
    74696f6e7300000004000900170013003078666666666666666638323530386634300000080014000000000290000000090a0004\
    040000001f4700000a0000020f0001006b7562652d70726f78790000180002006861697270696e2d636f6e6e656374696f6e7300\
    0c0010000000000000000001080004000020830d080005000000002814000d00000400000000030800040d000000010004000900\
    17001300307866666666666666663832353038663430000008001400000000005c0000000c0a0004000000001f47000002000002\
    0f0001006b7562652d70726f78790000180002006861697270696e2d636f6e6e656374696f6e7300200003001c00010018000100\
    140001000a0000010a000001060000001f9000005c0000000c0a0004000000001f470000020000020f0001006b7562652d70726f\
    78790000180002006861697270696e2d636f6e6e656374696f6e7300200003001c00010018000100140001000a0000020a000002\
    0600000000500000";

/// One element of IPv4 goes, one of IPv6 comes.
const MOVED: &str = "\
    5c0000000e0a00000000000023470000020000030f0001006b7562652d70726f78790000180002006861697270696e2d636f6e6e\
    656374696f6e7300200003001c00010018000100140001000a0000010a000001060000001f900000740000000c0a000400000000\
    234700000a0000030f0001006b7562652d70726f78790000180002006861697270696e2d636f6e6e656374696f6e730038000300\
    34000100300001002c000100fd000000000000000000000000000001fd000000000000000000000000000001060000001f900000";

/// `flush set`: the last element goes.
const FLUSHED: &str = "\
    5c0000000e0a0000000000002b470000020000040f0001006b7562652d70726f78790000180002006861697270696e2d636f6e6e\
    656374696f6e7300200003001c00010018000100140001000a0000020a0000020600000000500000";

/// `delete table`: the set is told as removed, then the table.
const DELETED: &str = "\
    480000000b0a00000100000033470000020000050f0001006b7562652d70726f78790000180002006861697270696e2d636f6e6e\
    656374696f6e73000c001000000000000000000138000000020a00000100000033470000020000050f0001006b7562652d70726f\
    7879000008000300000000000c0004000000000000000001";

/// The end of a transaction.
const GENERATION: &str = "\
    2c0000000f0a0000010000001f470000000000020800010000000002080002000000471f080003006e667400";

/// A set as before 1.36, without protocol and port; another set beside it.
const OLDER: &str = "\
    40000000000a00000100000077550000020000020f0001006b7562652d70726f7879000008000300000000020c00040000000000\
    00000001080002000000000090000000090a00040200000077550000020000020f0001006b7562652d70726f7879000018000200\
    6861697270696e2d636f6e6e656374696f6e73000c001000000000000000000108000400000001c7080005000000000814000d00\
    000400000000030800040d0000000100040009001700130030786666666666666666383235303866343000000800140000000001\
    540000000c0a00040000000077550000020000020f0001006b7562652d70726f78790000180002006861697270696e2d636f6e6e\
    656374696f6e73001800030014000100100001000c0001000a0000010a00000180000000090a0004040000007755000002000002\
    0f0001006b7562652d70726f7879000010000200636c75737465722d697073000c00100000000000000000020800040000000007\
    08000500000000040a000d0000040200000000000400090017001300307866666666666666663832353038663430000008001400\
    00000001480000000c0a00040000000077550000020000020f0001006b7562652d70726f7879000010000200636c75737465722d\
    6970730014000300100001000c000100080001000a000009";

/// An answer: a port that both UDP and TCP have.
const READ: &str = "\
    a80000000c0a020007000000e32583b90a0000030f0001006b7562652d70726f78790000180002006861697270696e2d636f6e6e\
    656374696f6e73006c00030034000100300001002c000100fd000000000000000000000000000001fd0000000000000000000000\
    00000001060000000035000034000100300001002c000100fd000000000000000000000000000001fd0000000000000000000000\
    000000011100000000350000";

/// Its last datagram, with an empty list.
const READ_END: &str = "\
    400000000c0a020007000000e32583b90a0000030f0001006b7562652d70726f78790000180002006861697270696e2d636f6e6e\
    656374696f6e730004000300140000000300020007000000e32583b900000000";

/// An answer where there is no such table.
const NO_SET: &str = "\
    500000000200000007000000e32583b9feffffff3c0000000d0a01030700000000000000070000000f0001006b7562652d70726f\
    78790000180002006861697270696e2d636f6e6e656374696f6e7300";

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn tcp(address: &str, port: u16) -> Element {
    Element { address: address.parse().expect("an address"), port: Some(port) }
}

#[test]
fn each_recorded_datagram_says_what_nft_did() {
    let came = |element| Message::Came(vec![element]);
    let cases = [
        (
            MADE,
            vec![
                Message::Other,
                Message::Other,
                Message::SetMade(Family::V4),
                Message::SetMade(Family::V6),
                came(tcp("10.0.0.1", 8080)),
                came(tcp("10.0.0.2", 80)),
            ],
        ),
        (MOVED, vec![Message::Went(vec![tcp("10.0.0.1", 8080)]), came(tcp("fd00::1", 8080))]),
        (FLUSHED, vec![Message::Went(vec![tcp("10.0.0.2", 80)])]),
        (DELETED, vec![Message::SetRemoved(Family::V4), Message::SetRemoved(Family::V4)]),
        (GENERATION, vec![Message::Committed]),
        (
            OLDER,
            vec![
                Message::Other,
                Message::SetMade(Family::V4),
                came(Element { port: None, ..tcp("10.0.0.1", 0) }),
                Message::Other,
                Message::Other,
            ],
        ),
        (READ, vec![came(tcp("fd00::1", 53))]),
        (READ_END, vec![Message::Came(vec![]), Message::Done { interrupted: false }]),
        (NO_SET, vec![Message::Refused(2)]),
    ];
    for (recorded, expected) in cases {
        assert_eq!(messages(&bytes(recorded)), Ok(expected), "{recorded}");
    }
}

#[test]
fn a_read_that_the_rules_changed_under_says_so() {
    let mut end = bytes(READ_END);
    let flags = end.len() - 20 + 6;
    end[flags] |= 0x10;
    let messages = messages(&end).expect("messages");
    assert_eq!(messages.last(), Some(&Message::Done { interrupted: true }));
}

/// Nothing but an error may come of it: each datagram cut at each place, and with each byte changed to the extremes.
#[test]
fn damaged_datagrams_do_no_harm() {
    for recorded in [MADE, MOVED, FLUSHED, DELETED, GENERATION, OLDER, READ, READ_END, NO_SET] {
        let whole = bytes(recorded);
        for length in 1..whole.len() {
            // A cut between two messages leaves whole ones; any other is noticed.
            let cut = messages(&whole[..length]);
            let all = messages(&whole).expect("messages");
            assert!(
                cut.is_err() || cut.is_ok_and(|some| all.starts_with(&some)),
                "{recorded} cut to {length}"
            );
        }
        for (at, value) in (0..whole.len()).flat_map(|at| [(at, 0), (at, 0xff)]) {
            let mut damaged = whole.clone();
            damaged[at] = value;
            drop(messages(&damaged));
        }
    }
}

#[test]
fn the_request_is_one_message_of_its_own_length() {
    for family in Family::ALL {
        let request = request(family);
        assert_eq!(number32(&request, 0).map(|length| length as usize), Ok(request.len()));
        assert_eq!((number16(&request, 4), number16(&request, 6)), (Ok(0x0a0d), Ok(0x301)));
        assert_eq!(attribute(&request[20..], FIRST), Ok(Some(TABLE)));
        assert_eq!(attribute(&request[20..], SECOND), Ok(Some(SET)));
    }
}
