//! What TLS knows of a connection, for rules, logs and endpoints.

/// A connection's TLS, made once for all its requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secure {
    /// The name that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// Which rules for client certificates it was accepted under: an index of its listener's zones.
    pub zone: usize,
    /// Identity of these rules over reloads.
    pub rules: [u8; 32],
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// Whether an earlier session was taken up.
    pub resumed: bool,
    /// Who the client is, by its certificate.
    pub client: Option<ClientIdentity>,
}

/// The owner of a verified client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientIdentity {
    /// Its subject, as text (`CN=robot, O=Example`).
    pub subject: String,
    /// Its alternative names, each with its kind: `DNS:`, `URI:`, `IP:`, `email:`.
    pub names: Vec<String>,
    /// SHA-256 of the certificate, as 64 digits.
    pub fingerprint: String,
}

impl ClientIdentity {
    /// A text as the value of a field: what a field may not hold becomes `?`, so that no name in a certificate can end
    /// the line.
    pub fn field(text: &str) -> String {
        text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
    }
}
