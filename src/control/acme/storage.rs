//! What is kept on disk for an authority, for this process, those after it and those beside it:
//!
//! ```text
//! account.json       the account and its key
//! lock               who orders at present, and until when at most
//! proofs/TOKEN       what is to be proved at present
//! NAME/pair.pem      certificate, chain and key
//! NAME/attempts.json what failed, and when it may be tried again
//! ```
//!
//! Files are for their owner alone and change whole or not at all.

#![cfg_attr(not(feature = "acme"), allow(dead_code, reason = "without orders nothing is to be proved"))]

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::disk::{host, make_directory, unique, write};
use crate::limits::{ACME_LOCK_S, ACME_PROOFS_MAX, TLS_FILE_BYTES_MAX};
use crate::tls::Pair;
use crate::tls::managed::{Settings, Slot};

/// What failed for a name since its last certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempts {
    /// How often in a row.
    pub failures: u32,
    /// Nothing is ordered before this time, in seconds since the Unix epoch.
    pub not_before_s: u64,
    /// What the last one was.
    pub error: String,
}

/// Something that is to be proved, for all processes that share the storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The token.
    pub token: String,
    /// The name.
    pub name: String,
    /// How: a word of `Method`.
    pub method: String,
    /// What is shown.
    pub text: String,
}

/// Reads a file within a bound; None when it is not there or cannot be read.
pub fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|facts| facts.is_file()))?;
    file.take(TLS_FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn attempts_file(settings: &Settings, name: &str) -> PathBuf {
    settings.home(name).join("attempts.json")
}

/// What failed for this name; nothing where the file cannot be read.
pub fn attempts(settings: &Settings, name: &str) -> Attempts {
    let bytes = read(&attempts_file(settings, name)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Keeps what failed over restarts: a process that is started again and again is no reason to order again and again.
pub fn write_attempts(settings: &Settings, name: &str, attempts: &Attempts) -> io::Result<()> {
    let file = attempts_file(settings, name);
    if *attempts == Attempts::default() {
        return match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    write(&file, &serde_json::to_vec(attempts)?)
}

/// Takes up the certificate on disk, if it is a better one than what serves. Another process may have ordered it.
pub fn take_up(settings: &Settings, slot: &Slot) -> bool {
    let file = settings.pair_file(&slot.name);
    let Some(pem) = read(&file) else { return false };
    let Ok(pair) = Pair::read(&pem, &pem, None, file.display().to_string()) else { return false };
    let is_better = slot.get().is_none_or(|present| pair.not_after_s > present.not_after_s);
    if is_better {
        slot.set(pair);
    }
    is_better
}

/// Whether a token may be the name of a file: base64url, as RFC 8555 has it.
pub fn is_token(token: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=128).contains(&token.len()) && token.bytes().all(plain)
}

fn proofs_directory(settings: &Settings) -> PathBuf {
    settings.storage.join("proofs")
}

/// Tells other processes what is to be proved.
pub fn write_proof(settings: &Settings, proof: &Proof) -> io::Result<()> {
    write(&proofs_directory(settings).join(&proof.token), &serde_json::to_vec(proof)?)
}

/// It is to be proved no more.
pub fn remove_proof(settings: &Settings, token: &str) {
    // Whoever finds it later proves what nobody asks for.
    let _ = fs::remove_file(proofs_directory(settings).join(token));
}

/// What other processes have to prove.
pub fn proofs(settings: &Settings) -> Vec<Proof> {
    let Ok(entries) = fs::read_dir(proofs_directory(settings)) else { return Vec::new() };
    let names = entries.filter_map(|entry| Some(entry.ok()?.path())).take(ACME_PROOFS_MAX);
    let proofs = names.filter_map(|path| serde_json::from_slice(&read(&path)?).ok());
    proofs.filter(|proof: &Proof| is_token(&proof.token)).collect()
}

/// The right to order, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: PathBuf,
    owner: Owner,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    host: String,
    /// The namespace that the process's number belongs to.
    space: String,
    pid: u32,
    /// Tells two locks of one process apart.
    since_ns: u64,
    /// The lock holds no longer than to this time, in seconds since the Unix epoch.
    until_s: u64,
}

/// What became of asking for the lock.
#[derive(Debug)]
pub enum Asked {
    /// It is ours.
    Ours(Lock),
    /// Another process has it.
    Held,
}

impl Owner {
    fn new(now_s: u64) -> Self {
        let (host, space) = host();
        let since_ns = crate::time::Now::read().0;
        Self { host, space, pid: std::process::id(), since_ns, until_s: now_s + ACME_LOCK_S }
    }

    /// Whether it holds no more: its time is over, or its process of this very machine has ended.
    fn is_gone(&self, now_s: u64) -> bool {
        let (host, space) = host();
        let is_here = self.host == host && self.space == space;
        // A time further away than any owner writes comes from a clock that was wrong.
        let is_over = now_s >= self.until_s || self.until_s > now_s + 2 * ACME_LOCK_S;
        is_over || (is_here && !Path::new(&format!("/proc/{}", self.pid)).exists())
    }
}

/// Asks for the right to order from an authority: one process has it at a time.
///
/// # Errors
/// When the storage cannot be written: then nothing is ordered, for it could not be kept.
pub fn lock(settings: &Settings, now_s: u64) -> io::Result<Asked> {
    let file = settings.storage.join("lock");
    make_directory(&settings.storage)?;
    let owner = Owner::new(now_s);
    let fresh = unique(&file);
    write(&fresh, &serde_json::to_vec(&owner)?)?;
    let asked = take(&file, &fresh, now_s);
    // Its other name stays, if it is ours.
    let _ = fs::remove_file(&fresh);
    Ok(if asked? { Asked::Ours(Lock { file, owner }) } else { Asked::Held })
}

/// Gives our file the lock's name, unless another one has it. One that is left over is put away first; two that do so
/// at once see by its content whether they have put away the right one.
fn take(file: &Path, fresh: &Path, now_s: u64) -> io::Result<bool> {
    match fs::hard_link(fresh, file) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        linked => return linked.map(|()| true),
    }
    let Some(found) = read(file) else { return Ok(false) };
    let is_gone = |bytes: &[u8]| serde_json::from_slice::<Owner>(bytes).is_ok_and(|owner| owner.is_gone(now_s));
    if !is_gone(&found) {
        return Ok(false);
    }
    let away = unique(file);
    if fs::rename(file, &away).is_err() {
        return Ok(false);
    }
    let was = read(&away).unwrap_or_default();
    if was != found {
        // Somebody's fresh one: back with it.
        let _ = fs::hard_link(&away, file);
    }
    let _ = fs::remove_file(&away);
    match fs::hard_link(fresh, file) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        linked => linked.map(|()| true),
    }
}

impl Lock {
    /// Whether it still is ours.
    pub fn is_ours(&self) -> bool {
        read(&self.file).and_then(|bytes| serde_json::from_slice::<Owner>(&bytes).ok()).as_ref() == Some(&self.owner)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.is_ours() {
            // What stays is over after its time.
            let _ = fs::remove_file(&self.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::tls::managed::Method;

    fn settings(storage: &Path) -> Settings {
        Settings {
            directory: String::new(),
            storage: storage.join("ca"),
            email: None,
            authorities: None,
            binding: None,
            method: Method::Http01,
        }
    }

    #[test]
    fn files_are_for_their_owner_and_change_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a/b/pair.pem");
        write(&file, b"one").expect("written");
        write(&file, b"two").expect("written");
        assert_eq!(fs::read(&file).expect("read"), b"two");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&dir.path().join("a/b"))), (0o600, 0o700));
        let left = fs::read_dir(dir.path().join("a/b")).expect("read").count();
        assert_eq!(left, 1, "nothing is left over");
        assert!(write(&file.join("below"), b"x").is_err(), "a file is no directory");
    }

    #[test]
    fn one_has_the_lock_until_it_ends_or_its_time_is_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = settings(dir.path());
        let ask = |now_s| lock(&settings, now_s).expect("a storage");
        let Asked::Ours(first) = ask(1_000) else { panic!("nobody has it") };
        assert!(first.is_ours() && matches!(ask(1_001), Asked::Held));
        assert!(matches!(ask(1_000 + ACME_LOCK_S - 1), Asked::Held));
        let Asked::Ours(second) = ask(1_000 + ACME_LOCK_S) else { panic!("its time is over") };
        assert!(!first.is_ours() && second.is_ours());
        drop(first);
        assert!(second.is_ours(), "who has lost it takes it from nobody");
        drop(second);
        assert!(matches!(ask(5_000), Asked::Ours(_)));
        let names: Vec<_> = fs::read_dir(&settings.storage).expect("read").collect();
        assert!(names.is_empty(), "{names:?}");
    }

    #[test]
    fn the_lock_of_a_process_that_has_ended_holds_nobody_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = settings(dir.path());
        let mut ended = std::process::Command::new("true").spawn().expect("true");
        let pid = ended.id();
        ended.wait().expect("ended");
        let left = |owner: &Owner| write(&settings.storage.join("lock"), &serde_json::to_vec(owner).expect("json"));
        left(&Owner { pid, ..Owner::new(1_000) }).expect("written");
        assert!(matches!(lock(&settings, 1_001).expect("a storage"), Asked::Ours(_)));
        left(&Owner { pid, host: "elsewhere".to_owned(), ..Owner::new(1_000) }).expect("written");
        assert!(matches!(lock(&settings, 1_001).expect("a storage"), Asked::Held), "nobody knows from here");
        write(&settings.storage.join("lock"), b"rubbish").expect("written");
        assert!(matches!(lock(&settings, 9_999).expect("a storage"), Asked::Held), "what nobody understands stays");
    }

    #[test]
    fn of_many_that_ask_at_once_for_a_lock_that_is_over_one_gets_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = settings(dir.path());
        for round in 1..20_u64 {
            let now_s = round * 10_000;
            let old = serde_json::to_vec(&Owner::new(now_s - ACME_LOCK_S)).expect("json");
            write(&settings.storage.join("lock"), &old).expect("written");
            let ask = || lock(&settings, now_s).expect("a storage");
            let asked: Vec<Asked> = std::thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
                all.into_iter().map(|one| one.join().expect("asked")).collect()
            });
            let ours = asked.iter().filter(|asked| matches!(asked, Asked::Ours(lock) if lock.is_ours())).count();
            assert_eq!(ours, 1, "round {round}");
        }
    }

    #[test]
    fn attempts_and_proofs_are_kept_and_tokens_lead_nowhere_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let settings = settings(dir.path());
        assert_eq!(attempts(&settings, "a.test"), Attempts::default());
        let failed = Attempts { failures: 3, not_before_s: 99, error: "no".to_owned() };
        write_attempts(&settings, "a.test", &failed).expect("written");
        assert_eq!(attempts(&settings, "a.test"), failed);
        write_attempts(&settings, "a.test", &Attempts::default()).expect("removed");
        write_attempts(&settings, "a.test", &Attempts::default()).expect("removed already");
        assert_eq!(attempts(&settings, "a.test"), Attempts::default());
        let proof = |token: &str| {
            let (token, name) = (token.to_owned(), "a.test".to_owned());
            Proof { token, name, method: "http-01".to_owned(), text: "x.y".to_owned() }
        };
        write_proof(&settings, &proof("abc")).expect("written");
        assert_eq!(proofs(&settings), [proof("abc")]);
        remove_proof(&settings, "abc");
        assert!(proofs(&settings).is_empty());
        for bad in ["", "../x", "a/b", "a.b", "a b", &"x".repeat(129)] {
            assert!(!is_token(bad), "{bad}");
        }
    }
}
