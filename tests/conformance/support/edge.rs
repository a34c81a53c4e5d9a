//! What stands between client and origin: ringway, or another proxy in a configuration as near to stock as working
//! allows.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use super::e2e::{Gateway, eventually};

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ringway,
    Nginx,
    Haproxy,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Ringway, Kind::Nginx, Kind::Haproxy];

    pub const fn word(self) -> &'static str {
        match self {
            Kind::Ringway => "ringway",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
        }
    }

    /// The proxy that `RINGWAY_PEER` names, if it is set.
    pub fn asked() -> Option<Kind> {
        let wanted = std::env::var("RINGWAY_PEER").ok()?;
        let found = Kind::ALL.into_iter().find(|kind| kind.word() == wanted);
        Some(found.unwrap_or_else(|| panic!("RINGWAY_PEER: ringway, nginx or haproxy, not {wanted}")))
    }

    const fn program(self) -> &'static str {
        match self {
            Kind::Ringway => env!("CARGO_BIN_EXE_ringway"),
            Kind::Nginx => "/usr/sbin/nginx",
            Kind::Haproxy => "/usr/sbin/haproxy",
        }
    }

    /// Its version as it says it itself; none when it is not installed.
    pub fn version(self) -> Option<String> {
        let flag = if self == Kind::Ringway { "--version" } else { "-v" };
        let output = Command::new(self.program()).arg(flag).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let is_version = |word: &&str| word.contains('.') && word.contains(|c: char| c.is_ascii_digit());
        let text = String::from_utf8_lossy(&text).into_owned();
        let word = text.split(|c: char| c.is_whitespace() || c == '/').find(is_version)?;
        Some(word.to_owned())
    }

    /// Starts it before this origin, for every path.
    #[track_caller]
    pub fn start(self, origin: SocketAddr) -> Edge {
        match self {
            Kind::Ringway => {
                let yaml = format!(
                    "services: [{{name: up, endpoints: [\"{origin}\"]}}]\n\
                     routes: [{{name: all, path: /*, service: up}}]\n"
                );
                let gateway = Gateway::start(&yaml);
                Edge { address: gateway.address, gateway: Some(gateway), peer: None }
            }
            _ => self.start_peer(origin),
        }
    }

    fn start_peer(self, origin: SocketAddr) -> Edge {
        let dir = tempfile::tempdir().expect("a directory");
        let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let file = dir.path().join("peer.conf");
        let mut command = Command::new(self.program());
        if self == Kind::Nginx {
            std::fs::write(&file, nginx(dir.path().to_str().expect("a path"), address, origin)).expect("written");
            command.arg("-p").arg(dir.path()).arg("-c").arg(&file).args(["-e", "stderr"]);
        } else {
            std::fs::write(&file, haproxy(address, origin)).expect("written");
            command.arg("-db").arg("-f").arg(&file);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let peer = Peer { child: child.expect("the peer is started"), _dir: dir };
        eventually("the peer listens", || TcpStream::connect(address).ok());
        Edge { address, gateway: None, peer: Some(peer) }
    }
}

fn nginx(dir: &str, address: SocketAddr, origin: SocketAddr) -> String {
    format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/pid; events {{}}\n\
         http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;\n\
         uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
         server {{ listen {address}; location / {{ proxy_pass http://{origin}; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; }} }}\n\
         server {{ listen {address}; server_name deny.test; location /admin {{ return 403; }}\n\
         location / {{ proxy_pass http://{origin}; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n"
    )
}

fn haproxy(address: SocketAddr, origin: SocketAddr) -> String {
    format!(
        "global\n  maxconn 1000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 50s\n  \
         timeout server 50s\nfrontend f\n  bind {address}\n  \
         http-request deny deny_status 403 if {{ hdr(host) deny.test }} {{ path_beg /admin }}\n  \
         default_backend b\nbackend b\n  server s {origin}\n"
    )
}

/// A running proxy; ends with its guard.
pub struct Edge {
    pub address: SocketAddr,
    /// The gateway, if it is ours.
    pub gateway: Option<Gateway>,
    #[allow(dead_code, reason = "held so that it ends with this")]
    peer: Option<Peer>,
}

struct Peer {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is no more afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
