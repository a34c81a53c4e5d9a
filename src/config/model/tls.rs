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
    if tls.cert.is_none() && tls.certificates.is_empty() {
        cx.report(codes::MISSING_KEY, node.span, "TLS needs a certificate")
            .hint("add `cert` and `key`, or `certificates`");
    }
    pair(tls.cert.as_ref(), tls.key.as_ref(), node, cx);
    if let Some(ocsp) = tls.ocsp.as_ref().filter(|_| tls.cert.is_none()) {
        cx.report(codes::NO_EFFECT, ocsp.span, "`ocsp` belongs to `cert`, which is not here");
    }
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
