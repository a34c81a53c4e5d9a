//! Handshakes of both roles, by rustls, over any connection.
//!
//! The unbuffered interface of rustls leaves the bytes with us: they wait in a pooled buffer only while a message is
//! incomplete, and rustls and all it has allocated are gone when the keys are there.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{Acceptor, ClientHello, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{
    ClientConfig, CommonState, Error, ExtractedSecrets, HandshakeKind, ProtocolVersion, ServerConfig,
    SupportedCipherSuite,
};

use super::record::{self, Opener, Sealer};
use super::{Kernel, Tls};
use crate::limits::HANDSHAKE_BYTES_MAX;
use crate::net::io::{Interrupt, Io, ReadHalf, send_all};
use crate::sys::buf::Buf;

/// What a handshake agreed on.
#[derive(Clone, Debug)]
pub struct Agreed {
    /// The name that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// The protocol of ALPN.
    pub alpn: Option<Box<[u8]>>,
    /// The version.
    pub version: ProtocolVersion,
    /// The cipher suite.
    pub suite: SupportedCipherSuite,
    /// Whether an earlier session was taken up.
    pub resumed: bool,
    /// The peer's certificate and what it sent with it; it was verified by the rules of the configuration.
    pub peer: Option<Arc<[CertificateDer<'static>]>>,
}

/// Why a handshake failed.
#[derive(Debug)]
pub enum HandshakeError {
    /// The connection ended or failed.
    Io(io::Error),
    /// What the peer sent, or what it offers, was refused; it was told by an alert.
    Tls(Error),
    /// More bytes than a handshake may have wait for the rest of a message (F86).
    TooLong,
    /// No certificate answers the name that the client asked for.
    UnknownName,
}

impl std::fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
            Self::TooLong => f.write_str("a handshake message is too long"),
            Self::UnknownName => f.write_str("no certificate for this name"),
        }
    }
}

impl std::error::Error for HandshakeError {}

impl From<HandshakeError> for io::Error {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// A connection before and in its handshake.
pub struct Fresh<I: Io> {
    read: I::Read,
    write: I::Write,
    interrupt: Rc<dyn Interrupt>,
    /// Bytes that were read and no message has taken.
    incoming: Buf,
}

impl<I: Io> Fresh<I> {
    /// Takes a connection apart, to be handshaken.
    pub fn new(io: I) -> Self {
        let (read, write, interrupt) = io.split();
        Self { read, write, interrupt, incoming: Buf::empty() }
    }

    /// Ends what waits on the connection: for its deadline.
    pub fn interrupt(&self) -> Rc<dyn Interrupt> {
        self.interrupt.clone()
    }

    /// Reads more of what stands before the handshake.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn read_more(&mut self) -> io::Result<()> {
        self.fill().await
    }

    /// What was read and not taken.
    pub fn unread(&self) -> &[u8] {
        self.incoming.as_slice()
    }

    /// Passes over what stood before the handshake.
    pub fn skip(&mut self, bytes: usize) {
        self.incoming.consume(bytes);
    }

    /// The connection without a handshake: its parts, and what was read and not taken.
    pub fn into_parts(self) -> (I::Read, I::Write, Rc<dyn Interrupt>, Buf) {
        (self.read, self.write, self.interrupt, self.incoming)
    }

    /// Shakes hands as the server. `choose` finds the rules for what the client says; None refuses the name.
    ///
    /// # Errors
    /// Why there is no connection; the peer has been told as far as it can be.
    pub async fn accept(
        mut self,
        choose: impl FnOnce(&ClientHello<'_>) -> Option<Arc<ServerConfig>>,
    ) -> Result<(Tls<I>, Agreed), HandshakeError> {
        let (server_name, config) = self.hello(choose).await?;
        let connection = UnbufferedServerConnection::new(config).map_err(HandshakeError::Tls)?;
        self.shake(Engine::Server(connection), server_name).await
    }

    /// Shakes hands as the client. The configuration must have `enable_secret_extraction` set.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub async fn connect(
        self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<(Tls<I>, Agreed), HandshakeError> {
        let server_name = match &name {
            ServerName::DnsName(name) => Some(name.as_ref().into()),
            _ => None,
        };
        let connection = UnbufferedClientConnection::new(config, name).map_err(HandshakeError::Tls)?;
        self.shake(Engine::Client(connection), server_name).await
    }

    /// Reads the client's first message and chooses by it. The bytes stay: the connection reads them again, by the same
    /// parser, so that nobody can be chosen for one name and served for another (F84).
    async fn hello(
        &mut self,
        choose: impl FnOnce(&ClientHello<'_>) -> Option<Arc<ServerConfig>>,
    ) -> Result<(Option<Box<str>>, Arc<ServerConfig>), HandshakeError> {
        let mut acceptor = Acceptor::default();
        let mut seen = 0;
        loop {
            while seen < self.incoming.len() {
                let mut news = &self.incoming.as_slice()[seen..];
                seen += acceptor.read_tls(&mut news).map_err(HandshakeError::Io)?;
                match acceptor.accept() {
                    Ok(None) => {}
                    Ok(Some(accepted)) => {
                        let hello = accepted.client_hello();
                        let name = hello.server_name().map(|name| name.to_ascii_lowercase().into_boxed_str());
                        return match choose(&hello) {
                            Some(config) => Ok((name, config)),
                            None => {
                                self.last_words(&UNRECOGNIZED_NAME);
                                Err(HandshakeError::UnknownName)
                            }
                        };
                    }
                    Err((error, mut alert)) => {
                        let mut words = Vec::new();
                        let _ = alert.write_all(&mut words);
                        self.last_words(&words);
                        return Err(HandshakeError::Tls(error));
                    }
                }
            }
            self.fill().await.map_err(HandshakeError::Io)?;
            self.check_room()?;
        }
    }

    fn last_words(&self, words: &[u8]) {
        self.interrupt.last_words(words);
    }

    fn check_room(&self) -> Result<(), HandshakeError> {
        if self.incoming.len() > HANDSHAKE_BYTES_MAX { Err(HandshakeError::TooLong) } else { Ok(()) }
    }

    /// Reads more. A peer that says nothing is waited for without a buffer (F86).
    async fn fill(&mut self) -> io::Result<()> {
        if self.incoming.is_empty() {
            self.incoming = Buf::empty();
            self.read.readable().await?;
            self.incoming = Buf::small();
        } else if self.incoming.spare() == 0 {
            self.incoming.reserve(HANDSHAKE_BYTES_MAX);
        }
        let (count, buf) = self.read.recv(std::mem::take(&mut self.incoming)).await;
        self.incoming = buf;
        match count? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Drives rustls to the end of the handshake.
    async fn shake(
        mut self,
        mut engine: Engine,
        server_name: Option<Box<str>>,
    ) -> Result<(Tls<I>, Agreed), HandshakeError> {
        let mut out = Vec::new();
        // Whole records are given one by one: what stands behind the last message of the handshake is not for rustls.
        let mut given = 0;
        loop {
            let (taken, step) = engine.step(&mut self.incoming.as_mut_slice()[..given], &mut out);
            self.incoming.consume(taken);
            given -= taken;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Done) => break,
                Ok(Step::Read) => match record::record_bytes(&self.incoming.as_slice()[given..]) {
                    Ok(Some(length)) if given + length <= self.incoming.len() => given += length,
                    Ok(_) => {
                        self.flush(&mut out).await?;
                        self.check_room()?;
                        self.fill().await.map_err(HandshakeError::Io)?;
                    }
                    // Whatever it is, rustls knows the alert.
                    Err(_) => given = self.incoming.len(),
                },
                Err(error) => {
                    engine.farewell(&mut self.incoming.as_mut_slice()[..given], &mut out);
                    // The peer is told at once or not at all.
                    self.last_words(&out);
                    return Err(HandshakeError::Tls(error));
                }
            }
        }
        self.flush(&mut out).await?;
        self.finish(engine, server_name)
    }

    /// Sends what there is, at once.
    async fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), HandshakeError> {
        if !out.is_empty() {
            let buf = Buf::copy_of(out);
            out.clear();
            drop(send_all(&mut self.write, buf).await.map_err(HandshakeError::Io)?);
        }
        Ok(())
    }

    fn finish(self, engine: Engine, server_name: Option<Box<str>>) -> Result<(Tls<I>, Agreed), HandshakeError> {
        let state = engine.state();
        let (Some(version), Some(suite)) = (state.protocol_version(), state.negotiated_cipher_suite()) else {
            return Err(HandshakeError::Tls(Error::HandshakeNotComplete));
        };
        let agreed = Agreed {
            server_name,
            alpn: state.alpn_protocol().map(Into::into),
            version,
            suite,
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            peer: state.peer_certificates().map(|chain| chain.iter().map(|one| one.clone().into_owned()).collect()),
        };
        let (secrets, kernel) = engine.into_kernel().map_err(HandshakeError::Tls)?;
        let tls13 = version == ProtocolVersion::TLSv1_3;
        let sealer = Sealer::new(&secrets.tx.1, secrets.tx.0, tls13);
        let opener = Opener::new(&secrets.rx.1, secrets.rx.0, tls13);
        let (Some(sealer), Some(opener)) = (sealer, opener) else {
            return Err(HandshakeError::Tls(Error::General("unknown cipher".to_owned())));
        };
        let early = if self.incoming.is_empty() { Buf::empty() } else { self.incoming };
        Ok((Tls::new(self.read, self.write, self.interrupt, early, sealer, opener, kernel), agreed))
    }
}

/// The alert `unrecognized_name` (RFC 6066 section 3), before there are keys.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// rustls in one of its roles.
enum Engine {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What is to be done next.
enum Step {
    /// Ask again.
    Again,
    /// The peer must say more.
    Read,
    /// The handshake is over.
    Done,
}

impl Engine {
    /// One step over whole records; what is to be sent goes to `out`. Returns how much of `incoming` is done with.
    fn step(&mut self, incoming: &mut [u8], out: &mut Vec<u8>) -> (usize, Result<Step, Error>) {
        let (taken, step) = match self {
            Self::Server(connection) => digest(connection.process_tls_records(incoming), out),
            Self::Client(connection) => digest(connection.process_tls_records(incoming), out),
        };
        // A server may speak before the client has proved itself; we do not.
        let early = matches!(step, Ok(Step::Done)) && self.state().is_handshaking();
        (taken, if early { Ok(Step::Read) } else { step })
    }

    /// The alert behind an error. rustls still remembers where in `incoming` its messages stand.
    fn farewell(&mut self, incoming: &mut [u8], out: &mut Vec<u8>) {
        // What is to be sent comes before anything is read again, a piece in each step: in TLS 1.3 the alert may stand
        // behind a server's whole flight, as no_application_protocol does. What made the error is not read again.
        while self.state().wants_write() {
            let _ = self.step(incoming, out);
        }
    }

    fn state(&self) -> &CommonState {
        match self {
            Self::Server(connection) => connection,
            Self::Client(connection) => connection,
        }
    }

    fn into_kernel(self) -> Result<(ExtractedSecrets, Kernel), Error> {
        match self {
            Self::Server(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                Ok((secrets, Kernel::Server(kernel)))
            }
            Self::Client(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                Ok((secrets, Kernel::Client(kernel)))
            }
        }
    }
}

fn digest<Data>(status: UnbufferedStatus<'_, '_, Data>, out: &mut Vec<u8>) -> (usize, Result<Step, Error>) {
    let step = match status.state {
        Ok(ConnectionState::EncodeTlsData(mut encode)) => {
            let at = out.len();
            if let Err(EncodeError::InsufficientSize(needed)) = encode.encode(&mut []) {
                out.resize(at + needed.required_size, 0);
                let _ = encode.encode(&mut out[at..]);
            }
            Ok(Step::Again)
        }
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            transmit.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Read),
        // The end before the end, or data where none can be.
        Ok(_) => Err(Error::HandshakeNotComplete),
        Err(error) => Err(error),
    };
    (status.discard, step)
}
