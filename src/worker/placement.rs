//! Which worker serves a new connection (D8, A17, F21): the one that accepted it, unless that would put it above the
//! others; then the calmest one gets the descriptor.
//!
//! ```text
//! accept on worker a ─ seat() ─┬─ a itself ──────────────────────────────► admit
//!                              └─ b is calmer: door of b ─ bell ─► worker b ─► admit
//! ```
//! The kernel spreads connections over the listening sockets by a hash, which piles few long-lived ones on one worker.
//! So each worker has a count of its connections that all can read. It is written when a connection comes or goes,
//! never for a request. A worker keeps what it accepted while it stays at or below [`close_share`]; where connections
//! are short, while it stays at or below [`fair_share`], as what is gone in a moment is not worth a turn of another
//! worker.

use std::cell::Cell;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use arc_swap::ArcSwapOption;
use crossbeam_utils::CachePadded;

use crate::limits::{HANDED_WAITING_MAX, SEAT_TRIES_MAX};

/// What the workers of a process know of each other, and the watchdog of them.
#[derive(Debug)]
pub struct Board {
    berths: Box<[Berth]>,
}

/// One worker on the board. It outlives the worker's thread: one that is started again takes its place.
#[derive(Debug, Default)]
pub struct Berth {
    load: CachePadded<Load>,
    /// What the watchdog reads.
    pub pulse: CachePadded<Pulse>,
}

#[derive(Debug, Default)]
struct Load {
    /// Life of the worker in the upper half, its connections in the lower: seats of an earlier life give nothing back.
    seats: AtomicU64,
    open: AtomicBool,
    door: ArcSwapOption<Door>,
}

/// The sign of life of a worker.
#[derive(Debug, Default)]
pub struct Pulse {
    /// When it last took a turn, in nanoseconds of the monotonic clock; 0 while it does not run.
    pub beat_ns: AtomicU64,
    /// Its thread's number in the kernel.
    pub thread: AtomicI32,
    /// How often it was found without a turn for a second.
    pub stalls: AtomicU64,
}

#[derive(Debug)]
struct Door {
    queue: SyncSender<Handed>,
    bell: UnixStream,
}

/// A connection on its way to another worker. It carries nothing but the descriptor: whether it is admitted is decided
/// where it is served.
#[derive(Debug)]
pub struct Handed {
    /// The connection.
    pub stream: TcpStream,
    /// Its other end.
    pub peer: SocketAddr,
    /// The listener that it came to, by its configured address.
    pub listener: SocketAddr,
    /// Whether it was accepted on a ring: those descriptors are blocking.
    pub from_ring: bool,
    /// Its place.
    pub seat: Seat,
}

/// A connection's place at a worker, given back when dropped.
#[derive(Debug)]
pub struct Seat {
    board: Arc<Board>,
    worker: u32,
    /// The upper half of the worker's count.
    life: u32,
}

/// A worker's own end of the board. Dropping it takes the worker off: nothing is handed to it any more.
pub struct Member {
    board: Arc<Board>,
    worker: usize,
    life: u64,
    handed: Receiver<Handed>,
    /// Connections here are short at present.
    brief: Cell<bool>,
}

/// Connections that are renewed more often than this in a second are short.
const BRIEF_TURNOVER: u64 = 4;
const LIFE: u64 = 1 << 32;
const COUNT_MASK: u64 = LIFE - 1;

/// The most connections that a worker keeps when `total` that last are spread over `workers`: the arithmetic optimum,
/// or a thirty-second above the mean where that is more, so that the busiest of two has at most a fifteenth more than
/// the other.
pub fn close_share(total: u64, workers: u64) -> u64 {
    total.div_ceil(workers.max(1)).max(total * 33 / (workers.max(1) * 32))
}

/// The most connections that a worker keeps where they are short: the arithmetic optimum, or a
/// quarter above the mean where that is more. So busiest over mean is at most 1.25 wherever whole numbers allow it (5
/// over 4 workers cannot do better than 2, 1, 1, 1), and with many connections hardly any is handed over.
pub fn fair_share(total: u64, workers: u64) -> u64 {
    total.div_ceil(workers.max(1)).max(total * 5 / (workers.max(1) * 4))
}

impl Board {
    /// A board for so many workers, none of which is there yet.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { berths: (0..workers).map(|_| Berth::default()).collect() })
    }

    /// All workers.
    pub fn berths(&self) -> &[Berth] {
        &self.berths
    }

    /// Takes a worker's place on the board. `bell` wakes it. What an earlier life left behind counts no more.
    pub fn join(self: &Arc<Self>, worker: usize, bell: UnixStream) -> Member {
        let (queue, handed) = sync_channel(HANDED_WAITING_MAX);
        let load = &self.berths[worker].load;
        let life = (load.seats.load(Ordering::Relaxed) & !COUNT_MASK).wrapping_add(LIFE);
        load.seats.store(life, Ordering::Relaxed);
        load.door.store(Some(Arc::new(Door { queue, bell })));
        load.open.store(true, Ordering::Release);
        Member { board: self.clone(), worker, life, handed, brief: Cell::new(false) }
    }

    /// Takes a seat for a connection that `own` accepted: its own, or the calmest worker's. Two workers that decide at
    /// the same moment do not both take the last seat: the count that was read must still stand.
    fn seat(self: &Arc<Self>, own: usize, share: fn(u64, u64) -> u64) -> Seat {
        for _ in 0..SEAT_TRIES_MAX {
            let (worker, seen) = self.choose(own, share);
            let seats = &self.berths[worker].load.seats;
            if seats.compare_exchange(seen, seen + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return self.clone().seat_at(worker, seen);
            }
        }
        // Under such a storm the numbers are large, and one more or less does not matter.
        let seen = self.berths[own].load.seats.fetch_add(1, Ordering::Relaxed);
        self.clone().seat_at(own, seen)
    }

    fn seat_at(self: Arc<Self>, worker: usize, seen: u64) -> Seat {
        Seat { board: self, worker: worker as u32, life: (seen / LIFE) as u32 }
    }

    /// Who should take one more, and its seats as they were read.
    fn choose(&self, own: usize, share: fn(u64, u64) -> u64) -> (usize, u64) {
        let (mut total, mut workers) = (0, 0);
        let mine = self.berths[own].load.seats.load(Ordering::Relaxed);
        let mut calmest = (own, mine);
        for (worker, berth) in self.berths.iter().enumerate() {
            let is_open = berth.load.open.load(Ordering::Relaxed);
            if worker != own && !is_open {
                continue;
            }
            let seats = if worker == own { mine } else { berth.load.seats.load(Ordering::Relaxed) };
            total += seats & COUNT_MASK;
            workers += 1;
            if seats & COUNT_MASK < calmest.1 & COUNT_MASK {
                calmest = (worker, seats);
            }
        }
        match mine & COUNT_MASK < share(total + 1, workers) {
            true => (own, mine),
            false => calmest,
        }
    }
}

impl Berth {
    /// Connections that are at this worker or on their way to it.
    pub fn connections(&self) -> u64 {
        self.load.seats.load(Ordering::Relaxed) & COUNT_MASK
    }
}

impl Member {
    /// Takes a seat for a connection that this worker accepted.
    pub fn seat(&self) -> Seat {
        self.board.seat(self.worker, if self.brief.get() { fair_share } else { close_share })
    }

    /// Tells how many connections this worker took up in the last second: where that is several times what it has, they
    /// are short.
    pub fn took_up(&self, in_a_second: u64) {
        self.brief.set(in_a_second > BRIEF_TURNOVER * self.connections().max(1));
    }

    /// Whether a seat is at this worker.
    pub fn is_own(&self, seat: &Seat) -> bool {
        seat.worker as usize == self.worker
    }

    /// The same connection at this worker after all.
    pub fn own_seat(&self) -> Seat {
        let seen = self.board.berths[self.worker].load.seats.fetch_add(1, Ordering::Relaxed);
        self.board.clone().seat_at(self.worker, seen)
    }

    /// Hands a connection to the worker of its seat.
    ///
    /// # Errors
    /// The connection, when that worker is leaving or too many wait for it: then it is served here.
    pub fn hand(&self, handed: Handed) -> Result<(), Handed> {
        let door = self.board.berths[handed.seat.worker as usize].load.door.load();
        let Some(door) = &*door else { return Err(handed) };
        door.queue.try_send(handed).map_err(|refused| match refused {
            std::sync::mpsc::TrySendError::Full(handed) | std::sync::mpsc::TrySendError::Disconnected(handed) => handed,
        })?;
        // A full socket already rings.
        let _: io::Result<usize> = (&door.bell).write(&[1]);
        Ok(())
    }

    /// The next connection that another worker handed over.
    pub fn take(&self) -> Option<Handed> {
        self.handed.try_recv().ok()
    }

    /// Nothing more is handed to this worker. What is on its way still comes.
    pub fn close(&self) {
        let load = &self.board.berths[self.worker].load;
        load.open.store(false, Ordering::Release);
        load.door.store(None);
    }

    /// Connections at this worker or on their way to it.
    pub fn connections(&self) -> u64 {
        self.board.berths[self.worker].connections()
    }

    /// The worker's sign of life.
    pub fn pulse(&self) -> &Pulse {
        &self.board.berths[self.worker].pulse
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Member {
    /// Takes the worker off the board: nothing is handed to it, and nobody waits for its sign of life.
    pub fn leave(&self) {
        let seats = self.board.berths[self.worker].load.seats.load(Ordering::Relaxed);
        // A successor that has taken the place already is left alone.
        if seats & !COUNT_MASK == self.life {
            self.close();
            self.pulse().beat_ns.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let give_back = |seats: u64| {
            let is_mine = seats / LIFE == u64::from(self.life) && seats & COUNT_MASK > 0;
            is_mine.then(|| seats - 1)
        };
        // An earlier life's seat gives nothing back.
        let seats = &self.board.berths[self.worker as usize].load.seats;
        let _ = seats.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give_back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workers(count: usize) -> (Arc<Board>, Vec<Member>, Vec<UnixStream>) {
        let board = Board::new(count);
        let (mut members, mut bells) = (Vec::new(), Vec::new());
        for worker in 0..count {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            members.push(board.join(worker, ours));
            bells.push(theirs);
        }
        (board, members, bells)
    }

    fn counts(board: &Board) -> Vec<u64> {
        board.berths().iter().map(Berth::connections).collect()
    }

    #[test]
    fn fair_shares_are_the_optimum_or_a_quarter_above_the_mean() {
        for (total, workers, share) in
            [(1, 4, 1), (4, 4, 1), (5, 4, 2), (8, 4, 2), (9, 4, 3), (16, 4, 5), (17, 4, 5), (1_000, 4, 312), (7, 1, 8)]
        {
            assert_eq!(fair_share(total, workers), share, "{total} over {workers}");
        }
    }

    #[test]
    fn close_shares_are_the_optimum_or_a_little_above_the_mean() {
        for (total, workers, share) in [(1, 2, 1), (5, 4, 2), (17, 4, 5), (64, 2, 33), (1_000, 4, 257), (7, 1, 7)] {
            assert_eq!(close_share(total, workers), share, "{total} over {workers}");
        }
        let worst = (64..10_000).map(|total| {
            let most = close_share(total, 2);
            (2 * most - total) as f64 / (total as f64 / 2.0)
        });
        assert!(worst.fold(0.0, f64::max) < 0.1, "two workers differ by less than a tenth of the mean");
    }

    #[test]
    fn short_connections_are_kept_more_easily() {
        let (board, members, _bells) = workers(2);
        let seats: Vec<_> = (0..64).map(|_| members[0].seat()).collect();
        assert_eq!(counts(&board), [33, 31]);
        members[0].took_up(4 * 33);
        let kept: Vec<_> = (0..4).map(|_| members[0].seat()).collect();
        assert_eq!(counts(&board), [35, 33], "renewed four times a second is not short yet");
        drop(kept);
        members[0].took_up(10_000);
        let kept: Vec<_> = (0..8).map(|_| members[0].seat()).collect();
        assert_eq!(counts(&board), [41, 31]);
        members[0].took_up(8);
        let handed: Vec<_> = (0..8).map(|_| members[0].seat()).collect();
        assert_eq!(counts(&board), [41, 39]);
        drop((seats, kept, handed));
    }

    #[test]
    fn whoever_accepts_no_worker_gets_more_than_its_share() {
        // All on one worker, in turn, and in a pattern that no hash is better than.
        for (pattern, in_a_second) in
            [[0, 0, 0, 0], [0, 1, 2, 3], [3, 3, 0, 3]].into_iter().flat_map(|p| [(p, 0), (p, u64::MAX)])
        {
            let (board, members, _bells) = workers(4);
            let share = if in_a_second == 0 { close_share } else { fair_share };
            members.iter().for_each(|member| member.took_up(in_a_second));
            let mut seats = Vec::new();
            for total in 1..=200 {
                seats.push(members[pattern[total % 4]].seat());
                let most = counts(&board).into_iter().max().expect("workers");
                assert!(most <= share(total as u64, 4), "{total}: {:?}", counts(&board));
            }
            drop(seats);
            assert_eq!(counts(&board), [0; 4]);
        }
    }

    #[test]
    fn workers_that_decide_at_once_do_not_exceed_the_share() {
        let (board, members, _bells) = workers(4);
        // A member that goes takes its worker off the board, so all stay to the end.
        let accept = |member: Member| ((0..250).map(|_| member.seat()).collect::<Vec<_>>(), member);
        let threads: Vec<_> = members.into_iter().map(|member| std::thread::spawn(move || accept(member))).collect();
        let seats: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("it ends")).collect();
        let counts = counts(&board);
        assert_eq!(counts.iter().sum::<u64>(), 1_000);
        // Under a storm of decisions a worker keeps what it has: the wider bound holds.
        assert!(counts.iter().all(|&count| count <= fair_share(1_000, 4)), "{counts:?}");
        drop(seats);
    }

    #[test]
    fn a_worker_that_left_gets_nothing_and_one_that_came_back_begins_anew() {
        let (board, mut members, _bells) = workers(2);
        let left_behind = members[1].own_seat();
        drop(members.pop());
        let seats: Vec<_> = (0..3).map(|_| members[0].seat()).collect();
        assert_eq!(counts(&board), [3, 1]);
        let (ours, _theirs) = UnixStream::pair().expect("a pair");
        let back = board.join(1, ours);
        assert_eq!(counts(&board), [3, 0]);
        drop(left_behind);
        assert_eq!(counts(&board), [3, 0], "a seat of an earlier life gives nothing back");
        assert!(back.is_own(&members[0].seat()), "the calmest is the one that came back");
        drop(seats);
    }

    #[test]
    fn what_is_handed_over_arrives_with_a_bell() {
        use std::io::Read;
        let (board, members, mut bells) = workers(2);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let connected = TcpStream::connect(address).expect("connected");
        let hand = |worker: usize| {
            let stream = connected.try_clone().expect("a descriptor");
            let seat = members[worker].own_seat();
            members[0].hand(Handed { stream, peer: address, listener: address, from_ring: false, seat })
        };
        hand(1).expect("taken");
        assert_eq!(bells[1].read(&mut [0; 8]).expect("a ring"), 1);
        assert!(members[1].take().is_some() && members[1].take().is_none());
        assert_eq!(counts(&board), [0, 0]);
        members[1].close();
        let back = hand(1).expect_err("it leaves");
        assert_eq!(counts(&board), [0, 1], "still seated, until the connection is dropped");
        drop(back);
        for _ in 0..HANDED_WAITING_MAX {
            hand(0).expect("room");
        }
        assert!(hand(0).is_err(), "the queue is bounded");
    }
}
