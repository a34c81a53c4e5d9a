//! `ringway cert`: what it makes is what clients believe, and nobody else can read.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::tls::has;
use crate::support::{Gateway, Origin, proxy_to};

fn cert(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.arg("cert").args(arguments).arg("--authority").arg(dir.join("ca")).arg("--out").arg(dir);
    command.output().expect("it runs")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn curl_believes_what_it_makes() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |file: &str| dir.path().join(file);
    let made = cert(dir.path(), &["dev.test", "*.dev.test", "127.0.0.1"]);
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(said.contains("update-ca-certificates") && said.contains("curl --cacert"), "{said}");
    let modes = ["ca", "ca/ca.key", "ca/ca.pem", "dev.test.key", "dev.test.crt"].map(|file| mode(&at(file)));
    assert_eq!(modes, [0o700, 0o600, 0o644, 0o600, 0o644]);
    // The same authority signs again, and says nothing of installing it.
    let authority = std::fs::read(at("ca/ca.pem")).expect("the authority");
    let again = cert(dir.path(), &["*.dev.test", "--days", "10"]);
    assert!(again.status.success() && !String::from_utf8_lossy(&again.stdout).contains("update-ca-certificates"));
    assert_eq!(std::fs::read(at("ca/ca.pem")).expect("the authority"), authority);
    assert!(at("_wildcard.dev.test.crt").is_file());
    let left = std::fs::read_dir(dir.path()).expect("a directory").flatten();
    assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().ends_with(".new")));
    if !has("curl") {
        return;
    }
    let origin = Origin::fixed("hello");
    for file in ["dev.test", "_wildcard.dev.test"] {
        let tls =
            format!("cert: {}, key: {}", at(&format!("{file}.crt")).display(), at(&format!("{file}.key")).display());
        let listener = format!("listeners: [{{address: \"127.0.0.1:0\", tls: {{{tls}}}}}]\n");
        let gateway = Gateway::start(&(listener + &proxy_to(&origin)));
        let port = gateway.address.port();
        let ask = |host: &str| {
            let mut command = Command::new("curl");
            command.args(["-sS", "--max-time", "20", "--resolve", &format!("{host}:{port}:127.0.0.1"), "--cacert"]);
            command.arg(at("ca/ca.pem")).arg(format!("https://{host}:{port}/")).output().expect("curl")
        };
        let answer = ask("a.dev.test");
        assert_eq!(answer.stdout, b"hello", "{}", String::from_utf8_lossy(&answer.stderr));
        assert!(!ask("other.test").status.success(), "a name that it is not for");
    }
}

#[test]
fn what_is_no_name_is_refused_and_nothing_written() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["a b", "a/../b", "*.*.test", "", "a..b"] {
        let made = cert(dir.path(), &[name]);
        assert!(!made.status.success(), "{name}");
    }
    let files: Vec<_> = std::fs::read_dir(dir.path()).expect("a directory").flatten().collect();
    assert!(files.iter().all(|entry| !entry.file_name().to_string_lossy().ends_with(".crt")));
    std::fs::remove_file(dir.path().join("ca/ca.pem")).expect("removed");
    let made = cert(dir.path(), &["a.test"]);
    assert!(String::from_utf8_lossy(&made.stderr).contains("is there without"));
}
