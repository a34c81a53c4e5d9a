//! Runs that once went wrong, written down: unlike seeds they keep their meaning when the scripts change.

use std::cell::Cell;
use std::rc::Rc;

use crate::plan::{Answer, Body, Client, Damage, Framing, Misdeed, Request, Scale, Then};
use crate::run;
use crate::world::{Script, World};

const SCALE: Scale = Scale { bytes_max: 300, torn_bytes: 4_096 };

/// Runs clients against one script under many schedules and configurations.
fn play(clients: &[Client], script: impl Fn(usize) -> Answer + 'static, check: impl Fn(&World)) {
    let script: Script = Rc::new(script);
    for seed in 0..60 {
        let world: Rc<World> = World::new(seed, SCALE, clients.to_vec(), Some(script.clone()), false);
        run(&world);
        check(&world);
    }
}

fn attempts(world: &World, at: usize) -> usize {
    world.attempts_of(0, at).len()
}

/// A body that the close delimits, from an endpoint that falls silent: the gateway's own cut is not its end. The client
/// itself finds out whether the answer looks whole.
#[test]
fn a_silent_endpoint_never_looks_done() {
    let client = Client::plain(vec![Request::plain("GET", None)], Misdeed::None);
    play(&[client], |_| Answer { damage: Damage::StallAt(700), ..Answer::plain(Framing::Close, 900) }, |_| {});
}

/// The same, where it also stops reading the request: then the deadline of sending passes first.
#[test]
fn an_endpoint_that_stops_reading_never_looks_done() {
    let body = Body { bytes: 90_000, chunk: None };
    let client = Client::plain(vec![Request::plain("POST", Some(body))], Misdeed::None);
    let script = |_| Answer { early: true, damage: Damage::StallAt(700), ..Answer::plain(Framing::Close, 900) };
    play(&[client], script, |_| {});
}

/// The same, where the client breaks its body off while the answer is on its way.
#[test]
fn a_broken_request_body_ends_no_response() {
    for misdeed in [Misdeed::BadChunk, Misdeed::Send(500, Then::HalfClose), Misdeed::Send(500, Then::Stall)] {
        let body = Body { bytes: 90, chunk: Some(30) };
        let client = Client::plain(vec![Request::plain("PUT", Some(body))], misdeed);
        let script = |_| Answer { early: true, damage: Damage::StallAt(700), ..Answer::plain(Framing::Close, 900) };
        play(&[client], script, |_| {});
    }
}

/// A body of no bytes in chunks has an end that must be sent: with each attempt, and once, or the next request on that
/// connection would be taken for the body. A POST that has reached an endpoint goes to no other.
#[test]
fn a_request_with_a_body_is_repeated_with_all_of_it_where_it_may_be() {
    for (method, chunk, bytes, most) in [
        ("PUT", Some(1), 0, 2),
        ("PUT", None, 3, 2),
        ("PUT", Some(7), 60, 2),
        ("POST", None, 3, 1),
        ("POST", Some(1), 0, 1),
    ] {
        let repeated = [Cell::new(0), Cell::new(0)];
        let body = Body { bytes, chunk };
        let get = || Request::plain("GET", None);
        // The body of the first request would have trailers, which are not held.
        let requests = vec![get(), Request::plain(method, Some(body)), get()];
        let script = |number| {
            let damage = if number == 0 { Damage::CloseAt(0) } else { Damage::None };
            Answer { damage, ..Answer::plain(Framing::Length, 5) }
        };
        play(&[Client::plain(requests, Misdeed::None)], script, |world| {
            let attempts = [attempts(world, 1), attempts(world, 2)];
            assert!(attempts[0] <= most && attempts[1] <= 2, "{method}: {attempts:?}");
            repeated.iter().zip(attempts).for_each(|(count, made)| count.set(count.get() + u32::from(made == 2)));
        });
        assert!(
            most == 1 || repeated[0].get() > 2,
            "a {method} of {bytes} bytes in chunks of {chunk:?} is repeated: {repeated:?}"
        );
    }
}

/// An answer comes early, and the client trickles or stops: the rest of its body is drained for a while and no longer.
#[test]
fn a_drain_ends() {
    let body = Body { bytes: 200, chunk: Some(10) };
    let trickled = Request { pause_ms: 400, ..Request::plain("POST", Some(body)) };
    let client = Client::plain(vec![trickled], Misdeed::Send(900, Then::Stall));
    let script = |_| Answer { early: true, ..Answer::plain(Framing::Length, 5) };
    play(&[client], script, |world| {
        assert_eq!(world.responses.get(), 1);
        // At most 1.6 s of sending, 2 s of draining, 2 s of lingering; the client stalls for 9 s.
        assert!(world.over_ms.get() < 6_000, "over at {} ms", world.over_ms.get());
    });
}
