//! The connection: preface, frames, streams, windows, settings, field blocks.

use super::wire::*;
use super::{Want, bed, check};

const PROTOCOL: Want = Want::Over(&[1]);
const FLOW: Want = Want::Over(&[3]);
const SIZE: Want = Want::Over(&[6]);
const COMPRESSION: Want = Want::Over(&[9]);

type Row = (&'static str, &'static str, Vec<u8>, Want);

fn window(stream: u32, by: u32) -> Vec<u8> {
    raw(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    raw(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn head(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    raw(HEADERS, flags, stream, block)
}

/// RFC 9113 sections 4 and 6: layout and sizes of frames.
fn layout() -> Vec<Row> {
    let whole = END_HEADERS | END_STREAM;
    let fixed = block(&pseudo("GET", "/fixed"));
    vec![
        ("4.1", "an unknown frame type", raw(0x77, 0xff, 0, b"what"), Want::Fine),
        ("4.1", "undefined flags", raw(PING, 0xfe, 0, &[0; 8]), Want::Fine),
        ("4.1", "the reserved bit of a stream", raw(HEADERS, whole, 1 | 1 << 31, &fixed), Want::Status(200)),
        ("4.2", "a frame of 16,384 bytes", raw(0x77, 0, 0, &[0; 16_384]), Want::Fine),
        ("4.2", "a frame of 16,385 bytes", raw(0x77, 0, 0, &[0; 16_385]), SIZE),
        ("4.2", "DATA of 16,385 bytes", [post(1, "/a"), raw(DATA, 0, 1, &[0; 16_385])].concat(), SIZE),
        ("6.1", "DATA on stream 0", raw(DATA, 0, 0, b"x"), PROTOCOL),
        ("6.1", "padding as long as the payload", [post(1, "/a"), raw(DATA, PADDED, 1, &[1])].concat(), PROTOCOL),
        (
            "6.1",
            "padded DATA",
            [post(1, "/a"), raw(DATA, PADDED | END_STREAM, 1, b"\x02ok\0\0")].concat(),
            Want::Status(200),
        ),
        ("6.2", "HEADERS on stream 0", head(0, whole, &fixed), PROTOCOL),
        ("6.2", "padding over the block", head(1, whole | PADDED, &[&[255], &fixed[..]].concat()), PROTOCOL),
        ("6.2", "padded HEADERS", head(1, whole | PADDED, &[&[3], &fixed[..], &[0; 3]].concat()), Want::Status(200)),
        (
            "6.2",
            "HEADERS with priority",
            head(1, whole | 0x20, &[&[0, 0, 0, 0, 9], &fixed[..]].concat()),
            Want::Status(200),
        ),
        ("6.3", "PRIORITY on stream 0", raw(PRIORITY, 0, 0, &[0; 5]), PROTOCOL),
        ("6.3", "PRIORITY of an idle stream", raw(PRIORITY, 0, 7, &[0; 5]), Want::Fine),
        ("6.4", "RST_STREAM on stream 0", raw(RESET, 0, 0, &[0; 4]), PROTOCOL),
        ("6.4", "RST_STREAM on an idle stream", raw(RESET, 0, 1, &[0; 4]), PROTOCOL),
        ("6.4", "RST_STREAM of 3 bytes", [post(1, "/a"), raw(RESET, 0, 1, &[0; 3])].concat(), SIZE),
        ("6.5", "SETTINGS on a stream", raw(SETTINGS, 0, 1, b""), PROTOCOL),
        ("6.5", "SETTINGS of 5 bytes", raw(SETTINGS, 0, 0, &[0; 5]), SIZE),
        ("6.5", "an acknowledgement with a payload", raw(SETTINGS, ACK, 0, &[0; 6]), SIZE),
        ("6.6", "PUSH_PROMISE by a client", raw(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL),
        ("6.7", "PING on a stream", raw(PING, 0, 1, &[0; 8]), PROTOCOL),
        ("6.7", "PING of 7 bytes", raw(PING, 0, 0, &[0; 7]), SIZE),
        ("6.8", "GOAWAY on a stream", raw(GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        ("6.8", "GOAWAY of 4 bytes", raw(GOAWAY, 0, 0, &[0; 4]), SIZE),
        ("6.8", "GOAWAY by the client", raw(GOAWAY, 0, 0, &[0; 8]), Want::Fine),
        ("6.9", "WINDOW_UPDATE of 3 bytes", raw(WINDOW_UPDATE, 0, 0, &[0; 3]), SIZE),
    ]
}

/// RFC 9113 section 5: states of streams.
fn states() -> Vec<Row> {
    vec![
        ("5.1", "DATA on an idle stream", raw(DATA, END_STREAM, 1, b"x"), PROTOCOL),
        ("5.1", "WINDOW_UPDATE on an idle stream", window(1, 1), PROTOCOL),
        (
            "5.1",
            "DATA behind the end",
            [post(1, "/a"), raw(DATA, 1, 1, b"x"), raw(DATA, 1, 1, b"y")].concat(),
            Want::Reset(&[5]),
        ),
        ("5.1", "HEADERS behind the end", [get(1, "/slow"), get(1, "/slow")].concat(), Want::Reset(&[5])),
        (
            "5.1",
            "a reset stream's WINDOW_UPDATE",
            [post(1, "/a"), raw(RESET, 0, 1, &[0, 0, 0, 8]), window(1, 5)].concat(),
            Want::Fine,
        ),
        (
            "5.1",
            "HEADERS on a closed stream",
            [post(1, "/a"), raw(RESET, 0, 1, &[0, 0, 0, 8]), get(3, "/fixed"), raw(PING, 0, 0, &[0; 8]), get(1, "/a")]
                .concat(),
            Want::Over(&[5]),
        ),
        ("5.1.1", "an even stream", get(2, "/fixed"), PROTOCOL),
        ("5.1.1", "a lower stream than before", [get(5, "/fixed"), get(3, "/fixed")].concat(), PROTOCOL),
        (
            "5.3.1",
            "a head that depends on itself",
            head(1, 0x25, &[&[0, 0, 0, 1, 9], &block(&pseudo("GET", "/fixed"))[..]].concat()),
            PROTOCOL,
        ),
        (
            "5.5",
            "an unknown frame within a block",
            [head(1, 1, &block(&pseudo("GET", "/fixed"))), raw(0x77, 0, 1, b"")].concat(),
            PROTOCOL,
        ),
    ]
}

/// RFC 9113 sections 5.2, 6.5.2 and 6.9: windows and settings.
fn windows() -> Vec<Row> {
    vec![
        ("6.5.2", "ENABLE_PUSH of 2", setting(2, 2), PROTOCOL),
        ("6.5.2", "INITIAL_WINDOW_SIZE of 2^31", setting(4, 1 << 31), FLOW),
        ("6.5.2", "MAX_FRAME_SIZE of 16,383", setting(5, 16_383), PROTOCOL),
        ("6.5.2", "MAX_FRAME_SIZE of 2^24", setting(5, 1 << 24), PROTOCOL),
        ("6.5.2", "an unknown setting", setting(0x7777, 7), Want::Fine),
        ("6.9", "WINDOW_UPDATE of 0 on the connection", window(0, 0), PROTOCOL),
        ("6.9", "WINDOW_UPDATE of 0 on a stream", [post(1, "/a"), window(1, 0)].concat(), PROTOCOL),
        ("6.9.1", "a connection window over 2^31-1", window(0, (1 << 31) - 1), FLOW),
        ("6.9.1", "a stream window over 2^31-1", [post(1, "/a"), window(1, (1 << 31) - 1)].concat(), FLOW),
        (
            "6.9.2",
            "a window of a stream over 2^31-1 by SETTINGS",
            [post(1, "/a"), window(1, 1_000), setting(4, (1 << 31) - 1)].concat(),
            FLOW,
        ),
        (
            "6.9.1",
            "DATA over the stream's window",
            [post(1, "/hang"), raw(DATA, 0, 1, &[0; 16_384]).repeat(9)].concat(),
            Want::Reset(&[3]),
        ),
    ]
}

/// RFC 9113 sections 4.3, 6.10 and 8.1.1: blocks that go on, and what is found before their last frame.
fn torn_blocks() -> Vec<Row> {
    let fixed = block(&pseudo("GET", "/fixed"));
    let (begin, rest) = fixed.split_at(9);
    let upper = &b"\0\x01A\x01b"[..];
    vec![
        (
            "6.10",
            "a field in three frames",
            [
                head(1, 1, &[&fixed[..], &[0, 1]].concat()),
                raw(CONTINUATION, 0, 1, &[b'a', 3, b'b']),
                raw(CONTINUATION, 4, 1, b"cd"),
            ]
            .concat(),
            Want::Status(200),
        ),
        (
            "8.1.1",
            "a malformed field before the last frame of a block",
            [head(1, 1, begin), raw(CONTINUATION, 0, 1, &[rest, upper].concat())].concat(),
            PROTOCOL,
        ),
        (
            "8.1.1",
            "a malformed field in the last frame of a block",
            [head(1, 1, begin), raw(CONTINUATION, 4, 1, &[rest, upper].concat())].concat(),
            Want::Reset(&[1]),
        ),
        (
            "4.3",
            "an index beyond the table before the last frame of a block",
            [head(1, 1, begin), raw(CONTINUATION, 0, 1, &[rest, &[0xfe]].concat())].concat(),
            COMPRESSION,
        ),
    ]
}

/// RFC 9113 sections 4.3, 6.10 and RFC 7541: blocks of fields.
fn blocks() -> Vec<Row> {
    let fixed = block(&pseudo("GET", "/fixed"));
    let (begin, rest) = fixed.split_at(9);
    let with = |more: &[u8]| head(1, 5, &[&fixed[..], more].concat());
    vec![
        (
            "6.10",
            "a block in two frames",
            [head(1, 1, begin), raw(CONTINUATION, 4, 1, rest)].concat(),
            Want::Status(200),
        ),
        (
            "6.10",
            "a block with an empty frame",
            [head(1, 1, begin), raw(CONTINUATION, 0, 1, b""), raw(CONTINUATION, 4, 1, rest)].concat(),
            Want::Status(200),
        ),
        ("6.10", "CONTINUATION of nothing", raw(CONTINUATION, 4, 1, &fixed), PROTOCOL),
        (
            "6.10",
            "CONTINUATION behind a whole block",
            [get(1, "/fixed"), raw(CONTINUATION, 4, 1, b"")].concat(),
            PROTOCOL,
        ),
        (
            "6.10",
            "CONTINUATION of another stream",
            [head(1, 1, begin), raw(CONTINUATION, 4, 3, rest)].concat(),
            PROTOCOL,
        ),
        ("6.10", "PING within a block", [head(1, 1, begin), raw(PING, 0, 0, &[0; 8])].concat(), PROTOCOL),
        ("6.10", "DATA within a block", [head(1, 0, begin), raw(DATA, 0, 1, b"x")].concat(), PROTOCOL),
        ("RFC 7541 2.3.3", "an index beyond the table", with(&[0xfe]), COMPRESSION),
        ("RFC 7541 6.1", "index 0", with(&[0x80]), COMPRESSION),
        ("RFC 7541 5.1", "an integer without an end", with(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), COMPRESSION),
        ("RFC 7541 5.2", "a string beyond the block", with(&[0, 1, b'a', 100]), COMPRESSION),
        ("RFC 7541 5.2", "Huffman padding of 3 bits", with(&[0, 1, b'a', 0x81, 0x1f]), Want::Status(200)),
        ("RFC 7541 5.2", "Huffman padding of 11 bits", with(&[0, 1, b'a', 0x82, 0x1f, 0xff]), COMPRESSION),
        ("RFC 7541 5.2", "EOS", with(&[0, 1, b'a', 0x84, 0xff, 0xff, 0xff, 0xff]), COMPRESSION),
        ("RFC 7541 4.2", "a size update behind a field", with(&[0x20]), COMPRESSION),
        (
            "RFC 7541 4.2",
            "two size updates",
            head(1, 5, &[&[0x20, 0x3f, 0xe1, 0x1f], &fixed[..]].concat()),
            Want::Status(200),
        ),
        (
            "RFC 7541 6.3",
            "a size over the setting",
            head(1, 5, &[&[0x3f, 0xe2, 0x1f], &fixed[..]].concat()),
            COMPRESSION,
        ),
        (
            "RFC 7541 4.4",
            "an entry larger than the table",
            head(1, 5, &[&fixed[..], &[0x40, 1, b'a', 0x7f, 0xa1, 0x1f], &[b'v'; 4_128]].concat()),
            Want::Status(200),
        ),
    ]
}

#[test]
fn frames_and_blocks_by_sections() {
    let (_origin, gateway) = bed();
    check(&gateway, &[layout(), states(), windows(), torn_blocks(), blocks()].concat());
}

/// RFC 9113 section 3.4: the preface, whole and in pieces, and what is none.
#[test]
fn prefaces() {
    let (_origin, gateway) = bed();
    for bytes in [
        [PREFACE, &raw(PING, 0, 0, &[0; 8])].concat(),
        [PREFACE, &raw(SETTINGS, ACK, 0, b"")].concat(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\x0b".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
    ] {
        let mut client = H2::silent(gateway.address);
        client.send(&bytes);
        assert_eq!(client.end().map(|(code, _)| code), Some(1), "{}", bytes.escape_ascii());
    }
    let mut client = H2::silent(gateway.address);
    for piece in [PREFACE, &raw(SETTINGS, 0, 0, b""), &get(1, "/fixed")].concat().chunks(1) {
        client.send(piece);
    }
    assert_eq!(client.answer(1).status, 200);
}

/// Section 6.5.3 and 6.7: what is acknowledged, and with what.
#[test]
fn acknowledgements() {
    let (_origin, gateway) = bed();
    let mut client = H2::connect(gateway.address);
    let first = client.frame().expect("the gateway's preface");
    assert_eq!((first.kind, first.flags, first.stream), (SETTINGS, 0, 0));
    let mut settings =
        first.payload.chunks(6).map(|one| (one[1], u32::from_be_bytes([one[2], one[3], one[4], one[5]])));
    assert!(settings.clone().any(|setting| setting == (3, 100)), "100 streams at once");
    assert!(settings.any(|setting| setting == (4, 65_536)), "64 KiB a stream");
    let rest: Vec<Frame> = (0..2).map(|_| client.frame().expect("more")).collect();
    assert_eq!(
        (rest[0].kind, rest[0].payload.clone()),
        (WINDOW_UPDATE, (1_048_576_u32 - 65_535).to_be_bytes().to_vec())
    );
    assert_eq!((rest[1].kind, rest[1].flags), (SETTINGS, ACK));
    assert!(client.ping());
}

/// Section 6.9.2: a window of zero, and one that is narrowed while a response is on its way.
#[test]
fn responses_wait_for_windows() {
    let (_origin, gateway) = bed();
    let mut client = H2::with(gateway.address, &[(4, 0)]);
    client.gives_room = false;
    client.send(&get(1, "/fixed"));
    while !client.answers.contains_key(&1) {
        assert!(client.step());
    }
    assert!(client.ping());
    assert_eq!(client.answers[&1].body, b"", "nothing without a window");
    client.send(&window(1, 2));
    client.send(&window(1, 1));
    while client.answers[&1].body.len() < 3 {
        assert!(client.step());
    }
    assert!(client.ping());
    assert_eq!(client.answers[&1].body, b"fix", "no more than the window");
    client.send(&setting(4, 100));
    assert_eq!(client.answer(1).body, b"fixed");
}
