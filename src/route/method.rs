//! Sets of request methods.

use std::fmt;

/// The methods of RFC 9110 and PATCH (RFC 5789); a method's bit is its place here.
const KNOWN: [&[u8]; 9] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];

const GET: u16 = 1;
const HEAD: u16 = 2;

/// The methods that a route takes (R7, C32).
///
/// The empty set means any method. A set with GET takes HEAD too, as users of nginx and Envoy expect: a HEAD is a GET
/// without the body (RFC 9110 section 9.3.2). Methods are case-sensitive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodSet {
    mask: u16,
    /// Sorted, without duplicates.
    extensions: Box<[Box<[u8]>]>,
}

impl MethodSet {
    /// Any method.
    pub fn any() -> MethodSet {
        MethodSet::default()
    }

    /// The set of the names given; none of them means any method.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> MethodSet {
        let mut set = MethodSet::any();
        for name in names {
            set.insert(name.as_bytes());
        }
        set
    }

    /// Adds one method.
    pub fn insert(&mut self, name: &[u8]) {
        match RequestMethod::of(name) {
            RequestMethod { bit: 0, .. } => {
                if let Err(at) = self.extensions.binary_search_by(|known| (**known).cmp(name)) {
                    let mut all = std::mem::take(&mut self.extensions).into_vec();
                    all.insert(at, name.into());
                    self.extensions = all.into();
                }
            }
            known => self.mask |= known.bit,
        }
        if self.mask & GET != 0 {
            self.mask |= HEAD;
        }
    }

    /// Whether every method is taken.
    pub fn is_any(&self) -> bool {
        self.mask == 0 && self.extensions.is_empty()
    }

    /// Whether `name` is taken.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.takes(RequestMethod::of(name))
    }

    /// Whether every method that `other` takes is taken here too.
    pub fn covers(&self, other: &MethodSet) -> bool {
        self.is_any()
            || !other.is_any()
                && other.mask & !self.mask == 0
                && other.extensions.iter().all(|name| self.extensions.contains(name))
    }

    /// Adds the methods of `other`.
    pub fn extend(&mut self, other: &MethodSet) {
        other.names().for_each(|name| self.insert(name));
    }

    /// The names, the known ones first, in a fixed order; none for any method.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        let known = KNOWN.iter().enumerate().filter(|(bit, _)| self.mask & (1 << bit) != 0);
        known.map(|(_, name)| *name).chain(self.extensions.iter().map(|name| &**name))
    }

    #[inline]
    pub(super) fn takes(&self, method: RequestMethod<'_>) -> bool {
        if self.mask & method.bit != 0 {
            return true;
        }
        self.is_any() || method.bit == 0 && self.extensions.iter().any(|known| **known == *method.name)
    }
}

/// As the value of an Allow field: `GET, HEAD`.
impl fmt::Display for MethodSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.names().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}", String::from_utf8_lossy(name))?;
        }
        Ok(())
    }
}

/// A request's method, looked up once per request.
#[derive(Clone, Copy)]
pub(super) struct RequestMethod<'a> {
    /// 0 for an extension method.
    bit: u16,
    name: &'a [u8],
}

impl RequestMethod<'_> {
    #[inline]
    pub(super) fn of(name: &[u8]) -> RequestMethod<'_> {
        let known = KNOWN.iter().position(|known| *known == name);
        RequestMethod { bit: known.map_or(0, |index| 1 << index), name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        let any = MethodSet::any();
        assert!(any.contains(b"GET") && any.contains(b"PURGE") && any.is_any());
        let read = MethodSet::of(["GET"]);
        assert!(read.contains(b"GET") && read.contains(b"HEAD"), "GET takes HEAD too");
        assert!(!read.contains(b"POST") && !read.contains(b"get") && !read.contains(b""));
        let purge = MethodSet::of(["PURGE", "POST", "BAN", "PURGE"]);
        assert!(purge.contains(b"PURGE") && purge.contains(b"POST") && !purge.contains(b"GET"));
        assert_eq!(purge.to_string(), "POST, BAN, PURGE");
        assert_eq!(read.to_string(), "GET, HEAD");
        assert!(MethodSet::of(["HEAD"]).contains(b"HEAD") && !MethodSet::of(["HEAD"]).contains(b"GET"));
    }

    #[test]
    fn cover() {
        let (any, get) = (MethodSet::any(), MethodSet::of(["GET"]));
        let both = MethodSet::of(["GET", "POST", "BAN"]);
        assert!(any.covers(&get) && any.covers(&any) && both.covers(&get) && get.covers(&get));
        assert!(!get.covers(&any) && !get.covers(&both) && !both.covers(&MethodSet::of(["PURGE"])));
        assert!(get.covers(&MethodSet::of(["HEAD"])));
    }
}
