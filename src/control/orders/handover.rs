//! Orders on their way from a process to the one that replaces it: a file in memory that both have open.
//!
//! The predecessor fills it before it starts the successor, which reads it in place of `admin.state_file`. It fills it
//! once more when it takes no orders any more, and says "go" then; the successor reads it again (`merged`). So an
//! order that was answered holds, whenever it came.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::{ByService, Kept, file};
use crate::limits::ENDPOINT_ORDERS_BYTES_MAX;
use crate::sys::memory;

/// The file.
#[derive(Debug)]
pub struct Handover(File);

impl Handover {
    /// An empty one.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn new() -> io::Result<Self> {
        memory::file(c"ringway orders").map(Self)
    }

    /// The one that a predecessor left.
    pub fn over(descriptor: OwnedFd) -> Self {
        Self(File::from(descriptor))
    }

    /// For the successor.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.0.try_clone().map(OwnedFd::from)
    }

    /// Replaces what is in it.
    pub(super) fn write(&self, orders: &ByService) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.write_all_at(file::text(orders).as_bytes(), 0)
    }

    /// What is in it.
    pub(super) fn read(&self) -> Result<ByService, String> {
        let bytes = self.0.metadata().map_err(|error| error.to_string())?.len();
        if bytes > ENDPOINT_ORDERS_BYTES_MAX {
            return Err(format!("it is longer than {ENDPOINT_ORDERS_BYTES_MAX} bytes"));
        }
        let mut text = vec![0; bytes as usize];
        self.0.read_exact_at(&mut text, 0).map_err(|error| error.to_string())?;
        file::parse(&text)
    }
}

/// What holds after both processes took orders, which began with `base`: what the successor was told, and what the
/// predecessor was told of all others.
pub(super) fn merged(base: &ByService, theirs: &ByService, ours: &ByService) -> ByService {
    fn places(all: &ByService) -> impl Iterator<Item = (&String, &String)> {
        all.iter().flat_map(|(service, orders)| orders.keys().map(move |address| (service, address)))
    }
    fn at<'a>(all: &'a ByService, (service, address): (&String, &String)) -> Option<&'a Kept> {
        all.get(service)?.get(address)
    }
    let everywhere: BTreeSet<_> = places(base).chain(places(theirs)).chain(places(ours)).collect();
    let mut merged = ByService::new();
    for place in everywhere {
        let is_told_here = at(ours, place) != at(base, place);
        if let Some(kept) = at(if is_told_here { ours } else { theirs }, place) {
            let of_service: &mut BTreeMap<_, _> = merged.entry(place.0.clone()).or_default();
            of_service.insert(place.1.clone(), kept.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::health::Administration;
    use crate::upstream::state::Order;

    fn orders(all: &[(&str, &str, Administration)]) -> ByService {
        let mut orders = ByService::new();
        for (service, address, administration) in all {
            let order = Order { administration: *administration, weight: None };
            let kept = Kept { order, resolved: None, why: (*address).to_owned(), since_unix_ms: 7 };
            orders.entry((*service).to_owned()).or_default().insert((*address).to_owned(), kept);
        }
        orders
    }

    #[test]
    fn what_is_written_last_is_read_by_whoever_has_it_open() {
        use Administration::{Draining, Maintenance};
        let here = Handover::new().expect("a file");
        let there = Handover::over(here.descriptor().expect("a descriptor"));
        assert!(there.read().is_err(), "nothing was handed over");
        for all in [&[("up", "a:80", Draining), ("more", "b:80", Maintenance)][..], &[("up", "c:80", Draining)], &[]] {
            here.write(&orders(all)).expect("written");
            assert_eq!(there.read(), Ok(orders(all)));
        }
        here.0.set_len(ENDPOINT_ORDERS_BYTES_MAX + 1).expect("set");
        assert!(there.read().is_err());
    }

    #[test]
    fn nothing_that_either_was_told_is_lost() {
        use Administration::{Draining, Maintenance};
        let base =
            orders(&[("up", "a", Draining), ("up", "b", Draining), ("up", "c", Draining), ("up", "d", Draining)]);
        // Theirs: `a` as it was, `b` taken back, `c` otherwise, `d` as it was, `e` and `x` new.
        let theirs = orders(&[
            ("up", "a", Draining),
            ("up", "c", Maintenance),
            ("up", "d", Draining),
            ("up", "e", Draining),
            ("more", "x", Draining),
        ]);
        // Ours: `d` taken back, `x` otherwise than there.
        let ours =
            orders(&[("up", "a", Draining), ("up", "b", Draining), ("up", "c", Draining), ("more", "x", Maintenance)]);
        let wanted = orders(&[
            ("up", "a", Draining),
            ("up", "c", Maintenance),
            ("up", "e", Draining),
            ("more", "x", Maintenance),
        ]);
        assert_eq!(merged(&base, &theirs, &ours), wanted);
        assert_eq!(merged(&base, &base, &base), base);
        assert_eq!(merged(&base, &ByService::new(), &base), ByService::new());
    }
}
