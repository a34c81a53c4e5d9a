//! F33, F34: what one exchange leaves on an upstream connection never becomes a part of the next.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::e2e::gateway::Plan;
use crate::support::e2e::{Gateway, Origin, PATIENCE, Seen, Step, before, eventually, ok};

const ROUNDS: usize = 2_000;
const STRAY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";

/// The tag of a request, as an answer.
fn tagged(seen: &Seen) -> Vec<u8> {
    let tag = seen.path();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{tag}", tag.len()).into_bytes()
}

/// Asks `rounds` times with a tag of its own each; returns how many answers were not the tag's.
fn mixed(gateway: &Gateway, rounds: usize, mut between: impl FnMut(usize)) -> usize {
    let mut client = gateway.connect();
    let mut mixed = 0;
    for round in 0..rounds {
        let path = format!("/{round}");
        let response = client.get(&path);
        mixed += usize::from(response.text() != path);
        if response.closes() {
            client = gateway.connect();
        }
        between(round);
    }
    mixed
}

#[test]
fn bytes_in_one_piece_with_an_answer_are_not_the_next_answer() {
    let origin = Origin::start(|seen| vec![Step::Send([&tagged(seen)[..], STRAY.as_bytes()].concat())]);
    let gateway = before(&origin);
    assert_eq!(mixed(&gateway, ROUNDS, |_| ()), 0);
    assert_eq!(origin.connections(), ROUNDS, "no such connection is used again");
}

/// The stray bytes come when the client has its answer, and before it asks again.
#[test]
fn bytes_that_come_later_are_not_the_next_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("an option");
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\nroutes: [{{name: all, path: /*, service: up}}]\n",
        listener.local_addr().expect("an address")
    ));
    let mut client = gateway.connect();
    let mut kept = Vec::new();
    for round in 0..ROUNDS {
        let path = format!("/{round}");
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        // A gateway that takes stray bytes for an answer never comes here.
        let (mut stream, _) = eventually("a fresh connection", || listener.accept().ok());
        stream.set_nonblocking(false).expect("an option");
        let mut head = [0; 1024];
        let count = stream.read(&mut head).expect("a request");
        assert!(head[..count].starts_with(format!("GET {path} ").as_bytes()));
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
        stream.write_all(answer.as_bytes()).expect("sent");
        assert_eq!(client.response().text(), path);
        // Over the loopback, what was written lies in the gateway's socket. This connection stays open.
        stream.write_all(STRAY.as_bytes()).expect("sent");
        kept.push(stream);
        kept.drain(..kept.len().saturating_sub(8));
        // Longer than the time for which a connection counts as in the midst of its load.
        std::thread::park_timeout(Duration::from_micros(2 * ringway::limits::POOL_PROBE_AFTER_US));
    }
}

/// The same at once, in the midst of a load, where a connection is used again without a look. The
/// loopback may put a delivery off, so that a stray comes behind the request and nothing can tell it from an answer;
/// without the order of read and send every round would have one.
#[test]
fn bytes_that_come_at_once_are_not_the_next_answer() {
    for driver in ["defer", "ring", "epoll"] {
        let (hand_over, answered) = channel();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = [0; 1024];
                let Ok(count @ 1..) = stream.read(&mut head) else { continue };
                let path = String::from_utf8_lossy(&head[..count]).split(' ').nth(1).unwrap_or_default().to_owned();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
                // A connection that serves one request, and stays open.
                if stream.write_all(answer.as_bytes()).is_err() || hand_over.send(stream).is_err() {
                    break;
                }
            }
        });
        let gateway = Plan::new(&format!(
            "server: {{workers: 1}}\nservices: [{{name: up, endpoints: [\"{address}\"]}}]\n\
             routes: [{{name: all, path: /*, service: up}}]\n"
        ));
        let gateway = gateway.arguments(&["--driver", driver]).start();
        let mut client = gateway.connect();
        let (mut taken, mut last) = (0, None);
        for round in 0..ROUNDS / 4 {
            let path = format!("/{round}");
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let response = client.response();
            if response.text() == "stray" {
                // Nobody reads that connection any more.
                taken += 1;
                last = None;
                continue;
            }
            assert_eq!((response.status, response.text()), (200, path), "{driver}");
            let stream: std::net::TcpStream = answered.recv_timeout(PATIENCE).expect("the origin has answered");
            last.insert(stream).write_all(STRAY.as_bytes()).expect("sent");
        }
        assert!(taken * 10 <= ROUNDS / 4, "{driver}: {taken} strays were taken for answers");
        println!("{driver}: {taken} strays came too late to be told from answers");
    }
}

/// An origin that answers before it has read the body: the rest of the body is not its next request's beginning.
#[test]
fn early_answers_do_not_mix() {
    let origin = Origin::early(|seen| vec![Step::Send(tagged(seen))]);
    let gateway = before(&origin);
    let body = "GET /stray HTTP/1.1\r\nHost: a\r\n\r\n".repeat(4);
    for round in 0..ROUNDS / 4 {
        let mut client = gateway.connect();
        let path = format!("/{round}");
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
        client.send(&body[..40]);
        let response = client.response();
        assert_eq!(response.text(), path);
        if round % 2 == 0 {
            client.try_send(&body[40..]);
        }
        let next = gateway.get(&format!("/next/{round}"));
        assert_eq!(next.text(), format!("/next/{round}"));
    }
    assert!(!origin.seen().iter().any(|seen| seen.path() == "/stray"), "a body was read as a request");
}

/// F33: the origin closes behind each answer and does not say so.
#[test]
fn unannounced_closes_cost_no_post() {
    let origin = Origin::start(|seen| {
        let mut steps = ok(&seen.body);
        steps.push(Step::Close);
        steps
    });
    let gateway = before(&origin);
    let mut client = gateway.connect();
    for round in 0..ROUNDS {
        let body = format!("body {round}");
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        let response = client.response();
        assert_eq!((response.status, response.text()), (200, body), "round {round}");
    }
    assert_eq!(origin.seen().len(), ROUNDS, "each is acted on once");
}

/// An endpoint that answers and closes before it has read the upload, whenever that is: its answer arrives.
#[test]
fn an_early_answer_with_a_close_arrives() {
    let large = "x".repeat(3 << 20);
    for (name, sends) in [
        ("body behind the answer", vec!["hello", "world"]),
        ("large body behind the answer", vec![&large[..]]),
        ("large body in two parts", vec![&large[..100_000], &large[100_000..]]),
    ] {
        for with_head in [false, true] {
            let origin = Origin::early(|_| {
                let answer = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope";
                vec![Step::Send(answer.into()), Step::Close]
            });
            let gateway = before(&origin);
            for _ in 0..20 {
                let mut client = gateway.connect();
                let length: usize = sends.iter().map(|part| part.len()).sum();
                let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
                // The gateway drains a bounded part of what nobody wants: any write after the head may be refused.
                if with_head {
                    client.try_send([&head, sends[0]].concat());
                } else {
                    client.send(&head);
                }
                for part in &sends[usize::from(with_head)..] {
                    client.try_send(part);
                }
                let response = client.response();
                assert_eq!((response.status, response.text().as_str()), (401, "nope"), "{name}, {with_head}");
            }
        }
    }
}

/// The same, where the endpoint resets what it has not read, as a close with unread bytes does.
#[test]
fn an_early_answer_before_a_reset_arrives() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let served = std::sync::Arc::new(AtomicUsize::new(0));
    let theirs = served.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Nothing is read: closing is a reset for what lies there.
            let answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nnope";
            let mut byte = [0];
            let _ = stream.peek(&mut byte);
            let _ = stream.write_all(answer);
            theirs.fetch_add(1, Ordering::SeqCst);
        }
    });
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{address}\"]}}]\nroutes: [{{name: all, path: /*, service: up}}]\n"
    ));
    for round in 0..50 {
        let mut client = gateway.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        client.try_send("x".repeat(if round % 2 == 0 { 10 } else { 1_000_000 }));
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (413, "nope"), "round {round}");
    }
    assert_eq!(served.load(Ordering::SeqCst), 50);
}

/// A last answer is not destroyed by a close with pipelined requests unread behind it.
#[test]
fn a_close_with_unread_requests_behind_does_not_destroy_the_answer() {
    let body = "y".repeat(200_000);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (offer, offered) = channel();
    let origin = Origin::start(move |_| {
        let (go, gone) = channel();
        // A test that has ended asks for nothing more.
        let _ = offer.send(go);
        vec![Step::Await(gone), Step::Send(answer.clone().into())]
    });
    let gateway = before(&origin);
    for _ in 0..50 {
        let mut client = gateway.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let go = offered.recv_timeout(PATIENCE).expect("the origin was asked");
        client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100));
        go.send(()).expect("it waits");
        let response = client.response();
        assert!(response.complete && response.body.len() == body.len(), "{} bytes", response.body.len());
    }
    assert!(origin.seen().iter().all(|seen| seen.path() == "/"));
}
