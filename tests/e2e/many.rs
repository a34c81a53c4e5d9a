//! Ten thousand endpoints in a thousand services, whose lists change under load: only what changes is done anew, no
//! request is lost, and nothing is left of the old sets (proof 5; the costs are measured by `loadtest/discovery`).

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::load::Load;
use crate::support::{Gateway, Origin, eventually, ok};

const SERVICES: usize = 1_000;
const EACH: usize = 10;
/// Lists that one turn replaces.
const TURN: usize = 50;

struct Lists {
    dir: tempfile::TempDir,
    port: u16,
}

impl Lists {
    fn path(&self, service: usize) -> PathBuf {
        self.dir.path().join(format!("s{service}.yaml"))
    }

    /// Nine addresses that stay and one that is another one in each turn.
    fn put(&self, service: usize, turn: usize) {
        let one = |at: usize| {
            let number = service * EACH + at;
            let first = if at + 1 < EACH { 1 } else { 100 + turn };
            format!("- 127.{first}.{}.{}:{}\n", number / 250, 1 + number % 250, self.port)
        };
        let text: String = (0..EACH).map(one).collect();
        write(&self.path(service), &text);
    }

    fn yaml(&self) -> String {
        self.yaml_after(0)
    }

    /// With another time in one of the services after each turn.
    fn yaml_after(&self, turn: usize) -> String {
        let service = |n: usize| {
            let more = if n == turn { format!(", timeouts: {{connect: {}ms}}", 1_501 + turn) } else { String::new() };
            format!("- {{name: s{n}, discovery: [{{file: {}}}]{more}}}\n", self.path(n).display())
        };
        let route = |n: usize| format!("- {{prefix: /s{n}/, service: s{n}}}\n");
        let (services, routes): (String, String) =
            ((0..SERVICES).map(service).collect(), (0..SERVICES).map(route).collect());
        format!(
            "discovery: {{wait: 60s}}\nservices:\n- {{name: plain, endpoints: [\"127.0.0.1:{}\"]}}\n{services}\
             routes:\n- {{path: /*, service: plain}}\n{routes}",
            self.port
        )
    }
}

fn write(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).expect("written");
    std::fs::rename(&next, path).expect("renamed");
}

fn endpoints(gateway: &Gateway, service: usize) -> Vec<String> {
    let all = gateway.ask_admin("GET", &format!("/services/s{service}/endpoints")).json();
    let one = |endpoint: &Value| endpoint["address"].as_str().expect("an address").to_owned();
    all.as_array().expect("a list").iter().map(one).collect()
}

#[test]
fn only_what_changes_is_done_anew_and_no_request_is_lost() {
    let origin = Origin::everywhere(|_| ok("up"));
    let lists = Lists { dir: tempfile::tempdir().expect("a directory"), port: origin.address.port() };
    (0..SERVICES).for_each(|service| lists.put(service, 0));
    let gateway = Gateway::start(&lists.yaml());
    let sets = || gateway.metric("ringway_discovery_updates_total", &[]) as usize;
    let taken = || gateway.metric("ringway_worker_endpoint_sets_total", &[]) as usize;
    eventually("all lists are read", || (sets() == SERVICES).then_some(()));
    assert_eq!(gateway.metric("ringway_discovery_lookups", &["state=\"current\""]) as usize, SERVICES);
    assert_eq!(gateway.get("/s999/x").text(), "up");
    let (load, before) = (Load::start(gateway.address, 1, 2, 0), taken());
    let mut resident_kib = Vec::new();
    for turn in 1..=6 {
        // Others in each turn, and some that were changed before.
        let services: Vec<usize> = (0..TURN).map(|at| (turn * 37 + at * 13) % SERVICES).collect();
        services.iter().for_each(|service| lists.put(*service, turn));
        eventually("they are taken up", || (sets() == SERVICES + turn * TURN).then_some(()));
        eventually("by the worker too", || (taken() - before == turn * TURN).then_some(()));
        let shown = endpoints(&gateway, services[7]);
        assert_eq!(shown.len(), EACH);
        assert!(shown.iter().any(|address| address.starts_with(&format!("127.{}.", 100 + turn))), "{shown:?}");
        assert_eq!(gateway.get(&format!("/s{}/x", services[7])).text(), "up");
        load.wait(5);
        resident_kib.push(gateway.rss_kib());
    }
    assert_eq!((sets(), taken() - before), (SERVICES + 6 * TURN, 6 * TURN), "and nothing else was done");
    // Were old sets kept, 200 of them with their endpoints and pools would be there by now.
    let (early, late) = (resident_kib[1], resident_kib[5]);
    assert!(late < early + 8 * 1024, "{resident_kib:?} KiB");
    // Of a reload that changes two services, all others and what they know go on; nothing is looked up anew.
    let opened = || gateway.metric("ringway_worker_upstream_connections_opened_total", &[]);
    let before = (taken(), sets(), opened());
    for turn in 1..=5 {
        let told = gateway.reload(&lists.yaml_after(turn)).json();
        let names: Vec<_> = [turn - 1, turn].iter().map(|n| format!("s{n}")).collect();
        assert_eq!(told["changes"]["services"]["changed"], serde_json::json!(names), "{told}");
        assert_eq!(endpoints(&gateway, turn).len(), EACH);
        assert_eq!(gateway.get(&format!("/s{turn}/x")).text(), "up");
        load.wait(5);
    }
    assert_eq!((taken(), sets()), (before.0, before.1), "no list is others than it was");
    // The plain path's connections are kept; a new one goes to each of those that were asked here.
    assert!(opened() <= before.2 + 10.0, "{} {}", opened(), before.2);
    load.finish();
}
