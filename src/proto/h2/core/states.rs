//! Every frame in every state of a stream, in both roles (RFC 9113 section 5.1), and all that this side may send there.

use super::super::frame::{END_HEADERS, END_STREAM, PADDED, PRIORITY};
use super::super::stream::State;
use super::tests::{client, feed, frames, output, post, raw, server};
use super::*;

/// A field that may stand in a head and in trailers.
const FIELD: &[u8] = &[0, 1, b'a', 1, b'b'];

/// How a stream has come to where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    /// Idle, and of the side that opens none: an even one.
    Foreign,
    /// Passed over: a later one was opened.
    Skipped,
    /// A client's, whose response has not begun.
    Asked,
    /// The same, and its request has ended.
    AskedAll,
    Open,
    HalfLocal,
    HalfRemote,
    /// Ended on both sides, and still in the table.
    Closed,
    /// Ended on both sides, and forgotten.
    Released,
    ResetHere,
    ResetByPeer,
    /// Reset, and somebody still has to let go of it.
    HeldResetHere,
    HeldResetByPeer,
    /// Opened behind the GOAWAY that named the last one.
    Unwanted,
}

use Stage::*;

/// A frame that comes in one piece or, for a block, in two.
type Frame = (Kind, u8, &'static [u8]);

const FRAMES: [Frame; 20] = [
    (Kind::Data, 0, b"x"),
    (Kind::Data, END_STREAM, b"x"),
    (Kind::Data, 0, b""),
    (Kind::Data, END_STREAM, b""),
    (Kind::Data, PADDED, b"\x02x\0\0"),
    (Kind::Headers, END_HEADERS, FIELD),
    (Kind::Headers, END_HEADERS | END_STREAM, FIELD),
    // CONTINUATION follows.
    (Kind::Headers, 0, b""),
    (Kind::Headers, END_STREAM, b""),
    (Kind::Headers, END_HEADERS | PRIORITY, b"\0\0\0\x03\x10\0\x01a\x01b"),
    (Kind::Priority, 0, &[0, 0, 0, 0, 1]),
    (Kind::Reset, 0, &[0, 0, 0, 8]),
    (Kind::PushPromise, END_HEADERS, &[0, 0, 0, 2, 0, 1, b'a', 1, b'b']),
    (Kind::WindowUpdate, 0, &[0, 0, 0, 1]),
    (Kind::WindowUpdate, 0, &[0, 0, 0, 0]),
    (Kind::Continuation, END_HEADERS, FIELD),
    (Kind::Settings, 0, b""),
    (Kind::Ping, 0, &[7; 8]),
    (Kind::GoAway, 0, &[0; 8]),
    (Kind::Unknown(99), 0xff, b"x"),
];

/// What is sent for a frame: a block that has begun comes to its end.
fn bytes_of((kind, flags, payload): Frame, id: u32) -> Vec<u8> {
    let first = raw(kind, flags, id, payload);
    let goes_on = kind == Kind::Headers && flags & END_HEADERS == 0;
    if goes_on { [first, raw(Kind::Continuation, END_HEADERS, id, FIELD)].concat() } else { first }
}

/// A connection with a stream where it is to be, which is stream 1 but for a foreign one.
fn at(role: Role, stage: Stage) -> (Core, Option<Key>) {
    let mut core = if role == Role::Server { server() } else { client() };
    let key = match (role, stage) {
        (_, Idle | Foreign) => None,
        (Role::Server, Skipped) => {
            feed(&mut core, &post(3)).expect("legal");
            None
        }
        (Role::Server, _) => Some(at_server(&mut core, stage)),
        (Role::Client, _) => Some(at_client(&mut core, stage)),
    };
    if let Some(key) = key {
        match stage {
            ResetHere | HeldResetHere => core.reset(key, Code::Cancel),
            ResetByPeer | HeldResetByPeer => {
                drop(feed(&mut core, &raw(Kind::Reset, 0, 1, &[0, 0, 0, 8])).expect("legal"));
            }
            _ => {}
        }
        if [ResetHere, ResetByPeer, Released].contains(&stage) {
            core.release(key);
        }
    }
    output(&mut core);
    (core, key)
}

fn at_server(core: &mut Core, stage: Stage) -> Key {
    if stage == Unwanted {
        core.refuse_further();
        assert!(feed(core, &post(1)).expect("ignored").is_empty());
        return Key { slot: 0, id: 1 };
    }
    let ended = [HalfRemote, Closed, Released].contains(&stage);
    let flags = if ended { END_HEADERS | END_STREAM } else { END_HEADERS };
    let events = feed(core, &raw(Kind::Headers, flags, 1, FIELD)).expect("legal");
    let Event::Head { key, .. } = events[0] else { panic!("{events:?}") };
    if [HalfLocal, Closed, Released].contains(&stage) {
        assert!(core.head(key, true, |encoder, out| encoder.status(out, 200)));
    }
    key
}

fn at_client(core: &mut Core, stage: Stage) -> Key {
    let ended = [AskedAll, HalfLocal, Closed, Released].contains(&stage);
    let key = core.open(ended, |encoder, out| encoder.method(out, b"GET")).expect("it may open one");
    if ![Asked, AskedAll].contains(&stage) {
        let answered = [HalfRemote, Closed, Released].contains(&stage);
        let flags = if answered { END_HEADERS | END_STREAM } else { END_HEADERS };
        feed(core, &raw(Kind::Headers, flags, 1, FIELD)).expect("legal");
        core.head_done(key);
    }
    key
}

/// What became of a frame: an upper-case letter ended the connection, a lower-case one the stream (`p` PROTOCOL_ERROR,
/// `s` STREAM_CLOSED); `e` is an event, `.` nothing.
fn met(role: Role, stage: Stage, frame: Frame) -> char {
    let (mut core, key) = at(role, stage);
    let (kind, id) = (frame.0, if stage == Foreign { 2 } else { 1 });
    let letter = |code: Code| match code {
        Code::Protocol => 'p',
        Code::StreamClosed => 's',
        other => panic!("{role:?} {stage:?} {kind:?}: {other:?}"),
    };
    let events = match feed(&mut core, &bytes_of(frame, id)) {
        Err(fatal) => return letter(fatal.code).to_ascii_uppercase(),
        Ok(events) => events,
    };
    let sent = frames(&output(&mut core));
    let reset = sent.iter().find(|(kind, ..)| *kind == Kind::Reset);
    let met = match reset {
        Some((_, _, 1, code)) => letter(Code::of(frame::number(code))),
        Some(other) => panic!("{other:?}"),
        None if events.is_empty() => '.',
        None => 'e',
    };
    // Whatever became of the stream: the connection goes on, and nothing of it is lost.
    for event in events {
        if let Event::Data { key, data, .. } = event {
            core.taken(key, data.len());
        }
    }
    key.into_iter().for_each(|key| core.release(key));
    output(&mut core);
    assert!(core.recv_window.is_level() || core.streams() > 0, "{role:?} {stage:?} {kind:?}: room is lost");
    feed(&mut core, &raw(Kind::Ping, 0, 0, &[7; 8])).expect("the connection goes on");
    assert!(frames(&output(&mut core)).contains(&(Kind::Ping, 1, 0, vec![7; 8])));
    met
}

#[test]
fn every_frame_in_every_state_of_a_stream() {
    // DATA: some, with the end, none, the end alone, padded. HEADERS: in one piece, with the end, in two, with the end,
    // with a priority. PRIORITY, RST_STREAM, PUSH_PROMISE, WINDOW_UPDATE, the same by 0, CONTINUATION. Those of the
    // connection: SETTINGS, PING, GOAWAY. One that nobody knows.
    let table = [
        (Role::Server, Idle, "PPPPP eeeee .PPPPP PPP ."),
        (Role::Server, Foreign, "PPPPP PPPPP .PPPPP PPP ."),
        (Role::Server, Skipped, "sssss PPPPP ..P..P PPP ."),
        (Role::Server, Open, "ee.ee pepep .ePePP PPP ."),
        (Role::Server, HalfLocal, "ee.ee pepep .ePePP PPP ."),
        (Role::Server, HalfRemote, "sssss sssss .ePePP PPP ."),
        (Role::Server, Closed, "..... SSSSS ..P..P PPP ."),
        (Role::Server, Released, "sssss SSSSS ..P..P PPP ."),
        // What was on its way when this side reset the stream.
        (Role::Server, ResetHere, "..... ..... ..P..P PPP ."),
        (Role::Server, HeldResetHere, "..... ..... ..P..P PPP ."),
        (Role::Server, ResetByPeer, "sssss SSSSS ..P..P PPP ."),
        (Role::Server, HeldResetByPeer, "..... SSSSS ..P..P PPP ."),
        (Role::Server, Unwanted, "..... ..... ..P..P PPP ."),
        // Nobody may open a stream towards a client.
        (Role::Client, Idle, "PPPPP PPPPP .PPPPP PPP ."),
        (Role::Client, Foreign, "PPPPP PPPPP .PPPPP PPP ."),
        (Role::Client, Asked, "ppppp eeeee .ePepP PPP ."),
        (Role::Client, AskedAll, "ppppp eeeee .ePepP PPP ."),
        (Role::Client, Open, "ee.ee pepep .ePepP PPP ."),
        (Role::Client, HalfLocal, "ee.ee pepep .ePepP PPP ."),
        (Role::Client, HalfRemote, "sssss sssss .ePepP PPP ."),
        (Role::Client, Closed, "..... SSSSS ..P..P PPP ."),
        (Role::Client, Released, "..... ..... ..P..P PPP ."),
        (Role::Client, ResetHere, "..... ..... ..P..P PPP ."),
        (Role::Client, HeldResetHere, "..... ..... ..P..P PPP ."),
        (Role::Client, ResetByPeer, "..... ..... ..P..P PPP ."),
        (Role::Client, HeldResetByPeer, "..... SSSSS ..P..P PPP ."),
    ];
    let wrong = table.into_iter().filter_map(|(role, stage, expected)| {
        let mut met: String = FRAMES.iter().map(|&frame| met(role, stage, frame)).collect();
        [5, 11, 18, 22].into_iter().for_each(|gap| met.insert(gap, ' '));
        (met != expected).then(|| format!("{role:?} {stage:?}: {met}, not {expected}"))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<String>::new());
}

/// A head, a head with the end, data, data with the end, a reset: `y` where it is sent. What is not leaves no byte.
#[test]
fn what_may_be_sent_in_every_state_of_a_stream() {
    for role in [Role::Server, Role::Client] {
        for (stage, expected) in [
            (Open, "yyyyy"),
            (HalfLocal, "nnnny"),
            (HalfRemote, "yyyyy"),
            (Closed, "nnnnn"),
            (Released, "nnnnn"),
            (ResetHere, "nnnnn"),
            (ResetByPeer, "nnnnn"),
            (HeldResetHere, "nnnnn"),
            (HeldResetByPeer, "nnnnn"),
        ] {
            let sends = |way: usize| {
                let (mut core, key) = at(role, stage);
                let key = key.expect("a stream");
                let field = |encoder: &mut Encoder, out: &mut Buf| encoder.status(out, 200);
                match way {
                    0 | 1 => drop(core.head(key, way == 1, field)),
                    2 | 3 => drop(core.data(key, &mut Buf::copy_of(b"x"), way == 3)),
                    _ => core.reset(key, Code::Cancel),
                }
                let ended = core.state(key).is_none_or(|state| !state.may_send());
                let sent = !output(&mut core).is_empty();
                assert!(!sent || ended == (way % 2 == 1 || way == 4), "{role:?} {stage:?} {way}");
                if sent { 'y' } else { 'n' }
            };
            assert_eq!((0..5).map(sends).collect::<String>(), expected, "{role:?} {stage:?}");
        }
    }
}

/// The states that the rows above are called by.
#[test]
fn stages_are_what_they_are_called() {
    for role in [Role::Server, Role::Client] {
        for (stage, expected) in [
            (Open, Some(State::Open)),
            (HalfLocal, Some(State::HalfLocal)),
            (HalfRemote, Some(State::HalfRemote)),
            (Closed, Some(State::Closed)),
            (Released, None),
            (ResetHere, None),
            (ResetByPeer, None),
            (HeldResetHere, Some(State::Closed)),
            (HeldResetByPeer, Some(State::Closed)),
        ] {
            let (mut core, key) = at(role, stage);
            assert_eq!(core.state(key.expect("a stream")), expected, "{role:?} {stage:?}");
        }
    }
}
