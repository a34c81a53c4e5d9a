//! What the kernel tells of directories (inotify), for all watches of the process: one descriptor, and one thread that
//! sleeps in it. A watch is told when a name that it waits for comes, goes or is written, and looks for itself then.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{io, thread};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::sync::Notify;

use super::places::Place;
use crate::telemetry::log;

/// Events that are read at once, in bytes.
const READ_BYTES: usize = 4_096;

/// All that are waited for.
pub struct Bells {
    descriptor: OwnedFd,
    directories: Mutex<HashMap<i32, Directory>>,
    /// The kernel tells nothing any more.
    is_silent: AtomicBool,
    last: AtomicU64,
}

/// Who waits for which name.
type Directory = HashMap<OsString, HashMap<u64, Arc<Notify>>>;

/// Somebody who waits for some names; not any more when it is dropped.
pub struct Listener {
    bells: &'static Bells,
    id: u64,
    places: Vec<(i32, OsString)>,
}

/// Those of this process; None where the kernel has none to give.
pub fn of_process() -> Option<&'static Bells> {
    static BELLS: OnceLock<Option<&'static Bells>> = OnceLock::new();
    let bells = BELLS.get_or_init(|| {
        let begun = Bells::begin();
        begun.inspect_err(|error| log::warn("files are watched by looking at them", &[("error", error)])).ok()
    });
    bells.filter(|bells| !bells.is_silent.load(Ordering::Acquire))
}

impl Bells {
    fn begin() -> io::Result<&'static Self> {
        let bells: &'static Self = Box::leak(Box::new(Self {
            descriptor: inotify::init(CreateFlags::CLOEXEC)?,
            directories: Mutex::default(),
            is_silent: AtomicBool::new(false),
            last: AtomicU64::new(0),
        }));
        thread::Builder::new().name("file-watch".to_owned()).spawn(|| bells.run())?;
        Ok(bells)
    }

    /// Rings this bell when anything happens at one of the places from now on.
    ///
    /// # Errors
    /// A directory has gone meanwhile, or the kernel watches no more of them.
    pub fn listen(&'static self, places: &HashSet<Place>, bell: &Arc<Notify>) -> io::Result<Listener> {
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        let mut listener = Listener { bells: self, id, places: Vec::with_capacity(places.len()) };
        for place in places {
            let mut directories = self.directories();
            let number = inotify::add_watch(&self.descriptor, &place.directory, wanted(place.is_last))?;
            let names = directories.entry(number).or_default();
            names.entry(place.name.clone()).or_default().insert(id, bell.clone());
            drop(directories);
            listener.places.push((number, place.name.clone()));
        }
        Ok(listener)
    }

    fn run(&self) {
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut reader = Reader::new(&self.descriptor, &mut space);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    self.take(event.wd(), event.events(), name);
                }
                Err(Errno::INTR) => {}
                Err(error) => {
                    log::warn("files are watched by looking at them", &[("error", &error)]);
                    self.is_silent.store(true, Ordering::Release);
                    return self.directories().values().for_each(ring_all);
                }
            }
        }
    }

    fn take(&self, number: i32, events: ReadFlags, name: Option<&OsStr>) {
        let mut directories = self.directories();
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            return directories.values().for_each(ring_all);
        }
        if events.contains(ReadFlags::IGNORED) {
            // The directory has gone.
            return directories.remove(&number).iter().for_each(ring_all);
        }
        let Some(names) = directories.get(&number) else { return };
        match name {
            Some(name) => names.get(name).into_iter().flat_map(HashMap::values).for_each(|bell| bell.notify_one()),
            None => ring_all(names),
        }
    }

    fn directories(&self) -> MutexGuard<'_, HashMap<i32, Directory>> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn watches(&self, directory: &std::path::Path) -> bool {
        let number = inotify::add_watch(&self.descriptor, directory, wanted(false)).expect("a directory");
        self.directories().contains_key(&number)
    }
}

fn ring_all(names: &Directory) {
    names.values().flat_map(HashMap::values).for_each(|bell| bell.notify_one());
}

/// What is wanted of a directory: of all on the way which names come and go, of the last one also what is written.
fn wanted(is_last: bool) -> WatchFlags {
    let names = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
    // Another watch may want more of the same one.
    let each = names | WatchFlags::MASK_ADD | WatchFlags::ONLYDIR;
    if is_last { each | WatchFlags::CLOSE_WRITE | WatchFlags::ATTRIB } else { each }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut directories = self.bells.directories();
        for (number, name) in &self.places {
            let Some(names) = directories.get_mut(number) else { continue };
            if let Some(all) = names.get_mut(name) {
                all.remove(&self.id);
                if all.is_empty() {
                    names.remove(name);
                }
            }
            if names.is_empty() {
                directories.remove(number);
                // The directory may have gone, and its watch with it.
                let _ = inotify::remove_watch(&self.bells.descriptor, *number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    async fn rings(bell: &Notify) {
        tokio::time::timeout(Duration::from_secs(60), bell.notified()).await.expect("it rings");
    }

    fn listen(path: &Path, bell: &Arc<Notify>) -> Listener {
        let bells = of_process().expect("this kernel tells");
        bells.listen(&places::of(path).into_iter().collect(), bell).expect("it listens")
    }

    #[tokio::test]
    async fn only_those_are_told_who_wait_for_the_name() {
        let dir = tempfile::tempdir().expect("a directory");
        // That the directory itself has come may still be on its way, where somebody else waits for names beside it.
        let (early, mark) = (Arc::new(Notify::new()), dir.path().join("mark"));
        let first = listen(&mark, &early);
        fs::write(&mark, "").expect("written");
        rings(&early).await;
        drop(first);
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        let (bell, far) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (listener, both) = (listen(&one, &bell), [listen(&one, &far), listen(&other, &far)]);
        fs::write(&other, "").expect("written");
        rings(&far).await;
        // What was told of `other` has passed by; of `one` nobody has told anything yet.
        let heard = tokio::time::timeout(Duration::ZERO, bell.notified()).await;
        assert!(heard.is_err(), "not its name");
        fs::write(&one, "").expect("written");
        rings(&bell).await;
        let bells = of_process().expect("this kernel tells");
        drop(listener);
        assert!(bells.watches(dir.path()), "others wait still");
        drop(both);
        assert!(!bells.watches(dir.path()), "nobody waits any more");
    }

    #[tokio::test]
    async fn a_directory_that_goes_is_told_of() {
        let dir = tempfile::tempdir().expect("a directory");
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).expect("made");
        let bell = Arc::new(Notify::new());
        let _listener = listen(&inner.join("file"), &bell);
        fs::remove_dir(&inner).expect("removed");
        rings(&bell).await;
        fs::create_dir(&inner).expect("made");
        rings(&bell).await;
    }
}
