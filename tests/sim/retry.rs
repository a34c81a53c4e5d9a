//! HTTP/2 endpoints that fail, with retries on: two of them refuse streams, reset them, go away, stop in the midst of
//! an answer, lie about its length or leave, and every request has just the end that follows from what became of it.
//!
//! Who asks speaks HTTP/1 or HTTP/2. What an endpoint says that it has not looked at is asked for at the other one and
//! succeeds, whatever the method; what it may have looked at is asked for again only where the method allows it; what a
//! client has given up ends at the endpoints; what is cut is never taken for whole; and the log has the reason.
//!
//! `RINGWAY_SEED`, `RINGWAY_SEEDS` and `RINGWAY_SEEDS_FROM` are those of the other simulation.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, Read, Seek};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use ringway::limits::H2_CONNECTION_WINDOW_BYTES;
use ringway::net::io::Connect;
use ringway::net::mem::{Mem, pair_with};
use ringway::pipeline::env::Env;
use ringway::proto::h2::code::Code;
use ringway::snapshot::Listener;
use ringway::sys::buf::pool_taken;
use ringway::telemetry::access_log::{AccessLogWriter, Format, Target};
use ringway::worker::conn::serve_http1;

use crate::exec::{Exec, Handle};
use crate::h2wire::{self, faults};
use crate::retry_down::{self, Shift};
use crate::rng::Rng;
use crate::{bed, retry_up};

const END_MS: u64 = 200_000;
/// By when the endpoints know that a client has left, and the gateway has given up what an endpoint has not seen. No
/// time of the configuration is as short.
const SOON_MS: u64 = 5_000;

/// What an endpoint does with the first delivery of a request that it looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Serve,
    /// It answers before the request is whole, and wants no more of it.
    Early,
    /// REFUSED_STREAM.
    Refuse,
    /// Any other reset, before the answer.
    Reset(Code),
    /// A reset within the body of the answer.
    Break,
    /// So many bytes more or fewer than the answer says that it has.
    Misstate(i64),
    /// It never gets to an end.
    Hold,
}

/// A request: what is asked, and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub method: &'static str,
    pub body_bytes: usize,
    pub answer_bytes: usize,
    pub fate: Fate,
    pub gives_up: bool,
}

impl Plan {
    fn draw(rng: &mut Rng, by_h1: bool) -> Self {
        let method = rng.pick(&["GET", "PUT", "POST", "POST"]);
        let body_bytes = if method == "GET" { 0 } else { rng.pick(&[0, 5, 700, 9_000, 30_000]) };
        let code =
            rng.pick(&[Code::Internal, Code::Cancel, Code::NoError, Code::Protocol, Code::Calm, Code::StreamClosed]);
        // Behind as many bytes as were announced an answer over HTTP/1 is whole, whatever follows.
        let misstated = rng.pick(if by_h1 { &[1, 20, 5_000] } else { &[-1, 1, 20, 5_000] });
        let fate = match rng.below(12) {
            0..=2 => Fate::Refuse,
            3 | 4 => Fate::Reset(code),
            5 => Fate::Break,
            6 => Fate::Misstate(misstated),
            7 if !by_h1 => Fate::Hold,
            8 => Fate::Early,
            _ => Fate::Serve,
        };
        // A client of HTTP/1 that closes may still wait for its answer: it is served.
        let gives_up = fate == Fate::Hold || !by_h1 && rng.one_in(16);
        let answer_bytes = rng.pick(&[1, 700, 9_000, 40_000]);
        Self { method, body_bytes, answer_bytes, fate, gives_up }
    }

    fn is_idempotent(&self) -> bool {
        self.method != "POST"
    }

    /// Whether the gateway holds all of its body, so that it can be sent again.
    pub fn is_held(&self) -> bool {
        self.body_bytes <= HELD_BYTES_MAX
    }
}

/// A little less than `replay_bytes_max` of the configuration.
const HELD_BYTES_MAX: usize = 16_000;

/// Whether a client of HTTP/2 ends the body of this request with trailers.
pub fn has_trailers(number: usize) -> bool {
    number % 5 == 1
}

/// The bodies of a request and of its answer; no two look alike.
pub fn request_body(number: usize, plan: &Plan) -> &'static [u8] {
    h2wire::body(2 * number, plan.body_bytes)
}

pub fn answer_body(number: usize, plan: &Plan) -> &'static [u8] {
    h2wire::body(2 * number + 1, plan.answer_bytes)
}

/// What has become of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// Its head has come; nobody has looked at it.
    Queued,
    /// GOAWAY says that nobody will.
    Unseen,
    Refused,
    Begun(Fate),
}

/// One delivery of a request to an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub endpoint: usize,
    pub became: Became,
    /// All of it had come when it became so, and is held to be sent again.
    pub whole: bool,
    /// The endpoint has left in the midst of it.
    pub cut: bool,
    /// When GOAWAY was said.
    pub unseen_ms: u64,
    /// When it was over at the endpoint.
    pub over_ms: Option<u64>,
}

impl Seen {
    /// Whether the request may be asked for once more behind this.
    fn may_go_again(&self, is_idempotent: bool) -> bool {
        match self.became {
            Became::Unseen | Became::Refused => true,
            Became::Begun(Fate::Reset(_)) => is_idempotent,
            Became::Queued | Became::Begun(_) => self.cut && is_idempotent,
        }
    }

    fn is_untouched(&self) -> bool {
        matches!(self.became, Became::Unseen | Became::Refused)
    }
}

/// What a client has of a request.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub status: u16,
    pub body: Vec<u8>,
    /// The answer has come to its end.
    pub whole: bool,
    pub given_up_ms: Option<u64>,
}

/// What one seed's peers have seen.
pub struct Book {
    pub plans: Vec<Plan>,
    /// Clients speak HTTP/1, without trailers.
    pub by_h1: bool,
    pub seen: RefCell<BTreeMap<usize, Vec<Seen>>>,
    pub outcomes: RefCell<Vec<Outcome>>,
    /// What did not happen as it must.
    pub complaints: RefCell<Vec<String>>,
    /// How often an endpoint may still say GOAWAY, and leave without a word.
    pub goaways_left: [Cell<u32>; 2],
    pub cuts_left: [Cell<u32>; 2],
    /// Connections of endpoints whose window was measured.
    pub measured: Cell<u64>,
}

impl Book {
    pub fn complain(&self, what: String) {
        self.complaints.borrow_mut().push(what);
    }

    /// A request has come to an endpoint. Returns which delivery of it this is.
    pub fn deliver(&self, number: usize, endpoint: usize) -> usize {
        let mut seen = self.seen.borrow_mut();
        let all = seen.entry(number).or_default();
        let became = Became::Queued;
        all.push(Seen { endpoint, became, whole: false, cut: false, unseen_ms: 0, over_ms: None });
        all.len() - 1
    }

    pub fn with(&self, (number, at): (usize, usize), change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.borrow_mut().get_mut(&number).expect("it was delivered")[at]);
    }

    /// What is to be done with a request that is looked at now: after the first time it is served.
    pub fn fate(&self, number: usize) -> Fate {
        let looked = |seen: &Seen| matches!(seen.became, Became::Refused | Became::Begun(_));
        match self.seen.borrow()[&number].iter().any(looked) {
            true => Fate::Serve,
            false => self.plans[number].fate,
        }
    }

    /// Whether a request is where nothing happens until its client leaves.
    pub fn is_held(&self, number: usize) -> bool {
        let held = |seen: &Seen| seen.became == Became::Begun(Fate::Hold) && !seen.cut;
        self.seen.borrow().get(&number).is_some_and(|all| all.iter().any(held))
    }
}

/// What is drawn for a seed, and what may happen in it.
#[derive(Clone, Copy, Debug, Default)]
struct World {
    seed: u64,
    /// Clients speak HTTP/1.
    by_h1: bool,
    /// Endpoints leave without a word.
    cuts: bool,
}

/// What seeds have done, for sums over many.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    whole: u64,
    /// Asked for again behind: a refusal, a GOAWAY, a reset, a connection that broke.
    again: [u64; 4],
    /// POSTs among those that nobody had looked at, and those of which not all had come.
    posts_again: u64,
    parts_again: u64,
    /// Ended: by a reset, within the answer, where its length was wrong, by its client.
    ended: [u64; 4],
    measured: u64,
}

impl Sums {
    fn add(&mut self, one: &Self) {
        self.whole += one.whole;
        self.posts_again += one.posts_again;
        self.parts_again += one.parts_again;
        self.measured += one.measured;
        self.again.iter_mut().zip(one.again).for_each(|(sum, one)| *sum += one);
        self.ended.iter_mut().zip(one.ended).for_each(|(sum, one)| *sum += one);
    }
}

const CONFIG: &str = "listeners:
  - address: 127.0.0.1:8080
    protocols: [http1, h2c]
    limits: {header_timeout: 30s, idle_timeout: 60s, body_timeout: 30s, write_timeout: 30s}
services:
  - name: up
    protocol: h2
    endpoints: [\"10.0.0.1:80\", \"10.0.0.2:80\"]
    ejection: {failures: 0, gateway_errors: 0}
    retries:
      {attempts: 8, same_endpoint: true, backoff: {base: 1ms}, budget: {percent: 100, per_second: 10000},
       replay_bytes_max: 16KiB}
routes:
  - {path: /*, service: up, timeout: 20s}
";

/// Connects to endpoints.
struct Origins {
    handle: Handle,
    rng: RefCell<Rng>,
    book: Rc<Book>,
}

impl Connect for Origins {
    type Io = Mem;

    async fn connect(&self, to: SocketAddr, _: u64) -> io::Result<Mem> {
        let mut rng = Rng::new(self.rng.borrow_mut().next());
        let (ours, theirs) = pair_with([1 << 16, 500][rng.below(2)], faults(&mut rng), faults(&mut rng));
        let SocketAddr::V4(to) = to else { panic!("{to}") };
        retry_up::start(theirs, &self.handle, rng, usize::from(to.ip().octets()[3]) - 1, &self.book);
        Ok(ours)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()>>>) {
        self.handle.spawn("link".into(), task);
    }
}

/// The worker.
pub struct Gateway {
    env: Env<Origins>,
    listener: Rc<Listener>,
    pub handle: Handle,
    open: Cell<usize>,
}

impl Gateway {
    /// Lets a client in.
    pub fn accept(self: &Rc<Self>, rng: &mut Rng) -> Mem {
        let (theirs, ours) = pair_with([1 << 16, 300][rng.below(2)], faults(rng), faults(rng));
        let gateway = self.clone();
        self.open.set(self.open.get() + 1);
        self.handle.spawn("connection".into(), async move {
            serve_http1(&gateway.env, ours, bed::origin("192.0.2.1:40000"), || gateway.listener.clone()).await;
            gateway.open.set(gateway.open.get() - 1);
        });
        theirs
    }

    /// What a worker does once a second, and at its end.
    async fn housekeeping(self: Rc<Self>, shift: Rc<Shift>) {
        while self.open.get() > 0 || shift.at_work.get() > 0 {
            self.handle.sleep(1_000).await;
            self.env.pin().expire(self.env.timers.known_now());
        }
        self.env.pin().close_idle(self.env.timers.known_now(), 0);
    }
}

/// What the log says of each request.
type Lines = BTreeMap<usize, Vec<serde_json::Value>>;

/// Runs one seed; every invariant is an assertion.
fn run(world: World) -> Sums {
    let taken = pool_taken();
    let mut rng = Rng::of(&[world.seed, 5]);
    let mut exec = Exec::new(world.seed);
    let handle = exec.handle();
    let count = 6 + rng.below(12);
    let left = |rng: &mut Rng, most: usize| [0; 2].map(|_| Cell::new(rng.below(most) as u32));
    let book = Rc::new(Book {
        plans: (0..count).map(|_| Plan::draw(&mut rng, world.by_h1)).collect(),
        by_h1: world.by_h1,
        seen: RefCell::default(),
        outcomes: RefCell::new(vec![Outcome::default(); count]),
        complaints: RefCell::default(),
        goaways_left: left(&mut rng, 3),
        cuts_left: left(&mut rng, if world.cuts { 2 } else { 1 }),
        measured: Cell::default(),
    });
    let file = tempfile::tempfile().expect("a file");
    let target = Target::Open(file.try_clone().expect("the same"));
    let writer = AccessLogWriter::start(target, Format::Json, 1).expect("a thread");
    let snapshot = bed::snapshot(CONFIG, 1, None);
    let next = RefCell::new(Rng::new(rng.next()));
    let origins = Origins { handle: handle.clone(), rng: next, book: book.clone() };
    let (env, _published) = bed::env(origins, &exec.timers, &snapshot, writer.worker(0), world.seed);
    let listener = bed::listener(&snapshot);
    let gateway = Rc::new(Gateway { env, listener, handle: handle.clone(), open: Cell::new(0) });
    let measures = world.seed.is_multiple_of(4);
    let shift = retry_down::start(&gateway, &book, [world.by_h1, measures], &mut rng);
    handle.spawn("housekeeping".into(), gateway.clone().housekeeping(shift));
    let ended = exec.run(END_MS, |alive| alive.is_empty());
    assert!(ended, "tasks that do not end: {:?}", exec.alive());
    gateway.env.access_log.borrow_mut().flush();
    assert!(writer.stop(Duration::from_secs(60)), "the log is written");
    assert_eq!(gateway.env.active.get(), 0, "requests that are still counted");
    drop(gateway);
    let sums = check(world, &book, &read(file));
    drop((exec, book));
    assert_eq!(pool_taken(), taken, "buffers are left");
    sums
}

fn read(mut file: std::fs::File) -> Lines {
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("a log");
    let mut lines = Lines::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_ne!(line["reason"], "internal", "{line}");
        if let Some(number) = line["path"].as_str().and_then(|path| path.strip_prefix('/')?.parse().ok()) {
            lines.entry(number).or_default().push(line);
        }
    }
    lines
}

fn check(world: World, book: &Book, lines: &Lines) -> Sums {
    assert_eq!(*book.complaints.borrow(), Vec::<String>::new());
    let mut sums = Sums { measured: book.measured.get(), ..Sums::default() };
    for (number, outcome) in book.outcomes.borrow().iter().enumerate() {
        let plan = book.plans[number];
        let seen = in_order(book.seen.borrow().get(&number).cloned().unwrap_or_default());
        let line = lines.get(&number).cloned().unwrap_or_default();
        let at = format!("request {number}, {plan:?}: {seen:#?}, {} {}, {line:?}", outcome.status, outcome.whole);
        check_deliveries(world, &plan, &seen, outcome, &at, &mut sums);
        assert!(line.len() <= 1, "logged twice; {at}");
        match (outcome.given_up_ms, line.first()) {
            (Some(_), None) => {}
            (None, None) => panic!("not logged; {at}"),
            (_, Some(line)) => check_end(world, (number, &plan), &seen, outcome, line, &at, &mut sums),
        }
    }
    sums
}

/// Deliveries as the gateway made them. One that nobody has looked at may come to its endpoint, on a slow connection,
/// when the next has come to the other already.
fn in_order(mut seen: Vec<Seen>) -> Vec<Seen> {
    seen.sort_by_key(|seen| (!seen.is_untouched(), seen.is_untouched() && !seen.whole));
    seen
}

/// Which endpoints have seen a request, how often, and until when.
fn check_deliveries(world: World, plan: &Plan, seen: &[Seen], outcome: &Outcome, at: &str, sums: &mut Sums) {
    let begun = seen.iter().filter(|seen| matches!(seen.became, Became::Begun(_))).count();
    assert!(plan.is_idempotent() || begun <= 1, "begun {begun} times; {at}");
    for (place, one) in seen.iter().enumerate() {
        let over_ms = one.over_ms.unwrap_or_else(|| panic!("not over at its endpoint; {at}"));
        if let Some(left_ms) = outcome.given_up_ms {
            assert!(over_ms <= left_ms + SOON_MS, "goes on without its client; {at}");
        }
        if one.became == Became::Unseen {
            assert!(over_ms <= one.unseen_ms + SOON_MS, "goes on where nobody sees it; {at}");
        }
        if place + 1 == seen.len() {
            break;
        }
        assert!(one.may_go_again(plan.is_idempotent()), "asked for again behind {one:?}; {at}");
        let kind = match one.became {
            Became::Refused => 0,
            Became::Unseen => 1,
            _ if !one.cut => 2,
            _ => 3,
        };
        sums.again[kind] += 1;
        sums.posts_again += u64::from(kind < 2 && !plan.is_idempotent());
        sums.parts_again += u64::from(kind < 2 && !one.whole);
    }
    let is_alone = seen.iter().all(|one| one.endpoint == seen[0].endpoint);
    // Where endpoints leave, one may have been asked that nobody knows of.
    assert!(!is_alone || seen.len() < 2 || world.cuts, "the same endpoint again; {at}");
}

/// The end that a request has had: what its client got, and what the log says.
fn check_end(
    world: World,
    (number, plan): (usize, &Plan),
    seen: &[Seen],
    outcome: &Outcome,
    line: &serde_json::Value,
    at: &str,
    sums: &mut Sums,
) {
    let (status, reason) = (line["status"].as_u64(), line["reason"].as_str().unwrap_or_default());
    let is_answered = outcome.whole && outcome.status == 200;
    assert!(!is_answered || outcome.body == answer_body(number, plan), "another body; {at}");
    let attempts = line["attempts"].as_u64().unwrap_or(0) as usize;
    // What goes out to an endpoint that has just left is seen by nobody.
    let is_lost = world.cuts && attempts > seen.len();
    let (cut, left) = (is_lost || seen.iter().any(|seen| seen.cut), outcome.given_up_ms.is_some());
    assert!(attempts == seen.len() || left || is_lost, "{attempts} attempts; {at}");
    let end = |wanted: &[&str], wanted_status: u16| {
        assert!(wanted.contains(&reason), "reason {reason}, not {wanted:?}; {at}");
        let seen_status = if outcome.status == 200 { 200 } else { wanted_status };
        assert!(outcome.status == seen_status && !is_answered, "{wanted_status} expected; {at}");
        assert!(outcome.whole == (outcome.status != 200), "its end was expected; {at}");
    };
    let whole = |sums: &mut Sums| {
        assert!(is_answered && reason.is_empty() && status == Some(200), "an answer was expected; {at}");
        sums.whole += 1;
    };
    match seen.last() {
        Some(Seen { became: Became::Begun(Fate::Hold), cut: false, .. }) => {
            assert!(left && reason == "client_closed", "given up by its client; {at}");
            sums.ended[3] += 1;
        }
        _ if left => assert!(["", "client_closed"].contains(&reason) || !reason.starts_with("client"), "{at}"),
        None => assert!(world.cuts && status == Some(502), "never asked for; {at}"),
        _ if cut && is_answered => whole(sums),
        Some(last) if last.cut || is_lost && last.is_untouched() => {
            end(&["upstream_closed", "upstream_reset", "upstream_truncated"], 502)
        }
        Some(last) => match last.became {
            Became::Queued => panic!("left alone by its endpoint; {at}"),
            // More of its body had come than is held.
            Became::Unseen | Became::Refused if !plan.is_held() => end(&["upstream_reset"], 502),
            Became::Unseen | Became::Refused => panic!("not asked for at the other endpoint; {at}"),
            Became::Begun(Fate::Reset(_)) => {
                assert!(!plan.is_idempotent() || !last.whole, "not asked for again; {at}");
                end(&["upstream_reset"], 502);
                sums.ended[0] += 1;
            }
            Became::Begun(Fate::Break) => {
                end(&["upstream_truncated"], 502);
                sums.ended[1] += 1;
            }
            Became::Begun(Fate::Misstate(_)) => {
                end(&["upstream_truncated"], 502);
                sums.ended[2] += 1;
            }
            Became::Begun(_) => whole(sums),
        },
    }
}

/// Runs the seeds of this run, each in its world. Returns their sums, and how many they are; 0 for one alone.
fn run_all(usual: u64, of: impl Fn(u64) -> World) -> (Sums, u64) {
    let (seeds, count) = crate::chosen_seeds(usual);
    let mut all = Sums::default();
    for seed in seeds {
        let world = of(seed);
        let Ok(one) = catch_unwind(AssertUnwindSafe(|| run(world))) else {
            panic!("seed {seed} failed in {world:?}; replay it with RINGWAY_SEED={seed} cargo test --test sim retry::");
        };
        all.add(&one);
    }
    println!("{count} seeds: {all:?}");
    (all, count)
}

fn check_sums(sums: &Sums, count: u64) {
    assert!(sums.whole >= 2 * count, "{sums:?}");
    assert!(sums.again[..3].iter().chain(&sums.ended[..3]).all(|&met| met >= count / 10), "{sums:?}");
    assert!(sums.posts_again.min(sums.parts_again) >= count / 8 && sums.measured >= count / 8, "{sums:?}");
}

#[test]
fn what_nobody_has_looked_at_goes_elsewhere_and_nothing_else_does() {
    let (sums, count) = run_all(120, |seed| World { seed, ..World::default() });
    check_sums(&sums, count);
    assert!(sums.ended[3] >= count / 10, "{sums:?}");
}

#[test]
fn the_same_for_clients_of_http1() {
    let (sums, count) = run_all(120, |seed| World { seed, by_h1: true, ..World::default() });
    check_sums(&sums, count);
}

#[test]
fn connections_that_break_besides() {
    let (sums, count) = run_all(120, |seed| World { seed, by_h1: seed.is_multiple_of(2), cuts: true });
    assert!(sums.again[3] >= count / 20 && sums.whole >= count, "{sums:?}");
}

/// A message that makes the rest of a connection's window come back, and no byte more: half of it is given back at
/// once, as soon as so much was taken. `room` is what is left of it.
pub fn filling(room: usize) -> usize {
    room - H2_CONNECTION_WINDOW_BYTES as usize / 2
}

/// Whether a window is as wide as at first.
pub fn is_full(room: usize) -> bool {
    room == H2_CONNECTION_WINDOW_BYTES as usize
}
