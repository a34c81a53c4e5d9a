//! Certificates made on the fly, and clients of TLS: rustls in the test, openssl beside it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use super::PATIENCE;

/// Someone who signs, and a directory for what is signed.
pub struct Authority {
    pub dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// Which key a certificate has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ecdsa,
    Rsa,
}

/// A certificate and its key, in files.
#[derive(Clone, Debug)]
pub struct Issued {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub serial: u64,
}

impl Issued {
    /// `cert: FILE, key: FILE`.
    pub fn yaml(&self) -> String {
        format!("cert: {}, key: {}", self.cert.display(), self.key.display())
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("ca.pem"), &pem).expect("written");
        Self { dir, issuer: Issuer::new(params, key), pem }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// The file with its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A certificate for these names, in `FILE.crt` and `FILE.key`. `until` is the year of its end.
    pub fn issue_until(&self, file: &str, names: &[&str], kind: Kind, until: i32) -> Issued {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let serial = names.iter().chain([&file.to_owned()]).flat_map(|name| name.bytes()).map(u64::from).sum();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, file);
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let algorithm = match kind {
            Kind::Ecdsa => &rcgen::PKCS_ECDSA_P256_SHA256,
            Kind::Rsa => &rcgen::PKCS_RSA_SHA256,
        };
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let issued = Issued { cert: self.path(&format!("{file}.crt")), key: self.path(&format!("{file}.key")), serial };
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        std::fs::write(&issued.cert, signed.pem()).expect("written");
        std::fs::write(&issued.key, key.serialize_pem()).expect("written");
        issued
    }

    pub fn issue(&self, file: &str, names: &[&str]) -> Issued {
        self.issue_until(file, names, Kind::Ecdsa, 2090)
    }

    /// A list of what it has revoked, in a file.
    pub fn revoke(&self, file: &str, revoked: &[&Issued]) -> PathBuf {
        self.revoke_until(file, revoked, 2090)
    }

    /// As [`Self::revoke`]; the next list is promised for this year.
    pub fn revoke_until(&self, file: &str, revoked: &[&Issued], until: i32) -> PathBuf {
        let revoked = revoked.iter().map(|one| RevokedCertParams {
            serial_number: SerialNumber::from(one.serial),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.path(file);
        std::fs::write(&path, list.signed_by(&self.issuer).expect("signed").pem().expect("PEM")).expect("written");
        path
    }

    /// A client that believes this authority.
    pub fn client(&self, owner: Option<&Issued>) -> ClientConfig {
        believes(&self.pem, owner)
    }
}

/// A client that believes the authority whose certificate this is, as PEM.
pub fn believes(pem: &str, owner: Option<&Issued>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(rustls::ALL_VERSIONS);
    let builder = builder.expect("versions").with_root_certificates(roots);
    match owner {
        None => builder.with_no_client_auth(),
        Some(owner) => {
            let chain = vec![CertificateDer::from_pem_file(&owner.cert).expect("PEM")];
            let key = PrivateKeyDer::from_pem_file(&owner.key).expect("PEM");
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    }
}

/// A stream that may send one byte in each segment.
pub struct Torn {
    pub stream: TcpStream,
    pub torn: bool,
}

impl Read for Torn {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}

impl Write for Torn {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = if self.torn { 1.min(buf.len()) } else { buf.len() };
        self.stream.write(&buf[..count])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A TLS connection of the test.
pub type Secured = StreamOwned<ClientConnection, Torn>;

/// Connects; the handshake is done by the first request.
pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>, name: &str, torn: bool) -> Secured {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connected");
    stream.set_nodelay(true).expect("an option");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    StreamOwned::new(ClientConnection::new(config.clone(), name).expect("a client"), Torn { stream, torn })
}

/// Sends a GET and reads one response with a Content-Length, as text.
pub fn get(secured: &mut Secured, host: &str, more: &str) -> io::Result<String> {
    get_path(secured, "/a", host, more)
}

/// As [`get`], from this path.
pub fn get_path(secured: &mut Secured, path: &str, host: &str, more: &str) -> io::Result<String> {
    write!(secured, "GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")?;
    secured.flush()?;
    let mut seen = Vec::new();
    let mut byte = [0; 1];
    while !seen.ends_with(b"\r\n\r\n") {
        secured.read_exact(&mut byte)?;
        seen.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&seen).into_owned();
    let length = head.to_ascii_lowercase().split("content-length: ").nth(1).map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<usize>().expect("a number")
    });
    let mut body = vec![0; length.unwrap_or(0)];
    secured.read_exact(&mut body)?;
    Ok(head + &String::from_utf8_lossy(&body))
}

/// One request on a connection of its own: the response, and whether the session was resumed.
pub fn ask(address: SocketAddr, config: &Arc<ClientConfig>, name: &str, host: &str) -> io::Result<(String, bool)> {
    let mut secured = connect(address, config, name, false);
    let response = get(&mut secured, host, "")?;
    Ok((response, secured.conn.handshake_kind() == Some(HandshakeKind::Resumed)))
}

/// The common name (the name of its file) of the certificate that a client of this name is shown.
pub fn shown(address: SocketAddr, name: &[&str], ca: &Path) -> String {
    let out = s_client(address, &[&["-CAfile", &ca.display().to_string()], name].concat(), "");
    let subject = out.lines().find(|line| line.starts_with("subject=")).unwrap_or(&out);
    subject.rsplit("CN = ").next().unwrap_or_default().trim().to_owned()
}

/// `openssl s_client` with this input, and all that it says.
pub fn s_client(address: SocketAddr, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string()]).args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("openssl");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("written");
    let out = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()
}

/// Whether the tool is here; says so when the test is skipped.
pub fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg(if tool == "openssl" { "version" } else { "--version" }).output().is_ok();
    if !found {
        println!("skipped: {tool} is not installed");
    }
    found
}
