//! `services[].tls`.

use crate::config_struct;
use crate::schema::{Cx, Node, Spanned, codes};

config_struct! {
    /// TLS towards endpoints. `{}` is the usual form: certificates are verified against the authorities that the system
    /// trusts, and must be for the host of the endpoint (F88).
    #[check(check_endpoint_tls)]
    pub struct EndpointTls {
        /// Whether certificates and names are verified. Without that anybody between here and there can read and change
        /// everything.
        verify: bool = "true",
        /// The name that is asked for (SNI), and that certificates must be for; the endpoint's host when left out.
        server_name: Option<Spanned<String>>,
        /// PEM files with the authorities that are trusted, in place of the system's.
        ca: Vec<Spanned<String>> = "[]",
        /// A PEM file with the certificate that endpoints may ask for, and its chain.
        cert: Option<Spanned<String>>,
        /// A PEM file with its private key; it may be the same file.
        key: Option<Spanned<String>>,
    }
}

fn check_endpoint_tls(tls: &EndpointTls, node: &Node, cx: &mut Cx) {
    let span = |key: &str| node.entry(key).map_or(node.span, |entry| entry.value.span);
    match (&tls.cert, &tls.key) {
        (Some(_), None) => {
            cx.report(codes::CONTRADICTION, span("cert"), "`cert` needs its `key`")
                .hint("name the file with the private key; it may be the same one");
        }
        (None, Some(_)) => {
            cx.report(codes::CONTRADICTION, span("key"), "`key` needs its `cert`");
        }
        _ => {}
    }
    if !tls.verify {
        let message = "the certificates of endpoints are not verified: who answers may be anybody";
        cx.report(codes::UNVERIFIED, span("verify"), message)
            .hint("name the authority that signs them: `ca: [FILE]`; for another name, `server_name`");
    }
    if !tls.verify && !tls.ca.is_empty() {
        cx.report(codes::CONTRADICTION, span("ca"), "`ca` has no use with `verify: false`")
            .hint("take one of them out");
    }
}
