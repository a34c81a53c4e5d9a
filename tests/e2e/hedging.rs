//! Hedged requests: a second endpoint while the first is slow, counted at the endpoints and in the metrics.

use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use ringway::proto::h2::code::Code;

use crate::support::h2_origin::{Answer, H2Origin};
use crate::support::{Client, Gateway, Origin, PATIENCE, Step, eventually, ok};

/// Two endpoints of a service, asked in turns by one worker, that are never ejected.
fn gateway(endpoints: &[std::net::SocketAddr], service: &str) -> Gateway {
    let endpoints: Vec<_> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    Gateway::start(&format!(
        "server: {{workers: 1}}\nservices: [{{name: up, endpoints: [{}], load_balancer: round_robin, \
         ejection: {{failures: 0, gateway_errors: 0}}, {service}}}]\nroutes: [{{name: all, path: /*, service: up}}]\n",
        endpoints.join(", ")
    ))
}

const PLENTY: &str = "retries: {hedge: 30ms, budget: {percent: 100, per_second: 1000, least: 1000}}";

fn hedges(gateway: &Gateway) -> (f64, f64) {
    (gateway.metric("ringway_worker_hedges_total", &[]), gateway.metric("ringway_worker_hedges_won_total", &[]))
}

#[test]
fn the_first_answer_wins_and_the_loser_is_cut() {
    let (slow, quick) = (Origin::start(|_| vec![Step::Hang]), Origin::start(|seen| ok(seen.path())));
    let gateway = gateway(&[slow.address, quick.address], PLENTY);
    let mut client = gateway.connect();
    for at in 0..20 {
        let path = format!("/{at}");
        let answer = client.get(&path);
        assert_eq!((answer.status, answer.text()), (200, path));
    }
    let asked = slow.seen().len();
    assert!(asked >= 9, "the slow one was asked {asked} times");
    // On a busy machine the quick one may be late too, and the slow one be asked as well; it never answers.
    let (sent, won) = hedges(&gateway);
    assert!(sent >= won && won >= 9.0, "{sent} {won}");
    // A connection whose answer nobody waits for is closed, not kept.
    eventually("no connection but the pooled ones", || {
        (gateway.metric("ringway_worker_upstream_connections", &[]) <= quick.connections() as f64).then_some(())
    });
    assert_eq!(slow.connections(), asked, "none was used again");
    assert_eq!(gateway.metric("ringway_worker_retries_total", &[]), 0.0, "a copy is no retry");
}

#[test]
fn over_http2_the_loser_is_reset_and_its_connection_serves_on() {
    let script = |hangs: bool| {
        move |seen: &crate::support::h2_origin::Seen| match hangs && seen.path().starts_with("/slow") {
            true => Answer { hangs: true, ..Answer::default() },
            false => Answer::ok(seen.path()),
        }
    };
    let (slow, quick) = (H2Origin::start(script(true)), H2Origin::start(script(false)));
    let gateway = gateway(&[slow.address, quick.address], &format!("protocol: h2, {PLENTY}"));
    let mut client = gateway.connect();
    for at in 0..20 {
        let path = format!("{}/{at}", if at < 16 { "/slow" } else { "/both" });
        let answer = client.get(&path);
        assert_eq!((answer.status, answer.text()), (200, path));
    }
    let hung = slow.seen().iter().filter(|seen| seen.path().starts_with("/slow")).count();
    assert!(hung >= 8, "{hung}");
    let resets = eventually("every loser's reset", || Some(slow.resets()).filter(|resets| resets.len() >= hung));
    assert!(resets.iter().all(|code| *code == Code::Cancel), "{resets:?}");
    assert_eq!(slow.connections(), 1, "one stream that is given up costs no connection");
    assert!(slow.seen().len() > hung, "and it serves on");
}

#[test]
fn copies_are_held_to_the_budget() {
    let slow = || Origin::start(|_| vec![Step::Hang]);
    let (one, two) = (slow(), slow());
    let service = "timeouts: {first_byte: 300ms}, retries: {attempts: 1, hedge: 20ms, budget: {percent: 0, \
                   per_second: 0, least: 2}}";
    let gateway = gateway(&[one.address, two.address], service);
    (0..6).for_each(|_| assert_eq!(gateway.get("/").status, 504));
    assert_eq!((one.seen().len() + two.seen().len(), hedges(&gateway)), (6 + 2, (2.0, 0.0)));
}

/// A body of its own for each number.
fn body_of(number: usize) -> Vec<u8> {
    (0..number * 7_919 % 60_000 + 1).map(|at| b'a' + ((at * 31 + number) % 26) as u8).collect()
}

fn put(client: &mut Client, number: usize) -> Vec<u8> {
    let body = body_of(number);
    client.send(format!("PUT /{number} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", body.len()));
    // In two writes, so that the gateway sees a half of it first.
    let (one, other) = body.split_at(body.len() / 2);
    client.send(one);
    client.send(other);
    let answer = client.response();
    assert_eq!(answer.status, 200);
    answer.body
}

#[test]
fn a_body_that_fits_goes_whole_to_each_that_is_asked() {
    let (slow, quick) = (Origin::start(|_| vec![Step::Hang]), Origin::start(|seen| ok(&seen.body)));
    let gateway = gateway(&[slow.address, quick.address], PLENTY);
    let mut client = gateway.connect();
    (0..20).for_each(|number| assert_eq!(put(&mut client, number), body_of(number), "{number}"));
    let seen = slow.seen();
    assert!(seen.len() >= 9, "the slow one was asked {} times", seen.len());
    for seen in seen {
        let number = seen.path()[1..].parse().expect("a number");
        assert_eq!(seen.body, body_of(number), "{number}");
    }
    assert!(hedges(&gateway).1 >= 9.0);
    // One that has the body and says no more: the rest of the attempts have it too.
    let dying = Origin::start(|_| vec![Step::Close]);
    let gateway = self::gateway(&[dying.address, quick.address], PLENTY);
    let mut client = gateway.connect();
    (20..30).for_each(|number| assert_eq!(put(&mut client, number), body_of(number), "{number}"));
    assert!(dying.seen().iter().any(|seen| !seen.body.is_empty()));
}

#[test]
fn over_http2_too() {
    let slow = H2Origin::start(|_| Answer { hangs: true, ..Answer::default() });
    let quick = H2Origin::start(|seen| Answer::ok(&seen.body));
    let gateway = gateway(&[slow.address, quick.address], &format!("protocol: h2, {PLENTY}"));
    let mut client = gateway.connect();
    (0..20).for_each(|number| assert_eq!(put(&mut client, number), body_of(number), "{number}"));
    let seen = slow.seen();
    assert!(seen.len() >= 9, "the slow one was asked {} times", seen.len());
    for seen in seen {
        assert_eq!(seen.body, body_of(seen.path()[1..].parse().expect("a number")));
    }
}

/// An endpoint that answers before it has the body has answered.
#[test]
fn an_answer_may_come_before_the_body() {
    let early = || Origin::early(|_| ok("early"));
    let (one, two) = (early(), early());
    let gateway = gateway(&[one.address, two.address], PLENTY);
    let mut client = gateway.connect();
    (0..10).for_each(|number| assert_eq!(put(&mut client, number), b"early", "{number}"));
}

/// What may not be repeated, and what does not say that it fits, goes to one endpoint alone.
#[test]
fn long_bodies_and_posts_are_not_hedged() {
    let (opener, gate) = mpsc::channel();
    let origin = |hangs: bool| {
        let opener = Mutex::new(opener.clone());
        Origin::start(move |seen| match seen.path() {
            "/held" => {
                let (sender, receiver) = mpsc::channel();
                opener.lock().expect("the sender").send(sender).expect("the test waits");
                std::iter::once(Step::Await(receiver)).chain(ok("done")).collect()
            }
            _ if hangs => vec![Step::Hang],
            _ => ok("quick"),
        })
    };
    let (slow, quick) = (origin(true), origin(false));
    let gateway = gateway(&[slow.address, quick.address], PLENTY);
    let length = |length: usize| format!("Content-Length: {length}\r\n\r\n{}", "x".repeat(length));
    let rows = [
        ("POST", length(0)),
        ("POST", length(4)),
        ("PATCH", length(4)),
        ("PUT", length(64 * 1024 + 1)),
        ("PUT", "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n".to_owned()),
    ];
    for (method, rest) in &rows {
        let mut client = Client::connect(gateway.address);
        client.send(format!("{method} /held HTTP/1.1\r\nHost: t\r\n{rest}"));
        let sender: mpsc::Sender<()> = gate.recv_timeout(PATIENCE).expect("one of them has it");
        // One that came later has had its copy by now.
        let before = hedges(&gateway).1;
        eventually("a copy of another request", || {
            assert_eq!(gateway.get("/").text(), "quick");
            (hedges(&gateway).1 > before).then_some(())
        });
        sender.send(()).expect("the origin waits");
        assert_eq!(client.response().text(), "done", "{method}");
    }
    let held = [&slow, &quick].map(|origin| origin.seen().iter().filter(|seen| seen.path() == "/held").count());
    assert_eq!(held.iter().sum::<usize>(), rows.len());
}

/// Whoever is late, answers are never mixed up.
#[test]
fn answers_are_never_mixed_up() {
    let origin = || {
        Origin::start(|seen| {
            let number: u64 = seen.path()[1..].parse().unwrap_or(0);
            let mut answer = ok(format!("{number}:{}", "x".repeat((number * 37 % 9_000) as usize)));
            if number.is_multiple_of(3)
                && let Some(Step::Send(bytes)) = answer.pop()
            {
                // Some milliseconds in all, about when copies go out.
                let rest = bytes[8..].to_vec();
                answer = vec![Step::Drip(bytes[..8].to_vec(), Duration::from_millis(number % 7)), Step::Send(rest)];
            }
            answer
        })
    };
    let (one, two, three) = (origin(), origin(), origin());
    let service = "retries: {hedge: {after: 10ms, percentile: 60, max: 2}, \
                   budget: {percent: 100, per_second: 1000, least: 1000}}";
    let gateway = gateway(&[one.address, two.address, three.address], service);
    let clients: Vec<_> = (0..4_u64)
        .map(|client| {
            let address = gateway.address;
            std::thread::spawn(move || {
                let mut connection = Client::connect(address);
                for at in 0..80 {
                    let number = client * 1_000 + at;
                    let text = connection.get(&format!("/{number}")).text();
                    assert_eq!(text, format!("{number}:{}", "x".repeat((number * 37 % 9_000) as usize)));
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    assert!(hedges(&gateway).0 > 0.0);
}
