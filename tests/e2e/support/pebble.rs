//! Pebble, the ACME authority that Let's Encrypt tests clients with, as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::dns::NameServer;
use super::tls::{Authority, Issued};

/// How it is set up.
#[derive(Clone)]
pub struct Setup {
    /// Where it validates `http-01`.
    pub http: u16,
    /// Where it validates `tls-alpn-01`.
    pub tls: u16,
    /// How long its certificates are good for, in seconds.
    pub life_s: u64,
    /// The id and key of the customer that accounts must be bound to.
    pub binding: Option<(&'static str, &'static str)>,
}

/// The authority with its name server; ends with its guard.
pub struct Pebble {
    pub names: NameServer,
    /// Who has signed its own certificate.
    ca: Authority,
    own: Issued,
    port: u16,
    management: u16,
    child: Option<Child>,
    log: Arc<Mutex<Vec<String>>>,
}

/// The program, where it is installed; says so when the test is skipped.
pub fn program() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/pebble");
    let named = std::env::var_os("PEBBLE").map(PathBuf::from);
    let found = named.into_iter().chain([built]).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: pebble is not installed (./test does it)");
    }
    found
}

/// Ports that nobody listens on; somebody may take them before they are used.
fn free_ports() -> [u16; 2] {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    sockets.map(|socket| socket.local_addr().expect("an address").port())
}

impl Pebble {
    pub fn start(program: &Path, setup: &Setup) -> Self {
        let ca = Authority::new("pebble");
        let own = ca.issue("own", &["127.0.0.1"]);
        let log = Arc::default();
        let mut pebble = Self { names: NameServer::start(), ca, own, port: 0, management: 0, child: None, log };
        for _ in 0..20 {
            [pebble.port, pebble.management] = free_ports();
            if pebble.run(program, setup) {
                return pebble;
            }
        }
        panic!("pebble does not start: {:?}", pebble.log.lock().expect("lines"));
    }

    /// Runs it at its ports, with nothing remembered. Returns false when it ends by itself.
    pub fn run(&mut self, program: &Path, setup: &Setup) -> bool {
        let mut config = serde_json::json!({
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": self.own.cert, "privateKey": self.own.key,
            "httpPort": setup.http, "tlsPort": setup.tls, "ocspResponderURL": "",
            "externalAccountBindingRequired": setup.binding.is_some(),
            "retryAfter": { "authz": 1, "order": 1 }, "keyAlgorithm": "ecdsa",
            "profiles": { "default": { "description": "the one", "validityPeriod": setup.life_s } },
        });
        if let Some((id, key)) = setup.binding {
            config["externalAccountMACKeys"] = serde_json::json!({ id: key });
        }
        let file = self.ca.path("pebble.json");
        std::fs::write(&file, serde_json::json!({ "pebble": config }).to_string()).expect("written");
        let mut command = Command::new(program);
        command.args(["-config", &file.display().to_string(), "-strict"]);
        command.args(["-dnsserver", &self.names.address.to_string()]);
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("pebble");
        let (lines, out) = (self.log.clone(), child.stdout.take().expect("a pipe"));
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                lines.lock().expect("lines").push(line);
            }
        });
        for port in [self.port, self.management] {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            while TcpStream::connect(address).is_err() {
                if child.try_wait().expect("a child").is_some() {
                    return false;
                }
                thread::park_timeout(Duration::from_millis(5));
            }
        }
        self.child = Some(child);
        true
    }

    /// Ends it.
    pub fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// `directory: URL, ca: FILE`.
    pub fn yaml(&self) -> String {
        format!("directory: \"https://127.0.0.1:{}/dir\", ca: {}", self.port, self.ca.ca().display())
    }

    /// The certificate at the end of the chains that it issues, as PEM.
    pub fn root(&self) -> String {
        let address = SocketAddr::from(([127, 0, 0, 1], self.management));
        let mut secured = super::tls::connect(address, &Arc::new(self.ca.client(None)), "127.0.0.1", false);
        let response = super::tls::get_path(&mut secured, "/roots/0", "127.0.0.1", "").expect("its root");
        response[response.find("-----BEGIN").expect("PEM")..].to_owned()
    }

    /// Orders of certificates that it has taken. It refuses some requests for their nonce, as it likes: clients repeat
    /// them.
    pub fn orders(&self) -> usize {
        self.log.lock().expect("lines").iter().filter(|line| line.contains("Added order ")).count()
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("lines").join("\n")
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            eprintln!("--- pebble ---\n{}\n---", self.log());
        }
    }
}

/// As [`super::eventually`], for what takes an authority's time.
#[track_caller]
pub fn in_time<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "did not happen: {what}");
        thread::park_timeout(Duration::from_millis(50));
    }
}
