//! The least memory that an idle TLS connection can have with rustls: many server connections that have shaken hands
//! (TLS 1.3) and answered one request, in memory, without a socket. PERF.md takes the figure off what an idle client of
//! the gateway takes.
//!
//! ```sh
//! cargo run --release --example tls_floor [CONNECTIONS]
//! ```
//! It counts what the C library's allocator has given out: rustls' memory and that of the cryptography behind it.

use std::io::{Cursor, Read, Write};
use std::sync::Arc;

use ringway::net::tls::record::{Opener, Sealer};
use ringway::tls::provider;
use rustls::client::ClientConnection;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::{ServerConnection, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};

const REQUEST: &[u8] = b"GET /1k HTTP/1.1\r\nHost: example.test\r\n\r\n";
const CONNECTIONS: usize = 1_000;
const RESPONSE_BYTES: usize = 1_200;

fn main() {
    let count = std::env::args().nth(1).map_or(CONNECTIONS, |text| text.parse().expect("a number"));
    let (server, client) = configs();
    // What is made once, at the first handshake, is not a connection's.
    drop((buffered(&server, &client), extracted(&server, &client)));
    println!("{count} idle connections of TLS 1.3, bytes each:");
    println!("  rustls, ServerConnection: {}", bytes_of(count, || buffered(&server, &client)));
    println!("  rustls' key schedule alone, and two keys: {}", bytes_of(count, || extracted(&server, &client)));
}

/// What each of `count` things holds.
fn bytes_of<T>(count: usize, make: impl Fn() -> T) -> usize {
    let mut all = Vec::with_capacity(count);
    let before = allocated();
    all.extend((0..count).map(|_| make()));
    (allocated() - before) / count + size_of::<T>()
}

/// Bytes that the C library's allocator has given out. This program has no other.
fn allocated() -> usize {
    // SAFETY: the call has no conditions.
    unsafe { libc::mallinfo2() }.uordblks
}

fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["example.test".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()))
        .expect("a pair");
    server.enable_secret_extraction = true;
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

fn client(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("example.test").expect("a name");
    ClientConnection::new(config.clone(), name).expect("a client")
}

/// A connection of rustls' usual interface behind its first request.
fn buffered(server: &Arc<ServerConfig>, config: &Arc<ClientConfig>) -> Box<ServerConnection> {
    let mut server = Box::new(ServerConnection::new(server.clone()).expect("a server"));
    let mut client = client(config);
    while client.is_handshaking() || server.is_handshaking() {
        pass(|out| client.write_tls(out), |from| server.read_tls(from));
        server.process_new_packets().expect("a handshake");
        pass(|out| server.write_tls(out), |from| client.read_tls(from));
        client.process_new_packets().expect("a handshake");
    }
    client.writer().write_all(REQUEST).expect("room");
    pass(|out| client.write_tls(out), |from| server.read_tls(from));
    server.process_new_packets().expect("a request");
    let mut request = [0; 4_096];
    assert_eq!(server.reader().read(&mut request).expect("plaintext"), REQUEST.len());
    server.writer().write_all(&[b'x'; RESPONSE_BYTES]).expect("room");
    pass(|out| server.write_tls(out), |from| client.read_tls(from));
    server
}

/// Carries what one side has to send to the other.
fn pass(
    mut write: impl FnMut(&mut dyn Write) -> std::io::Result<usize>,
    mut read: impl FnMut(&mut dyn Read) -> std::io::Result<usize>,
) {
    let mut wire = Vec::new();
    while write(&mut wire).expect("memory takes all") > 0 {}
    let mut wire = Cursor::new(wire);
    while (wire.position() as usize) < wire.get_ref().len() {
        read(&mut wire).expect("memory gives all");
    }
}

/// What ringway keeps of rustls: the key schedule, and the two present keys in its own record layer.
fn extracted(server: &Arc<ServerConfig>, config: &Arc<ClientConfig>) -> (Box<dyn std::any::Any>, Sealer, Opener) {
    let mut server = UnbufferedServerConnection::new(server.clone()).expect("a server");
    let mut client = client(config);
    let mut incoming = Vec::new();
    loop {
        while client.write_tls(&mut incoming).expect("memory takes all") > 0 {}
        let out = answer(&mut server, &mut incoming);
        if !server.is_handshaking() {
            break;
        }
        let mut out = Cursor::new(out);
        while (out.position() as usize) < out.get_ref().len() {
            client.read_tls(&mut out).expect("memory gives all");
        }
        client.process_new_packets().expect("a handshake");
    }
    let (secrets, kernel) = server.dangerous_into_kernel_connection().expect("extraction is enabled");
    let sealer = Sealer::new(&secrets.tx.1, secrets.tx.0, true).expect("a known cipher");
    let opener = Opener::new(&secrets.rx.1, secrets.rx.0, true).expect("a known cipher");
    (Box::new(kernel), sealer, opener)
}

/// Lets the server take what has come, and returns what it says.
fn answer(server: &mut UnbufferedServerConnection, incoming: &mut Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let status = server.process_tls_records(incoming);
        let taken = status.discard;
        let over = match status.state.expect("a handshake") {
            ConnectionState::EncodeTlsData(mut data) => {
                let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) else { panic!("no room") };
                let at = out.len();
                out.resize(at + needed.required_size, 0);
                data.encode(&mut out[at..]).expect("room");
                false
            }
            ConnectionState::TransmitTlsData(transmit) => {
                transmit.done();
                false
            }
            _ => true,
        };
        incoming.drain(..taken);
        if over {
            return out;
        }
    }
}
