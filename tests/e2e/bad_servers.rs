//! One bad server of two, at default settings (F22 to F24, F33, F35, F36): what clients lose, and what reaches the
//! servers, counted there.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::bad::{Bad, Front, REQUESTS, Row, lost};
use crate::support::{Client, Gateway, Origin, Seen, Step, ok};

/// What the bad server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Refuse,
    ResetOnAccept,
    ResetOnRequest,
    CloseWithoutAnswer,
    Garbage,
    ServerError,
    TruncatedLength,
    TruncatedChunks,
    Hang,
    Slow,
    HeaderBomb,
    Interims,
    Early,
    Stale,
}

const MODES: [Mode; 14] = [
    Mode::Refuse,
    Mode::ResetOnAccept,
    Mode::ResetOnRequest,
    Mode::CloseWithoutAnswer,
    Mode::Garbage,
    Mode::ServerError,
    Mode::TruncatedLength,
    Mode::TruncatedChunks,
    Mode::Hang,
    Mode::Slow,
    Mode::HeaderBomb,
    Mode::Interims,
    Mode::Early,
    Mode::Stale,
];

/// How many requests clients lose at least and at most, and why.
fn bounds(mode: Mode, method: &str) -> (usize, usize) {
    match (mode, method) {
        // Nothing was sent, or the endpoint answers after all.
        (Mode::Refuse | Mode::Slow | Mode::Early | Mode::Stale, _) => (0, 0),
        // What the client has seen a part of cannot be taken back: until the endpoint is ejected.
        (Mode::TruncatedLength | Mode::TruncatedChunks, _) => (1, 3),
        // An answer is an answer.
        (Mode::ServerError, _) => (5, REQUESTS),
        // Too late is not repeated by default; ejected after three.
        (Mode::Hang, _) => (1, 3),
        (_, "GET") => (0, 0),
        // A POST that went out is not sent again; ejected after three.
        _ => (1, 3),
    }
}

fn script(mode: Mode) -> impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static {
    move |_| {
        let send = |bytes: &[u8]| Step::Send(bytes.to_vec());
        match mode {
            Mode::ResetOnRequest => vec![Step::Reset],
            Mode::CloseWithoutAnswer => vec![Step::Close],
            Mode::Garbage => vec![send(b"\x16\x03\x01 no HTTP at all\r\n\r\n"), Step::Close],
            Mode::ServerError => {
                vec![send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad")]
            }
            Mode::TruncatedLength => {
                vec![send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this"), Step::Close]
            }
            Mode::TruncatedChunks => {
                vec![send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nonly\r\n"), Step::Close]
            }
            Mode::Hang => vec![Step::Hang],
            Mode::Slow => {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow".to_vec();
                vec![Step::Drip(answer, Duration::from_millis(1))]
            }
            Mode::HeaderBomb => {
                let fields = "X-Bomb: boom\r\n".repeat(2_000);
                vec![send(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n").as_bytes()), Step::Close]
            }
            Mode::Interims => {
                let interims = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(1_000);
                let last = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                vec![send(format!("{interims}{last}").as_bytes()), Step::Close]
            }
            Mode::Stale => ok("stale").into_iter().chain([Step::Close]).collect(),
            _ => ok("bad"),
        }
    }
}

fn start(mode: Mode) -> Bad<Origin> {
    match mode {
        Mode::Refuse => Bad::nobody(),
        Mode::ResetOnAccept => Bad::resetter(),
        Mode::Early => Bad::Origin(Origin::early(script(mode))),
        _ => Bad::Origin(Origin::start(script(mode))),
    }
}

fn config(good: SocketAddr, bad: SocketAddr, balancer: &str, more: &str) -> String {
    format!(
        "services:\n  - name: up\n    endpoints: [\"{bad}\", \"{good}\"]\n    load_balancer: {balancer}\n{more}\
         routes: [{{name: all, path: /*, service: up}}]\n"
    )
}

fn row(mode: Mode, method: &str, balancer: &str, front: Front) {
    // Silence is not waited for as long as by default, so that the test ends.
    let more = if mode == Mode::Hang { "    timeouts: {first_byte: 600ms}\n" } else { "" };
    let (name, lost) = (format!("{mode:?}"), bounds(mode, method));
    let row = Row { name, front, method, balancer, more, lost, arrivals: 2, is_unseen: false };
    row.hold(&Origin::fixed("good"), &start(mode));
}

fn matrix(balancer: &str, front: Front) {
    for mode in MODES {
        for method in ["GET", "POST"] {
            row(mode, method, balancer, front);
        }
    }
}

#[test]
fn one_bad_server_of_two_in_turns() {
    matrix("round_robin", Front::Http1);
}

#[test]
fn one_bad_server_of_two_by_load() {
    matrix("least_connections", Front::Http1);
}

#[test]
fn one_bad_server_of_two_by_hash() {
    matrix("{algorithm: consistent_hash, key: path}", Front::Http1);
}

#[test]
fn one_bad_server_of_two_in_turns_for_http2_clients() {
    matrix("round_robin", Front::H2c);
}

#[test]
fn one_bad_server_of_two_by_load_for_http2_clients() {
    matrix("least_connections", Front::H2c);
}

#[test]
fn one_bad_server_of_two_by_hash_for_http2_clients() {
    matrix("{algorithm: consistent_hash, key: path}", Front::H2c);
}

/// What defaults leave to the client is a matter of configuration: silence by a time for each try, statuses by naming
/// them.
#[test]
fn silence_and_errors_are_repeated_where_that_is_configured() {
    for (mode, retries) in [
        (Mode::Hang, "    retries: {per_try_timeout: 600ms}\n"),
        (Mode::Hang, "    retries: {on: [timeout]}\n    timeouts: {first_byte: 600ms}\n"),
        // Without ejection half of all requests would need a retry, which is more than the budget has.
        (Mode::ServerError, "    retries: {statuses: [500]}\n    ejection: {server_errors: 3}\n"),
    ] {
        let (good, bad) = (Origin::fixed("good"), start(mode));
        let gateway = Gateway::start(&config(good.address, bad.address(), "round_robin", retries));
        assert_eq!(lost(Front::Http1, gateway.address, "GET"), 0, "{mode:?} {retries}");
        assert!(bad.was_asked());
    }
}

/// A POST is repeated where its sender vouches for it, with its whole body, within the bound.
#[test]
fn an_idempotency_key_makes_a_post_repeatable() {
    let (good, bad) = (Origin::start(|seen| ok(&seen.body)), start(Mode::CloseWithoutAnswer));
    let gateway = Gateway::start(&config(good.address, bad.address(), "round_robin", ""));
    let long = "x".repeat(40_000);
    let chunked = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    for at in 0..6 {
        let (framing, body) = match at % 2 {
            0 => (format!("Content-Length: {}", long.len()), &long),
            _ => ("Transfer-Encoding: chunked".to_owned(), &chunked),
        };
        let head = format!("POST /{at} HTTP/1.1\r\nHost: t\r\nIdempotency-Key: k{at}\r\n{framing}\r\n\r\n");
        let answer = gateway.ask(format!("{head}{body}"));
        assert_eq!((answer.status, answer.text().len()), (200, long.len()), "{at}");
    }
    let over = "x".repeat(70_000);
    let mut refused = 0;
    for at in 0..4 {
        let head = format!("PUT /over/{at} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", over.len());
        refused += usize::from(gateway.ask(format!("{head}{over}")).status == 502);
    }
    assert!(refused <= 1, "three failures have ejected it by then");
}

/// A storm: every server answers 503, clients want three tries each; the budget holds them (F25).
#[test]
fn retries_are_held_to_their_budget() {
    let busy = || Origin::bytes(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    let (one, two, three) = (busy(), busy(), busy());
    let gateway = Gateway::start(&format!(
        "services:\n  - name: up\n    endpoints: [\"{}\", \"{}\", \"{}\"]\n    ejection: {{gateway_errors: 0}}\n    \
         retries: {{attempts: 4, statuses: [503], backoff: {{base: 1ms, max: 1ms}}}}\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        one.address, two.address, three.address
    ));
    let begun = std::time::Instant::now();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let address = gateway.address;
            thread::spawn(move || {
                let mut client = Client::connect(address);
                (0..500).for_each(|at| assert_eq!(client.get(&format!("/{at}")).status, 503));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a client"));
    let asked = [&one, &two, &three].iter().map(|origin| origin.seen().len()).sum::<usize>();
    let seconds = begun.elapsed().as_secs() as usize + 1;
    let bound = 2_000 + 400 + 10 * seconds + 3;
    assert!(asked > 2_300 && asked <= bound, "{asked} of at most {bound}");
}
