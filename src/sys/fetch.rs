//! Asking for memory that will be needed in a moment.

use std::sync::Arc;

/// Lines that are asked for at once: what a core's own cache holds beside its work. More would push each other out.
const LINES_MAX: usize = 4_096;

/// Asks for the counts of shared values that are about to be cloned or dropped one after another. Each such step waits
/// for its line, as atomic operations do: for thousands of values that nobody has looked at for a while this is most of
/// the time. Asked for together, the lines come together.
pub fn counts<'a, T: ?Sized + 'a>(all: impl Iterator<Item = &'a Arc<T>>) {
    for shared in all.take(LINES_MAX) {
        // The counts stand before the value.
        fetch(Arc::as_ptr(shared).cast::<u8>().wrapping_sub(2 * size_of::<usize>()));
    }
}

#[cfg(target_arch = "x86_64")]
fn fetch(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
    // SAFETY: a hint: it reads nothing that the program sees, and no address makes it fail.
    unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) };
}

#[cfg(not(target_arch = "x86_64"))]
fn fetch(_at: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_values_will_do() {
        let texts: Vec<Arc<str>> = (0..2 * LINES_MAX).map(|at| at.to_string().into()).collect();
        counts(texts.iter());
        counts([Arc::new(())].iter());
        counts([Arc::<[u64]>::from([])].iter());
        assert!(texts.iter().all(|text| Arc::strong_count(text) == 1));
    }
}
