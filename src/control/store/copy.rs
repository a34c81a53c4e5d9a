//! The last good configuration of a store on disk, for a start while the store cannot be reached.
//!
//! The first line says where it came from, so that no gateway starts with the configuration of another one. Secrets may
//! be in it: it is its owner's alone.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::super::disk;
use crate::schema::SOURCE_BYTES_MAX;

const FIRST_WORDS: &str = "# ringway: the last good configuration from ";
/// Where state is kept that nobody said another place for.
const STATE_DIRECTORY: &str = "/var/lib/ringway";

/// Where the copy of a source is kept unless told otherwise: in the service's own directory, where it has one.
pub fn default_path(state_directory: Option<&str>, fingerprint: u64) -> PathBuf {
    // systemd gives a list.
    let directory = state_directory.and_then(|list| list.split(':').next()).filter(|first| !first.is_empty());
    Path::new(directory.unwrap_or(STATE_DIRECTORY)).join(format!("config-{fingerprint:016x}.copy"))
}

/// The copy of what `source` had.
///
/// # Errors
/// Why there is none that can be used.
pub fn read(path: &Path, source: &str) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no copy at {}", path.display()),
        _ => format!("the copy at {} cannot be read: {error}", path.display()),
    })?;
    let unusable = |what: &dyn std::fmt::Display| format!("the copy at {} cannot be used: {what}", path.display());
    // Opening a FIFO would wait for ever.
    if !metadata.is_file() {
        return Err(unusable(&"it is no ordinary file"));
    }
    let first = format!("{FIRST_WORDS}{source}\n");
    let bytes_max = (SOURCE_BYTES_MAX + first.len()) as u64;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| unusable(&error))?;
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| unusable(&error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(unusable(&format!("it is larger than {bytes_max} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| unusable(&"it is not UTF-8"))?;
    text.strip_prefix(&first).map(str::to_owned).ok_or_else(|| unusable(&"it is not of this source"))
}

/// Replaces the copy at once.
///
/// # Errors
/// What the system refuses.
pub fn write(path: &Path, source: &str, text: &str) -> io::Result<()> {
    disk::write(path, format!("{FIRST_WORDS}{source}\n{text}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_written_is_read_by_its_own_source_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sub/one.copy");
        assert!(read(&path, "consul://a/k").is_err_and(|error| error.contains("no copy at")));
        for text in ["routes: []\n", "", "a\r\nb"] {
            write(&path, "consul://a/k", text).expect("written");
            assert_eq!(read(&path, "consul://a/k").as_deref(), Ok(text));
        }
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path().join("sub")).expect("listed").count(), 1, "nothing is left beside it");
        for (text, told) in [("routes: []\n", "not of this source"), ("# ringway: \u{fffd}", "not of this source")] {
            std::fs::write(&path, text).expect("written");
            assert!(read(&path, "consul://a/k").is_err_and(|error| error.contains(told)));
        }
        write(&path, "consul://a/k2", "x").expect("written");
        assert!(read(&path, "consul://a/k").is_err_and(|error| error.contains("not of this source")));
        assert!(read(dir.path(), "consul://a/k").is_err_and(|error| error.contains("no ordinary file")));
    }

    #[test]
    fn a_place_is_found() {
        assert_eq!(default_path(None, 0xab), Path::new("/var/lib/ringway/config-00000000000000ab.copy"));
        assert_eq!(default_path(Some("/s/a:/s/b"), 1), Path::new("/s/a/config-0000000000000001.copy"));
        assert_eq!(default_path(Some(""), 1), Path::new("/var/lib/ringway/config-0000000000000001.copy"));
    }
}
