//! Every frame in every state of a stream, in both roles (RFC 9113 section 5.1), and all that this side may send there.

use super::super::frame::{END_HEADERS, END_STREAM};
use super::super::stream::State;
use super::tests::{client, feed, frames, output, post, raw, server};
use super::*;

/// A field that may stand in a head and in trailers.
const FIELD: &[u8] = &[0, 1, b'a', 1, b'b'];

/// How a stream has come to where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    /// A client's, whose response has not begun.
    Asked,
    Open,
    HalfLocal,
    HalfRemote,
    /// Ended on both sides, and still in the table.
    Closed,
    /// Ended on both sides, and forgotten.
    Released,
    ResetHere,
    ResetByPeer,
    /// Opened behind the GOAWAY that named the last one.
    Unwanted,
}

use Stage::*;

const FRAMES: [(Kind, u8, &[u8]); 9] = [
    (Kind::Data, 0, b"x"),
    (Kind::Data, END_STREAM, b"x"),
    (Kind::Headers, END_HEADERS, FIELD),
    (Kind::Headers, END_HEADERS | END_STREAM, FIELD),
    (Kind::Priority, 0, &[0, 0, 0, 0, 1]),
    (Kind::Reset, 0, &[0, 0, 0, 8]),
    (Kind::PushPromise, END_HEADERS, &[0, 0, 0, 2, 0, 1, b'a', 1, b'b']),
    (Kind::WindowUpdate, 0, &[0, 0, 0, 1]),
    (Kind::Continuation, END_HEADERS, FIELD),
];

/// A connection with stream 1 where it is to be.
fn at(role: Role, stage: Stage) -> (Core, Option<Key>) {
    let mut core = if role == Role::Server { server() } else { client() };
    let key = match (role, stage) {
        (_, Idle) => None,
        (Role::Server, _) => Some(at_server(&mut core, stage)),
        (Role::Client, _) => Some(at_client(&mut core, stage)),
    };
    let reset = [ResetHere, ResetByPeer].contains(&stage);
    if let Some(key) = key.filter(|_| reset || stage == Released) {
        match stage {
            ResetHere => core.reset(key, Code::Cancel),
            ResetByPeer => drop(feed(&mut core, &raw(Kind::Reset, 0, 1, &[0, 0, 0, 8])).expect("legal")),
            _ => {}
        }
        core.release(key);
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
    let ended = [HalfLocal, Closed, Released].contains(&stage);
    let key = core.open(ended, |encoder, out| encoder.method(out, b"GET")).expect("it may open one");
    if stage != Asked {
        let answered = [HalfRemote, Closed, Released].contains(&stage);
        let flags = if answered { END_HEADERS | END_STREAM } else { END_HEADERS };
        feed(core, &raw(Kind::Headers, flags, 1, FIELD)).expect("legal");
        core.head_done(key);
    }
    key
}

/// What became of a frame: an upper-case letter ended the connection, a lower-case one the stream (`p` PROTOCOL_ERROR,
/// `s` STREAM_CLOSED); `e` is an event, `.` nothing.
fn met(role: Role, stage: Stage, frame: (Kind, u8, &[u8])) -> char {
    let (mut core, key) = at(role, stage);
    let (kind, flags, payload) = frame;
    let letter = |code: Code| match code {
        Code::Protocol => 'p',
        Code::StreamClosed => 's',
        other => panic!("{role:?} {stage:?} {kind:?}: {other:?}"),
    };
    let events = match feed(&mut core, &raw(kind, flags, 1, payload)) {
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
    // DATA, DATA with the end, HEADERS, HEADERS with the end, PRIORITY, RST_STREAM, PUSH_PROMISE, WINDOW_UPDATE,
    // CONTINUATION.
    let table = [
        (Role::Server, Idle, "PPee.PPPP"),
        (Role::Server, Open, "eepe.ePeP"),
        (Role::Server, HalfLocal, "eepe.ePeP"),
        (Role::Server, HalfRemote, "ssss.ePeP"),
        (Role::Server, Closed, "..SS..P.P"),
        (Role::Server, Released, "ssSS..P.P"),
        // What was on its way when this side reset the stream.
        (Role::Server, ResetHere, "......P.P"),
        (Role::Server, ResetByPeer, "ssSS..P.P"),
        (Role::Server, Unwanted, "......P.P"),
        // Nobody may open a stream towards a client.
        (Role::Client, Idle, "PPPP.PPPP"),
        (Role::Client, Asked, "ppee.ePeP"),
        (Role::Client, Open, "eepe.ePeP"),
        (Role::Client, HalfLocal, "eepe.ePeP"),
        (Role::Client, HalfRemote, "ssss.ePeP"),
        (Role::Client, Closed, "..SS..P.P"),
        (Role::Client, Released, "......P.P"),
        (Role::Client, ResetHere, "......P.P"),
        (Role::Client, ResetByPeer, "......P.P"),
    ];
    let wrong = table.into_iter().filter_map(|(role, stage, expected)| {
        let met: String = FRAMES.iter().map(|&frame| met(role, stage, frame)).collect();
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
        ] {
            let (mut core, key) = at(role, stage);
            assert_eq!(core.state(key.expect("a stream")), expected, "{role:?} {stage:?}");
        }
    }
}
