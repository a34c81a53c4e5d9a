//! The first flight of a TLS client, as far as whoever passes it on needs it: which server name it asks for.
//!
//! RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3. Pure; nothing is decrypted, and nothing is kept. Strict: a
//! hello whose lengths do not fit each other is refused, as the endpoint might read another name in it. Values that
//! mean nothing (GREASE, RFC 8701) are as good as any.

use crate::limits::{CLIENT_HELLO_BYTES_MAX, CLIENT_HELLO_RECORDS_MAX};

/// What a client begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A ClientHello, and the server name in it in lower case, if it has one.
    Tls(Option<String>),
    /// Something else than TLS.
    Other,
}

/// What is wrong with a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Most bytes that are looked at: the hello, and the heads of the records that it stands in.
pub const OPENING_BYTES_MAX: usize = CLIENT_HELLO_BYTES_MAX + CLIENT_HELLO_RECORDS_MAX * RECORD_HEAD_BYTES;

/// What a server answers that has nothing for a name: a fatal alert `unrecognized_name` (RFC 6066 section 3).
pub const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 1, 0, 2, 2, 112];

const RECORD_HEAD_BYTES: usize = 5;
const HANDSHAKE_HEAD_BYTES: usize = 4;
/// Plaintext of one record.
const FRAGMENT_BYTES_MAX: usize = 1 << 14;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const MAJOR: u8 = 3;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const RANDOM_BYTES: usize = 32;
const SESSION_ID_BYTES_MAX: usize = 32;
/// Longest host name.
const NAME_BYTES_MAX: usize = 253;

/// Looks at the first bytes of a connection; None as long as more are needed.
///
/// # Errors
/// As soon as they cannot become a ClientHello within the bounds, though they began as one.
pub fn parse(bytes: &[u8]) -> Result<Option<Opening>, Malformed> {
    // The first byte alone tells apart most of what is not TLS; the second, the rest.
    match bytes {
        [] | [HANDSHAKE] => return Ok(None),
        [HANDSHAKE, MAJOR, ..] => {}
        _ => return Ok(Some(Opening::Other)),
    }
    let Some(spans) = fragments(bytes)? else { return Ok(None) };
    let joined: Vec<u8>;
    let message = match &spans[..] {
        [only] => *only,
        several => {
            joined = several.concat();
            &joined
        }
    };
    // A last record may hold more than the hello: whatever follows it is the endpoint's matter.
    let length = HANDSHAKE_HEAD_BYTES + hello_bytes(message).unwrap_or(0);
    let body = message.get(HANDSHAKE_HEAD_BYTES..length).ok_or(Malformed("torn hello"))?;
    server_name(body).map(|name| Some(Opening::Tls(name)))
}

/// The plaintext of the records that hold the hello; None while it is not whole.
fn fragments(bytes: &[u8]) -> Result<Option<Vec<&[u8]>>, Malformed> {
    let mut spans = Vec::with_capacity(1);
    let (mut rest, mut have) = (bytes, 0);
    let mut head = [0; HANDSHAKE_HEAD_BYTES];
    loop {
        let Some((record, behind)) = rest.split_first_chunk::<RECORD_HEAD_BYTES>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
        if record[0] != HANDSHAKE || record[1] != MAJOR {
            return Err(Malformed("another record within the hello"));
        }
        if length == 0 || length > FRAGMENT_BYTES_MAX {
            return Err(Malformed("record of an impossible length"));
        }
        if spans.len() == CLIENT_HELLO_RECORDS_MAX {
            return Err(Malformed("hello in too many records"));
        }
        let span = &behind[..length.min(behind.len())];
        let head_end = (have + span.len()).min(HANDSHAKE_HEAD_BYTES);
        if have < head_end {
            head[have..head_end].copy_from_slice(&span[..head_end - have]);
        }
        have += span.len();
        spans.push(span);
        check_head(&head[..head_end])?;
        if hello_bytes(&head[..head_end]).is_some_and(|hello| have >= HANDSHAKE_HEAD_BYTES + hello) {
            return Ok(Some(spans));
        }
        if span.len() < length {
            return Ok(None);
        }
        rest = &behind[length..];
    }
}

/// Whether what is known of a handshake message's head can be that of a hello.
fn check_head(head: &[u8]) -> Result<(), Malformed> {
    if head.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(Malformed("another handshake message than a hello"));
    }
    match hello_bytes(head) {
        Some(length) if HANDSHAKE_HEAD_BYTES + length > CLIENT_HELLO_BYTES_MAX => Err(Malformed("hello too long")),
        _ => Ok(()),
    }
}

/// The length that a handshake message's head tells, once it is whole.
fn hello_bytes(message: &[u8]) -> Option<usize> {
    let head = message.first_chunk::<HANDSHAKE_HEAD_BYTES>()?;
    Some(u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize)
}

/// A place in a structure of TLS.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed("hello shorter than its parts"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn short(&mut self) -> Result<u16, Malformed> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A vector whose length stands in one byte.
    fn vector8(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::from(self.byte()?);
        self.take(length)
    }

    /// A vector whose length stands in two bytes.
    fn vector16(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::from(self.short()?);
        self.take(length)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("hello longer than its parts")) }
    }
}

/// The server name of a whole hello.
fn server_name(body: &[u8]) -> Result<Option<String>, Malformed> {
    let mut hello = Reader(body);
    if hello.take(2)?[0] != MAJOR {
        return Err(Malformed("hello of an unknown version"));
    }
    hello.take(RANDOM_BYTES)?;
    if hello.vector8()?.len() > SESSION_ID_BYTES_MAX {
        return Err(Malformed("session id too long"));
    }
    let suites = hello.vector16()?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return Err(Malformed("cipher suites of an impossible length"));
    }
    if hello.vector8()?.is_empty() {
        return Err(Malformed("no compression method"));
    }
    // Clients of TLS 1.2 may have no extensions at all.
    if hello.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = Reader(hello.vector16()?);
    hello.end()?;
    let mut name = None;
    while !extensions.0.is_empty() {
        let kind = extensions.short()?;
        let data = extensions.vector16()?;
        if kind == SERVER_NAME && name.replace(host_name(data)?).is_some() {
            return Err(Malformed("two server names"));
        }
    }
    Ok(name)
}

/// The one host name of a `server_name` extension.
fn host_name(data: &[u8]) -> Result<String, Malformed> {
    let mut data = Reader(data);
    let mut list = Reader(data.vector16()?);
    data.end()?;
    if list.byte()? != HOST_NAME {
        return Err(Malformed("server name of an unknown kind"));
    }
    let name = list.vector16()?;
    list.end().map_err(|_| Malformed("two server names"))?;
    // RFC 6066 has none, and some clients send one.
    let name = name.strip_suffix(b".").unwrap_or(name);
    let legal = |b: &u8| b.is_ascii_alphanumeric() || b"-._".contains(b);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.iter().all(legal) {
        return Err(Malformed("server name that is no host name"));
    }
    Ok(String::from_utf8_lossy(name).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector16(of: &[u8]) -> Vec<u8> {
        [&(of.len() as u16).to_be_bytes()[..], of].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(data)].concat()
    }

    fn sni(name: &[u8]) -> Vec<u8> {
        extension(0, &vector16(&[&[0][..], &vector16(name)].concat()))
    }

    /// A hello with these extensions; None for one without the field.
    fn message(extensions: Option<&[u8]>) -> Vec<u8> {
        let mut body = [&[3, 3][..], &[7; 32], &[32], &[9; 32]].concat();
        body.extend(vector16(&[0x0a, 0x0a, 0x13, 0x01]));
        body.extend([1, 0]);
        body.extend(extensions.map(vector16).unwrap_or_default());
        let length = (body.len() as u32).to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    /// In records of at most so many bytes.
    fn records(message: &[u8], most: usize) -> Vec<u8> {
        message.chunks(most).flat_map(|part| [&[22, 3, 1][..], &vector16(part)].concat()).collect()
    }

    fn named(name: &str) -> Vec<u8> {
        let extensions = [extension(0x1a1a, b""), sni(name.as_bytes()), extension(0x2a2a, b"\0")].concat();
        message(Some(&extensions))
    }

    fn tls(name: &str) -> Result<Option<Opening>, Malformed> {
        Ok(Some(Opening::Tls(Some(name.to_owned()))))
    }

    fn fault(bytes: &[u8]) -> &'static str {
        match parse(bytes) {
            Err(Malformed(what)) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_are_found_however_the_hello_is_cut() {
        let message = named("API.Example.com");
        for most in [5, 7, 64, 100, 16_384] {
            let bytes = records(&message, most);
            assert_eq!(parse(&bytes), tls("api.example.com"), "records of {most}");
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "records of {most}, {cut} bytes");
            }
            let more = [&bytes[..], &[22, 3, 3, 0, 1, 0]].concat();
            assert_eq!(parse(&more), tls("api.example.com"), "what follows is not looked at");
        }
    }

    #[test]
    fn a_hello_need_not_name_a_server() {
        assert_eq!(parse(&records(&message(None), 999)), Ok(Some(Opening::Tls(None))));
        assert_eq!(parse(&records(&message(Some(b"")), 999)), Ok(Some(Opening::Tls(None))));
        let grease = message(Some(&extension(0xdada, b"x")));
        assert_eq!(parse(&records(&grease, 999)), Ok(Some(Opening::Tls(None))));
        assert_eq!(parse(&records(&named("a.b."), 999)), tls("a.b"), "the root's dot is no part of it");
    }

    #[test]
    fn what_is_no_tls_is_told_at_its_first_bytes() {
        for other in [&b"G"[..], b"SSH-2.0-x\r\n", b"\0\0\0\x08\x04\xd2\x16\x2f", b"\x16\x02", b"\x80\x2e\x01\x03\x01"]
        {
            assert_eq!(parse(other), Ok(Some(Opening::Other)), "{other:?}");
        }
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in [&b""[..], b".", b"a b", b"a\0b", b"[::1]", b"a/b", b"*.a", "é.a".as_bytes(), &[b'a'; 254]] {
            let bytes = records(&message(Some(&sni(name))), 999);
            assert_eq!(fault(&bytes), "server name that is no host name", "{name:?}");
        }
        let twice = message(Some(&[sni(b"a"), sni(b"b")].concat()));
        assert_eq!(fault(&records(&twice, 999)), "two server names");
        let two = [&[0][..], &vector16(b"a"), &[0], &vector16(b"b")].concat();
        assert_eq!(fault(&records(&message(Some(&extension(0, &vector16(&two)))), 999)), "two server names");
        let kind = message(Some(&extension(0, &vector16(&[7, 0, 1, b'a']))));
        assert_eq!(fault(&records(&kind, 999)), "server name of an unknown kind");
    }

    #[test]
    fn lengths_must_fit() {
        let good = named("a.b");
        // Each byte that is a length, made larger or smaller, breaks the hello: it never names another server.
        for at in 1..good.len() {
            for change in [1_u8, 0xff, 0x80] {
                let mut bad = good.clone();
                bad[at] = bad[at].wrapping_add(change);
                match parse(&records(&bad, 16_384)) {
                    Ok(Some(Opening::Tls(Some(name)))) => assert!(name.len() <= 3, "{at} {name}"),
                    Ok(Some(Opening::Tls(None))) | Ok(None) | Err(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(fault(&[22, 3, 1, 0, 0]), "record of an impossible length");
        assert_eq!(fault(&[22, 3, 1, 0x40, 1]), "record of an impossible length");
        assert_eq!(fault(&[22, 3, 1, 0, 4, 2, 0, 0, 1]), "another handshake message than a hello");
        assert_eq!(fault(&[22, 3, 1, 0, 4, 1, 0, 0x40, 0]), "hello too long");
        let split = [&records(&good[..50], 50)[..], &[21, 3, 1, 0, 2, 2, 40]].concat();
        assert_eq!(fault(&split), "another record within the hello");
        assert_eq!(fault(&records(&good, 1)), "hello in too many records");
    }
}
