//! Where something must happen before a path leads to other content: the name of each directory and link on the way,
//! and the file's own. Kubernetes changes files by swapping a link in the middle of their paths.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Links that are followed, as many as the kernel follows.
const LINKS_MAX: usize = 40;
/// Names on the way.
const PLACES_MAX: usize = 256;

/// File systems that others change without this kernel's knowledge: NFS, 9P, SMB (three numbers), FUSE, Ceph, AFS,
/// Coda, Lustre, GFS2, OCFS2.
const FOREIGN: [u32; 12] = [
    0x6969,
    0x0102_1997,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x6573_5546,
    0x00c3_6400,
    0x5346_414f,
    0x7375_7245,
    0x0bd0_0bd0,
    0x0116_1970,
    0x7461_636f,
];

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The directory, without links.
    pub directory: PathBuf,
    /// The name.
    pub name: OsString,
    /// What it stands for is the content itself, or is not there.
    pub is_last: bool,
}

/// The places of a path as it leads now, as far as it leads.
pub fn of(path: &Path) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let Ok(path) = std::path::absolute(path) else { return places };
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    let mut rest = parts(&path);
    while let Some(part) = rest.pop_front() {
        let name = match part {
            Part::Root => {
                at = PathBuf::from("/");
                continue;
            }
            Part::Up => {
                at.pop();
                continue;
            }
            Part::Name(name) => name,
        };
        let here = at.join(&name);
        let kind = fs::symlink_metadata(&here).map(|metadata| metadata.file_type());
        let (is_link, is_directory) = kind.map_or((false, false), |kind| (kind.is_symlink(), kind.is_dir()));
        places.push(Place { directory: at.clone(), name, is_last: !is_link && !is_directory });
        if places.len() >= PLACES_MAX {
            break;
        }
        if is_link {
            links += 1;
            let Some(target) = fs::read_link(&here).ok().filter(|_| links <= LINKS_MAX) else { break };
            parts(&target).into_iter().rev().for_each(|part| rest.push_front(part));
        } else if is_directory {
            at = here;
        } else {
            break;
        }
    }
    places
}

/// Whether the kernel learns of everything that happens there.
pub fn is_ours(place: &Place) -> bool {
    rustix::fs::statfs(&place.directory).is_ok_and(|facts| !FOREIGN.contains(&(facts.f_type as u32)))
}

enum Part {
    Root,
    Up,
    Name(OsString),
}

fn parts(path: &Path) -> VecDeque<Part> {
    let part = |component: Component<'_>| match component {
        Component::RootDir | Component::Prefix(_) => Some(Part::Root),
        Component::ParentDir => Some(Part::Up),
        Component::CurDir => None,
        Component::Normal(name) => Some(Part::Name(name.to_owned())),
    };
    path.components().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// The places in this directory and below.
    fn inside(dir: &Path, path: &Path) -> Vec<String> {
        let shown = |place: Place| {
            let directory = place.directory.strip_prefix(dir).ok()?.display().to_string();
            Some(format!("{directory}/{}{}", place.name.display(), if place.is_last { "" } else { "/" }))
        };
        of(path).into_iter().filter_map(shown).collect()
    }

    #[test]
    fn every_link_on_the_way_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = fs::canonicalize(dir.path()).expect("a path");
        fs::create_dir_all(root.join("..1/sub")).expect("made");
        fs::write(root.join("..1/sub/a.yaml"), "").expect("written");
        symlink("..1", root.join("..data")).expect("linked");
        symlink("..data/sub/a.yaml", root.join("a.yaml")).expect("linked");
        symlink(root.join("a.yaml"), root.join("far")).expect("linked");
        let wanted = ["/a.yaml/", "/..data/", "/..1/", "..1/sub/", "..1/sub/a.yaml"];
        assert_eq!(inside(&root, &root.join("a.yaml")), wanted);
        let far = inside(&root, &root.join("..1/../far"));
        assert_eq!((&far[0][..], &far[1][..], far.last().map(|last| &**last)), ("/..1/", "/far/", Some(wanted[4])));
        assert_eq!(inside(&root, &root.join("no/such/file")), ["/no"], "what is not there may come");
        assert!(of(&root.join("a.yaml")).iter().any(|place| place.directory == Path::new("/")), "from the root on");
    }

    #[test]
    fn links_in_a_circle_come_to_an_end() {
        let dir = tempfile::tempdir().expect("a directory");
        symlink("b", dir.path().join("a")).expect("linked");
        symlink("a", dir.path().join("b")).expect("linked");
        assert!(of(&dir.path().join("a")).len() < PLACES_MAX);
    }

    #[test]
    fn memory_and_disks_are_ours_and_nothing_is_not() {
        let place = |directory: &str| Place { directory: directory.into(), name: "x".into(), is_last: true };
        assert!(is_ours(&place("/proc")));
        assert!(!is_ours(&place("/nowhere/at/all")));
    }
}
