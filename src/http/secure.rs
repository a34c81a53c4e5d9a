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

/// The owner of a verified client certificate, as text that is the value of a field as it stands.
///
/// Whoever asks for a certificate chooses most of what stands in it. What would end a line, or make one name look like
/// two, is escaped, so that what reads as a name is a name that the authority has signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientIdentity {
    /// Its subject (`CN=robot, O=Example`); within a value all that divides is escaped as `\2C` (RFC 4514 section 2.4).
    pub subject: String,
    /// Its alternative names, each with its kind (`DNS:`, `URI:`, `IP:`, `email:`), with commas between them; a comma
    /// within a name is `%2C`.
    pub names: String,
    /// SHA-256 of the certificate, as 64 digits.
    pub fingerprint: String,
}
