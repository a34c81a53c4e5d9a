//! Endpoints that nobody can reach: some of them, all of them, and their return (F22, F27, F29), with one worker and
//! with several.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use crate::support::origin::ok;
use crate::support::{Client, Gateway, Origin, Step, eventually};

/// A port that belongs to the test and at which nobody listens yet.
struct Place {
    socket: Option<Socket>,
    address: SocketAddr,
}

impl Place {
    fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        socket.bind(&any.into()).expect("a port");
        let address = socket.local_addr().expect("an address").as_socket().expect("of IP");
        Self { socket: Some(socket), address }
    }

    /// Somebody listens from now on.
    fn open(&mut self) -> Origin {
        self.socket = None;
        Origin::fixed_at(self.address, "back")
    }

    /// Somebody whose answers on `/long` have no end.
    fn open_long(&mut self) -> Origin {
        self.socket = None;
        Origin::start_at(self.address, |seen| match seen.head.start.contains("/long") {
            true => vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nlong".to_vec()), Step::Hang],
            false => ok("back"),
        })
    }
}

fn yaml(endpoints: &[SocketAddr], workers: u32, more: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "server: {{workers: {workers}}}\nservices: [{{name: up, endpoints: [{}], slow_start: 0s{more}}}]\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        endpoints.join(", ")
    )
}

/// Whichever of them returns, also one that is ejected for minutes.
#[test]
fn nobody_to_be_reached_is_told_at_once_and_is_over_with_the_first_that_returns() {
    for (count, back) in [(1, 0), (3, 0), (3, 1), (3, 2)] {
        let mut places: Vec<_> = (0..count).map(|_| Place::new()).collect();
        let addresses: Vec<_> = places.iter().map(|place| place.address).collect();
        let gateway = Gateway::start(&yaml(&addresses, 2, ", ejection: {base: 300s}"));
        let refused = eventually("it is known that nobody is there", || {
            let answer = gateway.get("/");
            assert!([502, 503].contains(&answer.status), "{}", answer.status);
            (answer.status == 503).then_some(answer)
        });
        assert_eq!((refused.reason().as_str(), refused.header("retry-after")), ("no_endpoint", Some("1")));
        // From then on it is so for all, whichever worker they meet, those that try it among them.
        for _ in 0..20 {
            let answer = gateway.ask("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nhi");
            assert_eq!((answer.status, answer.reason().as_str()), (503, "no_endpoint"));
        }
        let _origin = places[back].open();
        eventually("it serves again", || (gateway.get("/").status == 200).then_some(()));
        (0..40).for_each(|at| assert_eq!(gateway.get("/").status, 200, "{count} {back}: {at}"));
    }
}

/// The head of its first answer is enough: who has seen it meets nobody who does not know.
#[test]
fn an_endpoint_is_back_with_the_head_of_an_answer() {
    let mut place = Place::new();
    let gateway = Gateway::start(&yaml(&[place.address], 2, ", ejection: {base: 300s}"));
    eventually("it is known that nobody is there", || (gateway.get("/").status == 503).then_some(()));
    let _origin = place.open_long();
    let _long = eventually("a long answer begins", || {
        let mut client = Client::connect(gateway.address);
        client.send("GET /long HTTP/1.1\r\nHost: t\r\n\r\n");
        let head = client.read_head().expect("an answer");
        head.start.contains(" 200 ").then_some(client)
    });
    (0..40).for_each(|at| assert_eq!(gateway.get("/").status, 200, "{at}"));
}

/// From the first request on: whoever is not there is looked past, whatever the budget of retries says.
#[test]
fn three_of_four_that_cannot_be_reached_lose_nothing() {
    for more in ["", ", retries: {budget: {percent: 0, per_second: 0, least: 0}}"] {
        for workers in [1, 3] {
            let places: Vec<_> = (0..3).map(|_| Place::new()).collect();
            let good = Origin::fixed("good");
            let mut addresses: Vec<_> = places.iter().map(|place| place.address).collect();
            addresses.push(good.address);
            let gateway = Gateway::start(&yaml(&addresses, workers, more));
            for _ in 0..100 {
                assert_eq!(gateway.get("/").status, 200);
                let posted = gateway.ask("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nhi");
                assert_eq!(posted.status, 200);
            }
            assert_eq!(gateway.metric("ringway_service_panic", &[]), 0.0, "half of them at most is ejected");
            assert_eq!(good.seen().len(), 200, "each reached a server once");
        }
    }
}

/// Three failures eject, however many workers have seen them.
#[test]
fn failures_count_over_all_workers() {
    let (good, bad) = (Origin::fixed("good"), Origin::start(|_| vec![Step::Close]));
    let gateway = Gateway::start(&yaml(&[bad.address, good.address], 4, ", ejection: {base: 300s, max: 300s}"));
    // As many connections as make it likely that all workers have some.
    let mut clients: Vec<_> = (0..16).map(|_| Client::connect(gateway.address)).collect();
    for round in 0..6 {
        for client in &mut clients {
            assert_eq!(client.get(&format!("/{round}")).status, 200);
        }
    }
    let used = gateway.by_worker("ringway_worker_requests_total", 4).iter().filter(|count| **count > 0.0).count();
    assert!(used > 1, "one worker had it all");
    assert_eq!(bad.seen().len(), 3);
}
