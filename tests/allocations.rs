//! How often the allocator is asked for one proxied request on kept-alive connections, once everything is warm; and
//! what a route takes.

#[path = "support/bed.rs"]
mod bed;
#[path = "support/whole.rs"]
mod whole;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use whole::{CONFIG, Whole};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// Bytes that this thread has and has not given back.
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: isize) {
    COUNT.with(|count| count.set(count.get() + 1));
    BYTES.with(|all| all.set(all.get() + bytes));
}

// SAFETY: every call is passed on to the system's allocator unchanged; the counters do not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.with(|bytes| bytes.set(bytes.get() - layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Requests before counting begins: pools, tables and recycled exchanges have their sizes then.
const WARM_UP: usize = 200;
const REQUESTS: u64 = 1_000;

fn allocations_of(config: &str, body_bytes: usize) -> u64 {
    let mut whole = Whole::new(config, body_bytes);
    for _ in 0..WARM_UP {
        whole.exchange();
    }
    let before = COUNT.get();
    for _ in 0..REQUESTS {
        assert!(whole.exchange() > body_bytes);
    }
    let count = COUNT.get() - before;
    println!("{count} allocations for {REQUESTS} requests with {body_bytes} bytes");
    count
}

#[test]
fn a_kept_alive_request_allocates_nothing() {
    for body_bytes in [0, 1_024, 12_000] {
        let count = allocations_of(CONFIG, body_bytes);
        assert_eq!(count, 0, "allocations for {REQUESTS} requests");
    }
}

#[test]
fn policies_allocate_nothing() {
    let config = CONFIG.replace(
        "service: up}]",
        "service: up, policies: [{rate_limit: {rate: 1000000/s}}, {headers: {response: {set: {X-A: b}}}}]}]",
    );
    let count = allocations_of(&config, 1_024);
    assert_eq!(count, 0, "allocations for {REQUESTS} requests");
}

/// What one more route takes in a gateway with one worker, in bytes: a ceiling that may only be lowered. Some 1,000 of
/// them are what the route says in the configuration, kept so that a reload compiles only what has changed.
const ROUTE_BYTES_MAX: isize = 2_500;

#[test]
fn a_route_takes_no_more_than_it_did() {
    let bytes_of = |count: usize| {
        let before = BYTES.get();
        let route = |at| format!("  - {{name: r{at}, prefix: /team-{}/service-{at}/v1/, service: up}}\n", at % 37);
        let routes: String = (0..count).map(route).collect();
        let services = "services: [{name: up, endpoints: [\"127.0.0.1:9000\"]}]";
        let whole = Whole::new(&format!("listeners: [\"127.0.0.1:8080\"]\n{services}\nroutes:\n{routes}"), 0);
        let bytes = BYTES.get() - before;
        drop(whole);
        bytes
    };
    let bytes = (bytes_of(1_500) - bytes_of(500)) / 1_000;
    println!("{bytes} bytes for a route");
    assert!((1..=ROUTE_BYTES_MAX).contains(&bytes), "{bytes} bytes for a route");
}
