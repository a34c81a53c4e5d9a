//! The simulation's executor: one thread, one virtual clock, and a seed that decides who runs next.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use ringway::limits::TICK_MS;
use ringway::net::timer::Timers;
use ringway::time::{Clock, Now};

use crate::rng::Rng;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Polls that one seed may need.
const STEPS_MAX: u64 = 3_000_000;

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Running {
    name: String,
    task: Task,
    flag: Arc<Flag>,
}

/// Time, and a way to start tasks: what simulated peers hold.
#[derive(Clone)]
pub struct Handle(Rc<Shared>);

struct Shared {
    clock: Rc<Cell<Now>>,
    sleepers: RefCell<Vec<(u64, Waker)>>,
    spawned: RefCell<Vec<(String, Task)>>,
}

impl Handle {
    pub fn spawn(&self, name: String, task: impl Future<Output = ()> + 'static) {
        self.0.spawned.borrow_mut().push((name, Box::pin(task)));
    }

    pub fn now_ms(&self) -> u64 {
        self.0.clock.get().ms()
    }

    /// Waits in virtual time.
    pub async fn sleep(&self, ms: u64) {
        let due = self.now_ms() + ms;
        poll_fn(|cx| {
            if self.now_ms() >= due {
                return Poll::Ready(());
            }
            self.0.sleepers.borrow_mut().push((due, cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// The executor.
pub struct Exec {
    shared: Rc<Shared>,
    tasks: Vec<Running>,
    pub timers: Rc<Timers>,
    rng: Rng,
    steps: u64,
    /// Places of tasks that want to be polled.
    ready: Vec<usize>,
}

impl Exec {
    pub fn new(seed: u64) -> Self {
        let clock = Rc::<Cell<Now>>::default();
        let timers = Timers::new(Clock::Virtual(clock.clone()));
        let shared = Rc::new(Shared { clock, sleepers: RefCell::default(), spawned: RefCell::default() });
        Self { shared, tasks: Vec::new(), timers, rng: Rng::new(seed), steps: 0, ready: Vec::new() }
    }

    pub fn handle(&self) -> Handle {
        Handle(self.shared.clone())
    }

    /// Names of the tasks that have not ended.
    pub fn alive(&self) -> Vec<&str> {
        self.tasks.iter().map(|running| running.name.as_str()).collect()
    }

    /// Runs until `done` says so, at most to `until_ms` of virtual time. Returns whether it was done.
    pub fn run(&mut self, until_ms: u64, mut done: impl FnMut(&[&str]) -> bool) -> bool {
        loop {
            self.take_spawned();
            self.find_ready();
            if self.ready.is_empty() {
                if done(&self.alive()) {
                    return true;
                }
                if self.shared.clock.get().ms() >= until_ms {
                    return false;
                }
                self.tick();
                continue;
            }
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "no end of work: {:?}", self.alive());
            self.disturb();
            let at = self.ready[self.rng.below(self.ready.len())];
            self.poll(at);
        }
    }

    /// A plain loop: anything finer costs a fifth of a seed in a build without optimisation.
    fn find_ready(&mut self) {
        self.ready.clear();
        for (at, running) in self.tasks.iter().enumerate() {
            if running.flag.0.load(Ordering::Relaxed) {
                self.ready.push(at);
            }
        }
    }

    /// A poll that nobody asked for, or time that passes while there is work: neither may change what is right.
    fn disturb(&mut self) {
        if self.rng.one_in(64) {
            let at = self.rng.below(self.tasks.len());
            self.tasks[at].flag.0.store(true, Ordering::Relaxed);
        }
        if self.rng.one_in(512) {
            self.tick();
        }
    }

    fn poll(&mut self, at: usize) {
        let running = &mut self.tasks[at];
        running.flag.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(running.flag.clone());
        if running.task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            self.tasks.swap_remove(at);
        }
    }

    fn take_spawned(&mut self) {
        for (name, task) in self.shared.spawned.take() {
            let flag = Arc::new(Flag(AtomicBool::new(true)));
            self.tasks.push(Running { name, task, flag });
        }
    }

    /// Lets one tick of the worker pass.
    fn tick(&mut self) {
        let now = self.shared.clock.get().plus_ms(TICK_MS);
        self.shared.clock.set(now);
        self.timers.advance(now);
        let mut sleepers = self.shared.sleepers.borrow_mut();
        let mut at = 0;
        while at < sleepers.len() {
            match sleepers[at].0 <= now.ms() {
                true => sleepers.swap_remove(at).1.wake(),
                false => at += 1,
            }
        }
    }
}
