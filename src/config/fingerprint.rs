//! The hash of a configuration: the same one on every node and after every restart, so that equal configurations are
//! seen to be equal.
//!
//! Writing all of a configuration out is work for tens of milliseconds where it has ten thousand endpoints. Services
//! and routes that a reload has not changed are the very values of the configuration before; so each has a hash of its
//! own, which is remembered for as long as it stands in the configuration, and only what is new is written out.

use std::io;
use std::sync::{Arc, Weak};

use ahash::AHashMap;

use super::model::Config;
use crate::schema::{Decode, Json, Spanned};

/// The hashes of what stood in the configuration that was asked for last.
#[derive(Debug, Default)]
pub struct Fingerprints {
    services: Known<super::model::Service>,
    routes: Known<super::model::Route>,
}

impl Fingerprints {
    /// The fingerprint of what [`Config::dump`] shows, secrets apart. It does not hang on what is remembered, which
    /// only saves work.
    pub fn of(&mut self, config: &Config) -> u64 {
        let mut fnv = Fnv::default();
        fnv.value(&rest(config).dump());
        self.services.feed(&config.services, &mut fnv);
        self.routes.feed(&config.routes, &mut fnv);
        fnv.0
    }
}

/// A configuration without its long lists. A key that is added to it is missing here, which does not compile.
fn rest(config: &Config) -> Config {
    Config {
        server: config.server.clone(),
        admin: config.admin.clone(),
        listeners: config.listeners.clone(),
        services: Vec::new(),
        discovery: config.discovery.clone(),
        routes: Vec::new(),
        order: config.order,
        default_route: config.default_route.clone(),
        policies: config.policies.clone(),
        logging: config.logging.clone(),
        metrics: config.metrics.clone(),
        reload: config.reload.clone(),
    }
}

/// Hashes of values by their address, which no other value has as long as somebody remembers where this one was.
#[derive(Debug)]
struct Known<T>(AHashMap<usize, (Weak<T>, u64)>);

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(AHashMap::new())
    }
}

impl<T: Decode> Known<T> {
    /// Adds the hashes of a list, and remembers those and no others.
    fn feed(&mut self, items: &[Spanned<Arc<T>>], fnv: &mut Fnv) {
        let mut present = AHashMap::with_capacity(items.len());
        fnv.number(items.len() as u64);
        for item in items {
            let address = Arc::as_ptr(&item.value) as usize;
            let known = present.get(&address).or_else(|| self.0.get(&address)).map(|(_, hash)| *hash);
            let hash = known.unwrap_or_else(|| {
                let mut fnv = Fnv::default();
                fnv.value(&item.value.dump());
                fnv.0
            });
            fnv.number(hash);
            present.insert(address, (Arc::downgrade(&item.value), hash));
        }
        self.0 = present;
    }
}

/// FNV-1a, which needs no key.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    /// The text of a value, without making it.
    fn value(&mut self, value: &Json) {
        // Neither the writer nor a tree of values can fail.
        let _ = serde_json::to_writer(self, value);
    }
}

impl io::Write for Fnv {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Loaded, load_str, load_str_after};
    use crate::schema::FixedEnv;

    const FILE: &str = "\
server:
  workers: 1
admin:
  listen: 127.0.0.1:9901
listeners:
  - address: 127.0.0.1:8080
services:
  - name: one
    endpoints: [\"127.0.0.1:9001\"]
  - name: two
    endpoints: [\"127.0.0.1:9002\"]
routes:
  - prefix: /one
    service: one
  - prefix: /two
    service: two
order: specificity
default_route: {service: one}
discovery:
  dns: {timeout: 3s}
policies:
  - headers: {request: {set: {a: b}}}
logging: {level: info}
metrics: {endpoint: /metrics}
reload: {watch: true}
";

    fn load(before: Option<&Loaded>, text: &str) -> Loaded {
        let kinds = crate::policy::SCHEMA;
        let loaded = match before {
            None => load_str("t", text, &FixedEnv::default(), kinds),
            Some(before) => load_str_after(Some(&before.kept), "t", text, &FixedEnv::default(), kinds),
        };
        loaded.unwrap_or_else(|found| panic!("{}", found.render()))
    }

    fn afresh(loaded: &Loaded) -> u64 {
        Fingerprints::default().of(&loaded.config)
    }

    #[test]
    fn a_hash_does_not_hang_on_the_process_the_spelling_or_what_is_remembered() {
        let first = load(None, FILE);
        let mut known = Fingerprints::default();
        let hash = known.of(&first.config);
        // Another process finds this one; a new key with a default, or another default, is a reason to change it.
        assert_eq!((hash, hash), (afresh(&first), known.of(&first.config)));
        let spelt =
            FILE.replace("{level: info}", "{\"level\": \"info\"} # as ever").replace("order: specificity\n", "");
        assert_eq!(afresh(&load(None, &spelt)), hash, "defaults are written out");
        // One service and one route are others, and the rest is shared.
        let text = FILE.replace("127.0.0.1:9002", "127.0.0.1:9003").replace("/two", "/three");
        let (again, whole) = (load(Some(&first), &text), load(None, &text));
        assert!(Arc::ptr_eq(&again.config.services[0].value, &first.config.services[0].value));
        assert!(Arc::ptr_eq(&again.config.routes[0].value, &first.config.routes[0].value));
        let changed = known.of(&again.config);
        assert_eq!(changed, afresh(&whole));
        assert_ne!(changed, hash);
        // And back, where nothing of what was remembered holds any more.
        let back = load(Some(&again), FILE);
        drop((first, again));
        assert_eq!(known.of(&back.config), hash);
    }

    #[test]
    fn only_what_stands_in_the_last_configuration_is_remembered() {
        let first = load(None, FILE);
        let mut known = Fingerprints::default();
        known.of(&first.config);
        let one = Arc::downgrade(&first.config.services[1].value);
        let next = load(Some(&first), &FILE.replace("127.0.0.1:9002", "127.0.0.1:9003"));
        drop(first);
        assert_eq!(one.strong_count(), 0, "nothing is kept alive");
        known.of(&next.config);
        assert_eq!((known.services.0.len(), known.routes.0.len(), one.weak_count()), (2, 2, 0));
    }

    #[test]
    fn each_section_and_each_item_has_a_say() {
        let hash = afresh(&load(None, FILE));
        let mut seen = vec![hash];
        for (old, new) in [
            ("workers: 1", "workers: 2"),
            ("127.0.0.1:9901", "127.0.0.1:9902"),
            ("address: 127.0.0.1:8080", "address: 127.0.0.1:8081"),
            ("[\"127.0.0.1:9001\"]", "[\"127.0.0.1:9009\"]"),
            ("[\"127.0.0.1:9002\"]", "[\"127.0.0.1:9009\"]"),
            ("prefix: /one", "prefix: /uno"),
            ("service: two", "service: one"),
            ("order: specificity", "order: strict"),
            ("default_route: {service: one}", "default_route: {service: two}"),
            ("timeout: 3s", "timeout: 4s"),
            ("{a: b}", "{a: c}"),
            ("level: info", "level: warn"),
            ("endpoint: /metrics", "endpoint: /numbers"),
            ("watch: true", "watch: false"),
        ] {
            let text = FILE.replacen(old, new, 1);
            assert_ne!(text, FILE, "{old}");
            let other = afresh(&load(None, &text));
            assert!(!seen.contains(&other), "{old} -> {new}");
            seen.push(other);
        }
        let (head, tail) = FILE.split_once("  - prefix: /two").expect("the route");
        let swapped = format!("{}  - prefix: /two{tail}", head.replace("prefix: /one", "prefix: /two2"));
        assert!(!seen.contains(&afresh(&load(None, &swapped))));
    }
}
