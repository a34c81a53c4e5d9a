//! The nearest known name to a misspelt one.

/// Largest edit distance at which a name is suggested.
pub const SUGGEST_DISTANCE_MAX: usize = 2;
/// Longest name that is compared, in bytes; longer ones get no suggestion.
pub const SUGGEST_NAME_BYTES_MAX: usize = 64;

/// The candidate nearest to `word` within [`SUGGEST_DISTANCE_MAX`] edits (insert, delete, replace, swap neighbours).
///
/// Case, `-` for `_` and camelCase cost nothing. Among equals the one with the same first letter wins, then the first.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > SUGGEST_NAME_BYTES_MAX {
        return None;
    }
    let plain = normal(word);
    let mut best: Option<((usize, bool), &str)> = None;
    for candidate in candidates {
        if candidate.len() > SUGGEST_NAME_BYTES_MAX {
            continue;
        }
        let target = normal(candidate);
        let distance = distance(&plain, &target);
        if distance > allowed(plain.len().max(target.len())) {
            continue;
        }
        let rank = (distance, plain.first() != target.first());
        if best.is_none_or(|(known, _)| rank < known) {
            best = Some((rank, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Short words are near to everything, so they may differ less.
fn allowed(len: usize) -> usize {
    match len {
        0..=1 => 0,
        2..=4 => 1,
        _ => SUGGEST_DISTANCE_MAX,
    }
}

/// Lower case with `_` between words.
fn normal(word: &str) -> Vec<char> {
    let mut out = Vec::with_capacity(word.len() + 4);
    let mut previous_lower = false;
    for c in word.chars() {
        if c.is_uppercase() && previous_lower {
            out.push('_');
        }
        previous_lower = c.is_lowercase();
        match c {
            '-' | ' ' | '.' => out.push('_'),
            c => out.extend(c.to_lowercase()),
        }
    }
    out
}

/// Damerau-Levenshtein distance in its restricted form (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let width = b.len() + 1;
    let mut older = vec![0; width];
    let mut old: Vec<usize> = (0..width).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; width];
        for j in 1..width {
            let same = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (old[j] + 1).min(row[j - 1] + 1).min(old[j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(older[j - 2] + 1);
            }
        }
        older = std::mem::replace(&mut old, row);
    }
    old[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_each_kind_of_slip() {
        let keys = ["address", "timeout", "idle_timeout", "name", "via"];
        for (typo, want) in [
            ("adress", "address"),
            ("addresss", "address"),
            ("timeotu", "timeout"),
            ("idleTimeout", "idle_timeout"),
            ("Idle-Timeout", "idle_timeout"),
            ("nmae", "name"),
            ("va", "via"),
        ] {
            assert_eq!(nearest(typo, keys), Some(want), "{typo}");
        }
    }

    #[test]
    fn nearest_is_silent_when_nothing_is_near() {
        assert_eq!(nearest("colour", ["address", "name"]), None);
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(nearest(&"a".repeat(1000), ["a"]), None);
    }

    #[test]
    fn distance_counts_a_swap_once() {
        let chars = |s: &str| s.chars().collect::<Vec<_>>();
        assert_eq!(distance(&chars("ab"), &chars("ba")), 1);
        assert_eq!(distance(&chars("kitten"), &chars("sitting")), 3);
        assert_eq!(distance(&chars(""), &chars("abc")), 3);
    }
}
