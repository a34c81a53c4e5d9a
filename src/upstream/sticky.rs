//! Sticky sessions: a cookie that names the endpoint of a client, signed so that nobody chooses one by hand. It holds
//! the endpoint's identity and no place in a list, so that it survives restarts and changes of the other endpoints.

use aws_lc_rs::hmac;

use super::balance::hash_key;

/// How clients stick to endpoints.
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// How long browsers keep it, in seconds; None until they close.
    pub max_age_s: Option<u64>,
    key: hmac::Key,
    /// What the signature covers besides, so that a cookie of one service is none of another.
    service: String,
}

impl std::fmt::Debug for Sticky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sticky").field("cookie", &self.cookie).finish_non_exhaustive()
    }
}

const HASH_DIGITS: usize = 16;
const TAG_DIGITS: usize = 64;

impl Sticky {
    /// Signs with `secret`.
    pub fn new(cookie: &str, max_age_s: Option<u64>, secret: &[u8], service: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Self { cookie: cookie.to_owned(), max_age_s, key, service: service.to_owned() }
    }

    /// The identity that a cookie's value names; None for one that was not made here.
    pub fn read(&self, value: &[u8]) -> Option<u64> {
        if value.len() != HASH_DIGITS + 1 + TAG_DIGITS || value[HASH_DIGITS] != b'.' {
            return None;
        }
        let (identity, tag) = (&value[..HASH_DIGITS], &value[HASH_DIGITS + 1..]);
        let tag = unhex(tag)?;
        hmac::verify(&self.key, &self.signed(identity), &tag).ok()?;
        u64::from_str_radix(std::str::from_utf8(identity).ok()?, 16).ok()
    }

    /// The whole `Set-Cookie` for an endpoint.
    pub fn write(&self, authority: &str, secure: bool) -> String {
        let identity = format!("{:016x}", hash_key(authority.as_bytes()));
        let tag = hmac::sign(&self.key, &self.signed(identity.as_bytes()));
        let tag: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let age = self.max_age_s.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
        let secure = if secure { "; Secure" } else { "" };
        format!("{}={identity}.{tag}; Path=/{age}; HttpOnly; SameSite=Lax{secure}", self.cookie)
    }

    fn signed(&self, identity: &[u8]) -> Vec<u8> {
        [self.service.as_bytes(), b"\0", identity].concat()
    }
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).filter(|_| !byte.is_ascii_uppercase());
    digits.chunks(2).map(|pair| Some((digit(pair[0])? * 16 + digit(*pair.get(1)?)?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(sticky: &Sticky, authority: &str) -> Vec<u8> {
        let written = sticky.write(authority, false);
        let rest = written.strip_prefix("route=").expect("its name");
        rest.split(';').next().expect("a value").as_bytes().to_vec()
    }

    #[test]
    fn a_cookie_names_its_endpoint_in_every_process() {
        let make = || Sticky::new("route", Some(60), b"a long secret", "up");
        let written = value(&make(), "10.0.0.1:80");
        assert_eq!(make().read(&written), Some(hash_key(b"10.0.0.1:80")));
        let whole = make().write("10.0.0.1:80", true);
        assert!(whole.ends_with("; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"), "{whole}");
    }

    #[test]
    fn nobody_makes_one_by_hand() {
        let sticky = Sticky::new("route", None, b"a long secret", "up");
        let good = value(&sticky, "10.0.0.1:80");
        for other in
            [Sticky::new("route", None, b"another", "up"), Sticky::new("route", None, b"a long secret", "down")]
        {
            assert_eq!(other.read(&good), None);
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] = if bad[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(sticky.read(&bad), None, "{at}");
        }
        assert_eq!(sticky.read(&good[1..]), None);
        assert_eq!(sticky.read(&good.to_ascii_uppercase()), None);
        assert_eq!(sticky.read("é".repeat(41).as_bytes().get(..81).expect("81 bytes")), None);
    }
}
