//! Listeners whose connections are passed on as they are: which service takes which.

use ahash::AHashMap;

/// Where the connections of such a listener lead. Services are indices of those of the snapshot that this stands in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamRules {
    /// By the server name of a TLS client; None where nobody looks for it, and the endpoint may speak first.
    pub names: Option<Names>,
    /// What takes all others.
    pub service: Option<u32>,
    /// Without a byte in either direction, in milliseconds.
    pub idle_timeout_ms: u64,
    /// From its opening to its end, in milliseconds.
    pub duration_ms_max: u64,
}

/// Services by server name. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    exact: AHashMap<String, u32>,
    /// Under the name behind `*.`.
    below: AHashMap<String, u32>,
}

impl Names {
    /// Adds a name, or with `*.` before it all names below it. The first of two equal ones stays.
    pub fn insert(&mut self, pattern: &str, service: u32) {
        match pattern.strip_prefix("*.") {
            Some(suffix) => self.below.entry(suffix.to_owned()).or_insert(service),
            None => self.exact.entry(pattern.to_owned()).or_insert(service),
        };
    }

    /// The service of a name: its own, else that of the longest name that it stands below.
    pub fn find(&self, name: &str) -> Option<u32> {
        if let Some(service) = self.exact.get(name) {
            return Some(*service);
        }
        let mut rest = name;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(service) = self.below.get(suffix) {
                return Some(*service);
            }
            rest = suffix;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_name_wins() {
        let mut names = Names::default();
        for (at, pattern) in ["a.test", "*.a.test", "*.b.a.test", "*.test", "x.b.a.test"].into_iter().enumerate() {
            names.insert(pattern, at as u32);
        }
        let found = ["a.test", "x.a.test", "y.b.a.test", "b.a.test", "c.test", "x.b.a.test", "test", "other", ""];
        let found = found.map(|name| names.find(name));
        assert_eq!(found, [Some(0), Some(1), Some(2), Some(1), Some(3), Some(4), None, None, None]);
    }
}
