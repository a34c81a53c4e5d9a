//! F41 to F45: each flood ends its connection within its budget, memory stays bounded, and others are served.

use std::time::{Duration, Instant};

use super::wire::*;
use super::{bed, before};
use crate::support::e2e::{Gateway, Origin, PATIENCE, Step};

const PROTOCOL: u32 = 1;
const FLOW: u32 = 3;
const CALM: u32 = 11;

/// Bytes of the process that are resident.
fn resident(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

/// A client of another connection that asks all the while.
fn ask(bystander: &mut H2, stream: &mut u32) {
    bystander.send(&get(*stream, "/fixed"));
    assert_eq!(bystander.answer(*stream).status, 200);
    *stream += 2;
}

#[test]
fn floods_end_within_their_budgets_and_others_are_served() {
    let (_origin, gateway) = bed();
    let reset = |n: u32| [get(2 * n + 1, "/fixed"), raw(RESET, 0, 2 * n + 1, &[0, 0, 0, 8])].concat();
    let overflow =
        |n: u32| [post(2 * n + 1, "/fixed"), raw(WINDOW_UPDATE, 0, 2 * n + 1, &[0x7f, 0xff, 0xff, 0xff])].concat();
    let zero = |n: u32| [post(2 * n + 1, "/fixed"), raw(WINDOW_UPDATE, 0, 2 * n + 1, &[0; 4])].concat();
    let itself = |n: u32| {
        let id = 2 * n + 1;
        [post(id, "/fixed"), raw(PRIORITY, 0, id, &[&id.to_be_bytes()[..], &[0]].concat())].concat()
    };
    let malformed = |n: u32| raw(HEADERS, 5, 2 * n + 1, &block(&[("x", "y")]));
    let beyond = |n: u32| [get(2 * n + 1, "/fixed"), raw(DATA, 0, 2 * n + 1, b"late")].concat();
    let open = raw(HEADERS, 0, 1, &block(&pseudo("POST", "/a")));
    type Flood<'a> = (&'a str, u32, Vec<u8>, &'a dyn Fn(u32) -> Vec<u8>);
    let large = block(&[("a", &"x".repeat(15_900))]);
    let floods: [Flood; 17] = [
        ("F41 rapid reset", CALM, vec![], &reset),
        ("F42 CONTINUATION", CALM, open.clone(), &|_| raw(CONTINUATION, 0, 1, &block(&[("a", "b")]))),
        ("F42 empty CONTINUATION", CALM, open.clone(), &|_| raw(CONTINUATION, 0, 1, b"")),
        ("F42 large CONTINUATION", CALM, open.clone(), &|_| raw(CONTINUATION, 0, 1, &large)),
        ("F42 large CONTINUATION, malformed", PROTOCOL, open, &|_| raw(CONTINUATION, 0, 1, &[0; 16_000])),
        ("F43 window overflow", FLOW, vec![], &overflow),
        ("F43 window of zero", PROTOCOL, vec![], &zero),
        ("F43 PRIORITY on itself", PROTOCOL, vec![], &itself),
        ("F43 malformed heads", CALM, vec![], &malformed),
        ("F43 DATA behind the end", CALM, vec![], &beyond),
        ("F45 SETTINGS", CALM, vec![], &|_| raw(SETTINGS, 0, 0, b"")),
        ("F45 PING", CALM, vec![], &|_| raw(PING, 0, 0, &[0; 8])),
        ("F45 PRIORITY", CALM, vec![], &|n| raw(PRIORITY, 0, 2 * n + 1, &[0; 5])),
        ("F45 WINDOW_UPDATE", CALM, vec![], &|_| raw(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("F45 empty DATA", CALM, post(1, "/a"), &|_| raw(DATA, 0, 1, b"")),
        ("F45 tiny DATA", CALM, post(1, "/a"), &|_| raw(DATA, 0, 1, b"x")),
        ("F45 unknown frames", CALM, vec![], &|_| raw(0x77, 0, 0, b"")),
    ];
    let mut bystander = H2::connect(gateway.address);
    let mut stream = 1;
    ask(&mut bystander, &mut stream);
    let before = resident(&gateway);
    for (what, code, first, flood) in floods {
        let mut client = H2::connect(gateway.address);
        client.gives_room = false;
        let bytes: Vec<u8> = first.into_iter().chain((0..20_000).flat_map(flood)).collect();
        let mut writer = client.stream.try_clone().expect("a descriptor");
        let sending = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
        let end = client.end();
        assert_eq!(end.as_ref().map(|(code, _)| *code), Some(code), "{what}: {end:?}");
        let _ = client.stream.shutdown(std::net::Shutdown::Both);
        let _ = sending.join();
        ask(&mut bystander, &mut stream);
    }
    let grown = resident(&gateway).saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes");
    for reason in ["resets", "stream_errors", "protocol_error", "flow_control_error", "continuation", "control", "data"]
    {
        assert!(gateway.metric("ringway_worker_h2_goaway_total", &[reason]) >= 1.0, "{reason}");
    }
}

/// F44: fields are counted after decoding, crumbs of cookies too, and references to one large entry. What could be a
/// client's is answered; what could not ends the connection.
#[test]
fn large_heads_are_refused_and_bombs_end_the_connection() {
    let (_origin, gateway) = bed();
    let head = block(&pseudo("GET", "/fixed"));
    let large = [&[0x40, 1, b'a', 0x7f, 0xbd, 0x1e][..], &[b'v'; 4_028]].concat();
    let crumb = [&[0x60, 3][..], b"a=b"].concat();
    // Lines of 4,033 bytes: 128 KiB are 32 of them, and the pseudo-header fields.
    for (what, bomb) in
        [("references", [&large[..], &[0xbe; 31]].concat()), ("crumbs", [&crumb[..], &[0xbe; 4_000]].concat())]
    {
        let mut client = H2::connect(gateway.address);
        client.send(&raw(HEADERS, 5, 1, &[&head[..], &bomb].concat()));
        let answer = client.answer(1);
        assert_eq!(answer.status, 431, "{what}");
        client.send(&get(3, "/fixed"));
        assert_eq!(client.answer(3).status, 200);
    }
    for references in [33, 4_000] {
        let mut client = H2::connect(gateway.address);
        client.send(&raw(HEADERS, 5, 1, &[&head[..], &large, &vec![0xbe; references]].concat()));
        assert_eq!(client.end(), Some((CALM, "bomb of fields".to_owned())), "{references}");
    }
    assert!(gateway.metric("ringway_worker_h2_goaway_total", &["bomb"]) >= 2.0);
}

/// F45: what comes in one segment has been taken by nobody. A hundred frames of one byte are a slow client's body, one
/// more is a flood; frames that could be a message of gRPC are neither.
#[test]
fn a_burst_of_tiny_data_has_its_bound() {
    let (_origin, gateway) = bed();
    let burst = |frames: usize, bytes: &[u8]| {
        let body = raw(DATA, 0, 1, bytes).repeat(frames);
        [post(1, "/a"), body, raw(DATA, END_STREAM, 1, b"")].concat()
    };
    for (frames, bytes) in [(100, &b"x"[..]), (400, b"\0\0\0\0\0")] {
        let mut client = H2::connect(gateway.address);
        assert!(client.ping(), "the burst comes alone");
        client.send(&burst(frames, bytes));
        let answer = client.answer(1);
        assert_eq!((answer.status, answer.body.len()), (200, frames * bytes.len()));
    }
    let mut client = H2::connect(gateway.address);
    assert!(client.ping());
    client.send(&burst(101, b"x"));
    assert_eq!(client.end(), Some((CALM, "too many tiny DATA frames".to_owned())));
}

/// F44, F45: a response that the client leaves no room for ends in `write_timeout`, whatever it pings.
#[test]
fn a_response_without_a_window_ends_in_time() {
    let origin = Origin::fixed("a body that nobody takes");
    let gateway = before(&origin, "write_timeout: 300ms");
    let mut client = H2::with(gateway.address, &[(4, 0)]);
    client.send(&get(1, "/a"));
    let begun = Instant::now();
    let answer = loop {
        assert!(client.ping());
        match client.answers.get(&1) {
            Some(answer) if answer.reset.is_some() => break answer.clone(),
            _ => std::thread::park_timeout(Duration::from_millis(60)),
        }
    };
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert!(begun.elapsed() >= Duration::from_millis(280));
    assert!(client.ping(), "the connection goes on");
}

/// Section 4 of faults.md: a connection that is idle ends, and pings do not prolong it.
#[test]
fn pings_do_not_keep_a_connection() {
    let origin = Origin::fixed("");
    let gateway = before(&origin, "idle_timeout: 1s");
    let mut client = H2::connect(gateway.address);
    client.send(&get(1, "/fixed"));
    assert_eq!(client.answer(1).status, 200);
    let begun = Instant::now();
    while client.ping() {
        std::thread::park_timeout(Duration::from_millis(50));
        assert!(begun.elapsed() < PATIENCE, "it lives on");
    }
    assert_eq!(client.end().map(|(code, _)| code), Some(0), "an orderly end");
}

/// A block of fields that never ends, and a client that says nothing.
#[test]
fn heads_must_end_in_time() {
    let origin = Origin::fixed("");
    let gateway = before(&origin, "header_timeout: 1s");
    let mut client = H2::connect(gateway.address);
    assert!(client.ping(), "nothing else is to be sent within the block");
    client.send(&raw(HEADERS, 1, 1, &block(&pseudo("GET", "/"))));
    assert_eq!(client.end().map(|(_, why)| why), Some("header timeout".to_owned()));
    let mut silent = H2::silent(gateway.address);
    silent.send(&PREFACE[..10]);
    silent.end();
    assert!(silent.closed);
    assert!(gateway.metric("ringway_worker_h2_goaway_total", &["header_timeout"]) >= 1.0);
}

/// F41: what comes together with its own reset is not begun: no endpoint sees it, and no flood of it fills the log.
#[test]
fn a_request_that_comes_with_its_own_reset_is_not_begun() {
    let origin = Origin::fixed("");
    let gateway = before(&origin, "");
    let mut client = H2::connect(gateway.address);
    assert!(client.ping(), "what follows comes alone");
    client.send(&[get(1, "/withdrawn"), raw(RESET, 0, 1, &[0, 0, 0, 8])].concat());
    client.send(&get(3, "/a"));
    assert_eq!(client.answer(3).status, 200);
    let lines = crate::support::e2e::eventually("the log line of the other", || {
        let lines = gateway.stdout();
        lines.iter().any(|line| line.contains("/a")).then_some(lines)
    });
    assert!(!lines.iter().any(|line| line.contains("/withdrawn")), "{lines:?}");
    assert_eq!(origin.seen().len(), 1, "no endpoint has seen it");
    assert_eq!(gateway.metric("ringway_worker_h2_resets_total", &[]), 1.0);
    assert_eq!(gateway.metric("ringway_worker_h2_streams_total", &[]), 2.0);
}

/// A client that gives up a request costs its endpoint nothing more.
#[test]
fn a_reset_ends_what_is_under_way_upstream() {
    let origin = Origin::start(|_| vec![Step::Hang]);
    let gateway = before(&origin, "");
    let mut client = H2::connect(gateway.address);
    client.send(&get(1, "/a"));
    origin.wait(1);
    client.send(&raw(RESET, 0, 1, &[0, 0, 0, 8]));
    client.send(&get(3, "/fixed"));
    assert_eq!(client.answer(3).status, 200);
    crate::support::e2e::eventually("the request is over", || {
        (gateway.metric("ringway_worker_active_requests", &[]) == 0.0).then_some(())
    });
    crate::support::e2e::eventually("its log line", || {
        gateway.stdout().iter().any(|line| line.contains("client_closed")).then_some(())
    });
}
