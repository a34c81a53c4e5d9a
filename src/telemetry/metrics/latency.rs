//! Latencies in microseconds with two significant digits, for quantiles.
//!
//! The scale is that of HdrHistogram: 256 cells of one microsecond, then for each further power of two 128 cells twice
//! as wide as before. Most services have seen two or three powers of two, so rows of 128 cells are made when they are
//! needed: with a thousand services that is 3 MB in place of 26, which each worker copies at each scrape.

use std::cell::RefCell;

/// Longest latency told apart by the quantiles, in microseconds: one hour.
pub const LATENCY_US_MAX: u64 = 3_600_000_000;

const CELLS: usize = 128;
const ROWS: usize = (place(LATENCY_US_MAX) / CELLS) + 1;

type Row = [u64; CELLS];

/// The cell of a latency, counted over all rows.
const fn place(us: u64) -> usize {
    let halvings = 56 - (us | 255).leading_zeros() as usize;
    halvings * CELLS + (us >> halvings) as usize
}

/// The longest latency of a cell.
const fn longest(place: usize) -> u64 {
    let halvings = (place / CELLS).saturating_sub(1);
    (((place - halvings * CELLS) as u64 + 1) << halvings) - 1
}

/// Latencies that one worker counts. A row is allocated (1 KiB) at its first one.
#[derive(Default)]
pub struct Latency(RefCell<[Option<Box<Row>>; ROWS]>);

impl Latency {
    /// Counts one latency; longer ones than [`LATENCY_US_MAX`] count as that, and shorter ones than a microsecond as
    /// one.
    #[inline]
    pub fn record(&self, ns: u64) {
        let place = place((ns / 1_000).clamp(1, LATENCY_US_MAX));
        match &mut self.0.borrow_mut()[place / CELLS] {
            Some(row) => row[place % CELLS] += 1,
            row => first(row)[place % CELLS] += 1,
        }
    }

    /// Whether anything was counted.
    pub fn is_used(&self) -> bool {
        self.0.borrow().iter().any(Option::is_some)
    }

    /// A copy.
    pub fn get(&self) -> Latencies {
        let rows = self.0.borrow();
        let mut copy = Vec::with_capacity(rows.iter().flatten().count());
        copy.extend((0_u8..).zip(rows.iter()).filter_map(|(at, row)| Some((at, **row.as_ref()?))));
        Latencies { rows: copy }
    }

    pub(super) fn absorb(&self, other: &Latency) {
        let (mut rows, other) = (self.0.borrow_mut(), other.0.borrow());
        for (row, more) in rows.iter_mut().zip(&*other) {
            if let Some(more) = more {
                add(row.get_or_insert_with(empty), more);
            }
        }
    }
}

#[cold]
#[inline(never)]
fn first(row: &mut Option<Box<Row>>) -> &mut Row {
    row.get_or_insert_with(empty)
}

fn empty() -> Box<Row> {
    Box::new([0; CELLS])
}

fn add(row: &mut Row, more: &Row) {
    row.iter_mut().zip(more).for_each(|(count, more)| *count += more);
}

/// Counts of latencies that own nothing of a worker: the rows that hold any, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    rows: Vec<(u8, Row)>,
}

impl Latencies {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds others.
    pub fn add(&mut self, other: &Latencies) {
        for (at, more) in &other.rows {
            match self.rows.binary_search_by_key(at, |(at, _)| *at) {
                Ok(known) => add(&mut self.rows[known].1, more),
                Err(place) => self.rows.insert(place, (*at, *more)),
            }
        }
    }

    /// The shortest latencies, in microseconds, that at least these parts of all are not longer than; the parts are
    /// from 0 to 1 and rise. 0 where there are none.
    pub fn quantiles<const N: usize>(&self, parts: [f64; N]) -> [u64; N] {
        let total: u64 = self.rows.iter().map(|(_, row)| row.iter().sum::<u64>()).sum();
        let mut found = [0; N];
        let (mut at, mut sum) = (0, 0);
        for (row, counts) in &self.rows {
            let in_row: u64 = counts.iter().sum();
            let before = sum;
            sum += in_row;
            while let Some(part) = parts.get(at) {
                let wanted = ((part * total as f64).ceil() as u64).max(1);
                if sum < wanted {
                    break;
                }
                let mut below = before;
                let cell = counts.iter().position(|count| {
                    below += count;
                    below >= wanted
                });
                found[at] = longest(usize::from(*row) * CELLS + cell.unwrap_or(CELLS - 1));
                at += 1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;

    #[test]
    fn cells_follow_each_other_without_a_gap() {
        let mut next = 0;
        for cell in 0..ROWS * CELLS {
            assert_eq!((place(next), place(longest(cell))), (cell, cell));
            next = longest(cell) + 1;
        }
        assert!(next > LATENCY_US_MAX);
    }

    /// What the pages of earlier versions said, these say too.
    #[test]
    fn quantiles_are_those_of_the_known_histogram() {
        let parts = [0.5, 0.9, 0.99, 0.999];
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..200 {
            let (latency, more) = (Latency::default(), Latency::default());
            let mut known = Histogram::<u64>::new_with_bounds(1, LATENCY_US_MAX, 2).expect("good bounds");
            for _ in 0..=round * 7 {
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                let ns = (random >> 20) >> (round % 44);
                known.saturating_record((ns / 1_000).clamp(1, LATENCY_US_MAX));
                if random & 1 == 0 { &latency } else { &more }.record(ns);
            }
            let mut sum = latency.get();
            sum.add(&more.get());
            assert_eq!(sum.quantiles(parts), parts.map(|part| known.value_at_quantile(part)), "round {round}");
            latency.absorb(&more);
            assert_eq!(latency.get(), sum);
        }
    }

    #[test]
    fn latencies_out_of_range_are_clamped() {
        let latency = Latency::default();
        assert!(!latency.is_used() && latency.get().is_empty());
        assert_eq!(latency.get().quantiles([0.5]), [0]);
        latency.record(0);
        latency.record(u64::MAX);
        let [least, most] = latency.get().quantiles([0.5, 1.0]);
        assert!(least == 1 && most >= LATENCY_US_MAX, "{least} {most}");
    }
}
