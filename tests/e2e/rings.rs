//! What becomes of io_uring's own faults (F20): small rings, errors at the submit, rings that are refused or lack
//! something. A library between the gateway and the kernel makes them (`tests/faults/shim/ring.c`).
#![cfg(target_arch = "x86_64")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::support::gateway::{BINARY, Plan};
use crate::support::{Client, Gateway, Origin, proxy_to};

/// The library, built once with the C compiler that Rust links with.
fn shim() -> &'static PathBuf {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("ring-{}.so", std::process::id()));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim/ring.c");
        let built = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
        assert!(built.is_ok_and(|status| status.success()), "cc builds the shim");
        library
    })
}

fn start(yaml: &str, driver: &str, faults: &[(&str, &str)]) -> Gateway {
    let plan = Plan::new(yaml).arguments(&["--driver", driver]).env("LD_PRELOAD", shim().display());
    faults.iter().fold(plan, |plan, (name, value)| plan.env(name, value)).start()
}

/// All clients ask at once, several times; each gets its own answer.
fn all_are_served(gateway: &Gateway, count: usize, what: &str) {
    let mut clients: Vec<Client> = (0..count).map(|_| gateway.connect()).collect();
    for round in 0..3 {
        let path = |client: usize| format!("/{round}/{client}");
        for (at, client) in clients.iter_mut().enumerate() {
            client.send(format!("GET {} HTTP/1.1\r\nHost: test\r\n\r\n", path(at)));
        }
        for (at, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.response().text(), format!("GET {}", path(at)), "{what}");
        }
    }
}

#[test]
fn a_ring_of_eight_entries_serves_a_thousand_connections() {
    let origin = Origin::echo();
    for driver in ["defer", "coop", "ring"] {
        let gateway = start(&proxy_to(&origin), driver, &[("RING_ENTRIES", "8")]);
        assert!(gateway.logs("ringway starts")[0]["driver"].to_string().contains("io_uring"), "{driver}");
        all_are_served(&gateway, 1_000, driver);
        gateway.wait_idle();
    }
}

#[test]
fn errors_at_the_submit_lose_nothing() {
    let origin = Origin::echo();
    for (driver, every, entries) in
        [("defer", "3", "8"), ("defer", "2", "2048"), ("ring", "3", "8"), ("coop", "5", "64")]
    {
        let gateway = start(&proxy_to(&origin), driver, &[("RING_ENTRIES", entries), ("RING_ENTER_FAIL", every)]);
        all_are_served(&gateway, 200, &format!("{driver}, every {every}th, {entries} entries"));
    }
}

#[test]
fn refused_rings_are_told_of_and_epoll_serves() {
    const EPERM: &str = "1";
    const ENOSYS: &str = "38";
    const ACCEPT: &str = "13";
    for (fault, value, word) in [
        ("RING_SETUP_ERRNO", EPERM, "seccomp"),
        ("RING_SETUP_ERRNO", ENOSYS, "no io_uring"),
        ("RING_MISSING_OP", ACCEPT, "IORING_OP_ACCEPT"),
    ] {
        let origin = Origin::echo();
        let gateway = start(&proxy_to(&origin), "defer", &[(fault, value)]);
        let told = gateway.logs("driver refused by this kernel");
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().all(|line| line["error"].to_string().contains(word)), "{told:?}");
        assert!(told.iter().all(|line| line["error"].to_string().contains("(kernel ")), "{told:?}");
        assert_eq!(gateway.logs("ringway starts")[0]["driver"], "epoll");
        all_are_served(&gateway, 20, value);
    }
}

/// The kernel's own refusal: a filter as container engines install it, which answers EPERM (Docker, containerd) or
/// ENOSYS (gVisor and older profiles) to every io_uring call.
#[test]
fn a_seccomp_filter_against_rings_leaves_a_gateway_on_epoll() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    for (errno, word) in [(1, "seccomp"), (38, "no io_uring")] {
        let wrapper = folder.path().join(format!("refuse-{errno}"));
        let filter = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim/refuse_rings.py");
        let script = format!("#!/bin/sh\nexec python3 {filter} {errno} {BINARY} \"$@\"\n");
        std::fs::write(&wrapper, script).expect("written");
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).expect("a program");
        let origin = Origin::echo();
        let gateway = Plan::new(&proxy_to(&origin)).binary(&wrapper).start();
        let told = gateway.logs("driver refused by this kernel");
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told.iter().all(|line| line["error"].to_string().contains(word)), "{told:?}");
        assert_eq!(gateway.logs("ringway starts")[0]["driver"], "epoll");
        all_are_served(&gateway, 50, word);
        // A reload and what stands behind it work on epoll too.
        assert_eq!(gateway.reload(&proxy_to(&origin)).status, 200);
        all_are_served(&gateway, 5, word);
        gateway.wait_idle();
    }
}
