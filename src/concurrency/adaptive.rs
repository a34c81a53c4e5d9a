//! A limit that finds itself: how many requests a service takes at once before they only wait for each other.
//!
//! It is the rule of TCP Vegas for requests. `base` is the latency without queueing; with `limit` in flight and a
//! latency of `rtt`, `limit * (1 - base / rtt)` of them wait in the service. The limit is kept where a few do: enough
//! to show that capacity is used, few enough that latency stays near `base`. What fails from overload (timeouts,
//! refused connections) takes a tenth off.
//!
//! `base` is measured by probes, not kept as a minimum for ever: every [`PROBE_EVERY_MS`] the limit is lowered to
//! [`PROBE_PERCENT`] for a moment, so that the service's own queue runs empty, and what is measured then is the new
//! base. So a service that became slower or faster is learned anew within that time, and the rule does not drift.
//!
//! Pure: time and measurements go in, a limit comes out.

use crate::time::Now;

/// Shortest time over which latencies are averaged.
pub const WINDOW_MS: u64 = 100;
/// Requests without which an average says too little; a window lasts until it has them, up to [`WINDOW_MS_MAX`].
pub const WINDOW_SAMPLES_MIN: u64 = 100;
/// Longest window.
pub const WINDOW_MS_MAX: u64 = 2_000;
/// How often the latency without queueing is measured.
pub const PROBE_EVERY_MS: u64 = 10_000;
/// To which part of itself the limit is lowered for a probe.
pub const PROBE_PERCENT: u32 = 60;
/// Windows of a probe.
const PROBE_WINDOWS: u32 = 3;
/// What the limit begins with.
pub const LIMIT_AT_START: u32 = 20;

/// Between what the limit may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Never less; at least 1.
    pub min: u32,
    /// Never more.
    pub max: u32,
}

/// What was seen in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Requests that were answered.
    pub answered: u64,
    /// Sum of their latencies, in nanoseconds.
    pub sum_ns: u64,
    /// Requests that failed as those of an overloaded service do.
    pub failed: u64,
    /// Most requests in flight.
    pub in_flight_max: u32,
}

impl Window {
    /// Mean latency in nanoseconds, never 0.
    fn mean_ns(&self) -> f64 {
        (self.sum_ns as f64 / self.answered.max(1) as f64).max(1.0)
    }

    /// Adds what another saw.
    pub fn absorb(&mut self, other: Window) {
        self.answered += other.answered;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.failed += other.failed;
        self.in_flight_max = self.in_flight_max.max(other.in_flight_max);
    }
}

/// The state.
#[derive(Clone, Debug)]
pub struct Adaptive {
    limit: f64,
    base_ns: Option<f64>,
    window: Window,
    since: Option<Now>,
    /// Mean latency of the last windows.
    smooth_ns: Option<f64>,
    /// Too many waited in the window before.
    over: bool,
    probed: Option<Now>,
    /// Windows of the present probe that are left, and what it has seen.
    probing: u32,
    probe: Window,
}

impl Adaptive {
    /// Nothing is known yet.
    pub fn new(max: u32) -> Self {
        Self {
            limit: f64::from(LIMIT_AT_START.min(max)),
            base_ns: None,
            window: Window::default(),
            since: None,
            smooth_ns: None,
            over: false,
            probed: None,
            probing: 0,
            probe: Window::default(),
        }
    }

    /// The limit at present.
    pub fn limit(&self, bounds: Bounds) -> u32 {
        let part = if self.probing > 0 { f64::from(PROBE_PERCENT) / 100.0 } else { 1.0 };
        // Bounded by `max`, so that the cast is exact.
        (self.limit * part).round().clamp(f64::from(bounds.min.max(1)), f64::from(bounds.max.max(1))) as u32
    }

    /// Takes in what a worker has seen until `now`.
    pub fn learn(&mut self, seen: Window, bounds: Bounds, now: Now) {
        self.window.absorb(seen);
        let since = *self.since.get_or_insert(now);
        let age_ms = now.since_ns(since) / 1_000_000;
        let enough = self.window.answered + self.window.failed >= WINDOW_SAMPLES_MIN;
        if age_ms < WINDOW_MS || (!enough && age_ms < WINDOW_MS_MAX) {
            return;
        }
        let window = std::mem::take(&mut self.window);
        self.since = Some(now);
        self.adjust(window, now);
        self.limit = self.limit.clamp(f64::from(bounds.min.max(1)), f64::from(bounds.max.max(1)));
    }

    fn adjust(&mut self, window: Window, now: Now) {
        if window.failed * 10 > window.answered {
            self.limit *= 0.9;
        }
        if window.answered == 0 {
            return;
        }
        if self.probing > 0 {
            return self.probe(window, now);
        }
        let rtt = window.mean_ns();
        let smooth = self.smooth_ns.map_or(rtt, |before| (before + rtt) / 2.0);
        self.smooth_ns = Some(smooth);
        let base = self.base_ns.unwrap_or(smooth);
        // Quicker than without a queue: the base was measured badly. Chance alone moves it little.
        let base = if smooth < base { base + (smooth - base) / 5.0 } else { base };
        self.base_ns = Some(base);
        self.steer((base / smooth).min(1.0), window.in_flight_max);
        let probed = *self.probed.get_or_insert(now);
        if now.since_ns(probed) >= PROBE_EVERY_MS * 1_000_000 {
            (self.probing, self.probe) = (PROBE_WINDOWS, Window::default());
        }
    }

    /// A window with a lower limit: the first lets the service's queue run empty, the others are measured.
    fn probe(&mut self, window: Window, now: Now) {
        if self.probing < PROBE_WINDOWS {
            self.probe.absorb(window);
        }
        self.probing -= 1;
        if self.probing == 0 {
            self.base_ns = Some(self.probe.mean_ns());
            (self.probed, self.smooth_ns, self.over) = (Some(now), None, false);
        }
    }

    /// `ratio`: latency without queueing over that of the last windows.
    fn steer(&mut self, ratio: f64, in_flight_max: u32) {
        let waiting = self.limit * (1.0 - ratio);
        let (few, many) = ((self.limit * 0.06).max(1.0), (self.limit * 0.14).max(2.0));
        let over = waiting > many;
        if over && self.over {
            // Twice in a row is no chance: at once to where few would wait, but never by more than half.
            self.limit -= (waiting - few).min(self.limit / 2.0);
            self.smooth_ns = None;
        } else if waiting < few && f64::from(in_flight_max) >= self.limit * 0.8 {
            // More only where what there is was used.
            self.limit += (self.limit * 0.1).max(1.0);
        }
        self.over = over;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { min: 1, max: 1_000 };

    /// A service that serves `capacity` requests at once in `base_ms` each; more share its time.
    struct Server {
        capacity: f64,
        base_ms: f64,
        seed: u64,
    }

    impl Server {
        /// What a worker sees of it in 50 ms with `limit` in flight: the mean latency, with noise.
        fn window(&mut self, limit: u32, demand: f64) -> Window {
            let flying = f64::from(limit).min(demand);
            let rtt_ms = self.base_ms * (flying / self.capacity).max(1.0);
            let answered = (flying * 50.0 / rtt_ms).round();
            let mut sum_ms = 0.0;
            for _ in 0..answered as u64 {
                self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Half to one and a half.
                sum_ms += rtt_ms * (0.5 + (self.seed >> 40) as f64 / (1u64 << 24) as f64);
            }
            Window { answered: answered as u64, sum_ns: (sum_ms * 1e6) as u64, failed: 0, in_flight_max: flying as u32 }
        }

        /// Runs for some seconds. The mean of the limit over the last of them.
        fn run(&mut self, adaptive: &mut Adaptive, now: &mut Now, seconds: u64, demand: f64) -> f64 {
            let mut sum = 0.0;
            for step in 0..seconds * 20 {
                *now = now.plus_ms(50);
                let limit = adaptive.limit(BOUNDS);
                adaptive.learn(self.window(limit, demand), BOUNDS, *now);
                if step >= (seconds - 1) * 20 {
                    sum += f64::from(limit);
                }
            }
            sum / 20.0
        }
    }

    fn near(limit: f64, capacity: f64) -> bool {
        (limit - capacity).abs() <= capacity * 0.25
    }

    #[test]
    fn finds_the_capacity_of_a_simulated_server() {
        for seed in 0..20 {
            for (capacity, base_ms) in [(8.0, 5.0), (40.0, 10.0), (200.0, 20.0), (600.0, 100.0)] {
                let mut server = Server { capacity, base_ms, seed };
                let (mut adaptive, mut now) = (Adaptive::new(BOUNDS.max), Now::from_ms(1));
                let limit = server.run(&mut adaptive, &mut now, 60, f64::INFINITY);
                assert!(near(limit, capacity), "seed {seed}: {limit} for {capacity}");
            }
        }
    }

    #[test]
    fn recovers_after_a_brown_out() {
        for seed in 0..20 {
            let mut server = Server { capacity: 100.0, base_ms: 10.0, seed };
            let (mut adaptive, mut now) = (Adaptive::new(BOUNDS.max), Now::from_ms(1));
            server.run(&mut adaptive, &mut now, 30, f64::INFINITY);
            server.capacity = 25.0;
            let low = server.run(&mut adaptive, &mut now, 15, f64::INFINITY);
            assert!(near(low, 25.0), "seed {seed}: {low} for 25");
            server.capacity = 100.0;
            let high = server.run(&mut adaptive, &mut now, 15, f64::INFINITY);
            assert!(near(high, 100.0), "seed {seed}: {high} for 100");
            // Slower for good, at the same capacity.
            server.base_ms = 40.0;
            let slow = server.run(&mut adaptive, &mut now, 45, f64::INFINITY);
            assert!(near(slow, 100.0), "seed {seed}: {slow} for 100");
        }
    }

    #[test]
    fn without_demand_nothing_moves_and_bounds_hold() {
        let mut server = Server { capacity: 100.0, base_ms: 10.0, seed: 1 };
        let (mut adaptive, mut now) = (Adaptive::new(BOUNDS.max), Now::from_ms(1));
        let limit = server.run(&mut adaptive, &mut now, 9, 5.0);
        assert_eq!(limit, f64::from(LIMIT_AT_START));
        let limit = server.run(&mut adaptive, &mut now, 60, 5.0);
        assert!(limit >= 12.0, "{limit}: probes apart, what is enough stays");
        for _ in 0..1_000 {
            now = now.plus_ms(50);
            adaptive.learn(Window { failed: 100, ..Window::default() }, Bounds { min: 3, max: 50 }, now);
        }
        assert_eq!(adaptive.limit(Bounds { min: 3, max: 50 }), 3);
        server.run(&mut adaptive, &mut now, 60, f64::INFINITY);
        assert_eq!(adaptive.limit(Bounds { min: 3, max: 50 }), 50);
        assert_eq!(Adaptive::new(5).limit(Bounds { min: 1, max: 5 }), 5);
    }
}
