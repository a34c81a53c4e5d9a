use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, version};

use super::*;
use crate::net::mem::{self, Faults, Mem};

/// Polls both to their ends; the in-memory network always has a next step.
fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut done_a, mut done_b) = (None, None);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..5_000_000 {
        if done_a.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(&mut cx)
        {
            done_a = Some(value);
        }
        if done_b.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(&mut cx)
        {
            done_b = Some(value);
        }
        if done_a.is_some() && done_b.is_some() {
            break;
        }
    }
    (done_a.expect("the first ends"), done_b.expect("the second ends"))
}

fn configs(versions: &[&'static SupportedProtocolVersion]) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["example.test".to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("a pair");
    server.enable_secret_extraction = true;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    (Arc::new(server), client_of(certificate, versions))
}

fn client_of(root: CertificateDer<'static>, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root).expect("a root");
    let mut client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(client)
}

fn name() -> ServerName<'static> {
    ServerName::try_from("example.test").expect("a name")
}

fn torn(seed: u64) -> Faults {
    Faults {
        seed,
        read_bytes_max: 1 + (seed as usize * 7) % 3_000,
        write_bytes_max: 5_000,
        delay_one_in: 5,
        ..Faults::NONE
    }
}

fn connected(
    versions: &[&'static SupportedProtocolVersion],
    faults: &Faults,
) -> ((Tls<Mem>, Agreed), (Tls<Mem>, Agreed)) {
    let (server_config, client_config) = configs(versions);
    let (client, server) = mem::pair(20_000, faults);
    let (client, server) = both(
        Fresh::new(client).connect(client_config, name()),
        Fresh::new(server).accept(|hello| {
            assert_eq!(hello.server_name(), Some("example.test"));
            Some(server_config)
        }),
    );
    (client.expect("the client's side"), server.expect("the server's side"))
}

async fn write_all<W: WriteHalf>(write: &mut W, bytes: &[u8], piece: usize) {
    for chunk in bytes.chunks(piece) {
        drop(send_all(write, Buf::copy_of(chunk)).await.expect("sent"));
    }
}

async fn read_to_end<R: ReadHalf>(read: &mut R) -> (Vec<u8>, io::Result<()>) {
    let mut all = Vec::new();
    let mut sizes = [Buf::small as fn() -> Buf, Buf::large, || Buf::copy_of(b"before")].into_iter().cycle();
    loop {
        let buf = sizes.next().expect("for ever")();
        let before = buf.len();
        let (count, buf) = read.recv(buf).await;
        match count {
            Ok(0) => return (all, Ok(())),
            Ok(count) => {
                assert_eq!(buf.len(), before + count);
                all.extend_from_slice(&buf.as_slice()[before..]);
            }
            Err(error) => return (all, Err(error)),
        }
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 7;
    std::iter::repeat_with(|| {
        state = mem::splitmix(state);
        state as u8
    })
    .take(bytes)
    .collect()
}

#[test]
fn both_roles_talk_whatever_the_network_tears() {
    for versions in [&[&version::TLS13], &[&version::TLS12]] {
        for seed in 0..12 {
            let faults = if seed == 0 { Faults::NONE } else { torn(seed) };
            let ((client, agreed), (server, of_server)) = connected(versions, &faults);
            assert_eq!(agreed.alpn.as_deref(), Some(&b"http/1.1"[..]));
            assert_eq!((agreed.version, &agreed.server_name), (versions[0].version, &of_server.server_name));
            let ((mut client_read, mut client_write, _c), (mut read, mut write, _s)) = (client.split(), server.split());
            let up = noise(100_000);
            let down = noise(300_001);
            let ((), (got, end)) = both(
                async {
                    write_all(&mut client_write, &up, 10_000).await;
                    client_write.finish().await.expect("the end");
                },
                read_to_end(&mut read),
            );
            assert!(got == up && end.is_ok(), "seed {seed}: {end:?}");
            let ((), (got, end)) = both(
                async {
                    write_all(&mut write, &down, 1 + 40_000 * seed as usize / 3).await;
                    write.finish().await.expect("the end");
                },
                read_to_end(&mut client_read),
            );
            assert!(got == down && end.is_ok(), "seed {seed}: {end:?}");
        }
    }
}

/// rustls itself, with its own record layer, as the peer.
struct Peer<C> {
    tls: C,
    read: mem::MemRead,
    write: mem::MemWrite,
}

impl<C, D> Peer<C>
where
    C: std::ops::DerefMut<Target = rustls::ConnectionCommon<D>>,
    D: rustls::SideData,
{
    async fn flush(&mut self) {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).expect("to memory");
        }
        if !out.is_empty() {
            drop(send_all(&mut self.write, Buf::copy_of(&out)).await.expect("sent"));
        }
    }

    async fn fill(&mut self) -> bool {
        let (count, buf) = self.read.recv(Buf::small()).await;
        let mut bytes = buf.as_slice();
        while !bytes.is_empty() {
            self.tls.read_tls(&mut bytes).expect("from memory");
            self.tls.process_new_packets().expect("records that rustls understands");
        }
        matches!(count, Ok(count) if count > 0)
    }

    async fn say(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(50_000) {
            io::Write::write_all(&mut self.tls.writer(), chunk).expect("room");
            self.flush().await;
        }
    }

    async fn hear(&mut self, bytes: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < bytes {
            let mut piece = vec![0; 4096];
            match io::Read::read(&mut self.tls.reader(), &mut piece) {
                Ok(count) if count > 0 => all.extend_from_slice(&piece[..count]),
                _ => assert!(self.fill().await, "more comes"),
            }
        }
        all
    }

    async fn shake(&mut self) {
        while self.tls.is_handshaking() {
            self.flush().await;
            if self.tls.is_handshaking() {
                self.fill().await;
            }
        }
        self.flush().await;
    }
}

#[test]
fn rustls_as_the_peer_reads_our_records_and_renews_keys() {
    for versions in [&[&version::TLS13], &[&version::TLS12]] {
        let (server_config, client_config) = configs(versions);
        let (client, server) = mem::pair(1 << 20, &torn(3));
        let (read, write, _interrupt) = client.split();
        let tls = rustls::ClientConnection::new(client_config, name()).expect("a client");
        let mut peer = Peer { tls, read, write };
        let data = noise(90_000);
        let ours = async {
            let (tls, _) = Fresh::new(server).accept(|_| Some(server_config)).await.expect("accepted");
            let (mut read, mut write, _interrupt) = tls.split();
            for _ in 0..3 {
                let mut got = Vec::new();
                while got.len() < data.len() {
                    let (count, buf) = read.recv(Buf::large()).await;
                    assert!(count.expect("more") > 0);
                    got.extend_from_slice(buf.as_slice());
                }
                assert!(got == data);
                write_all(&mut write, &data, 32_768).await;
            }
            drop(write);
            read_to_end(&mut read).await
        };
        let theirs = async {
            peer.shake().await;
            for round in 0..3 {
                if round > 0 && versions[0].version == rustls::ProtocolVersion::TLSv1_3 {
                    peer.tls.refresh_traffic_keys().expect("new keys");
                }
                peer.say(&data).await;
                assert!(Box::pin(peer.hear(data.len())).await == data);
            }
            while peer.fill().await {}
            // Our close_notify arrived: rustls says the end, not a truncation.
            assert_eq!(io::Read::read(&mut peer.tls.reader(), &mut [0; 9]).expect("a clean end"), 0);
            peer.tls.send_close_notify();
            peer.flush().await;
        };
        let ((rest, end), ()) = both(ours, theirs);
        assert!(rest.is_empty() && end.is_ok(), "{end:?}");
    }
}

#[test]
fn an_end_without_close_notify_is_an_error() {
    let ((client, _), (server, _)) = connected(&[&version::TLS13], &Faults::NONE);
    let ((_r, mut write, interrupt), (mut read, ..)) = (client.split(), server.split());
    let ((), (got, end)) = both(
        async {
            write_all(&mut write, b"half", 4).await;
            interrupt.reset();
            drop(write);
        },
        read_to_end(&mut read),
    );
    assert_eq!((got, end.expect_err("cut").kind()), (b"half".to_vec(), io::ErrorKind::UnexpectedEof));
}

#[test]
fn last_words_are_read_and_nothing_follows_them() {
    for versions in [&[&version::TLS12][..], &[&version::TLS13]] {
        let ((client, _), (server, _)) = connected(versions, &Faults::NONE);
        let ((mut from_server, ..), (_read, mut write, interrupt)) = (client.split(), server.split());
        let ((), ()) = both(write_all(&mut write, b"usual, ", 4), async {});
        assert!(interrupt.last_words(b"last"));
        assert!(!interrupt.last_words(&noise(50_000)), "the pipe has 20,000 bytes");
        assert!(!interrupt.last_words(b"torn"), "nothing stands behind half a record");
        let (count, buf) = both(from_server.recv(Buf::large()), async {}).0;
        assert!(count.is_ok() && buf.as_slice().starts_with(b"usual, last"), "{count:?}");
        drop(write);
    }
}

#[test]
fn a_changed_or_repeated_record_ends_the_connection() {
    for at in [0, 1, 3, 4, 5, 20, 26] {
        let ((client, _), (server, _)) = connected(&[&version::TLS13], &Faults::NONE);
        let mut sealed = {
            let (_r, write, _i) = client.split();
            let sealed = write.common.sealer.borrow_mut().seal(Buf::copy_of(b"hello"), Content::Data).expect("sealed");
            write.common.closed.set(true);
            sealed
        };
        sealed.as_mut_slice()[at] ^= 0x41;
        let (mut read, ..) = server.split();
        read.sealed = sealed;
        let (_, error) = both(async {}, async { read_to_end(&mut read).await.1.expect_err("refused") });
        assert!(matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof), "{at}: {error}");
    }
    let ((client, _), (server, _)) = connected(&[&version::TLS12], &Faults::NONE);
    let (_r, write, _i) = client.split();
    let sealed = write.common.sealer.borrow_mut().seal(Buf::copy_of(b"once"), Content::Data).expect("sealed");
    let (mut read, ..) = server.split();
    read.sealed = Buf::copy_of(&[sealed.as_slice(), sealed.as_slice()].concat());
    let (_, (_, end)) = both(async {}, read_to_end(&mut read));
    assert_eq!(end.expect_err("a replay").kind(), io::ErrorKind::InvalidData);
}

#[test]
fn empty_records_and_foreign_messages_are_bounded() {
    for (content, bytes, most) in [
        (Content::Data, &b""[..], IDLE_RECORDS_MAX),
        (Content::Handshake, &KEY_UPDATE_ANSWER[..4], IDLE_RECORDS_MAX),
        (Content::Handshake, b"\x01\0\0\0", 1),
        (Content::Handshake, b"\x04\0\0\0", 1),
        (Content::Alert, b"\x01", 1),
        (Content::Alert, b"\x02\x28", 1),
    ] {
        let ((client, _), (server, _)) = connected(&[&version::TLS13], &Faults::NONE);
        let ((_r, write, _i), (mut read, ..)) = (client.split(), server.split());
        let mut refused_at = 0;
        for count in 1..=IDLE_RECORDS_MAX + 1 {
            let sealed = write.common.sealer.borrow_mut().seal(Buf::copy_of(bytes), content).expect("sealed");
            let mut sealed = sealed;
            if read.open_one(sealed.as_mut_slice()).is_err() {
                refused_at = count;
                break;
            }
        }
        assert!((1..=most + 1).contains(&refused_at), "{content:?} {bytes:?}: {refused_at}");
    }
}

#[test]
fn garbage_never_panics_and_never_opens() {
    let (server_config, _) = configs(&[&version::TLS13, &version::TLS12]);
    for seed in 0..400_u64 {
        let config = server_config.clone();
        let (client, server) = mem::pair(1 << 16, &torn(seed));
        let mut bytes = noise(64 + (seed as usize * 37) % 3_000);
        bytes.rotate_left(seed as usize % 60);
        match seed % 4 {
            0 => bytes[..5].copy_from_slice(&[22, 3, 1, 0, 200]),
            1 => bytes[..6].copy_from_slice(&[22, 3, 1, 2, 0, 1]),
            2 => bytes[..3].copy_from_slice(&[23, 3, 3]),
            _ => {}
        }
        let (_r, mut write, _i) = client.split();
        let (_, accepted) = both(
            async {
                let _ = send_all(&mut write, Buf::copy_of(&bytes)).await;
                drop(write);
            },
            Fresh::new(server).accept(|_| Some(config)),
        );
        assert!(accepted.is_err());
    }
}

#[test]
fn a_handshake_cut_anywhere_is_an_error_for_both() {
    for cut in (0..1_500).step_by(61) {
        let (server_config, client_config) = configs(&[&version::TLS13]);
        let faults = Faults { reset_after_bytes: Some(cut), ..torn(cut as u64 + 1) };
        let (client, server) = mem::pair(20_000, &faults);
        let (client, server) =
            both(Fresh::new(client).connect(client_config, name()), Fresh::new(server).accept(|_| Some(server_config)));
        assert!(client.is_err() || server.is_err() || cut > 300, "cut at {cut}");
    }
}

/// A server that fails behind the client's second flight, in whatever pieces that comes: rustls still holds places in
/// our buffer then.
#[test]
fn a_handshake_that_fails_late_is_told_so() {
    for versions in [&[&version::TLS13], &[&version::TLS12]] {
        let made = rcgen::generate_simple_self_signed(["example.test".to_owned()]).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let mut server_config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a pair");
        server_config.enable_secret_extraction = true;
        let server_config = Arc::new(server_config);
        for seed in 0..8 {
            let config = client_of(made.cert.der().clone(), versions);
            let (client, server) = mem::pair(20_000, &torn(seed));
            let (_, server) = both(
                async {
                    let (tls, _) = Fresh::new(client).connect(config, name()).await?;
                    let (mut read, ..) = tls.split();
                    read_to_end(&mut read).await.1.map_err(HandshakeError::Io)
                },
                Fresh::new(server).accept(|_| Some(server_config.clone())),
            );
            assert!(matches!(server.err(), Some(HandshakeError::Tls(Error::NoCertificatesPresented))));
        }
    }
}

/// RFC 7301 section 3.2. In TLS 1.3 the alert stands behind the server's flight.
#[test]
fn a_client_whose_protocols_nobody_speaks_is_told_so() {
    for version in [&version::TLS13, &version::TLS12] {
        let (server_config, mut client_config) = configs(&[version]);
        Arc::get_mut(&mut client_config).expect("nobody else has it").alpn_protocols = vec![b"spdy/3".to_vec()];
        let (client, server) = mem::pair(20_000, &Faults::NONE);
        let (client, server) =
            both(Fresh::new(client).connect(client_config, name()), Fresh::new(server).accept(|_| Some(server_config)));
        assert!(matches!(server.err(), Some(HandshakeError::Tls(Error::NoApplicationProtocol))));
        let error = client.err().expect("refused").to_string();
        assert!(error.contains("NoApplicationProtocol"), "{error}");
    }
}

#[test]
fn a_name_that_is_refused_is_told_so() {
    let (_, client_config) = configs(&[&version::TLS13]);
    let (client, server) = mem::pair(20_000, &Faults::NONE);
    let (client, server) = both(Fresh::new(client).connect(client_config, name()), Fresh::new(server).accept(|_| None));
    assert!(matches!(server.err(), Some(HandshakeError::UnknownName)));
    let error = client.err().expect("refused").to_string();
    assert!(error.contains("UnrecognisedName"), "{error}");
}

#[test]
fn a_client_that_only_promises_a_message_is_cut_at_the_bound() {
    let (server_config, _) = configs(&[&version::TLS13]);
    let (client, server) = mem::pair(1 << 20, &Faults::NONE);
    let (_r, mut write, _i) = client.split();
    // A hello of 60,000 bytes in records of 4,000.
    let mut bytes = vec![];
    for piece in 0..15 {
        bytes.extend([22, 3, 1, 0x0f, 0xa0]);
        bytes.extend(if piece == 0 { vec![1, 0, 0xea, 0x60] } else { vec![0; 4] });
        bytes.extend([0; 3_996]);
    }
    let (_, accepted) = both(
        async { drop(send_all(&mut write, Buf::copy_of(&bytes)).await) },
        Fresh::new(server).accept(|_| Some(server_config)),
    );
    assert!(matches!(accepted.err(), Some(HandshakeError::TooLong | HandshakeError::Tls(_))));
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    let ((client, _), (server, _)) = connected(&[&version::TLS13], &Faults::NONE);
    let ((_r, mut write, _i), (mut read, ..)) = (client.split(), server.split());
    let before = crate::sys::buf::pool_taken();
    let ((), (count, buf)) = both(write_all(&mut write, b"ping", 4), read.recv_idle(Buf::small()));
    assert_eq!((count.expect("data"), buf.as_slice()), (4, &b"ping"[..]));
    drop(buf);
    assert_eq!(crate::sys::buf::pool_taken(), before);
    assert!(read.common.is_quiet());
}
