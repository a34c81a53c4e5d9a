//! `ringway cert`: certificates for development, by an authority of one's own that browsers can be told to trust.
//! Never for production: whoever has the authority's key can be anybody to who trusts it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::time::unix_seconds;

/// How long the authority is good for, in days.
const AUTHORITY_DAYS: u64 = 3_650;
/// Most names of one certificate.
const NAMES_MAX: usize = 100;
const DAY: Duration = Duration::from_secs(86_400);
/// Clocks differ: what is new is good since an hour.
const BEFORE: Duration = Duration::from_secs(3_600);

/// What to make.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Names and addresses that the certificate is for, as `localhost 127.0.0.1 *.dev.test`; none makes the authority
    /// alone.
    names: Vec<String>,
    /// Where the authority is kept; made when there is none.
    #[arg(long, value_name = "DIR")]
    authority: Option<PathBuf>,
    /// Where the certificate and its key are written.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// How long the certificate is good for, in days.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=825))]
    days: u64,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> ExitCode {
    match make(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("error: {what}");
            ExitCode::FAILURE
        }
    }
}

fn make(arguments: &Arguments) -> Result<(), String> {
    if arguments.names.len() > NAMES_MAX {
        return Err(format!("a certificate has at most {NAMES_MAX} names here"));
    }
    let home = match &arguments.authority {
        Some(directory) => directory.clone(),
        None => home()?,
    };
    let authority = Authority::open(&home)?;
    let Some(first) = arguments.names.first() else { return Ok(()) };
    let stem = first.replace('*', "_wildcard").replace(['/', ':'], "_");
    let (cert, key) = (arguments.out.join(format!("{stem}.crt")), arguments.out.join(format!("{stem}.key")));
    let (chain, secret) = authority.issue(&arguments.names, arguments.days)?;
    write(&key, &secret, 0o600)?;
    write(&cert, &chain, 0o644)?;
    println!("certificate  {}", cert.display());
    println!("key          {}", key.display());
    println!("authority    {}", authority.cert.display());
    println!(
        "\nIn a configuration:\n  listeners: [{{address: \":8443\", tls: {{cert: {}, key: {}}}}}]",
        cert.display(),
        key.display()
    );
    println!("Ask:\n  curl --cacert {} https://{first}:8443/", authority.cert.display());
    Ok(())
}

/// `$XDG_DATA_HOME/ringway/authority`, as the user's own things are kept.
fn home() -> Result<PathBuf, String> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")));
    let data = data.ok_or("there is no home directory: say where the authority is with --authority DIR")?;
    Ok(data.join("ringway/authority"))
}

/// Who signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert: PathBuf,
}

impl Authority {
    /// The authority that is kept here; a new one where there is none.
    fn open(directory: &Path) -> Result<Self, String> {
        let (cert, secret) = (directory.join("ca.pem"), directory.join("ca.key"));
        let known = match fs::read_to_string(&secret) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("`{}` cannot be read: {error}", secret.display())),
        };
        let Some(text) = known else { return Self::found(directory, cert, &secret) };
        let key = KeyPair::from_pem(&text).map_err(|error| format!("`{}`: {error}", secret.display()))?;
        if !cert.is_file() {
            return Err(format!("`{}` is there without `{}`", secret.display(), cert.display()));
        }
        Ok(Self { issuer: Issuer::new(params(&key)?, key), cert })
    }

    fn found(directory: &Path, cert: PathBuf, secret: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| format!("`{}` cannot be made: {error}", directory.display());
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let params = params(&key)?;
        let signed = params.self_signed(&key).map_err(|error| error.to_string())?;
        // Its key last: a certificate alone is made anew.
        write(&cert, &signed.pem(), 0o644)?;
        write(secret, &key.serialize_pem(), 0o600)?;
        println!("A new authority for development is in {}. To make this system trust it:", directory.display());
        println!("  sudo cp {} /usr/local/share/ca-certificates/ringway-dev.crt", cert.display());
        println!("  sudo update-ca-certificates");
        println!("Browsers import {} in their settings. Keep {} to yourself.\n", cert.display(), secret.display());
        Ok(Self { issuer: Issuer::new(params, key), cert })
    }

    /// A certificate with the authority's behind it, and its key, as PEM.
    fn issue(&self, names: &[String], days: u64) -> Result<(String, String), String> {
        for name in names {
            check_name(name)?;
        }
        let mut params = CertificateParams::new(names).map_err(|error| error.to_string())?;
        params.distinguished_name.push(DnType::CommonName, names[0].as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let now = Duration::from_secs(unix_seconds());
        params.not_before = date_time_ymd(1970, 1, 1) + now.saturating_sub(BEFORE);
        params.not_after = date_time_ymd(1970, 1, 1) + now + DAY * days as u32;
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let signed = params.signed_by(&key, &self.issuer).map_err(|error| error.to_string())?;
        let above =
            fs::read_to_string(&self.cert).map_err(|e| format!("`{}` cannot be read: {e}", self.cert.display()))?;
        Ok((signed.pem() + &above, key.serialize_pem()))
    }
}

/// What the authority says of itself: the same for the same key, so that it need not be read back.
fn params(key: &KeyPair) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(Vec::new()).map_err(|error| error.to_string())?;
    let mark: String = key.public_key_raw().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("ringway development authority {mark}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = Duration::from_secs(unix_seconds());
    params.not_before = date_time_ymd(1970, 1, 1) + now.saturating_sub(BEFORE);
    params.not_after = date_time_ymd(1970, 1, 1) + now + DAY * AUTHORITY_DAYS as u32;
    Ok(params)
}

fn check_name(name: &str) -> Result<(), String> {
    let host = name.strip_prefix("*.").unwrap_or(name);
    let plain = |label: &str| {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(legal)
    };
    let is_name = host.len() <= 253 && host.split('.').all(plain);
    match is_name || name.parse::<IpAddr>().is_ok() {
        true => Ok(()),
        false => Err(format!("`{name}` is neither a host name nor an address")),
    }
}

/// Writes a file whole or not at all, with its mode from its first byte on.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    let failed = |error: io::Error| format!("`{}` cannot be written: {error}", path.display());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    written.map_err(|error| {
        // What is half written is of no use; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&beside);
        failed(error)
    })
}
