//! A fault at every byte of a message, from either side, with and without reloads and a drain in the middle. What must
//! hold is asserted by the clients, the origins and [`crate::run`]: one response or one close for each request, nothing
//! of another request in it, nothing that looks whole and is not, every buffer and permit back.

use std::rc::Rc;

use ringway::net::mem::Faults;

use crate::plan::{Answer, Body, Client, Damage, Framing, Misdeed, Request, Scale, Then};
use crate::run;
use crate::world::{Script, World};

const SCALE: Scale = Scale { bytes_max: 300, torn_bytes: 4_096 };
/// Bytes that the longest message here stays below.
const BYTES_MAX: usize = 330;

/// Splits the positions over the machine's threads; `one` plays one of them.
fn at_every_byte(one: impl Fn(usize) + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let one = &one;
            scope.spawn(move || (0..BYTES_MAX).filter(|at| at % threads == thread).for_each(one));
        }
    });
}

/// The first thousandth of a message of `bytes` that holds so many of them.
fn part_of(at: usize, bytes: usize) -> usize {
    (at * 1_000).div_ceil(bytes)
}

/// Plays a position twice: undisturbed, and with messages in pieces while reloads and perhaps a drain go on. Beside the
/// first client there is one that does nothing wrong.
fn play(seed: u64, client: &Client, answer: &Answer) {
    let bystander = Client::plain(vec![Request::plain("GET", None), Request::plain("GET", None)], Misdeed::None);
    // A run with pieces takes ten times as long: unless more is asked for, every third place gets one.
    let with_pieces = crate::number("RINGWAY_SEEDS").is_some() || seed.is_multiple_of(3);
    for disturbed in [false, true].into_iter().filter(|disturbed| !disturbed || with_pieces) {
        let (mut clients, mut answer) = (vec![client.clone(), bystander.clone()], answer.clone());
        if disturbed {
            answer.pause_ms = 120;
            for client in &mut clients {
                client.requests.iter_mut().for_each(|request| request.pause_ms = 90);
                client.between_ms = 300;
                client.faults = [3, 5].map(|torn| Faults { read_bytes_max: torn, write_bytes_max: 7, ..Faults::NONE });
            }
        }
        let script: Script = Rc::new(move |_| answer.clone());
        let world = World::new(seed, SCALE, clients, Some(script), false);
        world.disturbed.set(disturbed);
        run(&world);
        assert!(disturbed || world.responses.get() >= 2, "the bystander has its answers");
    }
}

fn bodies() -> [Option<Body>; 3] {
    [None, Some(Body { bytes: 40, chunk: None }), Some(Body { bytes: 40, chunk: Some(15) })]
}

fn framings() -> [Answer; 4] {
    let plain = |framing| Answer { trailer: true, ..Answer::plain(framing, 60) };
    [
        plain(Framing::Length),
        plain(Framing::Chunked(25)),
        plain(Framing::Close),
        Answer { interim: 1, ..plain(Framing::Length) },
    ]
}

/// The second of two requests ends at each of its bytes: closed, half closed, reset or left to wait.
#[test]
fn a_request_may_end_at_every_byte() {
    at_every_byte(|at| {
        for body in bodies() {
            let requests = vec![Request::plain("GET", None), Request::plain("PUT", body)];
            let (head, payload) = requests[1].bytes(0, 1);
            let bytes = head.len() + payload.len();
            assert!(bytes < BYTES_MAX);
            if at >= bytes {
                continue;
            }
            for then in [Then::Close, Then::HalfClose, Then::Reset, Then::Stall] {
                let client = Client::plain(requests.clone(), Misdeed::Send(part_of(at, bytes), then));
                play(at as u64, &client, &Answer::plain(Framing::Length, 9));
            }
        }
    });
}

/// The client stops to read at each byte of the answer.
#[test]
fn a_client_may_leave_at_every_byte_of_its_answer() {
    at_every_byte(|at| {
        // No answer of these is longer.
        for answer in framings().into_iter().filter(|_| at < 260) {
            for then in [Then::Close, Then::Reset, Then::Stall] {
                let client = Client::plain(vec![Request::plain("GET", None)], Misdeed::Read(at, then));
                play(at as u64, &client, &answer);
            }
        }
    });
}

/// The endpoint's answer ends at each of its bytes: to a request that may be repeated, to one that may not, to a body.
#[test]
fn an_answer_may_end_at_every_byte() {
    at_every_byte(|at| {
        let part = at * 1_000 / BYTES_MAX;
        for answer in framings() {
            for damage in [Damage::CloseAt(part), Damage::ResetAt(part), Damage::StallAt(part)] {
                let (method, body) = [("GET", None), ("POST", bodies()[1]), ("PUT", bodies()[2])][at % 3];
                let client = Client::plain(vec![Request::plain(method, body)], Misdeed::None);
                let damaged = Answer { damage, early: at % 2 == 0, ..answer.clone() };
                // The bystander's answers are damaged alike: it is judged by the same rules.
                let script: Script = Rc::new(move |_| damaged.clone());
                run(&World::new(at as u64, SCALE, vec![client.clone(), client], Some(script), false));
            }
        }
    });
}
