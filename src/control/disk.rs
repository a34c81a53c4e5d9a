//! Files that are replaced whole: whoever reads one at any time, and after any crash, finds all of one version.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

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
