//! Field names that the gateway gives a meaning to.

macro_rules! known_names {
    ($( $variant:ident = $text:literal; )+) => {
        /// A field name that the gateway knows; everything else is [`Name::Other`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Name {
            /// A name without meaning to the gateway.
            Other,
            $( #[doc = $text] $variant, )+
        }

        impl Name {
            /// All known names.
            pub const KNOWN: &'static [Name] = &[ $( Name::$variant, )+ ];

            /// The name in lower case; empty for [`Name::Other`].
            pub const fn text(self) -> &'static str {
                match self { Name::Other => "", $( Name::$variant => $text, )+ }
            }

            /// Finds the known name, whatever its case.
            #[inline]
            pub fn of(name: &[u8]) -> Name {
                let known = BY_PLACE[place(name)];
                if same(known.text().as_bytes(), name) { known } else { Name::Other }
            }
        }
    };
}

known_names! {
    Host = "host";
    Connection = "connection";
    ContentLength = "content-length";
    TransferEncoding = "transfer-encoding";
    Te = "te";
    Trailer = "trailer";
    Upgrade = "upgrade";
    KeepAlive = "keep-alive";
    ProxyConnection = "proxy-connection";
    ProxyAuthenticate = "proxy-authenticate";
    ProxyAuthorization = "proxy-authorization";
    Expect = "expect";
    Via = "via";
    Forwarded = "forwarded";
    XForwardedFor = "x-forwarded-for";
    XForwardedProto = "x-forwarded-proto";
    XForwardedHost = "x-forwarded-host";
    XForwardedPort = "x-forwarded-port";
    XForwardedPrefix = "x-forwarded-prefix";
    XRealIp = "x-real-ip";
    TrueClientIp = "true-client-ip";
    XRequestId = "x-request-id";
    XOriginalUrl = "x-original-url";
    XRewriteUrl = "x-rewrite-url";
    Proxy = "proxy";
    XUserId = "x-user-id";
    XUserRole = "x-user-role";
    XClientId = "x-client-id";
    XClientCertSubject = "x-client-cert-subject";
    XClientCertSan = "x-client-cert-san";
    XClientCertFingerprint = "x-client-cert-fingerprint";
    XTargetService = "x-target-service";
    XHttpMethodOverride = "x-http-method-override";
    XHttpMethod = "x-http-method";
    XMethodOverride = "x-method-override";
    Authorization = "authorization";
    Cookie = "cookie";
    SetCookie = "set-cookie";
    Accept = "accept";
    UserAgent = "user-agent";
    Referer = "referer";
    Date = "date";
    Server = "server";
    ContentType = "content-type";
    ContentEncoding = "content-encoding";
    Location = "location";
    RetryAfter = "retry-after";
    Allow = "allow";
    Range = "range";
}

/// The bit that tells upper from lower case. Set in any byte of a token, it maps no two of the bytes that known names
/// are made of onto each other.
const CASE: u8 = 0x20;

const PLACE_BITS: u32 = 7;

/// Where a name stands among the known ones, if it is one of them: a hash of its length, its first byte and its last
/// two, in which all of them differ.
#[inline]
const fn place(name: &[u8]) -> usize {
    /// Found by trial; that no two names share a place is checked where the table is built.
    const SPREAD: u32 = 0x2219_51bd;
    let &[.., before, last] = name else { return 0 };
    let key = u32::from_le_bytes([name[0] | CASE, before | CASE, last | CASE, name.len() as u8]);
    (key.wrapping_mul(SPREAD) >> (u32::BITS - PLACE_BITS)) as usize
}

/// The known names, each at its place; [`Name::Other`] elsewhere.
static BY_PLACE: [Name; 1 << PLACE_BITS] = {
    let mut places = [Name::Other; 1 << PLACE_BITS];
    let mut at = 0;
    while at < Name::KNOWN.len() {
        let place = place(Name::KNOWN[at].text().as_bytes());
        assert!(matches!(places[place], Name::Other), "two names share a place: try another SPREAD");
        places[place] = Name::KNOWN[at];
        at += 1;
    }
    places
};

/// Whether a token is this lower-case name, whatever its case: a word at a time, the last one from the end, so that no
/// bytes are left over.
#[inline]
fn same(known: &[u8], token: &[u8]) -> bool {
    if known.len() != token.len() {
        return false;
    }
    let eight = |(k, t): (&[u8; 8], &[u8; 8])| u64::from_le_bytes(*k) == u64::from_le_bytes(*t) | EIGHT_LOWER;
    let four = |(k, t): (&[u8; 4], &[u8; 4])| u32::from_le_bytes(*k) == u32::from_le_bytes(*t) | EIGHT_LOWER as u32;
    if let Some(ends) = known.last_chunk().zip(token.last_chunk()) {
        return eight(ends) && known.as_chunks().0.iter().zip(token.as_chunks().0).all(eight);
    }
    if let Some(ends) = known.last_chunk().zip(token.last_chunk()) {
        return four(ends) && known.first_chunk().zip(token.first_chunk()).is_some_and(four);
    }
    known.iter().zip(token).all(|(k, t)| *k == *t | CASE)
}

const EIGHT_LOWER: u64 = u64::from_le_bytes([CASE; 8]);

/// A set of known names, as bits; [`Name::Other`] is one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameSet(u64);

impl NameSet {
    /// The set of these names.
    pub const fn of(names: &[Name]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < names.len() {
            bits |= 1 << names[at] as u8;
            at += 1;
        }
        Self(bits)
    }

    /// The empty set.
    pub const fn none() -> Self {
        Self(0)
    }

    /// Both sets together.
    pub const fn and(self, other: NameSet) -> Self {
        Self(self.0 | other.0)
    }

    /// The set with this name.
    #[inline]
    pub const fn with(self, name: Name) -> Self {
        Self(self.0 | 1 << name as u8)
    }

    /// Whether the two have a name in common.
    #[inline]
    pub const fn meets(self, other: NameSet) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the set has this name.
    #[inline]
    pub const fn has(self, name: Name) -> bool {
        self.0 & (1 << name as u8) != 0
    }
}

const _: () = assert!(Name::KNOWN.len() < 64, "a NameSet has 64 bits");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case() {
        for &name in Name::KNOWN {
            assert_eq!(Name::of(name.text().as_bytes()), name);
            assert_eq!(Name::of(name.text().to_ascii_uppercase().as_bytes()), name);
        }
        assert_eq!(Name::of(b"x-unknown"), Name::Other);
        assert_eq!(Name::of(b"hosts"), Name::Other);
        assert_eq!(Name::of(b"x_user_id"), Name::Other);
        assert_eq!(Name::of(b""), Name::Other);
        assert_eq!(Name::of(b"x"), Name::Other);
        assert_eq!(Name::of(&[b'x'; 300]), Name::Other);
    }

    #[test]
    fn sets_hold_what_they_were_given() {
        let set = NameSet::of(&[Name::Host, Name::Allow]);
        assert!(set.has(Name::Host) && set.has(Name::Allow) && !set.has(Name::Te) && !set.has(Name::Other));
    }
}
