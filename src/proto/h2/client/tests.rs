//! A connection over the in-memory network, against a scripted server on the same codec.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::{Link, Rules, Stream, start};
use crate::error::Reason;
use crate::http::body::Chunk;
use crate::http::fields::Fields;
use crate::http::message::{BodyLength, Method, ResponseHead};
use crate::http::name::Name;
use crate::net::io::{Io, ReadHalf, send_all};
use crate::net::mem::{Faults, Mem, pair_with, splitmix};
use crate::net::timer::Timers;
use crate::proto::h1::parse::HeadLimits;
use crate::proto::h2::code::Code;
use crate::proto::h2::core::{Core, Event, Key};
use crate::proto::upstream::{RequestSink, ResponseSource, Upstream};
use crate::sys::buf::Buf;
use crate::time::{Clock, Now};

/// What a server does about an event. It returns what it wants to send as a body, and whether that ends.
type Script = Box<dyn FnMut(&mut Core, &Event)>;

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct Bed {
    link: Rc<Link>,
    timers: Rc<Timers>,
    now: Rc<Cell<Now>>,
    tasks: RefCell<Vec<Task>>,
    rooms: Rc<Cell<u32>>,
}

/// Serves until the connection ends. Bodies in `pending` go out as far as there is room.
async fn serve(io: Mem, mut script: Script, pending: Rc<RefCell<Vec<(Key, Buf)>>>) {
    let (mut read, mut write, _control) = io.split();
    let mut core = Core::server(HeadLimits::default(), false, Now::from_ms(1));
    let mut input = Buf::empty();
    loop {
        for (key, data) in pending.borrow_mut().iter_mut() {
            while !data.is_empty() && matches!(core.data(*key, data, true), crate::proto::h2::core::Sent::Some) {}
        }
        pending.borrow_mut().retain(|(_, data)| !data.is_empty());
        while let Some(output) = core.take_output() {
            if send_all(&mut write, output).await.is_err() {
                return;
            }
        }
        if !input.has_storage() {
            input = Buf::large();
        }
        input.compact();
        let (count, back) = read.recv(input).await;
        input = back;
        if !matches!(count, Ok(1..)) {
            return;
        }
        while let Ok(Some(event)) = core.receive(&mut input, Now::from_ms(1)) {
            script(&mut core, &event);
            if let Event::Data { key, data, .. } = &event {
                core.taken(*key, data.len());
            }
        }
    }
}

impl Bed {
    fn new(seed: Option<u64>, peer: impl FnOnce(Mem) -> Task) -> Self {
        let now = Rc::new(Cell::new(Now::from_ms(1)));
        let timers = Timers::new(Clock::Virtual(now.clone()));
        let faults = |side: u64| match seed {
            None => Faults::NONE,
            Some(seed) => Faults {
                seed: splitmix(seed * 2 + side),
                read_bytes_max: 4_000,
                write_bytes_max: 3_000,
                delay_one_in: 3,
                reset_after_bytes: None,
            },
        };
        let (near, far) = pair_with(1 << 16, faults(0), faults(1));
        let rules = Rules { head: HeadLimits::default(), send_timeout_ms: 30_000, requests_max: u64::MAX };
        let rooms = Rc::new(Cell::new(0));
        let called = rooms.clone();
        let (link, task) = start(near, &timers, rules, Box::new(move || called.set(called.get() + 1)));
        let tasks = RefCell::new(vec![task, peer(far)]);
        Self { link, timers, now, tasks, rooms }
    }

    fn scripted(seed: Option<u64>, script: impl FnMut(&mut Core, &Event) + 'static) -> Self {
        Self::new(seed, |far| Box::pin(serve(far, Box::new(script), Rc::default())))
    }

    fn open(&self, end: bool) -> Option<Stream> {
        self.link.open(Method::Post, end, |encoder, out| {
            encoder.method(out, b"POST");
            encoder.scheme(out, b"http");
            encoder.authority(out, b"up");
            encoder.path(out, b"/x");
            encoder.field(out, b"x-a", b"b", Name::Other);
        })
    }

    /// Runs everything until this is done; virtual time goes on while nothing else does.
    fn run<T>(&self, wanted: impl Future<Output = T>) -> T {
        let mut wanted = Box::pin(wanted);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..200_000 {
            if let Poll::Ready(value) = wanted.as_mut().poll(&mut cx) {
                return value;
            }
            self.turn();
        }
        panic!("no end");
    }

    fn turn(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        self.tasks.borrow_mut().retain_mut(|task| task.as_mut().poll(&mut cx).is_pending());
        self.now.set(self.now.get().plus_ms(1));
        self.timers.advance(self.now.get());
    }

    fn soon(&self, ms: u64) -> Now {
        self.now.get().plus_ms(ms)
    }

    /// The whole answer: status, body, trailer `x-t`.
    async fn answer(&self, stream: &mut Stream) -> Result<(u16, Vec<u8>, Option<String>), Reason> {
        let (_, response) = stream.split();
        let mut head = ResponseHead::default();
        let limits = HeadLimits::default();
        response.recv_head(&mut head, Method::Post, &limits, self.soon(20_000)).await.map_err(|f| f.reason)?;
        let mut body = Vec::new();
        loop {
            let chunk = response.next_body(self.soon(20_000)).await.map_err(|f| f.reason)?;
            body.extend_from_slice(chunk.data.as_slice());
            if chunk.end {
                let trailer = chunk.trailers.and_then(|t| t.find(b"x-t").map(<[u8]>::to_vec));
                return Ok((head.status, body, trailer.map(|t| String::from_utf8(t).expect("text"))));
            }
        }
    }
}

fn text(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| splitmix(seed ^ at) as u8).collect()
}

fn respond(core: &mut Core, key: Key, end: bool, fields: &[(&str, &str)]) {
    core.head(key, end, |encoder, out| {
        for (name, value) in fields {
            match *name {
                ":status" => encoder.status(out, value.parse().expect("a number")),
                name => encoder.field(out, name.as_bytes(), value.as_bytes(), Name::of(name.as_bytes())),
            }
        }
    });
}

#[test]
fn a_request_and_its_answer_with_trailers() {
    let bed = Bed::scripted(None, |core, event| {
        if let Event::Head { key, end: true, fault: None } = event {
            respond(core, *key, false, &[(":status", "103"), ("link", "x")]);
            respond(core, *key, false, &[(":status", "200"), ("x-b", "c")]);
            core.data(*key, &mut Buf::copy_of(b"hello"), false);
            respond(core, *key, true, &[("x-t", "done")]);
        }
    });
    let mut stream = bed.open(true).expect("room");
    let mut head = ResponseHead::default();
    let limits = HeadLimits::default();
    for (status, field) in [(103, &b"link"[..]), (200, b"x-b")] {
        let (_, response) = stream.split();
        bed.run(response.recv_head(&mut head, Method::Post, &limits, bed.soon(9_000))).expect("a head");
        assert_eq!((head.status, head.fields.find(field).is_some()), (status, true));
    }
    assert_eq!(head.body, BodyLength::Streamed);
    let (_, response) = stream.split();
    let mut got = Vec::new();
    let last = loop {
        let chunk = bed.run(response.next_body(bed.soon(9_000))).expect("a body");
        got.extend_from_slice(chunk.data.as_slice());
        if chunk.end {
            break chunk;
        }
    };
    assert_eq!(got, b"hello");
    assert_eq!(last.trailers.expect("trailers").find(b"x-t"), Some(&b"done"[..]));
    let rooms = bed.rooms.get();
    drop(stream);
    assert!(bed.link.is_idle() && bed.rooms.get() > rooms, "those that wait are called");
}

#[test]
fn long_bodies_pass_both_ways_whatever_tears_them() {
    for seed in 0..8 {
        let (up, down) = (text(seed, 300_000), text(!seed, 400_000));
        let got = Rc::<RefCell<Vec<u8>>>::default();
        let (theirs, answer) = (got.clone(), down.clone());
        let pending = Rc::<RefCell<Vec<(Key, Buf)>>>::default();
        let goes_out = pending.clone();
        let bed = Bed::new(Some(seed), |far| {
            let script: Script = Box::new(move |core, event| match event {
                Event::Head { key, .. } => {
                    respond(core, *key, false, &[(":status", "200"), ("content-length", "400000")]);
                    goes_out.borrow_mut().push((*key, Buf::copy_of(&answer)));
                }
                Event::Data { data, .. } => theirs.borrow_mut().extend_from_slice(data.as_slice()),
                _ => {}
            });
            Box::pin(serve(far, script, pending))
        });
        let mut stream = bed.open(false).expect("room");
        {
            let (request, _) = stream.split();
            let mut rest = &up[..];
            let mut steps = 0;
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(rest.len().min(30_000));
                rest = more;
                let chunk = Chunk { data: Buf::copy_of(piece), end: more.is_empty(), trailers: None };
                bed.run(request.send_body(chunk, true, 30_000)).expect("taken");
                steps += 1;
            }
            assert_eq!(steps, 10);
        }
        let answer = bed.run(bed.answer(&mut stream)).expect("an answer");
        assert_eq!((answer.0, answer.1 == down), (200, true), "seed {seed}");
        (0..2_000).for_each(|_| bed.turn());
        assert!(*got.borrow() == up, "seed {seed}: {} bytes", got.borrow().len());
    }
}

#[test]
fn every_way_to_fail_has_its_reason() {
    type Way = fn(&mut Core, Key);
    let ways: [(&str, Way, Reason); 10] = [
        ("refused", |core, key| core.reset(key, Code::Refused), Reason::UpstreamRefused),
        ("reset", |core, key| core.reset(key, Code::Internal), Reason::UpstreamReset),
        ("goes away", |core, _| core.announce_end(), Reason::UpstreamTimeout),
        ("no :status", |core, key| respond(core, key, true, &[("x-a", "b")]), Reason::UpstreamInvalid),
        ("101", |core, key| respond(core, key, false, &[(":status", "101")]), Reason::UpstreamInvalid),
        ("ends with 103", |core, key| respond(core, key, true, &[(":status", "103")]), Reason::UpstreamInvalid),
        (
            "Connection",
            |core, key| respond(core, key, true, &[(":status", "200"), ("connection", "close")]),
            Reason::UpstreamInvalid,
        ),
        (
            "length without body",
            |core, key| respond(core, key, true, &[(":status", "200"), ("content-length", "5")]),
            Reason::UpstreamInvalid,
        ),
        (
            "less than the length",
            |core, key| {
                respond(core, key, false, &[(":status", "200"), ("content-length", "5")]);
                core.data(key, &mut Buf::copy_of(b"abc"), true);
            },
            Reason::UpstreamTruncated,
        ),
        (
            "reset within the body",
            |core, key| {
                respond(core, key, false, &[(":status", "200")]);
                core.data(key, &mut Buf::copy_of(b"abc"), false);
                core.reset(key, Code::Internal);
            },
            Reason::UpstreamTruncated,
        ),
    ];
    for (name, way, expected) in ways {
        let bed = Bed::scripted(None, move |core, event| {
            if let Event::Head { key, .. } = event {
                way(core, *key);
            }
        });
        let mut stream = bed.open(true).expect("room");
        let failed = bed.run(bed.answer(&mut stream));
        assert_eq!(failed.expect_err(name), expected, "{name}");
    }
}

#[test]
fn bombs_are_bounded() {
    let bed = Bed::scripted(None, |core, event| {
        if let Event::Head { key, .. } = event {
            core.head(*key, true, |encoder, out| {
                encoder.status(out, 200);
                (0..200).for_each(|n| encoder.field(out, format!("x-{n}").as_bytes(), b"v", Name::Other));
            });
        }
    });
    let mut stream = bed.open(true).expect("room");
    assert_eq!(bed.run(bed.answer(&mut stream)).expect_err("too many"), Reason::UpstreamHeaderTooLarge);
    let bed = Bed::scripted(None, |core, event| {
        if let Event::Head { key, .. } = event {
            (0..1_000).for_each(|_| respond(core, *key, false, &[(":status", "103")]));
        }
    });
    let mut stream = bed.open(true).expect("room");
    let (_, response) = stream.split();
    let mut head = ResponseHead::default();
    let mut interims = 0;
    let failure = loop {
        match bed.run(response.recv_head(&mut head, Method::Post, &HeadLimits::default(), bed.soon(9_000))) {
            Ok(()) => interims += 1,
            Err(failure) => break failure,
        }
    };
    assert_eq!((failure.reason, interims), (Reason::UpstreamInvalid, 16));
}

#[test]
fn what_is_no_http2_is_invalid_and_what_closes_is_closed() {
    let answers: [(&[u8], Reason); 2] =
        [(b"HTTP/1.1 400 Bad Request\r\n\r\n", Reason::UpstreamInvalid), (b"", Reason::UpstreamClosed)];
    for (bytes, expected) in answers {
        let bed = Bed::new(None, |far| {
            Box::pin(async move {
                let (mut read, mut write, _control) = far.split();
                let _ = read.recv(Buf::small()).await;
                if !bytes.is_empty() {
                    let _ = send_all(&mut write, Buf::copy_of(bytes)).await;
                }
            })
        });
        let mut stream = bed.open(true).expect("room");
        assert_eq!(bed.run(bed.answer(&mut stream)).expect_err("no answer"), expected);
        drop(stream);
        assert!(bed.link.is_ending() && bed.open(true).is_none());
    }
}

#[test]
fn who_goes_away_finishes_what_it_has_seen_and_gets_no_more() {
    let first = Rc::new(Cell::new(None));
    let seen = first.clone();
    let bed = Bed::scripted(None, move |core, event| {
        if let Event::Head { key, .. } = event {
            match seen.take() {
                None => {
                    seen.set(Some(*key));
                    core.refuse_further();
                }
                // Ignored by a server that has said so.
                Some(_) => unreachable!("a stream behind the last"),
            }
        }
        if let Event::Data { end: true, .. } = event
            && let Some(key) = seen.take()
        {
            respond(core, key, true, &[(":status", "204")]);
        }
    });
    let (mut one, mut two) = (bed.open(false).expect("room"), bed.open(true).expect("room"));
    let refused = bed.run(bed.answer(&mut two));
    assert_eq!(refused.expect_err("not seen"), Reason::UpstreamRefused);
    assert!(bed.link.is_ending() && bed.open(true).is_none(), "no more");
    let (request, _) = one.split();
    bed.run(request.send_body(Chunk::end(), true, 1_000)).expect("still served");
    assert_eq!(bed.run(bed.answer(&mut one)).expect("an answer").0, 204);
    drop((one, two));
    (0..50).for_each(|_| bed.turn());
    assert!(bed.tasks.borrow().is_empty(), "the connection ends behind the last stream");
}

#[test]
fn a_stream_that_is_given_up_is_reset_and_a_late_answer_is_in_time() {
    let resets = Rc::new(RefCell::new(Vec::new()));
    let seen = resets.clone();
    let bed = Bed::scripted(None, move |_, event| {
        if let Event::Reset { code, by_peer: true, .. } = event {
            seen.borrow_mut().push(*code);
        }
    });
    let mut stream = bed.open(true).expect("room");
    let (_, response) = stream.split();
    let mut head = ResponseHead::default();
    let late = bed.run(response.recv_head(&mut head, Method::Post, &HeadLimits::default(), bed.soon(500)));
    assert_eq!(late.expect_err("silence").reason, Reason::UpstreamTimeout);
    drop(stream);
    (0..50).for_each(|_| bed.turn());
    assert_eq!(*resets.borrow(), [Code::Cancel]);
    assert!(!bed.link.is_ending(), "the connection goes on");
}

#[test]
fn an_endpoint_has_at_most_the_streams_that_it_takes() {
    let bed = Bed::scripted(None, |_, _| {});
    let all: Vec<_> = std::iter::from_fn(|| bed.open(true)).collect();
    assert_eq!(all.len(), crate::limits::H2_STREAMS_MAX);
    drop(all);
    assert!(bed.open(true).is_some());
}

#[test]
fn a_connection_that_has_been_silent_is_asked_and_dies_without_an_answer() {
    let bed = Bed::new(None, |far| {
        Box::pin(async move {
            let (mut read, _write, _control) = far.split();
            while matches!(read.recv(Buf::small()).await.0, Ok(1..)) {}
        })
    });
    bed.now.set(bed.soon(60_000));
    bed.timers.advance(bed.now.get());
    let mut stream = bed.open(true).expect("room");
    (0..200).for_each(|_| bed.turn());
    bed.link.check(bed.now.get());
    assert!(!bed.link.is_ending(), "there is time to answer");
    bed.now.set(bed.soon(6_000));
    bed.link.check(bed.now.get());
    assert!(bed.link.is_ending());
    assert_eq!(bed.run(bed.answer(&mut stream)).expect_err("dead"), Reason::UpstreamTimeout);
}

#[test]
fn trailers_go_up() {
    let got = Rc::new(RefCell::new(String::new()));
    let seen = got.clone();
    let bed = Bed::scripted(None, move |core, event| {
        if let Event::Trailers { key, fault: None } = event {
            let section = core.section();
            let line = section.lines[0];
            let mut fields = Fields::default();
            fields.set_buffer(std::mem::take(&mut section.buf));
            seen.borrow_mut().push_str(&String::from_utf8_lossy(fields.text(line.value)));
            respond(core, *key, true, &[(":status", "200")]);
        }
    });
    let mut stream = bed.open(false).expect("room");
    let mut trailers = Box::<Fields>::default();
    trailers.append(b"X-Sum", b"42").expect("legal");
    let first = Chunk { data: Buf::copy_of(b"abc"), end: true, trailers: Some(trailers) };
    let (request, _) = stream.split();
    let (head, rest) = request.join(Buf::empty(), first, true);
    assert!(head.is_empty() && rest.is_none(), "all of it leaves together");
    bed.run(request.send(head, 1_000)).expect("sent");
    assert_eq!(bed.run(bed.answer(&mut stream)).expect("an answer").0, 200);
    assert_eq!(*got.borrow(), "42");
}
