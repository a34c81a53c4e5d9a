use super::super::frame::{END_HEADERS, END_STREAM, Head, INT31_MAX, PADDED, PREFACE, PRIORITY};
use super::*;
use crate::net::mem::splitmix;

const NOW: Now = Now::from_ms(0);
/// `GET http://a/`
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];

pub(super) fn raw(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Head { length: payload.len(), kind, flags, stream }.bytes().to_vec();
    bytes.extend(payload);
    bytes
}

pub(super) fn get(stream: u32) -> Vec<u8> {
    raw(Kind::Headers, END_HEADERS | END_STREAM, stream, GET)
}

pub(super) fn post(stream: u32) -> Vec<u8> {
    raw(Kind::Headers, END_HEADERS, stream, GET)
}

pub(super) fn feed(core: &mut Core, bytes: &[u8]) -> Result<Vec<Event>, Fatal> {
    let mut input = Buf::copy_of(bytes);
    let mut events = Vec::new();
    while let Some(event) = core.receive(&mut input, NOW)? {
        events.push(event);
    }
    Ok(events)
}

pub(super) fn output(core: &mut Core) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(buf) = core.take_output() {
        bytes.extend_from_slice(buf.as_slice());
    }
    assert_eq!(core.output_bytes(), 0);
    bytes
}

pub(super) fn frames(bytes: &[u8]) -> Vec<(Kind, u8, u32, Vec<u8>)> {
    let (mut at, mut all) = (0, Vec::new());
    while let Some(head) = Head::parse(&bytes[at..]) {
        let payload = &bytes[at + 9..at + 9 + head.length];
        all.push((head.kind, head.flags, head.stream, payload.to_vec()));
        at += 9 + head.length;
    }
    assert_eq!(at, bytes.len());
    all
}

pub(super) fn server() -> Core {
    let mut core = Core::server(HeadLimits::default(), false, NOW);
    let greeting = [&PREFACE[..], &raw(Kind::Settings, 0, 0, b"")].concat();
    assert!(matches!(feed(&mut core, &greeting).expect("legal")[..], [Event::Connected]));
    output(&mut core);
    core
}

pub(super) fn client() -> Core {
    let mut core = Core::client(HeadLimits::default(), NOW);
    feed(&mut core, &raw(Kind::Settings, 0, 0, b"")).expect("legal");
    output(&mut core);
    core
}

fn code(result: &Result<Vec<Event>, Fatal>) -> Option<Code> {
    result.as_ref().err().map(|fatal| fatal.code)
}

#[test]
fn a_request_and_its_response() {
    let (mut server, mut client) = (server(), client());
    let asked = client.open(false, |encoder, out| {
        encoder.method(out, b"POST");
        encoder.scheme(out, b"http");
        encoder.path(out, b"/x");
        encoder.authority(out, b"a.example");
    });
    let asked = asked.expect("one stream may be opened");
    let mut body = Buf::copy_of(b"hello");
    assert_eq!(client.data(asked, &mut body, true), Sent::All);
    let events = feed(&mut server, &output(&mut client)).expect("legal");
    let [Event::Head { key, end: false, fault: None }, Event::Data { data, end: true, .. }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((data.as_slice(), server.section().lines.len()), (&b"hello"[..], 4));
    assert_eq!(server.state(*key), Some(super::super::stream::State::HalfRemote));
    server.taken(*key, 5);
    assert!(server.head(*key, false, |encoder, out| encoder.status(out, 200)));
    assert_eq!(server.data(*key, &mut Buf::copy_of(&[7; 30_000]), false), Sent::Some);
    assert!(server.head(*key, true, |encoder, out| encoder.field(out, b"x-sum", b"1", crate::http::name::Name::Other)));
    server.release(*key);
    assert_eq!(server.streams(), 0);
    let sent = output(&mut server);
    let events = feed(&mut client, &sent).expect("legal");
    assert!(matches!(events[0], Event::Head { end: false, .. }), "{events:?}");
    // The final head was not marked: what follows is an error of the response.
    assert!(matches!(events[1], Event::Reset { code: Code::Protocol, by_peer: false, .. }), "{events:?}");
}

/// RFC 9113 sections 3.4, 4.2, 4.3, 5.1, 5.4, 6: what ends a connection, and with which code.
#[test]
fn what_ends_a_connection() {
    let window = |by: u32| by.to_be_bytes();
    for (what, bytes, expected) in [
        ("PING on a stream", raw(Kind::Ping, 0, 1, &[0; 8]), Code::Protocol),
        ("DATA on an idle stream", raw(Kind::Data, 0, 1, b"x"), Code::Protocol),
        ("RST_STREAM on an idle stream", raw(Kind::Reset, 0, 1, &[0; 4]), Code::Protocol),
        ("WINDOW_UPDATE on an idle stream", raw(Kind::WindowUpdate, 0, 1, &window(1)), Code::Protocol),
        ("WINDOW_UPDATE by nothing", raw(Kind::WindowUpdate, 0, 0, &window(0)), Code::Protocol),
        ("WINDOW_UPDATE too far", raw(Kind::WindowUpdate, 0, 0, &window(INT31_MAX)), Code::FlowControl),
        ("an even stream", get(2), Code::Protocol),
        ("CONTINUATION of nothing", raw(Kind::Continuation, END_HEADERS, 1, GET), Code::Protocol),
        ("PUSH_PROMISE", raw(Kind::PushPromise, END_HEADERS, 1, &[0, 0, 0, 2]), Code::Protocol),
        ("a bad block", raw(Kind::Headers, END_HEADERS | END_STREAM, 1, &[0xff, 0xff]), Code::Compression),
        ("a lower stream than before", [get(3), get(1)].concat(), Code::Protocol),
        ("the last one passed over", [get(1), get(3), get(9), get(7)].concat(), Code::Protocol),
        ("the first one passed over", [get(1), get(3), get(9), get(5)].concat(), Code::Protocol),
        (
            "a frame within a block",
            [raw(Kind::Headers, 0, 1, GET), raw(Kind::Ping, 0, 0, &[0; 8])].concat(),
            Code::Protocol,
        ),
        (
            "an unknown frame within a block",
            [raw(Kind::Headers, 0, 1, GET), raw(Kind::Unknown(99), 0, 1, b"")].concat(),
            Code::Protocol,
        ),
        (
            "another stream within a block",
            [raw(Kind::Headers, 0, 1, GET), raw(Kind::Continuation, 4, 3, b"")].concat(),
            Code::Protocol,
        ),
        ("DATA within a block", [raw(Kind::Headers, 0, 1, GET), raw(Kind::Data, 0, 1, b"")].concat(), Code::Protocol),
        ("padding over the payload", [post(1), raw(Kind::Data, PADDED, 1, &[2, 0])].concat(), Code::Protocol),
        (
            "a frame of 16,385 bytes",
            Head { length: 16_385, kind: Kind::Data, flags: 0, stream: 1 }.bytes().to_vec(),
            Code::FrameSize,
        ),
        ("SETTINGS that may not be", raw(Kind::Settings, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]), Code::FlowControl),
    ] {
        let result = feed(&mut server(), &bytes);
        assert_eq!(code(&result), Some(expected), "{what}: {result:?}");
    }
    for greeting in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx"] {
        let mut core = Core::server(HeadLimits::default(), false, NOW);
        assert_eq!(code(&feed(&mut core, greeting)), Some(Code::Protocol));
    }
    let mut core = Core::server(HeadLimits::default(), false, NOW);
    assert_eq!(code(&feed(&mut core, &[&PREFACE[..], &raw(Kind::Ping, 0, 0, &[0; 8])].concat())), Some(Code::Protocol));
}

/// What costs the peer its stream only.
#[test]
fn what_ends_a_stream() {
    let trailers = |flags| raw(Kind::Headers, END_HEADERS | flags, 1, &[0, 1, b'a', 1, b'b']);
    for (what, bytes, expected) in [
        ("DATA behind the end", [get(1), raw(Kind::Data, 0, 1, b"x")].concat(), Code::StreamClosed),
        ("a head behind the end", [get(1), get(1)].concat(), Code::StreamClosed),
        ("trailers without the end", [post(1), trailers(0)].concat(), Code::Protocol),
    ] {
        let mut core = server();
        let result = feed(&mut core, &bytes);
        assert_eq!(code(&result), None, "{what}");
        let sent = frames(&output(&mut core));
        let reset = sent.iter().find(|(kind, ..)| *kind == Kind::Reset);
        let expected = (expected as u32).to_be_bytes().to_vec();
        assert_eq!(reset.map(|(_, _, stream, code)| (*stream, code)), Some((1, &expected)), "{what}");
        feed(&mut core, &get(3)).expect("the connection goes on");
    }
    let mut core = server();
    let events = feed(&mut core, &post(1)).expect("legal");
    let Event::Head { key, .. } = events[0] else { panic!("{events:?}") };
    core.expect_bytes(key, 3);
    let events = feed(&mut core, &raw(Kind::Data, 0, 1, b"four")).expect("legal");
    assert!(matches!(events[..], [Event::Reset { code: Code::Protocol, .. }]), "more than declared: {events:?}");
    let events = feed(&mut core, &post(3)).expect("legal");
    let Event::Head { key, .. } = events[0] else { panic!("{events:?}") };
    core.expect_bytes(key, 3);
    let events = feed(&mut core, &raw(Kind::Data, END_STREAM, 3, b"it")).expect("legal");
    assert!(matches!(events[..], [Event::Reset { code: Code::Protocol, .. }]), "less than declared: {events:?}");
}

/// F41 to F45: each flood ends the connection within its budget, with ENHANCE_YOUR_CALM.
#[test]
fn floods_end_the_connection_within_their_budgets() {
    let reset = |n: u32| [get(2 * n + 1), raw(Kind::Reset, 0, 2 * n + 1, &[0, 0, 0, 8])].concat();
    let behind = |n: u32| [get(2 * n + 1), raw(Kind::Data, 0, 2 * n + 1, b"late")].concat();
    let twice = |n: u32| [get(2 * n + 1), get(2 * n + 1)].concat();
    type Frames<'a> = &'a dyn Fn(u32) -> Vec<u8>;
    for (what, first, flood, most) in [
        ("rapid reset", vec![], &reset as Frames, 200),
        ("made to reset by DATA behind the end", vec![], &behind, 100),
        ("made to reset by heads", vec![], &twice, 100),
        ("CONTINUATION", raw(Kind::Headers, 0, 1, GET), &|_| raw(Kind::Continuation, 0, 1, b"\0\x01a\x01b"), 8),
        ("empty CONTINUATION", raw(Kind::Headers, 0, 1, GET), &|_| raw(Kind::Continuation, 0, 1, b""), 8),
        ("SETTINGS", vec![], &|_| raw(Kind::Settings, 0, 0, b""), 199),
        ("SETTINGS acknowledged", vec![], &|_| raw(Kind::Settings, 1, 0, b""), 199),
        ("PING", vec![], &|_| raw(Kind::Ping, 0, 0, &[0; 8]), 199),
        ("PRIORITY", vec![], &|n| raw(Kind::Priority, 0, 2 * n + 1, &[0; 5]), 199),
        ("WINDOW_UPDATE", vec![], &|_| raw(Kind::WindowUpdate, 0, 0, &[0, 0, 0, 1]), 199),
        ("WINDOW_UPDATE on a stream", post(1), &|_| raw(Kind::WindowUpdate, 0, 1, &[0, 0, 0, 1]), 203),
        ("unknown frames", vec![], &|_| raw(Kind::Unknown(77), 0, 0, b"what"), 199),
        ("empty DATA", post(1), &|_| raw(Kind::Data, 0, 1, b""), 100),
        ("padded empty DATA", post(1), &|_| raw(Kind::Data, PADDED, 1, &[3, 0, 0, 0]), 100),
        ("tiny DATA", post(1), &|_| raw(Kind::Data, 0, 1, b"x"), 100),
    ] {
        let mut core = server();
        feed(&mut core, &first).expect("legal");
        let mut done = 0;
        let end = loop {
            let result = feed(&mut core, &flood(done));
            for event in result.iter().flatten() {
                if let Event::Reset { key, .. } = event {
                    core.release(*key);
                }
            }
            output(&mut core);
            match result {
                Ok(_) => done += 1,
                Err(fatal) => break fatal,
            }
            assert!(done < 10_000, "{what} has no end");
        };
        assert_eq!((end.code, done), (Code::Calm, most), "{what}: {end:?}");
    }
}

/// F43: what no state of its stream and no timing makes right ends a client's connection at the first, and an
/// endpoint's stream.
#[test]
fn a_breach_ends_a_clients_connection_and_an_endpoints_stream() {
    let on_itself = |n: u32| [&n.to_be_bytes()[..], &[0]].concat();
    let own = |n: u32| {
        let head = [&on_itself(n)[..], GET].concat();
        raw(Kind::Headers, END_HEADERS | END_STREAM | PRIORITY, n, &head)
    };
    let frames_of = |n: u32| {
        [
            (Code::Protocol, raw(Kind::WindowUpdate, 0, n, &[0; 4])),
            (Code::FlowControl, raw(Kind::WindowUpdate, 0, n, &INT31_MAX.to_be_bytes())),
            (Code::Protocol, raw(Kind::Priority, 0, n, &on_itself(n))),
            (Code::FrameSize, raw(Kind::Priority, 0, n, &[0; 4])),
            (Code::Protocol, own(n)),
        ]
    };
    for (expected, breach) in frames_of(1) {
        let mut core = server();
        feed(&mut core, &post(1)).expect("legal");
        let end = feed(&mut core, &breach).expect_err("a breach");
        assert!(end.code == expected && end.is_at_once(), "{end:?}");

        let mut core = client();
        let keys = [(); 2].map(|()| core.open(false, |encoder, out| encoder.method(out, b"POST")).expect("room"));
        output(&mut core);
        let events = feed(&mut core, &breach).expect("the stream alone");
        assert!(
            matches!(events[..], [Event::Reset { key, code, .. }] if key == keys[0] && code == expected),
            "{events:?}"
        );
        assert_eq!(core.state(keys[1]), Some(super::super::stream::State::Open));
    }
    // A stream that is idle, or that nobody has any more, is no better.
    for (expected, breach) in frames_of(3).into_iter().skip(2) {
        let mut core = server();
        let end = feed(&mut core, &breach).expect_err("a breach");
        assert!(end.code == expected && end.is_at_once(), "{end:?}");
    }
    let mut core = server();
    let events = feed(&mut core, &get(1)).expect("legal");
    let Event::Head { key, .. } = events[0] else { panic!("{events:?}") };
    core.release(key);
    let end = feed(&mut core, &raw(Kind::Priority, 0, 1, &on_itself(1))).expect_err("a breach");
    assert!(end.code == Code::Protocol && end.is_at_once(), "{end:?}");
}

#[test]
fn streams_over_the_bound_are_refused_and_counted() {
    let mut core = server();
    for n in 0..100 {
        feed(&mut core, &get(2 * n + 1)).expect("legal");
    }
    output(&mut core);
    assert_eq!(core.streams(), 100);
    for n in 100..200 {
        let events = feed(&mut core, &get(2 * n + 1)).expect("legal");
        assert!(events.is_empty());
        let sent = frames(&output(&mut core));
        assert_eq!(sent, [(Kind::Reset, 0, 2 * n + 1, vec![0, 0, 0, 7])]);
    }
    assert_eq!(code(&feed(&mut core, &get(401))), Some(Code::Calm));
}

#[test]
fn windows_bound_what_waits_and_are_given_back_when_it_is_taken() {
    let mut core = server();
    let events = feed(&mut core, &post(1)).expect("legal");
    let Event::Head { key, .. } = events[0] else { panic!("{events:?}") };
    for _ in 0..4 {
        feed(&mut core, &raw(Kind::Data, 0, 1, &[0; 16_384])).expect("64 KiB fit");
    }
    assert_eq!(output(&mut core), b"");
    core.taken(key, 32_768);
    let sent = frames(&output(&mut core));
    assert_eq!(sent, [(Kind::WindowUpdate, 0, 1, 32_768_u32.to_be_bytes().to_vec())]);
    feed(&mut core, &raw(Kind::Data, 0, 1, &[0; 16_384])).expect("there is room again");
    feed(&mut core, &raw(Kind::Data, 0, 1, &[0; 16_384])).expect("there is room again");
    let events = feed(&mut core, &raw(Kind::Data, 0, 1, b"x")).expect("the stream alone");
    assert!(matches!(events[..], [Event::Reset { code: Code::FlowControl, .. }]), "{events:?}");
    // Sixteen streams fill the connection's window.
    let mut core = server();
    for n in 0..16 {
        feed(&mut core, &post(2 * n + 1)).expect("legal");
        (0..4).for_each(|_| drop(feed(&mut core, &raw(Kind::Data, 0, 2 * n + 1, &[0; 16_384])).expect("1 MiB fits")));
    }
    feed(&mut core, &post(99)).expect("legal");
    assert_eq!(code(&feed(&mut core, &raw(Kind::Data, 0, 99, b"x"))), Some(Code::FlowControl));
}

/// Nobody takes padding (RFC 9113 section 6.1): its room comes back by itself, to the stream and to the connection.
#[test]
fn padding_uses_no_window_up() {
    let mut core = server();
    let events = feed(&mut core, &post(1)).expect("legal");
    let Event::Head { key, .. } = events[0] else { panic!("{events:?}") };
    let padded = [&[255][..], b"hello", &[0; 255]].concat();
    for _ in 0..10_000 {
        feed(&mut core, &raw(Kind::Data, PADDED, 1, &padded)).expect("there is room");
        core.taken(key, 5);
    }
    assert!(core.recv_window.is_level());
}

/// A block has as many frames as it may, whatever those before it had.
#[test]
fn each_block_has_its_own_bounds() {
    let mut core = server();
    for n in 0..10 {
        let id = 2 * n + 1;
        let mut block = raw(Kind::Headers, END_STREAM, id, GET);
        (0..7).for_each(|_| block.extend(raw(Kind::Continuation, 0, id, b"\0\x01a\x01b")));
        block.extend(raw(Kind::Continuation, END_HEADERS, id, b"\0\x01a\x01b"));
        let events = feed(&mut core, &block).expect("eight are allowed");
        assert!(matches!(events[..], [Event::Head { end: true, fault: None, .. }]), "{events:?}");
        assert_eq!(core.section().lines.len(), 12, "the lines of this block alone");
    }
}

/// What was on its way to a stream that was reset here is no flood; crumbs that do not end are one (F45).
#[test]
fn late_data_is_skipped_and_late_crumbs_are_counted() {
    for (payload, most) in [(&[0; 5][..], None), (b"x", Some(200)), (b"", Some(200))] {
        let mut core = server();
        let events = feed(&mut core, &post(1)).expect("legal");
        let Event::Head { key, .. } = events[0] else { panic!("{events:?}") };
        core.reset(key, Code::Cancel);
        core.release(key);
        // What its opening accounts for.
        (0..4).for_each(|_| drop(feed(&mut core, &raw(Kind::Ping, 0, 0, &[0; 8])).expect("legal")));
        let done = (0..2_000).find(|_| feed(&mut core, &raw(Kind::Data, 0, 1, payload)).is_err());
        let expected = most.map(|most| most - 1);
        assert_eq!(done, expected, "{} bytes each", payload.len());
        assert!(core.recv_window.is_level());
    }
}

#[test]
fn what_is_given_up_returns_its_room() {
    let mut core = server();
    for n in 0..1_000 {
        let events = feed(&mut core, &[post(2 * n + 1), raw(Kind::Data, PADDED, 2 * n + 1, &[9; 16_384])].concat());
        let events = events.expect("legal");
        let Event::Head { key, .. } = events[0] else { panic!("{events:?}") };
        assert!(core.head(key, true, |encoder, out| encoder.status(out, 413)));
        core.release(key);
        output(&mut core);
        // What is late for a reset stream is dropped, and its room comes back too.
        assert!(feed(&mut core, &raw(Kind::Data, 0, 2 * n + 1, &[9; 16_384])).expect("late").is_empty());
        output(&mut core);
    }
}

#[test]
fn a_narrowed_window_goes_below_zero() {
    let mut core = server();
    let events = feed(&mut core, &get(1)).expect("legal");
    let Event::Head { key, .. } = events[0] else { panic!("{events:?}") };
    core.head(key, false, |encoder, out| encoder.status(out, 200));
    let mut body = Buf::copy_of(&[1; 50_000]);
    while core.data(key, &mut body, true) == Sent::Some {}
    assert_eq!(body.len(), 0);
    let mut body = Buf::copy_of(&[1; 50_000]);
    assert_eq!(core.data(key, &mut body, true), Sent::Closed, "the end was sent");
    let events = feed(&mut core, &get(3)).expect("legal");
    let Event::Head { key, .. } = events[0] else { panic!("{events:?}") };
    core.head(key, false, |encoder, out| encoder.status(out, 200));
    output(&mut core);
    while core.data(key, &mut body, false) == Sent::Some {}
    assert_eq!(core.data(key, &mut body, false), Sent::NoConnectionWindow);
    feed(&mut core, &raw(Kind::Settings, 0, 0, &[0, 4, 0, 0, 0, 10])).expect("legal");
    feed(&mut core, &raw(Kind::WindowUpdate, 0, 0, &100_000_u32.to_be_bytes())).expect("legal");
    assert_eq!(core.data(key, &mut body, false), Sent::NoStreamWindow);
    feed(&mut core, &raw(Kind::WindowUpdate, 0, 3, &15_530_u32.to_be_bytes())).expect("legal");
    let left = body.len();
    core.data(key, &mut body, false);
    assert_eq!(body.len(), left - 5);
    // A stream that is opened later begins with what holds then.
    let events = feed(&mut core, &get(5)).expect("legal");
    let Event::Head { key, .. } = events[0] else { panic!("{events:?}") };
    core.head(key, false, |encoder, out| encoder.status(out, 200));
    let mut body = Buf::copy_of(&[1; 100]);
    core.data(key, &mut body, false);
    assert_eq!((body.len(), core.data(key, &mut body, false)), (90, Sent::NoStreamWindow));
}

#[test]
fn goodbyes() {
    let mut core = server();
    feed(&mut core, &get(1)).expect("legal");
    core.announce_end();
    assert!(matches!(feed(&mut core, &get(3)).expect("legal")[..], [Event::Head { .. }]), "still served");
    core.refuse_further();
    assert!(feed(&mut core, &get(5)).expect("ignored").is_empty());
    // What belongs to a stream that is ignored was on its way as its head was (RFC 9113 section 6.8).
    let window = raw(Kind::WindowUpdate, 0, 7, &[0, 0, 0, 9]);
    let late =
        [post(7), raw(Kind::Data, 0, 7, b"body of seven"), window, raw(Kind::Reset, 0, 7, &[0, 0, 0, 8])].concat();
    assert!(feed(&mut core, &late).expect("ignored").is_empty());
    let sent = frames(&output(&mut core));
    assert_eq!(sent[0], (Kind::GoAway, 0, 0, [INT31_MAX.to_be_bytes(), [0; 4]].concat()));
    let last = (Kind::GoAway, 0, 0, [3_u32.to_be_bytes(), [0; 4]].concat());
    assert_eq!(sent[1], last);
    core.refuse_further();
    assert_eq!(frames(&output(&mut core)), [last], "what was said once is not raised");
    core.give_up(Fatal::flood("why"));
    let sent = frames(&output(&mut core));
    assert_eq!(sent, [(Kind::GoAway, 0, 0, [&[0, 0, 0, 3, 0, 0, 0, 11], &b"why"[..]].concat())]);
}

/// Any bytes: no panic, and the same events however they are torn.
#[test]
fn tearing_changes_nothing() {
    for seed in 0..300_u64 {
        let mut state = seed;
        let mut draw = |below: u64| {
            state = splitmix(state);
            state % below
        };
        let mut bytes = Vec::new();
        for n in 0..30 {
            let stream = 2 * draw(6) as u32 + 1;
            bytes.extend(match draw(8) {
                0..3 => raw(Kind::Headers, [5, 4, 0x25][draw(3) as usize], 2 * n + 1, GET),
                3 => raw(Kind::Data, draw(2) as u8, stream, &vec![1; draw(5_000) as usize]),
                4 => raw(Kind::WindowUpdate, 0, stream, &[0, 0, 0, draw(3) as u8]),
                5 => raw(Kind::Data, PADDED, stream, &[&[4][..], &vec![1; 4 + draw(3_000) as usize]].concat()),
                6 => raw(Kind::Reset, 0, stream, &[0, 0, 0, 8]),
                _ => raw(Kind::Ping, 0, 0, &[7; 8]),
            });
        }
        let run = |pieces: &mut dyn FnMut() -> usize| {
            let (mut core, mut input, mut at, mut log) = (server(), Buf::small(), 0, Vec::<String>::new());
            let mut bodies = vec![0_usize; 64];
            while at < bytes.len() {
                let count = pieces().min(bytes.len() - at);
                input.extend(&bytes[at..at + count]);
                at += count;
                loop {
                    match core.receive(&mut input, NOW) {
                        Ok(Some(Event::Data { key, data, end })) => {
                            bodies[key.id as usize] += data.len();
                            core.taken(key, data.len());
                            if end {
                                log.push(format!("end {} at {}", key.id, bodies[key.id as usize]));
                            }
                        }
                        Ok(Some(event)) => log.push(format!("{event:?}")),
                        Ok(None) => break,
                        Err(fatal) => {
                            log.push(format!("{fatal:?}"));
                            return (log, bodies.len());
                        }
                    }
                }
            }
            (log, bodies.iter().sum())
        };
        let whole = run(&mut || usize::MAX);
        let mut state = seed;
        let torn = run(&mut || {
            state = splitmix(state);
            1 + (state % 40) as usize
        });
        assert_eq!(whole, torn, "seed {seed}");
    }
}
