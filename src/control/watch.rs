//! Watches configuration files by polling. Off unless asked for.
//!
//! Polling sees what notification APIs miss: renames over the file, swapped symbolic links (Kubernetes), network file
//! systems. A change is reported once the files have been still for [`DEBOUNCE_MS`], and only when their content
//! differs.

use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::time::Now;

/// Time between two looks.
pub const POLL_MS: u64 = 500;
/// How long the files must be still.
pub const DEBOUNCE_MS: u64 = 200;
/// Files watched.
pub const FILES_MAX: usize = 1024;
/// Bytes of a file that count for its content.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Watches the content of some files.
#[derive(Debug)]
pub struct FileWatch {
    paths: Vec<PathBuf>,
    seen: Vec<Option<Print>>,
    detector: Detector,
    hasher: ahash::RandomState,
}

/// What a file looked like; equal prints mean equal content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    content: u64,
}

impl FileWatch {
    /// Watches these files, at most [`FILES_MAX`] of them, from what they hold at this moment.
    pub fn new(mut paths: Vec<PathBuf>) -> Self {
        paths.truncate(FILES_MAX);
        let (seen, hasher) = (vec![None; paths.len()], ahash::RandomState::new());
        let mut watch = Self { paths, seen, detector: Detector::default(), hasher };
        let content = watch.look();
        watch.detector = Detector::new(content);
        watch
    }

    /// Whether it watches these files.
    pub fn watches(&self, paths: &[PathBuf]) -> bool {
        self.paths == paths[..paths.len().min(FILES_MAX)]
    }

    /// Waits for the next change. Safe to drop and call again.
    pub async fn changed(&mut self) {
        loop {
            let pause_ms = if self.detector.is_settling() { DEBOUNCE_MS } else { POLL_MS };
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            let content = self.look();
            if self.detector.observe(content, Now::read()) {
                return;
            }
        }
    }

    /// One number for the content of all files; None while one is missing or unreadable.
    fn look(&mut self) -> Option<u64> {
        let mut all = self.hasher.build_hasher();
        for (path, seen) in self.paths.iter().zip(&mut self.seen) {
            *seen = print(path, *seen, &self.hasher);
            all.write_u64((*seen)?.content);
        }
        Some(all.finish())
    }
}

/// Reads a file only when its metadata say that it may have changed.
fn print(path: &Path, seen: Option<Print>, hasher: &ahash::RandomState) -> Option<Print> {
    let metadata = std::fs::metadata(path).ok()?;
    let inode = (metadata.dev(), metadata.ino());
    let (size, modified) = (metadata.size(), (metadata.mtime(), metadata.mtime_nsec()));
    if let Some(seen) = seen.filter(|seen| (seen.inode, seen.size, seen.modified) == (inode, size, modified)) {
        return Some(seen);
    }
    // Opening a FIFO would wait for ever.
    if !metadata.is_file() {
        return None;
    }
    let file = std::fs::File::open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(Print { inode, size, modified, content: hasher.hash_one(&bytes) })
}

/// Turns looks into changes: pure, so that time can be played.
#[derive(Debug, Default)]
struct Detector {
    reported: Option<u64>,
    candidate: Option<(u64, Now)>,
}

impl Detector {
    fn new(content: Option<u64>) -> Self {
        Self { reported: content, candidate: None }
    }

    /// Whether a change was seen that is not still for long enough.
    fn is_settling(&self) -> bool {
        self.candidate.is_some()
    }

    /// Takes one look. True when the content is new and has been the same for [`DEBOUNCE_MS`]. A missing file is no
    /// change: it is either being replaced, or a reload could only fail.
    fn observe(&mut self, content: Option<u64>, now: Now) -> bool {
        let Some(content) = content.filter(|&content| Some(content) != self.reported) else {
            self.candidate = None;
            return false;
        };
        match self.candidate {
            Some((candidate, since)) if candidate == content => {
                if now < since.plus_ms(DEBOUNCE_MS) {
                    return false;
                }
                *self = Self::new(Some(content));
                true
            }
            _ => {
                self.candidate = Some((content, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_change_is_told_once_and_when_it_is_still() {
        let mut detector = Detector::new(Some(1));
        let mut at = |content, ms| detector.observe(content, Now::from_ms(ms));
        assert!(!at(Some(1), 0));
        assert!(!at(Some(2), 500));
        assert!(!at(Some(3), 600), "still being written");
        assert!(!at(Some(3), 700));
        assert!(at(Some(3), 800));
        assert!(!at(Some(3), 2_000));
        assert!(!at(None, 2_500));
        assert!(!at(Some(3), 3_000), "the same content came back");
        assert!(!at(Some(4), 3_500));
        assert!(!at(Some(3), 3_600), "undone before it was still");
        assert!(!at(Some(3), 9_000));
    }

    #[test]
    fn looks_differ_by_content_alone() {
        let dir = tempfile::tempdir().expect("directory");
        let (path, next) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
        fs::write(&path, "a: 1").expect("written");
        let mut watch = FileWatch::new(vec![path.clone()]);
        let first = watch.look();
        assert!(first.is_some());
        fs::write(&next, "a: 1").expect("written");
        fs::rename(&next, &path).expect("renamed");
        assert_eq!(watch.look(), first, "another file with the same content");
        fs::write(&next, "a: 2").expect("written");
        fs::rename(&next, &path).expect("renamed");
        assert_ne!(watch.look(), first);
        fs::remove_file(&path).expect("removed");
        assert_eq!(watch.look(), None);
        fs::create_dir(&path).expect("made");
        assert_eq!(watch.look(), None);
    }

    #[tokio::test]
    async fn a_replaced_file_is_seen() {
        let dir = tempfile::tempdir().expect("directory");
        let (path, next) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
        fs::write(&path, "a: 1").expect("written");
        let mut watch = FileWatch::new(vec![path.clone()]);
        fs::write(&next, "a: 2").expect("written");
        fs::rename(&next, &path).expect("renamed");
        tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.expect("seen");
        let quiet = tokio::time::timeout(Duration::from_millis(1_200), watch.changed()).await;
        assert!(quiet.is_err(), "seen twice");
    }
}
