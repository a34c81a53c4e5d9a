//! Certificates and keys as they are read, and what is taken from a certificate: names, dates, identity.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, DnsName, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, SignatureAlgorithm};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::parse_x509_certificate;
use x509_parser::x509::{AttributeTypeAndValue, RelativeDistinguishedName, X509Name};

use super::ocsp::{self, Window};
use crate::http::secure::ClientIdentity;
use crate::time;

/// A certificate with its chain and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Both, ready to sign, without a staple.
    pub key: Arc<CertifiedKey>,
    /// The same with its OCSP response, and when that may be shown.
    staple: Option<(Arc<CertifiedKey>, Window)>,
    /// Why its OCSP response is never shown.
    pub bad_staple: Option<String>,
    /// Where it was read from, for people.
    pub label: String,
    /// Its DNS names, in lower case; `*.` begins a wildcard.
    pub names: Vec<String>,
    /// Names that it has and that are no host names: nobody can ask for them.
    pub odd_names: usize,
    /// Its beginning, in seconds since the Unix epoch.
    pub not_before_s: i64,
    /// Its end, in seconds since the Unix epoch.
    pub not_after_s: i64,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
}

impl Pair {
    /// Reads a chain and its key, both as PEM; the key may stand among the certificates.
    ///
    /// # Errors
    /// What is wrong, in words for the user.
    pub fn read(chain: &[u8], key: &[u8], ocsp: Option<Vec<u8>>, label: String) -> Result<Self, String> {
        let chain = certificates(chain)?;
        let first = chain.first().ok_or("there is no certificate in it")?;
        // RFC 6960: a response is a sequence, and its status, the first thing in it, is `successful`.
        if ocsp.as_ref().is_some_and(|staple| staple.first() != Some(&0x30) || staple.len() < 16) {
            return Err("the OCSP response is not DER".to_owned());
        }
        let (names, odd_names, not_before_s, not_after_s) = {
            let parsed = parse(first)?;
            let (names, odd) = dns_names(&parsed);
            let dates = parsed.validity();
            (names, odd, dates.not_before.timestamp(), dates.not_after.timestamp())
        };
        let serial = parse(first)?.raw_serial().to_vec();
        let fingerprint = sha256(first);
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("there is no private key: {error}"))?;
        let key = any_supported_type(&key).map_err(|error| format!("the private key cannot be used: {error}"))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err("the private key belongs to another certificate".to_owned()),
        }
        let window = ocsp.as_ref().map(|response| ocsp::window(response, &serial));
        let bad_staple = window.as_ref().and_then(|window| window.clone().err());
        let key = Arc::new(certified);
        let staple = ocsp.map(|response| {
            let stapled = CertifiedKey { ocsp: Some(response), ..CertifiedKey::clone(&key) };
            (Arc::new(stapled), window.and_then(Result::ok).unwrap_or(Window::NEVER))
        });
        Ok(Self { key, staple, bad_staple, label, names, odd_names, not_before_s, not_after_s, fingerprint })
    }

    /// What clients are shown now: with its OCSP response while that holds, else without.
    pub fn shown(&self) -> &Arc<CertifiedKey> {
        match &self.staple {
            Some((stapled, window)) if window.is_open(time::unix_seconds() as i64) => stapled,
            _ => &self.key,
        }
    }

    /// Whether its OCSP response may be shown at this time; None where it has none.
    pub fn staples_at(&self, now_s: u64) -> Option<bool> {
        self.staple.as_ref().map(|(_, window)| window.is_open(now_s as i64))
    }

    /// ECDSA signs faster than RSA by an order of magnitude: it is offered first.
    pub(super) fn rank(&self) -> u8 {
        u8::from(self.key.key.algorithm() == SignatureAlgorithm::RSA)
    }

    /// Whole days that it is still good for; negative once it has expired.
    pub fn days_left(&self, now_s: u64) -> i64 {
        (self.not_after_s - now_s as i64).div_euclid(86_400)
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| format!("it is not PEM: {error}"))
}

/// Reads the certificates of authorities, as PEM.
///
/// # Errors
/// What is wrong, in words for the user; a file without any is wrong.
pub fn read_authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = certificates(pem)?;
    if all.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(all)
}

/// Reads revocation lists, as PEM or one as DER.
///
/// # Errors
/// What is wrong, in words for the user; a file without any is wrong.
pub fn read_revocations(bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    if bytes.first() == Some(&0x30) {
        return Ok(vec![bytes.to_vec().into()]);
    }
    let all = CertificateRevocationListDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| format!("it is not PEM: {error}"))?;
    if all.is_empty() {
        return Err("there is no revocation list in it".to_owned());
    }
    Ok(all)
}

/// When a revocation list promises the next one, in seconds since the Unix epoch. One that promises nothing, or cannot
/// be read, never does.
pub fn revocations_end_s(list: &CertificateRevocationListDer<'_>) -> i64 {
    let parsed = x509_parser::parse_x509_crl(list).ok();
    let next = parsed.and_then(|(_, list)| list.next_update());
    next.map_or(i64::MAX, |next| next.timestamp())
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, String> {
    let (_, parsed) =
        parse_x509_certificate(der).map_err(|error| format!("the certificate cannot be read: {error}"))?;
    Ok(parsed)
}

/// The DNS names that can be asked for, and how many others there are: with a NUL, with a wildcard anywhere but as the
/// whole first label (F85). The common name is no name.
fn dns_names(certificate: &X509Certificate<'_>) -> (Vec<String>, usize) {
    let names = alternative_names(certificate);
    let dns = names.iter().filter_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None });
    let (mut legal, mut odd) = (Vec::new(), 0);
    for name in dns {
        let host = name.strip_prefix("*.").unwrap_or(name);
        let is_deep = !name.starts_with("*.") || host.contains('.');
        match DnsName::try_from(host) {
            Ok(_) if is_deep && !host.contains('*') => legal.push(name.to_ascii_lowercase()),
            _ => odd += 1,
        }
    }
    (legal, odd)
}

fn alternative_names<'a>(certificate: &'a X509Certificate<'a>) -> &'a [GeneralName<'a>] {
    match certificate.subject_alternative_name() {
        Ok(Some(extension)) => &extension.value.general_names,
        _ => &[],
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Who the owner of a verified client certificate is. None for one that cannot be read: then nobody is named.
pub fn identity(der: &CertificateDer<'_>) -> Option<ClientIdentity> {
    let parsed = parse(der).ok()?;
    let names = alternative_names(&parsed).iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{}", escaped(name.as_bytes(), '%', b","))),
        GeneralName::URI(uri) => Some(format!("URI:{}", escaped(uri.as_bytes(), '%', b","))),
        GeneralName::RFC822Name(mail) => Some(format!("email:{}", escaped(mail.as_bytes(), '%', b","))),
        GeneralName::IPAddress(bytes) => Some(format!("IP:{}", ip(bytes)?)),
        _ => None,
    });
    let names = names.collect::<Vec<_>>().join(",");
    let fingerprint = sha256(der).iter().map(|byte| format!("{byte:02x}")).collect();
    Some(ClientIdentity { subject: subject(parsed.subject()), names, fingerprint })
}

/// A distinguished name in the order of the certificate; nothing in its values could be taken for another part.
fn subject(name: &X509Name<'_>) -> String {
    let part = |part: &AttributeTypeAndValue<'_>| {
        let kind =
            oid2abbrev(part.attr_type(), oid_registry()).map_or_else(|_| part.attr_type().to_string(), str::to_owned);
        // What is no text that this library knows stands in its bytes.
        let value = part.as_str().map_or(part.as_slice(), str::as_bytes);
        format!("{kind}={}", escaped(value, '\\', b",+\"\\<>;=#"))
    };
    let parts = |one: &RelativeDistinguishedName<'_>| one.iter().map(part).collect::<Vec<_>>().join("+");
    name.iter_rdn().map(parts).collect::<Vec<_>>().join(", ")
}

/// Bytes as visible ASCII: those of `special`, and all that are none, become the mark and two digits.
fn escaped(bytes: &[u8], mark: char, special: &[u8]) -> String {
    let is_plain = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && !special.contains(&byte);
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match is_plain(byte) {
            true => out.push(byte.into()),
            false => out.push_str(&format!("{mark}{byte:02X}")),
        }
    }
    out
}

fn ip(bytes: &[u8]) -> Option<std::net::IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(Into::into),
        _ => <[u8; 16]>::try_from(bytes).ok().map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn made(names: &[&str], until: i32) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        let name = |name: &&str| SanType::DnsName((*name).try_into().expect("ASCII"));
        params.subject_alt_names = names.iter().map(name).collect();
        params.distinguished_name.push(DnType::CommonName, "common.test");
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key");
        (params.self_signed(&key).expect("signed").pem(), key.serialize_pem())
    }

    fn read(pem: &(String, String)) -> Result<Pair, String> {
        Pair::read(pem.0.as_bytes(), pem.1.as_bytes(), None, "test".to_owned())
    }

    /// F85: what is no host name, or a wildcard that is too wide, is no name; nor is the common name.
    #[test]
    fn only_host_names_and_narrow_wildcards_can_be_asked_for() {
        let odd = ["good.test\0.evil.test", "*", "*.test", "a.*.test", "*.*.test", "w*.good.test", "a b.test", ""];
        let good = ["Good.Test", "*.wild.test", "under_score.test"];
        let pair = read(&made(&[&odd[..], &good].concat(), 2090)).expect("read");
        assert_eq!(pair.names, ["good.test", "*.wild.test", "under_score.test"]);
        assert_eq!(pair.odd_names, odd.len());
        assert!(read(&made(&[], 2090)).expect("read").names.is_empty(), "the common name is no name");
    }

    #[test]
    fn a_key_belongs_to_its_certificate_and_dates_are_known() {
        let (one, other) = (made(&["a.test"], 2021), made(&["b.test"], 2090));
        let mixed = (one.0.clone(), other.1.clone());
        assert!(read(&mixed).expect_err("refused").contains("another certificate"));
        assert!(read(&(String::new(), one.1.clone())).is_err() && read(&(one.0.clone(), String::new())).is_err());
        let noon_s = 1_609_459_200 + 43_200;
        let pair = read(&one).expect("read");
        assert_eq!((pair.days_left(noon_s), pair.days_left(noon_s - 10 * 86_400)), (-1, 9));
        let who = identity(&pair.key.cert[0]).expect("an identity");
        assert_eq!((&who.subject[..], &who.names[..]), ("CN=common.test", "DNS:a.test"));
        assert!(identity(&CertificateDer::from(vec![0x30, 3, 1, 2, 3])).is_none());
        assert!(Pair::read(one.0.as_bytes(), one.1.as_bytes(), Some(vec![1; 40]), String::new()).is_err());
    }

    /// As in CVE-2021-44532 and CVE-2021-44533: one name that reads as two, one attribute that reads as two.
    #[test]
    fn no_name_of_a_client_looks_like_two() {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        let ascii = |text: &str| text.try_into().expect("ASCII");
        params.subject_alt_names = vec![
            SanType::URI(ascii("spiffe://a/b,DNS:admin.test")),
            SanType::DnsName(ascii("a.test, DNS:admin.test\r\nX-Admin: yes")),
            SanType::Rfc822Name(ascii("a@b.test")),
            SanType::IpAddress([127, 0, 0, 1].into()),
        ];
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "robot, O=Admin\r\n\\+\u{e9}");
        params.distinguished_name.push(DnType::OrganizationName, "Plain Org");
        let key = KeyPair::generate().expect("a key");
        let who = identity(params.self_signed(&key).expect("signed").der()).expect("an identity");
        assert_eq!(who.subject, r"CN=robot\2C O\3DAdmin\0D\0A\5C\2B\C3\A9, O=Plain Org");
        let names = ["URI:spiffe://a/b%2CDNS:admin.test", "DNS:a.test%2C DNS:admin.test%0D%0AX-Admin: yes"];
        assert_eq!(who.names, names.join(",") + ",email:a@b.test,IP:127.0.0.1");
    }

    #[test]
    fn a_staple_is_shown_while_it_holds_and_never_a_bad_one() {
        let made = made(&["a.test"], 2090);
        let read = |response| Pair::read(made.0.as_bytes(), made.1.as_bytes(), response, String::new()).expect("read");
        let plain = read(None);
        assert!(plain.staples_at(0).is_none() && plain.shown().ocsp.is_none());
        let serial = parse(&plain.key.cert[0]).expect("read").raw_serial().to_vec();
        let of = |status, from, until| read(Some(ocsp::made(0, &serial, status, from, Some(until))));
        let good = of(0x80, "20200101000000Z", "20900101000000Z");
        assert!(good.shown().ocsp.is_some() && good.bad_staple.is_none());
        let over = of(0x80, "20200101000000Z", "20200108000000Z");
        assert_eq!((over.shown().ocsp.is_none(), over.staples_at(1_578_000_000)), (true, Some(true)));
        assert_eq!((over.staples_at(1_600_000_000), over.bad_staple), (Some(false), None));
        let revoked = of(0xa1, "20200101000000Z", "20900101000000Z");
        assert!(revoked.shown().ocsp.is_none() && revoked.bad_staple.is_some());
    }
}
