//! Connections are placed so that no worker has more than its share (D8, A17, F21).

use ringway::worker::placement::{close_share, fair_share};

use crate::support::gateway::Plan;
use crate::support::{Client, Gateway, eventually};

const WORKERS: usize = 4;
const HERE: &str = "server: {workers: 4, pin_workers: false}\nroutes: [{path: /a, respond: {body: here}}]\n";

fn connections(gateway: &Gateway) -> Vec<u64> {
    gateway.by_worker("ringway_worker_active_connections", WORKERS).into_iter().map(|count| count as u64).collect()
}

/// Opens more connections, until there are `count`, all at once; then each asks once.
fn open(gateway: &Gateway, clients: &mut Vec<Client>, count: usize) {
    let first = clients.len();
    clients.extend((first..count).map(|_| gateway.connect()));
    for client in &mut clients[first..] {
        client.send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n");
    }
    for client in &mut clients[first..] {
        assert_eq!(client.response().text(), "here");
    }
}

fn is_fair(gateway: &Gateway, count: usize) -> Vec<u64> {
    let spread = eventually("all are counted", || {
        let spread = connections(gateway);
        (spread.iter().sum::<u64>() == count as u64).then_some(spread)
    });
    let most = spread.iter().copied().max().unwrap_or(0);
    assert!(most <= fair_share(count as u64, WORKERS as u64), "{count}: {spread:?}");
    spread
}

#[test]
fn few_long_lived_connections_do_not_pile_on_one_worker() {
    for driver in ["defer", "epoll"] {
        let gateway = Plan::new(HERE).arguments(&["--driver", driver]).start();
        let mut clients = Vec::new();
        for count in [2, 4, 5, 17, 64, 1_000] {
            open(&gateway, &mut clients, count);
            let spread = is_fair(&gateway, count);
            let busiest_over_mean = spread.iter().copied().max().unwrap_or(0) as f64 * WORKERS as f64 / count as f64;
            // 2 and 5 over 4 cannot do better than 2.0 and 1.6: a worker has one whole connection or none.
            let bar =
                if count % WORKERS == 0 || count > 16 { 1.25 } else { count.div_ceil(4) as f64 * 4.0 / count as f64 };
            assert!(busiest_over_mean <= bar, "{driver}, {count}: {spread:?}, busiest over mean {busiest_over_mean}");
        }
        let handed = gateway.metric("ringway_worker_connections_handed_over_total", &[]);
        let taken = gateway.metric("ringway_worker_connections_taken_over_total", &[]);
        assert!(handed == taken, "{driver}: {handed} given, {taken} taken");
        for client in &mut clients {
            assert_eq!(client.get("/a").text(), "here", "{driver}");
        }
        drop(clients);
        eventually("all have ended", || (connections(&gateway) == [0; WORKERS]).then_some(()));
    }
}

#[test]
fn a_burst_that_lasts_is_spread_evenly() {
    for driver in ["defer", "epoll"] {
        let two = HERE.replace("workers: 4", "workers: 2");
        let gateway = Plan::new(&two).arguments(&["--driver", driver]).start();
        let mut clients = Vec::new();
        // All at once: none has asked for anything when the last one is placed.
        open(&gateway, &mut clients, 64);
        let spread = eventually("all are counted", || {
            let spread = gateway.by_worker("ringway_worker_active_connections", 2);
            (spread.iter().sum::<f64>() == 64.0).then_some(spread)
        });
        assert!(spread.iter().all(|&count| count <= close_share(64, 2) as f64), "{driver}: {spread:?}");
    }
}

#[test]
fn a_worker_that_lost_its_connections_gets_the_next_ones() {
    let gateway = Gateway::start(HERE);
    let mut clients = Vec::new();
    open(&gateway, &mut clients, 40);
    // Whichever stay, the next ones even it out.
    clients.truncate(7);
    eventually("they have ended", || (connections(&gateway).iter().sum::<u64>() == 7).then_some(()));
    open(&gateway, &mut clients, 47);
    is_fair(&gateway, 47);
}

#[test]
fn connections_on_their_way_to_another_worker_are_served_in_a_drain() {
    let yaml = HERE.replace("workers: 4", "workers: 4, drain_timeout: 5s");
    for _ in 0..3 {
        let mut gateway = Gateway::start(&yaml);
        let mut clients: Vec<_> = (0..64).map(|_| gateway.connect()).collect();
        for client in &mut clients {
            client.send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n");
        }
        // All have been accepted: the answers show it. Those behind the stop end without one, or with a whole one.
        for client in &mut clients {
            assert_eq!(client.response().text(), "here");
        }
        gateway.signal("TERM");
        assert_eq!(gateway.exit_code(), 0);
        assert_eq!(gateway.wait_log("stopped", 1)[0]["drained"], "true");
    }
}
