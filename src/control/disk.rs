//! Files that are replaced whole: whoever reads one at any time, and after any crash, finds all of one version.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes `bytes` into the new `file`, which stands at `beside`, and puts it in the place of `path`. On disk when this
/// returns.
///
/// # Errors
/// What the system refuses; `beside` may be left behind then.
pub fn put_in_place(mut file: File, beside: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, path)?;
    // The new name is on the disk when its directory is.
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes the directory, for its owner alone.
///
/// # Errors
/// What the system refuses.
pub fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a file at once, readable for its owner alone, and on disk when this returns. Its directory is made.
///
/// # Errors
/// What the system refuses; the file is what it was then.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    make_directory(parent)?;
    let fresh = unique(path);
    let written = (|| {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        put_in_place(file, &fresh, path, bytes)
    })();
    if written.is_err() {
        // It may not have come to be.
        let _ = fs::remove_file(&fresh);
    }
    written
}

/// A name beside `path` that nobody else uses.
pub fn unique(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (host, space) = host();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{host}-{space}-{}-{next}.new", std::process::id()));
    name.into()
}

/// This machine, and the namespace of its processes, in letters that a file's name may have.
pub fn host() -> (String, String) {
    let plain = |text: &str| text.chars().filter(|c| c.is_ascii_alphanumeric()).collect::<String>();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    (plain(&host), plain(&space.to_string_lossy()))
}
