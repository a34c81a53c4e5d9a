//! The file that orders are kept in: small, written whole, and replaced at once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::disk::put_in_place;
use super::{ByService, Kept};
use crate::limits::{ENDPOINT_ORDERS_BYTES_MAX, ENDPOINT_ORDERS_MAX, ENDPOINT_WEIGHT_MAX};
use crate::upstream::health::Administration;
use crate::upstream::state::Order;

/// The form of the file; another one is not read.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    version: u32,
    services: BTreeMap<String, BTreeMap<String, Entry>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    state: Word,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    weight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    resolved: Option<SocketAddr>,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    why: String,
    since_unix_ms: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Enabled,
    Draining,
    Maintenance,
}

impl Word {
    fn of(administration: Administration) -> Self {
        match administration {
            Administration::Enabled => Self::Enabled,
            Administration::Draining => Self::Draining,
            Administration::Maintenance => Self::Maintenance,
        }
    }

    fn meant(self) -> Administration {
        match self {
            Self::Enabled => Administration::Enabled,
            Self::Draining => Administration::Draining,
            Self::Maintenance => Administration::Maintenance,
        }
    }
}

/// The orders in a file; none where there is no file.
///
/// # Errors
/// Why it cannot be used, for operators.
pub fn read(path: &Path) -> Result<ByService, String> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ByService::new()),
        Err(error) => return Err(error.to_string()),
    };
    // Opening a FIFO would wait for ever.
    if !metadata.is_file() {
        return Err("it is no ordinary file".to_owned());
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(ENDPOINT_ORDERS_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > ENDPOINT_ORDERS_BYTES_MAX {
        return Err(format!("it is longer than {ENDPOINT_ORDERS_BYTES_MAX} bytes"));
    }
    parse(&text)
}

pub(super) fn parse(text: &[u8]) -> Result<ByService, String> {
    let whole: Whole = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if whole.version != VERSION {
        return Err(format!("it has version {}, and this program reads version {VERSION}", whole.version));
    }
    let count: usize = whole.services.values().map(BTreeMap::len).sum();
    if count > ENDPOINT_ORDERS_MAX {
        return Err(format!("it has {count} entries, and at most {ENDPOINT_ORDERS_MAX} are kept"));
    }
    let heavy = |entry: &Entry| entry.weight.is_some_and(|weight| weight > ENDPOINT_WEIGHT_MAX);
    if whole.services.values().flat_map(BTreeMap::values).any(heavy) {
        return Err(format!("a weight is over {ENDPOINT_WEIGHT_MAX}"));
    }
    let kept = |entry: Entry| Kept {
        order: Order { administration: entry.state.meant(), weight: entry.weight },
        resolved: entry.resolved,
        why: entry.why,
        since_unix_ms: entry.since_unix_ms,
    };
    let of_service = |all: BTreeMap<String, Entry>| all.into_iter().map(|(name, entry)| (name, kept(entry))).collect();
    Ok(whole.services.into_iter().map(|(name, all)| (name, of_service(all))).collect())
}

/// The text of the file.
pub fn text(orders: &ByService) -> String {
    let entry = |kept: &Kept| Entry {
        state: Word::of(kept.order.administration),
        weight: kept.order.weight,
        resolved: kept.resolved,
        why: kept.why.clone(),
        since_unix_ms: kept.since_unix_ms,
    };
    let of_service =
        |all: &BTreeMap<String, Kept>| all.iter().map(|(name, kept)| (name.clone(), entry(kept))).collect();
    let services = orders.iter().map(|(name, all)| (name.clone(), of_service(all))).collect();
    serde_json::to_string_pretty(&Whole { version: VERSION, services }).unwrap_or_default() + "\n"
}

/// Replaces the file: whoever reads it at any time, and after any crash, finds a whole one. One that could not be read
/// is put aside first, as `FILE.bad`.
///
/// # Errors
/// What the system refuses.
pub fn write(path: &Path, text: &str, put_aside: bool) -> io::Result<()> {
    let beside = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    if put_aside && path.exists() {
        fs::rename(path, beside(".bad"))?;
    }
    let new = beside(".new");
    put_in_place(File::create(&new)?, &new, path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> ByService {
        let kept = |administration, weight| Kept {
            order: Order { administration, weight },
            resolved: "10.0.0.1:80".parse().ok(),
            why: "new \"disk\"\n".to_owned(),
            since_unix_ms: 7,
        };
        let all = [
            ("a:80".to_owned(), kept(Administration::Draining, None)),
            ("[::1]:80".to_owned(), kept(Administration::Enabled, Some(0))),
        ];
        [("up".to_owned(), all.into_iter().collect())].into_iter().collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.json");
        assert_eq!(read(&path), Ok(ByService::new()), "none yet");
        write(&path, &text(&orders()), false).expect("written");
        assert_eq!(read(&path), Ok(orders()));
        fs::write(&path, "{").expect("written");
        assert!(read(&path).is_err());
        write(&path, &text(&ByService::new()), true).expect("written");
        assert_eq!(read(&path), Ok(ByService::new()));
        assert_eq!(fs::read(dir.path().join("state.json.bad")).expect("put aside"), b"{");
        assert!(read(dir.path()).is_err(), "a directory");
        assert!(write(&dir.path().join("no/where"), "", false).is_err());
    }

    #[test]
    fn what_is_not_understood_is_refused_whole() {
        let entry = |more: &str| {
            format!(r#"{{"version":1,"services":{{"up":{{"a:80":{{"state":"draining","since_unix_ms":1{more}}}}}}}}}"#)
        };
        assert_eq!(parse(entry("").as_bytes()).map(|all| all.len()), Ok(1));
        for bad in [
            String::new(),
            "[]".to_owned(),
            r#"{"version":2,"services":{}}"#.to_owned(),
            r#"{"version":1,"services":{},"more":1}"#.to_owned(),
            entry(r#","weight":65536"#),
            entry(r#","weight":-1"#),
            entry(r#","hieght":1"#),
            entry(r#","resolved":"nowhere""#),
            entry("").replace("draining", "gone"),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let many: String = (0..=ENDPOINT_ORDERS_MAX)
            .map(|number| format!(r#""e{number}:80":{{"state":"draining","since_unix_ms":1}},"#))
            .collect();
        let many = format!(r#"{{"version":1,"services":{{"up":{{{}}}}}}}"#, many.trim_end_matches(','));
        assert!(parse(many.as_bytes()).is_err_and(|error| error.contains("at most")));
    }

    #[test]
    fn the_longest_fits_what_is_read() {
        let kept = Kept {
            order: Order { administration: Administration::Maintenance, weight: Some(ENDPOINT_WEIGHT_MAX) },
            resolved: "[1111:2222:3333:4444:5555:6666:7777:8888]:65535".parse().ok(),
            why: "\u{1}".repeat(crate::limits::ENDPOINT_WHY_CHARS_MAX),
            since_unix_ms: u64::MAX,
        };
        let name = |number: usize| format!("{number:0>255}:65535");
        let all = (0..ENDPOINT_ORDERS_MAX).map(|number| (name(number), kept.clone())).collect();
        let text = text(&[("up".to_owned(), all)].into_iter().collect());
        assert!(text.len() as u64 <= ENDPOINT_ORDERS_BYTES_MAX, "{}", text.len());
        assert_eq!(parse(text.as_bytes()).map(|all| all["up"].len()), Ok(ENDPOINT_ORDERS_MAX));
    }
}
