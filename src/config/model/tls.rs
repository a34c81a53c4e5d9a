//! `listeners[].tls`.

use crate::schema::types::{Duration, HostPattern, Secret};
use crate::schema::{Cx, Node, Spanned, codes};
use crate::{config_enum, config_struct};

config_struct! {
    /// TLS of a listener. The shortest form is `{cert: FILE, key: FILE}`.
    #[check(check_tls)]
    pub struct Tls {
        /// A PEM file with the certificate and its chain.
        cert: Option<Spanned<String>>,
        /// A PEM file with the private key; it may be the same file.
        key: Option<Spanned<String>>,
        /// A file with the OCSP response for `cert`, as DER; it is stapled as it is and read again at a reload.
        ocsp: Option<Spanned<String>>,
        /// More certificates. A client gets the one for the name that it asks for; of several for one name, the one
        /// whose key it can check, ECDSA before RSA.
        certificates: Vec<Spanned<Certificate>> = "[]",
        /// Certificates that the gateway orders and renews by itself (RFC 8555): `acme: {email: you@example.com}`.
        /// Writing it agrees to the authority's terms of service.
        acme: Option<Spanned<Acme>>,
        /// What clients get that ask for no name, or for one that no certificate has.
        unknown_name: UnknownName = "default",
        /// Versions and ciphers (F80).
        profile: TlsProfile = "intermediate",
        /// Whose certificates clients show (mutual TLS); nobody is asked without this key.
        client_auth: Option<Spanned<ClientAuth>>,
        /// Names with rules of their own for client certificates. A request for a host of other rules than those that
        /// its connection was accepted under is answered 421 (F84).
        hosts: Vec<Spanned<TlsHost>> = "[]",
        /// Whether sessions are resumed by tickets. Their keys are renewed every 12 hours and never leave the process.
        tickets: bool = "true",
        /// Browsers come back by https alone (RFC 6797); sent over TLS only.
        hsts: Option<Hsts>,
        /// Whether connections that begin without TLS are served on the same port.
        plain_too: bool = "false",
        /// Whether endpoints are told who the client is by its certificate: `X-Client-Cert-Subject`, `-San` and
        /// `-Fingerprint` (SHA-256). Clients cannot send these fields themselves.
        forward_client_cert: bool = "false",
    }
}

config_struct! {
    /// Certificates that the gateway orders by itself, one for each name (RFC 8555).
    #[check(check_acme)]
    #[shorthand(email)]
    pub struct Acme {
        /// Where the authority may write to about the account.
        email: Option<Spanned<String>>,
        /// The names; those that stand in `hosts` of routes when left out. No wildcards: they cannot be proved by a
        /// server.
        domains: Vec<Spanned<HostPattern>> = "[]",
        /// How names are proved: `tls-alpn-01` at port 443, by this listener; `http-01` at port 80, by any listener
        /// that takes connections without TLS.
        challenge: AcmeChallenge = "tls-alpn-01",
        /// The URL of the authority's directory; Let's Encrypt's when left out.
        directory: Option<Spanned<String>>,
        /// Whether Let's Encrypt's authority for trials is asked: nobody trusts its certificates, and its limits are
        /// wide.
        staging: bool = "false",
        /// A directory for accounts, certificates and keys, which several processes may share. It is made when it is
        /// not there.
        storage: Spanned<String> = "/var/lib/ringway/acme",
        /// A PEM file with those who have signed the authority's own certificate; those that the system trusts when
        /// left out.
        ca: Option<Spanned<String>>,
        /// The customer's account at the authority, for those that ask for one.
        external_account: Option<ExternalAccount>,
    }
}

config_enum! {
    /// How the gateway proves that a name is its own.
    pub enum AcmeChallenge {
        /// By a handshake at port 443 (RFC 8737).
        TlsAlpn01 = "tls-alpn-01",
        /// By a request at port 80 (RFC 8555 section 8.3).
        Http01 = "http-01",
    }
}

config_struct! {
    /// A customer's account at an authority (RFC 8555 section 7.3.4).
    pub struct ExternalAccount {
        /// Its name.
        key_id: String,
        /// Its key, in base64 as authorities give it.
        hmac_key: Spanned<Secret>,
    }
}

config_struct! {
    /// A certificate with its key: from two files, from a directory, or as PEM from the environment.
    #[check(check_certificate)]
    #[shorthand(directory)]
    pub struct Certificate {
        /// A PEM file with the certificate and its chain.
        cert: Option<Spanned<String>>,
        /// A PEM file with the private key.
        key: Option<Spanned<String>>,
        /// A file with the OCSP response, as DER.
        ocsp: Option<Spanned<String>>,
        /// A directory: each `NAME.crt` or `NAME.pem` beside `NAME.key` is one certificate.
        directory: Option<Spanned<String>>,
        /// Certificate, chain and key as PEM: `${NAME}` or `file:/path`.
        pem: Option<Spanned<Secret>>,
    }
}

config_enum! {
    /// What becomes of a client that asks for a name that no certificate has.
    pub enum UnknownName {
        /// It gets the first certificate.
        Default = "default",
        /// Its handshake is refused, and so is one without a name.
        Refuse = "refuse",
    }
}

config_enum! {
    /// Versions and ciphers.
    pub enum TlsProfile {
        /// TLS 1.3 alone.
        Modern = "modern",
        /// TLS 1.3, and 1.2 with ECDHE and AEAD.
        Intermediate = "intermediate",
    }
}

config_struct! {
    /// Whose certificates clients show.
    pub struct ClientAuth {
        /// `required` refuses clients without a certificate, `optional` lets them in without an identity.
        mode: ClientAuthMode = "required",
        /// PEM files with the certificates of those who sign clients. One that cannot be read refuses the
        /// configuration.
        ca: Vec<Spanned<String>>,
        /// Files with what they have revoked. With any list, every authority of a client's chain needs one.
        crl: Vec<Spanned<String>> = "[]",
        /// What becomes of clients when a list is older than it promised to be.
        crl_expired: CrlExpired = "refuse",
    }
}

config_enum! {
    /// What an old revocation list is good for.
    pub enum CrlExpired {
        /// Nothing: nobody whom it should tell of is let in until there is a new one.
        Refuse = "refuse",
        /// For what it says; a warning and a metric tell that it is old.
        Warn = "warn",
    }
}

config_enum! {
    /// Whether a client certificate must be shown.
    pub enum ClientAuthMode {
        /// Nobody is asked: for hosts that differ from the listener.
        None = "none",
        /// Who shows one must show a good one.
        Optional = "optional",
        /// Nobody is let in without one.
        Required = "required",
    }
}

config_struct! {
    /// Names with rules of their own.
    pub struct TlsHost {
        /// Host names: `admin.example.com` or `*.example.com`.
        names: Vec<Spanned<HostPattern>>,
        /// Whose certificates clients show; nobody is asked without this key.
        client_auth: Option<Spanned<ClientAuth>>,
    }
}

config_struct! {
    /// `Strict-Transport-Security` (RFC 6797).
    #[shorthand(max_age)]
    pub struct Hsts {
        /// How long browsers remember it.
        max_age: Duration = "365d",
        /// Whether it holds for all names below as well.
        subdomains: bool = "false",
        /// Whether browsers may build it in.
        preload: bool = "false",
    }
}

fn check_tls(tls: &Tls, node: &Node, cx: &mut Cx) {
    if tls.cert.is_none() && tls.certificates.is_empty() && tls.acme.is_none() {
        cx.report(codes::MISSING_KEY, node.span, "TLS needs a certificate")
            .hint("add `cert` and `key`, `certificates`, or `acme`");
    }
    pair(tls.cert.as_ref(), tls.key.as_ref(), node, cx);
    if let Some(ocsp) = tls.ocsp.as_ref().filter(|_| tls.cert.is_none()) {
        cx.report(codes::NO_EFFECT, ocsp.span, "`ocsp` belongs to `cert`, which is not here");
    }
}

fn check_acme(acme: &Acme, node: &Node, cx: &mut Cx) {
    if cfg!(not(feature = "acme")) {
        cx.report(codes::NOT_BUILT, node.span, "this build orders no certificates")
            .hint("build it with the feature `acme`");
    }
    for name in acme.domains.iter().filter(|name| name.as_str().starts_with("*.")) {
        cx.report(codes::BAD_VALUE, name.span, "a wildcard cannot be proved by a server")
            .hint("name the hosts, or bring a certificate of your own");
    }
    for name in acme.domains.iter().filter(|name| !name.as_str().starts_with("*.") && !is_provable(name.as_str())) {
        cx.report(codes::BAD_VALUE, name.span, "no authority signs for a name like this")
            .hint("a name of the DNS has two parts at least, like example.com");
    }
    if let Some(url) = &acme.directory {
        if !url.value.starts_with("https://") || url.value.parse::<hyper::Uri>().is_err() {
            cx.report(codes::BAD_VALUE, url.span, "the directory of an authority is an https URL");
        }
        if acme.staging {
            cx.report(codes::CONTRADICTION, url.span, "`staging` is Let's Encrypt's, and `directory` names another")
                .hint("take one of them out");
        }
    }
    if let Some(email) = acme.email.as_ref().filter(|email| !email.value.contains('@')) {
        cx.report(codes::BAD_VALUE, email.span, "this is no address of mail");
    }
}

/// Whether authorities sign for such a name: one of the DNS, of two labels at least.
pub fn is_provable(name: &str) -> bool {
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    name.contains('.') && !is_address && name.split('.').all(is_label)
}

fn check_certificate(certificate: &Certificate, node: &Node, cx: &mut Cx) {
    let forms = [certificate.cert.is_some(), certificate.directory.is_some(), certificate.pem.is_some()];
    if forms.iter().filter(|form| **form).count() != 1 {
        cx.report(codes::ALTERNATIVES, node.span, "a certificate is one of `cert` with `key`, `directory`, `pem`");
    }
    pair(certificate.cert.as_ref(), certificate.key.as_ref(), node, cx);
}

fn pair(cert: Option<&Spanned<String>>, key: Option<&Spanned<String>>, node: &Node, cx: &mut Cx) {
    if cert.is_some() != key.is_some() {
        cx.report(codes::ALTERNATIVES, node.span, "`cert` and `key` stand together")
            .hint("where both are in one file, name it twice");
    }
}
