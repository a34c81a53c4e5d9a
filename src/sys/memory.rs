//! Memory as the kernel counts it, giving it back, and files that are nothing but memory.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::limits::{MEMORY_GROUP_RESERVE_BYTES, MEMORY_GROUP_RESERVE_PERCENT};

/// Gives what this thread has freed back to the kernel. The allocator does it by itself only when it is used again,
/// which a worker whose clients have all become idle does not. Takes up to a millisecond.
pub fn give_back() {
    // SAFETY: the call takes a flag and touches only the allocator's own state of this thread; without the allocator in
    // use there is none.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Takes the program's code and constants out of the process's resident memory: what is used again is mapped again from
/// the page cache, sixteen pages at a step. To be called when the start is over, most of whose code never runs again;
/// it is four fifths of what a process at rest has. Segments that the loader wrote to are left alone.
pub fn let_go_of_code() {
    // SAFETY: `each` takes what the loader gives it and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(let_go_of_object), std::ptr::null_mut()) };
}

// SAFETY: `dl_iterate_phdr` alone calls it, with what it asks for.
unsafe extern "C" fn let_go_of_object(
    object: *mut libc::dl_phdr_info,
    _bytes: libc::size_t,
    _: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader gives a valid description with as many headers as it says, for the time of this call.
    let (object, headers) = unsafe {
        let object = &*object;
        (object, std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()))
    };
    // SAFETY: the call takes a number and touches no memory of ours.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.unsigned_abs();
    for header in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
        let from = (object.dlpi_addr + header.p_vaddr).next_multiple_of(page_bytes);
        let to = (object.dlpi_addr + header.p_vaddr + header.p_memsz) / page_bytes * page_bytes;
        if let Some(bytes) = to.checked_sub(from).filter(|bytes| *bytes > 0) {
            // SAFETY: whole pages of a private mapping of a file that nobody has written to: the next access finds the
            // same bytes there. Where the kernel refuses, nothing has changed.
            let _ = unsafe { libc::madvise(from as *mut libc::c_void, bytes as usize, libc::MADV_DONTNEED) };
        }
    }
    0
}

/// A new file without a place in any directory. It goes with the last process that has it open.
///
/// # Errors
/// What the system refuses.
pub fn file(name: &CStr) -> io::Result<File> {
    // SAFETY: the name ends with a zero byte, and the call keeps no pointer to it.
    match unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the kernel has just opened it for us, and nobody else knows its number.
        descriptor => Ok(File::from(unsafe { OwnedFd::from_raw_fd(descriptor) })),
    }
}

/// The process's resident memory: a file that is kept open, so that a look is one system call.
#[derive(Debug)]
pub struct Resident {
    statm: File,
    page_bytes: u64,
}

impl Resident {
    /// Opens it; None without /proc.
    pub fn open() -> Option<Self> {
        // SAFETY: the call takes a number and touches no memory of ours.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        Some(Self { statm: File::open("/proc/self/statm").ok()?, page_bytes: page_bytes.try_into().ok()? })
    }

    /// Resident memory in bytes.
    pub fn bytes(&self) -> Option<u64> {
        let pages: u64 = read_at(&self.statm)?.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * self.page_bytes)
    }
}

/// The control group that bounds the process's memory most tightly, of version 1 or 2.
#[derive(Debug)]
pub struct Group {
    /// Its limit in bytes.
    pub limit_bytes: u64,
    usage: File,
    stat: File,
    processes: PathBuf,
    is_own: std::sync::atomic::AtomicBool,
}

/// With more processes than these (an init, a shell) a group is shared: what the others use is no reason for the
/// gateway to refuse its clients.
const GROUP_PROCESSES_MAX: usize = 4;

impl Group {
    /// The group of this process; None where there is no limit.
    pub fn find() -> Option<Self> {
        let membership = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        folders(&membership).filter_map(|(folder, names)| Self::open(&folder, names)).min_by_key(|g| g.limit_bytes)
    }

    fn open(folder: &Path, names: &Names) -> Option<Self> {
        let limit = std::fs::read_to_string(folder.join(names.limit)).ok()?;
        Some(Self {
            limit_bytes: parse_limit(&limit)?,
            usage: File::open(folder.join(names.usage)).ok()?,
            stat: File::open(folder.join("memory.stat")).ok()?,
            processes: folder.join("cgroup.procs"),
            is_own: std::sync::atomic::AtomicBool::new(true),
        })
    }

    /// What the gateway may take of the limit, in bytes. At the limit itself the kernel kills; what it holds for a
    /// burst of connections is charged before the gateway can look, and does not grow with the size of the group.
    pub fn share_bytes(&self) -> u64 {
        let (least, most) = MEMORY_GROUP_RESERVE_PERCENT;
        let percent = |part: u64| self.limit_bytes / 100 * part;
        self.limit_bytes - MEMORY_GROUP_RESERVE_BYTES.clamp(percent(least), percent(most))
    }

    /// What the group is charged for, in bytes: with the kernel's own memory for its sockets, without files, which the
    /// kernel drops when it needs room. None where the group is shared. The parts are looked at only when the whole
    /// comes near what there is.
    pub fn used_bytes(&self) -> Option<u64> {
        use std::sync::atomic::Ordering;
        let used: u64 = read_at(&self.usage)?.trim().parse().ok()?;
        if used < self.share_bytes() / 4 * 3 {
            return self.is_own.load(Ordering::Relaxed).then_some(used);
        }
        let processes = std::fs::read_to_string(&self.processes).map_or(0, |text| text.lines().count());
        let is_own = processes <= GROUP_PROCESSES_MAX;
        self.is_own.store(is_own, Ordering::Relaxed);
        let files = file_bytes(&read_at(&self.stat)?);
        is_own.then(|| used.saturating_sub(files))
    }
}

/// What the files of a group's folder are called.
struct Names {
    limit: &'static str,
    usage: &'static str,
}

const VERSION_1: Names = Names { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes" };
const VERSION_2: Names = Names { limit: "memory.max", usage: "memory.current" };

/// The folders of a process's groups and of those above them. In a container the path may be the host's, which is not
/// there: the mount's root is the group then.
fn folders(membership: &str) -> impl Iterator<Item = (PathBuf, &'static Names)> {
    membership.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (controllers, path) = (parts.nth(1).unwrap_or_default(), parts.next().unwrap_or_default());
        let (roots, names): (&[&str], _) = match controllers {
            "" => (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], &VERSION_2),
            list if list.split(',').any(|one| one == "memory") => (&["/sys/fs/cgroup/memory"], &VERSION_1),
            _ => (&[], &VERSION_1),
        };
        let above = move |root: &&str| {
            let root = PathBuf::from(root);
            let own = root.join(path.trim_start_matches('/'));
            own.ancestors().take_while(|folder| folder.starts_with(&root)).map(Path::to_owned).collect::<Vec<_>>()
        };
        roots.iter().flat_map(above).map(move |folder| (folder, names)).collect::<Vec<_>>()
    })
}

/// A limit as the kernel writes it; None for `max`, and for the number that version 1 writes instead.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

fn file_bytes(stat: &str) -> u64 {
    let field = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse::<u64>().ok())
    };
    // Version 1 writes sums over the groups below under names of their own.
    let both = |prefix: &str| {
        Some(field(&format!("{prefix}inactive_file"))? + field(&format!("{prefix}active_file")).unwrap_or(0))
    };
    both("total_").or_else(|| both("")).unwrap_or(0)
}

/// What a small file of the kernel's holds now.
fn read_at(file: &File) -> Option<String> {
    let mut bytes = [0; 8192];
    let count = file.read_at(&mut bytes, 0).ok()?;
    Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_resident() {
        let resident = Resident::open().expect("/proc is there");
        assert!(resident.bytes().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn code_that_was_let_go_of_still_runs() {
        let file_kib = || {
            let status = std::fs::read_to_string("/proc/self/status").expect("/proc is there");
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).expect("told").to_owned();
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
        };
        // Other tests run meanwhile and map what they need.
        let shrinks = |_| {
            let before = file_kib();
            let_go_of_code();
            file_kib() < before
        };
        assert!((0..100).any(shrinks));
    }

    #[test]
    fn limits_and_parts_are_read_in_both_versions() {
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("9223372036854771712\n"), None);
        assert_eq!(parse_limit("268435456\n"), Some(256 << 20));
        assert_eq!(file_bytes("anon 7\ninactive_file 30\nactive_file 12\n"), 42);
        assert_eq!(file_bytes("inactive_file 1\ntotal_inactive_file 30\ntotal_active_file 5\n"), 35);
        assert_eq!(file_bytes(""), 0);
    }

    #[test]
    fn a_group_leaves_room_and_counts_all_but_files() {
        let folder = std::env::temp_dir().join(format!("ringway-group-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("written");
        write("memory.stat", "anon 1\ninactive_file 30000000\nactive_file 0\n");
        write("cgroup.procs", "1\n");
        let open = |limit_mib: u64, used: u64| {
            write("memory.max", &format!("{}\n", limit_mib << 20));
            write("memory.current", &format!("{used}\n"));
            Group::open(&folder, &VERSION_2).expect("a group")
        };
        let mib = |limit_mib: u64| open(limit_mib, 0).share_bytes() >> 20;
        assert_eq!([mib(64), mib(256), mib(500), mib(640), mib(10_000)], [51, 204, 436, 576, 9_000]);
        // Far from the limit the parts are not looked at.
        assert_eq!(open(256, 100 << 20).used_bytes(), Some(100 << 20));
        assert_eq!(open(256, 200 << 20).used_bytes(), Some((200 << 20) - 30_000_000));
        write("cgroup.procs", "1\n2\n3\n4\n5\n");
        assert_eq!(open(256, 200 << 20).used_bytes(), None, "what others use counts for nothing");
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn groups_are_looked_for_from_the_own_one_up() {
        let found = |text: &'static str| folders(text).map(|(folder, _)| folder.display().to_string());
        let two: Vec<_> = found("0::/a/b\n").collect();
        assert_eq!(two[..3], ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]);
        let one: Vec<_> = found("7:cpu,cpuacct:/x\n4:memory:/y\n").collect();
        assert_eq!(one, ["/sys/fs/cgroup/memory/y", "/sys/fs/cgroup/memory"]);
    }
}
