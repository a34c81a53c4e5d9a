//! Watches files: those of the configuration, if asked for, and lists of endpoints.
//!
//! The kernel tells when a name on the way to a file comes, goes or is written (`bells`, `places`): renames over
//! the file, editors that write it in place, swapped links (Kubernetes). That is only a reason to look. Where it does
//! not tell (network file systems, no watches left) looks are taken twice a second. A change is reported once the files
//! have been still for [`DEBOUNCE_MS`], and only when their content differs.

mod bells;
mod places;

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use self::bells::Listener;
use self::places::Place;
use crate::time::Now;

/// Time between two looks where the kernel does not tell.
pub const POLL_MS: u64 = 500;
/// The same where it does: it may have missed something.
pub const RELOOK_MS: u64 = 60_000;
/// From being told to the look: what is written in a moment is looked at once.
pub const BREATH_MS: u64 = 10;
/// How long the files must be still.
pub const DEBOUNCE_MS: u64 = 200;
/// Files watched.
pub const FILES_MAX: usize = 1024;
/// Bytes of a file that count for its content.
pub const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Watches the content of some files.
pub struct FileWatch {
    paths: Vec<PathBuf>,
    seen: Vec<Option<Print>>,
    detector: Detector,
    hasher: ahash::RandomState,
    /// Rings when a look is due before its time.
    bell: Arc<Notify>,
    /// Where the kernel tells of everything on the way.
    listener: Option<Listener>,
    /// The next look.
    due: Instant,
    /// Not even asked to tell.
    is_polling: bool,
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
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self::begin(paths, false)
    }

    fn begin(mut paths: Vec<PathBuf>, is_polling: bool) -> Self {
        paths.truncate(FILES_MAX);
        let mut watch = Self {
            seen: vec![None; paths.len()],
            paths,
            detector: Detector::default(),
            hasher: ahash::RandomState::new(),
            bell: Arc::default(),
            listener: None,
            due: Instant::now(),
            is_polling,
        };
        // In this order: what happens behind the look is told.
        watch.listen();
        let content = watch.look();
        watch.detector = Detector::new(content);
        watch.due = Instant::now() + watch.pause();
        watch
    }

    /// Whether it watches these files.
    pub fn watches(&self, paths: &[PathBuf]) -> bool {
        self.paths == paths[..paths.len().min(FILES_MAX)]
    }

    /// Waits for the next change. Safe to drop and call again.
    pub async fn changed(&mut self) {
        loop {
            let is_told = self.listener.is_some() && !self.detector.is_settling();
            tokio::select! {
                () = sleep_until(self.due) => {}
                () = self.bell.notified(), if is_told => {
                    self.due = Instant::now() + Duration::from_millis(BREATH_MS);
                    sleep_until(self.due).await;
                }
            }
            self.listen();
            let content = self.look();
            let is_changed = self.detector.observe(content, Now::read());
            self.due = Instant::now() + self.pause();
            if is_changed {
                return;
            }
        }
    }

    /// Until the next look, if nothing is told.
    fn pause(&self) -> Duration {
        Duration::from_millis(match &self.listener {
            _ if self.detector.is_settling() => DEBOUNCE_MS,
            Some(_) => RELOOK_MS,
            None => POLL_MS,
        })
    }

    /// Has itself told of everything on the way to the files, as that leads now.
    fn listen(&mut self) {
        let Some(bells) = bells::of_process().filter(|_| !self.is_polling) else {
            self.listener = None;
            return;
        };
        let places: HashSet<Place> = self.paths.iter().flat_map(|path| places::of(path)).collect();
        let is_ours = places.iter().filter(|place| place.is_last).all(places::is_ours);
        // The one before is dropped behind this, so that what both wait for is waited for throughout.
        self.listener = if is_ours { bells.listen(&places, &self.bell).ok() } else { None };
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

impl fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWatch").field("paths", &self.paths).field("is_told", &self.listener.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

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

    /// Waits for the change. Less long than a watch that is told waits before it looks by itself.
    async fn seen(watch: &mut FileWatch) {
        let is_told = watch.listener.is_some();
        tokio::time::timeout(Duration::from_millis(RELOOK_MS / 2), watch.changed()).await.expect("seen");
        assert_eq!(is_told, !watch.is_polling, "{watch:?}");
    }

    /// Both with the kernel's help and without.
    async fn each_way(play: impl AsyncFn(&Path, &dyn Fn(&Path) -> FileWatch)) {
        for is_polling in [false, true] {
            let dir = tempfile::tempdir().expect("a directory");
            play(dir.path(), &|path| FileWatch::begin(vec![path.to_owned()], is_polling)).await;
        }
    }

    #[tokio::test]
    async fn a_file_is_seen_however_it_is_replaced() {
        each_way(async |dir, watch| {
            let (path, next) = (dir.join("a.yaml"), dir.join("b.yaml"));
            fs::write(&path, "a: 1").expect("written");
            let mut watch = watch(&path);
            // Renamed over it.
            fs::write(&next, "a: 2").expect("written");
            fs::rename(&next, &path).expect("renamed");
            seen(&mut watch).await;
            // Written in place, in pieces.
            let mut file = fs::File::create(&path).expect("opened");
            for piece in ["a", ": ", "3"] {
                std::io::Write::write_all(&mut file, piece.as_bytes()).expect("written");
            }
            drop(file);
            seen(&mut watch).await;
            // As some editors do it: the old one is put aside, the new one written under its name, the old one removed.
            fs::rename(&path, dir.join("a.yaml~")).expect("renamed");
            fs::write(&path, "a: 4").expect("written");
            fs::remove_file(dir.join("a.yaml~")).expect("removed");
            seen(&mut watch).await;
            // Gone for a while.
            fs::remove_file(&path).expect("removed");
            let gone = tokio::time::timeout(Duration::from_millis(50), watch.changed()).await;
            assert!(gone.is_err(), "a file that has gone is no change");
            fs::write(&path, "a: 5").expect("written");
            seen(&mut watch).await;
        })
        .await;
    }

    #[tokio::test]
    async fn links_that_are_swapped_are_seen() {
        each_way(async |dir, watch| {
            let version = |name: &str, text: &str| {
                fs::create_dir(dir.join(name)).expect("made");
                fs::write(dir.join(name).join("a.yaml"), text).expect("written");
                symlink(name, dir.join("..next")).expect("linked");
                fs::rename(dir.join("..next"), dir.join("..data")).expect("renamed");
            };
            version("..1", "a: 1");
            symlink("..data/a.yaml", dir.join("a.yaml")).expect("linked");
            let mut watch = watch(&dir.join("a.yaml"));
            // As Kubernetes does it, twice: behind the first swap others are waited for.
            for (name, text) in [("..2", "a: 2"), ("..3", "a: 3")] {
                version(name, text);
                seen(&mut watch).await;
            }
            fs::remove_dir_all(dir.join("..1")).expect("removed");
            fs::write(dir.join("..3/a.yaml"), "a: 4").expect("written");
            seen(&mut watch).await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_directory_that_is_replaced_is_seen_and_so_is_one_that_comes() {
        each_way(async |dir, watch| {
            let (path, next) = (dir.join("etc/sub/a.yaml"), dir.join("next"));
            let mut watch = watch(&path);
            fs::create_dir_all(dir.join("etc/sub")).expect("made");
            fs::write(&path, "a: 1").expect("written");
            seen(&mut watch).await;
            fs::create_dir_all(next.join("sub")).expect("made");
            fs::write(next.join("sub/a.yaml"), "a: 2").expect("written");
            fs::rename(dir.join("etc"), dir.join("old")).expect("renamed");
            fs::rename(&next, dir.join("etc")).expect("renamed");
            seen(&mut watch).await;
            fs::write(&path, "a: 3").expect("written");
            seen(&mut watch).await;
        })
        .await;
    }

    #[tokio::test]
    async fn a_change_is_told_once() {
        each_way(async |dir, watch| {
            let path = dir.join("a.yaml");
            fs::write(&path, "a: 1").expect("written");
            let mut watch = watch(&path);
            fs::write(&path, "a: 2").expect("written");
            seen(&mut watch).await;
            // The same content again, which rings too.
            fs::write(&path, "a: 2").expect("written");
            let twice = tokio::time::timeout(Duration::from_millis(2 * POLL_MS), watch.changed()).await;
            assert!(twice.is_err(), "seen twice");
        })
        .await;
    }
}
