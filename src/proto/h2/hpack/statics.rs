//! The static table of HPACK (RFC 7541 appendix A).

use crate::http::name::Name;

/// Entries, from index 1.
#[rustfmt::skip]
pub const TABLE: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// First index of each pseudo-header field of a request or response.
pub const AUTHORITY: usize = 1;
/// See [`AUTHORITY`]; with the value GET.
pub const METHOD: usize = 2;
/// See [`AUTHORITY`]; with the value `/`.
pub const PATH: usize = 4;
/// See [`AUTHORITY`]; with the value `http`, and the next with `https`.
pub const SCHEME: usize = 6;
/// See [`AUTHORITY`]; with the value 200.
pub const STATUS: usize = 8;

/// Index of the first entry with each known name, 0 for none.
static BY_NAME: [u8; 64] = {
    let mut indices = [0; 64];
    let mut at = TABLE.len();
    while at > 14 {
        at -= 1;
        let mut known = 0;
        while known < Name::KNOWN.len() {
            if same(Name::KNOWN[known].text().as_bytes(), TABLE[at].0.as_bytes()) {
                indices[Name::KNOWN[known] as usize] = at as u8 + 1;
            }
            known += 1;
        }
    }
    indices
};

/// What the name of each entry means to the gateway.
static NAMES: [Name; TABLE.len()] = {
    let mut names = [Name::Other; TABLE.len()];
    let mut known = 0;
    while known < Name::KNOWN.len() {
        let mut at = 0;
        while at < TABLE.len() {
            if same(Name::KNOWN[known].text().as_bytes(), TABLE[at].0.as_bytes()) {
                names[at] = Name::KNOWN[known];
            }
            at += 1;
        }
        known += 1;
    }
    names
};

const fn same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    a.len() == b.len() && at == a.len()
}

/// Index of the first entry with a known name; None when the table has none.
pub fn index_of(name: Name) -> Option<usize> {
    match BY_NAME[name as usize] {
        0 => None,
        index => Some(index as usize),
    }
}

/// What the name of an entry means, by its index.
pub fn name_of(index: usize) -> Name {
    NAMES[index - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_indices_agree() {
        assert_eq!(index_of(Name::ContentLength), Some(28));
        assert_eq!(index_of(Name::Server), Some(54));
        assert_eq!((index_of(Name::XRequestId), index_of(Name::Other)), (None, None));
        for &name in Name::KNOWN {
            if let Some(index) = index_of(name) {
                assert_eq!((TABLE[index - 1].0, name_of(index)), (name.text(), name));
            }
        }
        for (index, name) in [(AUTHORITY, ":authority"), (METHOD, ":method"), (PATH, ":path"), (SCHEME, ":scheme")] {
            assert_eq!((TABLE[index - 1].0, name_of(index)), (name, Name::Other));
        }
        assert_eq!(TABLE[STATUS - 1], (":status", "200"));
    }
}
