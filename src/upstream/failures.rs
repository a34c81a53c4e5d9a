//! Why there is no connection to an endpoint, in words for operators.

use std::io;

use rustls::AlertDescription;

use super::passive::NO_LOCAL_PORT;
use crate::error::{Failure, Reason};
use crate::net::tls::HandshakeError;
use crate::tls::certificate_words;

/// Why connecting failed.
pub(super) fn of_connect(error: &io::Error) -> Failure {
    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
        return Failure::with(Reason::Overloaded, "no descriptor left");
    }
    if let Some(refused) = error.get_ref().and_then(|inner| inner.downcast_ref::<HandshakeError>()) {
        return of_handshake(refused);
    }
    match error.kind() {
        io::ErrorKind::TimedOut if error.get_ref().is_some() => {
            Failure::with(Reason::ConnectTimeout, "in the TLS handshake")
        }
        io::ErrorKind::TimedOut => Reason::ConnectTimeout.into(),
        io::ErrorKind::ConnectionRefused => Reason::ConnectRefused.into(),
        io::ErrorKind::AddrNotAvailable => NO_LOCAL_PORT,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Failure::with(Reason::ConnectFailed, "unreachable")
        }
        _ => Reason::ConnectFailed.into(),
    }
}

/// Which check failed, and whose it was.
fn of_handshake(error: &HandshakeError) -> Failure {
    let failed = |detail| Failure::with(Reason::UpstreamHandshake, detail);
    match error {
        HandshakeError::Tls(rustls::Error::InvalidCertificate(why)) => {
            Failure::with(Reason::UpstreamCertificate, certificate_words(why))
        }
        HandshakeError::Tls(rustls::Error::NoCertificatesPresented) => {
            Failure::with(Reason::UpstreamCertificate, "the endpoint shows no certificate")
        }
        HandshakeError::Tls(rustls::Error::AlertReceived(alert)) => failed(alert_words(*alert)),
        HandshakeError::Tls(rustls::Error::InvalidMessage(_)) => failed("the endpoint does not speak TLS"),
        HandshakeError::Tls(rustls::Error::PeerIncompatible(_)) => failed("no common version or cipher"),
        HandshakeError::Io(_) => failed("the endpoint closed in the handshake"),
        HandshakeError::TooLong => failed("the endpoint says too much"),
        _ => failed("the endpoint breaks the protocol"),
    }
}

/// What an endpoint says why it refuses us.
fn alert_words(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => {
            "the endpoint refuses our versions or ciphers"
        }
        AlertDescription::UnrecognisedName => "the endpoint does not know the name",
        AlertDescription::NoApplicationProtocol => "the endpoint does not speak our protocol",
        AlertDescription::CertificateRequired => "the endpoint wants a certificate of ours",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => "the endpoint refuses our certificate",
        _ => "the endpoint refuses the handshake",
    }
}
