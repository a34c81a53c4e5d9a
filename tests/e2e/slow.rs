//! Minimum rates over real sockets, with small values (F39); `tests/sim/slow.rs` has the defaults in virtual time.

use std::io::Read;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::{GET, Gateway, Origin, PATIENCE, eventually, ok, proxy_to};

const STEP: Duration = Duration::from_millis(50);

fn limited(origin: &Origin, limits: &str) -> Gateway {
    let logging = "logging: {access_log: json}";
    let listeners = format!("listeners: [{{address: \"127.0.0.1:0\", limits: {{{limits}}}}}]");
    Gateway::start(&format!("{logging}\n{listeners}\n{}", proxy_to(origin)))
}

/// A short body is read and sent on, a long one is passed on inside the kernel.
#[test]
fn a_trickling_body_is_ended_with_408() {
    for length in [10_000, 5_000_000] {
        let origin = Origin::echo();
        let gateway = limited(&origin, "body_rate_min: 1KiB, rate_grace: 300ms, body_timeout: 5s");
        let mut client = gateway.connect();
        let begun = Instant::now();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
        // 200 bytes a second; a client of 1 KiB a second and more is not cut, see below.
        while begun.elapsed() < PATIENCE && gateway.metric("gateway_errors_total", &["body_too_slow"]) == 0.0 {
            client.try_send([b'x'; 10]);
            thread::park_timeout(STEP);
        }
        let response = client.response();
        assert_eq!((response.status, response.reason().as_str(), response.closes()), (408, "body_too_slow", true));
        assert!(client.is_closed() && begun.elapsed() > Duration::from_millis(300));
        eventually("the log says so", || {
            gateway.stdout().iter().any(|line| line.contains("\"body_too_slow\"")).then_some(())
        });
        assert_eq!(gateway.metric("ringway_worker_deadlines_total", &["body_rate"]), 1.0);
        gateway.wait_idle();
    }
}

/// Who sends half a request cannot have an endpoint taken for a failing one, whatever time runs out first.
#[test]
fn half_a_body_is_the_clients_fault_also_when_the_time_of_the_request_is_over() {
    let origin = Origin::start(|_| ok("well"));
    let listeners = "listeners: [{address: \"127.0.0.1:0\", limits: {body_timeout: 20s}}]";
    let services = format!("services: [{{name: up, endpoints: [\"{}\"]}}]", origin.address);
    let gateway =
        Gateway::start(&format!("{listeners}\n{services}\nroutes: [{{path: /*, service: up, timeout: 300ms}}]\n"));
    // A short body, one that is passed on inside the kernel, and chunks.
    for framing in ["Content-Length: 100", "Content-Length: 5000000", "Transfer-Encoding: chunked"] {
        for _ in 0..4 {
            let mut client = gateway.connect();
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n2\r\nab"));
            let response = client.response();
            let seen = (response.status, response.reason(), response.closes());
            assert_eq!(seen, (408, "body_timeout".to_owned(), true), "{framing}");
        }
        assert_eq!(gateway.get("/").text(), "well", "{framing}: the endpoint was ejected");
    }
    assert_eq!(gateway.metric("ringway_service_ejections_total", &["up"]), 0.0);
}

#[test]
fn a_body_that_is_fast_enough_arrives() {
    let origin = Origin::echo();
    let gateway = limited(&origin, "body_rate_min: 1KiB, rate_grace: 2s, body_timeout: 10s");
    let mut client = gateway.connect();
    for (length, last) in [(48_000, 1_200), (600_000, 600_000 - 39 * 1_200)] {
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
        for part in [1_200; 39].into_iter().chain([last]) {
            client.send(vec![b'x'; part]);
            thread::park_timeout(STEP);
        }
        assert_eq!(client.response().status, 200);
        assert_eq!(origin.last().body.len(), length);
    }
}

/// A client whose kernel holds little, so that how it reads is how the gateway can send.
fn narrow(gateway: &Gateway) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("an option");
    socket.connect(&gateway.address.into()).expect("connected");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream
}

/// Reads so many bytes each step, for `time`; returns whether the connection was still open.
fn read_slowly(stream: &mut TcpStream, bytes: usize, time: Duration) -> bool {
    let (begun, mut buf) = (Instant::now(), vec![0; bytes]);
    while begun.elapsed() < time {
        if !matches!(stream.read(&mut buf), Ok(count) if count > 0) {
            return false;
        }
        thread::park_timeout(STEP);
    }
    true
}

#[test]
fn a_slow_reader_is_cut_and_a_faster_one_is_not() {
    let origin = Origin::start(|_| ok(vec![b'x'; 16 << 20]));
    // The faster one takes 20 KiB a second: less than what one sending may hold, within one `write_timeout`.
    let gateway = limited(&origin, "write_rate_min: 4KiB, rate_grace: 1s, write_timeout: 3s");
    thread::scope(|scope| {
        for (bytes, is_slow) in [(50, true), (1_024, false)] {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut stream = narrow(gateway);
                std::io::Write::write_all(&mut stream, GET.as_bytes()).expect("sent");
                let stays = read_slowly(&mut stream, bytes, Duration::from_secs(7));
                if is_slow {
                    eventually("the slow one is cut", || {
                        (gateway.metric("gateway_errors_total", &["client_too_slow"]) == 1.0).then_some(())
                    });
                } else {
                    assert!(stays, "a reader that is fast enough was cut");
                }
            });
        }
    });
    // The faster one has left in the middle; nothing else was cut.
    assert_eq!(gateway.metric("ringway_worker_deadlines_total", &["write_rate"]), 1.0);
    assert_eq!(gateway.metric("ringway_worker_deadlines_total", &["\"write\""]), 0.0);
    gateway.wait_idle();
}
