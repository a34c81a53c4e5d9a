//! One bad server of two that speaks HTTP/2, at default settings: what clients lose, and what reaches the servers,
//! counted there. `bad_servers.rs` has the same for HTTP/1.

use std::thread;
use std::time::Duration;

use ringway::proto::h2::code::Code;

use crate::bad::{Bad, Front, REQUESTS, Row};
use crate::http2::wire::{DATA, END_HEADERS, END_STREAM, H2, HEADERS, post, raw as frame};
use crate::support::h2_origin::{Answer, H2Origin};
use crate::support::{Client, Gateway};

/// What the bad server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Refuse,
    ResetOnAccept,
    CloseOnRequest,
    Garbage,
    AnswersHttp1,
    ServerError,
    EndsShort,
    CutInBody,
    ResetInBody,
    Hang,
    Slow,
    HeaderBomb,
    Interims,
    Early,
    /// RST_STREAM in place of an answer.
    Reset(Code),
    /// GOAWAY that has not seen the request.
    LeavesUnseen,
    /// GOAWAY that has seen the request, and no answer.
    LeavesUnanswered,
    /// GOAWAY, and the answer behind it.
    LeavesAnswered,
}

/// All of them; of codes in RST_STREAM a few, or all.
fn modes(codes: &[Code]) -> Vec<Mode> {
    let mut all = vec![
        Mode::Refuse,
        Mode::ResetOnAccept,
        Mode::CloseOnRequest,
        Mode::Garbage,
        Mode::AnswersHttp1,
        Mode::ServerError,
        Mode::EndsShort,
        Mode::CutInBody,
        Mode::ResetInBody,
        Mode::Hang,
        Mode::Slow,
        Mode::HeaderBomb,
        Mode::Interims,
        Mode::Early,
        Mode::LeavesUnseen,
        Mode::LeavesUnanswered,
        Mode::LeavesAnswered,
    ];
    all.extend(codes.iter().copied().map(Mode::Reset));
    all
}

/// How many requests clients lose at least and at most, and why.
fn bounds(mode: Mode, method: &str) -> (usize, usize) {
    match (mode, method) {
        // Nothing was sent, the endpoint says that it has not looked at it, or it answers after all.
        (Mode::Refuse | Mode::Slow | Mode::Early | Mode::LeavesUnseen | Mode::LeavesAnswered, _) => (0, 0),
        (Mode::Reset(Code::Refused), _) => (0, 0),
        // What the client has seen a part of cannot be taken back: until the endpoint is ejected.
        (Mode::EndsShort | Mode::CutInBody | Mode::ResetInBody, _) => (1, 3),
        // An answer is an answer.
        (Mode::ServerError, _) => (5, REQUESTS),
        // Too late is not repeated by default; ejected after three.
        (Mode::Hang, _) => (1, 3),
        (_, "GET") => (0, 0),
        // The reset may come before anything was sent.
        (Mode::ResetOnAccept, _) => (0, 3),
        // A POST that went out is not sent again; ejected after three.
        _ => (1, 3),
    }
}

fn script(mode: Mode) -> Answer {
    let fields = |more: &[(&'static str, &str)]| {
        let status = [(":status", "200".to_owned())].into_iter();
        status.chain(more.iter().map(|(name, value)| (*name, (*value).to_owned()))).collect::<Vec<_>>()
    };
    let part = Answer { head: fields(&[("content-length", "1000")]), body: b"only this".to_vec(), ..Answer::default() };
    match mode {
        Mode::CloseOnRequest => Answer { cut: true, ..Answer::default() },
        Mode::ServerError => Answer { head: vec![(":status", "500".into())], ..Answer::ok("bad") },
        Mode::EndsShort => part,
        Mode::CutInBody => Answer { cut: true, ..part },
        Mode::ResetInBody => Answer { reset: Some(Code::Internal), ..part },
        Mode::Hang => Answer { hangs: true, ..Answer::default() },
        Mode::Slow => {
            thread::park_timeout(Duration::from_millis(20));
            Answer::ok("slow")
        }
        Mode::HeaderBomb => Answer { raw: Some(header_bomb), ..Answer::default() },
        Mode::Interims => Answer { raw: Some(interims), ..Answer::default() },
        Mode::Reset(code) => Answer { reset: Some(code), ..Answer::default() },
        Mode::LeavesUnseen => Answer { raw: Some(|_| frame(7, 0, 0, &[0; 8])), ..Answer::default() },
        Mode::LeavesUnanswered => {
            let seen = |stream: u32| frame(7, 0, 0, &[stream.to_be_bytes(), [0; 4]].concat());
            Answer { raw: Some(seen), cut: true, ..Answer::default() }
        }
        Mode::LeavesAnswered => Answer { leave: true, ..Answer::ok("bye") },
        _ => Answer::ok("bad"),
    }
}

/// A head of 30 KB in three frames, which is over the bound on fields.
fn header_bomb(stream: u32) -> Vec<u8> {
    // 200 from the static table, then literals that enter no table.
    let block = [&[0x88][..], &b"\0\x06x-bomb\x04boom".repeat(2_300)].concat();
    let pieces: Vec<_> = block.chunks(12_000).collect();
    let last = pieces.len() - 1;
    let one = |(at, piece): (usize, &&[u8])| {
        let kind = if at == 0 { 1 } else { 9 };
        frame(kind, if at == last { END_HEADERS } else { 0 }, stream, piece)
    };
    pieces.iter().enumerate().flat_map(one).collect()
}

fn interims(stream: u32) -> Vec<u8> {
    let interim = frame(1, END_HEADERS, stream, b"\x08\x03103");
    [interim.repeat(1_000), frame(1, END_HEADERS | 1, stream, &[0x88])].concat()
}

fn start(mode: Mode) -> Bad<H2Origin> {
    match mode {
        Mode::Refuse => Bad::nobody(),
        Mode::ResetOnAccept => Bad::resetter(),
        Mode::Garbage => Bad::speaker(b"\x16\x03\x01 no HTTP/2 at all, and that at length\r\n\r\n"),
        Mode::AnswersHttp1 => Bad::speaker(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
        Mode::Early => Bad::Origin(H2Origin::early(move |_| script(mode))),
        _ => Bad::Origin(H2Origin::start(move |_| script(mode))),
    }
}

fn row(mode: Mode, method: &str, balancer: &str, front: Front) {
    // Silence is not waited for as long as by default, so that the test ends.
    let more = if mode == Mode::Hang { "    timeouts: {first_byte: 400ms}\n" } else { "" };
    let more = format!("    protocol: h2\n{more}");
    let (name, lost) = (format!("{mode:?}"), bounds(mode, method));
    let is_unseen = matches!(mode, Mode::LeavesUnseen | Mode::Reset(Code::Refused));
    // Once at each: no connection of the bad server is taken for stale, as it ends with its first request or goes on.
    let row = Row { name, front, method, balancer, more: &more, lost, arrivals: 2, is_unseen };
    row.hold(&H2Origin::start(|_| Answer::ok("good")), &start(mode));
}

fn matrix(balancer: &str, codes: &[Code], front: Front) {
    for mode in modes(codes) {
        for method in ["GET", "POST"] {
            row(mode, method, balancer, front);
        }
    }
}

#[test]
fn one_bad_h2_server_of_two_in_turns() {
    matrix("round_robin", Code::ALL, Front::Http1);
}

#[test]
fn one_bad_h2_server_of_two_by_load() {
    matrix("least_connections", &[Code::Refused, Code::Cancel], Front::Http1);
}

#[test]
fn one_bad_h2_server_of_two_by_hash() {
    matrix("{algorithm: consistent_hash, key: path}", &[Code::Refused, Code::NoError], Front::Http1);
}

#[test]
fn one_bad_h2_server_of_two_in_turns_for_http2_clients() {
    matrix("round_robin", Code::ALL, Front::H2c);
}

#[test]
fn one_bad_h2_server_of_two_by_load_for_http2_clients() {
    matrix("least_connections", &[Code::Refused, Code::Cancel], Front::H2c);
}

#[test]
fn one_bad_h2_server_of_two_by_hash_for_http2_clients() {
    matrix("{algorithm: consistent_hash, key: path}", &[Code::Refused, Code::NoError], Front::H2c);
}

/// A server that refuses requests by their heads, and a gateway before it and a good one.
fn refusing(good: &H2Origin) -> (Bad<H2Origin>, Gateway) {
    let bad = Bad::Origin(H2Origin::early(|_| Answer { reset: Some(Code::Refused), ..Answer::default() }));
    let more = "    protocol: h2\n";
    let (name, front) = (String::new(), Front::Http1);
    let row =
        Row { name, front, method: "POST", balancer: "round_robin", more, lost: (0, 0), arrivals: 1, is_unseen: true };
    let gateway = row.gateway(good, &bad);
    (bad, gateway)
}

/// RFC 9113 section 8.7: what a server has not looked at goes elsewhere while its body is still on its way, whatever
/// the method. The other server gets what had come and what comes, each byte once, and its trailers.
#[test]
fn what_is_refused_in_the_midst_of_its_body_goes_elsewhere() {
    let good = H2Origin::start(|seen| Answer::ok(&seen.body));
    let (bad, gateway) = refusing(&good);
    let mut client = H2::connect(gateway.address);
    for n in 0..10_u32 {
        let id = 2 * n + 1;
        client.send(&[post(id, &format!("/{n}")), frame(DATA, 0, id, b"what had come, ")].concat());
        assert!(client.ping(), "what follows comes alone");
        let trailer = b"\0\x05x-sum\x011";
        let rest = frame(DATA, 0, id, format!("what comes to {n}").as_bytes());
        client.send(&[rest, frame(HEADERS, END_HEADERS | END_STREAM, id, trailer)].concat());
        let answer = client.answer(id);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(String::from_utf8_lossy(&answer.body), format!("what had come, what comes to {n}"));
        assert_eq!(good.last().trailers, [("x-sum".to_owned(), "1".to_owned())]);
    }
    assert!(!bad.arrived().is_empty() && good.seen().len() == 10);
    let mut client = Client::connect(gateway.address);
    for n in 0..4 {
        client.send(format!("POST /h1 HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nbegin {n}"));
        client.send(", end");
        let answer = client.response();
        assert_eq!((answer.status, answer.text()), (200, format!("begin {n}, end")));
    }
}

/// A client that sends the rest of its body only when it has an answer is not waited for.
#[test]
fn what_is_refused_does_not_wait_for_the_rest_of_its_body() {
    let good = H2Origin::early(|_| Answer::ok("said before the end"));
    let (bad, gateway) = refusing(&good);
    let mut client = H2::connect(gateway.address);
    for n in 0..10 {
        let id = 2 * n + 1;
        client.send(&[post(id, "/"), frame(DATA, 0, id, b"a question")].concat());
        let answer = client.answer(id);
        assert_eq!((answer.status, &answer.body[..]), (200, &b"said before the end"[..]), "{answer:?}");
    }
    assert!(!bad.arrived().is_empty() && good.seen().len() == 10);
}
