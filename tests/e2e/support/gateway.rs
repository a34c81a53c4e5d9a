//! The gateway as a process of its own, ended with its guard.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{Client, Response};
use super::{PATIENCE, eventually};

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_ringway");

/// How to start a gateway.
pub struct Plan {
    yaml: String,
    /// Where its configuration comes from, if not from a file.
    source: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    descriptors: Option<u32>,
    binary: PathBuf,
    sockets: Vec<TcpListener>,
    may_panic: bool,
}

/// A running gateway. Dropping it ends the process and fails the test if anything panicked.
pub struct Gateway {
    /// Its first listener.
    pub address: SocketAddr,
    /// All its listeners.
    pub addresses: Vec<SocketAddr>,
    /// Its admin listener.
    pub admin: SocketAddr,
    /// A directory for this gateway alone; the configuration is in it.
    pub dir: tempfile::TempDir,
    child: Child,
    stderr: Lines,
    stdout: Lines,
    may_panic: bool,
}

/// A gateway that ended by itself.
pub struct Exited {
    pub code: Option<i32>,
    pub stderr: String,
}

type Lines = Arc<Mutex<Vec<String>>>;

impl Plan {
    pub fn new(yaml: &str) -> Self {
        let binary = PathBuf::from(BINARY);
        let (arguments, environment, sockets) = (Vec::new(), Vec::new(), Vec::new());
        let source = None;
        Self {
            yaml: complete(yaml),
            source,
            arguments,
            environment,
            descriptors: None,
            binary,
            sockets,
            may_panic: false,
        }
    }

    /// The example `config/NAME.yaml` as it stands, at addresses of the system's choice.
    pub fn example(name: &str) -> Self {
        let path = example_path(name);
        let yaml = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let plan = Self { yaml, ..Self::new("") };
        plan.env("RINGWAY_LISTEN", "127.0.0.1:0").env("RINGWAY_ADMIN", "127.0.0.1:0")
    }

    /// One whose configuration is in a store.
    pub fn stored(address: &str) -> Self {
        Self { source: Some(address.to_owned()), ..Self::new("") }
    }

    pub fn arguments(mut self, more: &[&str]) -> Self {
        self.arguments.extend(more.iter().map(|&text| text.to_owned()));
        self
    }

    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// Runs under this limit of open descriptors.
    pub fn descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// The same with another text in its configuration.
    pub fn replace(mut self, from: &str, to: &str) -> Self {
        assert!(self.yaml.contains(from), "{from} in {}", self.yaml);
        self.yaml = self.yaml.replace(from, to);
        self
    }

    /// Runs this file, a copy of the program.
    pub fn binary(mut self, path: &Path) -> Self {
        self.binary = path.to_owned();
        self
    }

    /// Starts it like a service manager does that listens on this socket for it.
    pub fn socket(mut self, socket: TcpListener) -> Self {
        self.sockets.push(socket);
        self
    }

    /// The program, in a shell where something has to be arranged before it.
    fn command(&self) -> Command {
        let mut script = String::new();
        if let Some(most) = self.descriptors {
            script.push_str(&format!("ulimit -n {most} && "));
        }
        let copy = |socket: &TcpListener| OwnedFd::from(socket.try_clone().expect("a descriptor"));
        let copies: Vec<OwnedFd> = self.sockets.iter().map(copy).collect();
        // They go where a service manager puts them: to 3 and the numbers behind it.
        for (at, copy) in copies.iter().enumerate() {
            let number = copy.as_raw_fd();
            script.push_str(&format!("exec {}<&{number} {number}<&- && ", 500 + at));
        }
        for at in 0..copies.len() {
            script.push_str(&format!("exec {}<&{} {}<&- && ", 3 + at, 500 + at, 500 + at));
        }
        if !copies.is_empty() {
            script.push_str(&format!("export LISTEN_PID=$$ LISTEN_FDS={} && ", copies.len()));
        }
        if script.is_empty() {
            return Command::new(&self.binary);
        }
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(format!("{script}exec \"$0\" \"$@\"")).arg(&self.binary);
        ringway::sys::process::inherit(&mut shell, copies);
        shell
    }

    /// Requests may ask for faults (`src/worker/faults.rs`), and panics are no failure of the test.
    pub fn faults(mut self) -> Self {
        self.may_panic = true;
        self.env("RINGWAY_FAULTS", 1)
    }

    fn spawn(&self, dir: &Path) -> Child {
        let file = dir.join("ringway.yaml");
        std::fs::write(&file, &self.yaml).expect("the configuration is written");
        let mut command = self.command();
        let source = self.source.as_ref().map_or(file.as_os_str(), |address| address.as_ref());
        command.arg("run").arg("-c").arg(source).args(&self.arguments);
        command.env_remove("NOTIFY_SOCKET").envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the gateway is started")
    }

    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start(self) -> Gateway {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = self.spawn(dir.path());
        let stderr = collect(child.stderr.take().expect("a pipe"));
        let stdout = collect(child.stdout.take().expect("a pipe"));
        let begun = Instant::now();
        let nobody: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let mut gateway = Gateway {
            address: nobody,
            addresses: Vec::new(),
            admin: nobody,
            dir,
            child,
            stderr,
            stdout,
            may_panic: self.may_panic,
        };
        while gateway.find_log("ready").is_none() {
            let ended = gateway.child.try_wait().expect("a child");
            assert!(ended.is_none(), "ended at its start: {ended:?}\n{}\n{}", gateway.stderr(), self.yaml);
            assert!(begun.elapsed() < PATIENCE, "not ready:\n{}", gateway.stderr());
            thread::park_timeout(Duration::from_millis(1));
        }
        gateway.addresses = gateway.logged_addresses("listening");
        gateway.address = gateway.addresses.first().copied().unwrap_or(nobody);
        gateway.admin = gateway.logged_addresses("admin listening").first().copied().unwrap_or(nobody);
        gateway
    }

    /// Starts it and waits until it ends.
    #[track_caller]
    pub fn start_in_vain(self) -> Exited {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = self.spawn(dir.path());
        let stderr = collect(child.stderr.take().expect("a pipe"));
        let status = wait(&mut child, PATIENCE);
        if status.is_none() {
            end(&mut child);
        }
        let code = status.expect("ends by itself").code();
        eventually("the log is read", || (Arc::strong_count(&stderr) == 1).then_some(()));
        let stderr = stderr.lock().expect("lines").join("\n");
        Exited { code, stderr }
    }
}

/// Where an example is.
pub fn example_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name).with_extension("yaml")
}

/// What most tests leave out: listeners, the admin listener and one worker, at addresses of the system's choice.
pub fn complete(yaml: &str) -> String {
    let mut text = yaml.to_owned();
    let has = |key: &str| yaml.lines().any(|line| line.starts_with(key));
    for (key, value) in [
        ("listeners:", " [\"127.0.0.1:0\"]"),
        ("admin:", " {listen: \"127.0.0.1:0\"}"),
        ("server:", " {workers: 1, pin_workers: false}"),
    ] {
        if !has(key) && !has("api_gateway:") {
            text = format!("{key}{value}\n{text}");
        }
    }
    text
}

fn collect(pipe: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let theirs = lines.clone();
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            theirs.lock().expect("lines").push(text);
            line.clear();
        }
    });
    lines
}

fn wait(child: &mut Child, patience: Duration) -> Option<std::process::ExitStatus> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return Some(status);
        }
        if begun.elapsed() > patience {
            return None;
        }
        thread::park_timeout(Duration::from_millis(1));
    }
}

fn end(child: &mut Child) {
    // It may have ended already; either way it is no more afterwards.
    let _ = child.kill();
    let _ = child.wait();
}

impl Gateway {
    /// Starts a gateway with this configuration.
    #[track_caller]
    pub fn start(yaml: &str) -> Self {
        Plan::new(yaml).start()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection to its first listener.
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// One GET over a connection of its own.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    /// One request, as it stands, over a connection of its own.
    #[track_caller]
    pub fn ask(&self, request: impl AsRef<[u8]>) -> Response {
        let mut client = self.connect();
        client.send(request);
        client.response()
    }

    /// One request to the admin API.
    #[track_caller]
    pub fn ask_admin(&self, method: &str, path: &str) -> Response {
        let mut client = Client::connect(self.admin);
        client.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ));
        client.response()
    }

    /// Addresses of the endpoints of service `up`, in their order; none for a name that does not resolve.
    pub fn resolved(&self) -> Vec<String> {
        let endpoints = self.ask_admin("GET", "/services/up/endpoints").json();
        let text = |endpoint: &Value| endpoint["resolved"].as_str().map(str::to_owned);
        endpoints.as_array().expect("a list").iter().filter_map(text).collect()
    }

    /// Tier, weight and address of each endpoint of `up`, in order.
    pub fn resolved_shares(&self) -> Vec<(u64, u64, String)> {
        let told = self.ask_admin("GET", "/services/up/endpoints").json();
        let number = |one: &Value, key: &str| one[key].as_u64().expect("a number");
        let share = |one: &Value| {
            let place = one["resolved"].as_str().expect("an address").to_owned();
            (number(one, "priority"), number(one, "weight"), place)
        };
        let mut shares: Vec<_> = told.as_array().expect("a list").iter().map(share).collect();
        shares.sort();
        shares
    }

    /// The same without ports, sorted.
    pub fn resolved_ips(&self) -> Vec<String> {
        let ip = |address: String| address.rsplit_once(':').map(|(ip, _)| ip.to_owned());
        let mut all: Vec<_> = self.resolved().into_iter().filter_map(ip).collect();
        all.sort();
        all
    }

    /// Waits until these are the addresses without ports, sorted.
    #[track_caller]
    pub fn wait_resolved_ips(&self, expected: &[&str]) {
        eventually(&format!("endpoints are {expected:?}"), || (self.resolved_ips() == expected).then_some(()));
    }

    /// Tunnels that are open.
    pub fn open_tunnels(&self) -> f64 {
        self.metric("ringway_worker_tunnels_open", &[])
    }

    /// Waits until so many tunnels are open.
    #[track_caller]
    pub fn wait_open_tunnels(&self, count: f64) {
        eventually(&format!("{count} tunnels"), || (self.open_tunnels() == count).then_some(()));
    }

    #[track_caller]
    pub fn metrics(&self) -> String {
        self.ask_admin("GET", "/metrics").text()
    }

    /// The sum of all series of a metric whose labels hold these texts.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let page = self.metrics();
        let is_wanted = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        };
        page.lines().filter(is_wanted).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// The values of a metric for each worker.
    #[track_caller]
    pub fn by_worker(&self, name: &str, workers: usize) -> Vec<f64> {
        (0..workers).map(|worker| self.metric(name, &[&format!("worker=\"{worker}\"")])).collect()
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("ringway.yaml")
    }

    /// Writes another configuration. `complete` decides on listeners like at the start.
    pub fn write_config(&self, yaml: &str) {
        let next = self.dir.path().join("next.yaml");
        std::fs::write(&next, complete(yaml)).expect("written");
        std::fs::rename(&next, self.config_path()).expect("renamed");
    }

    /// Writes another configuration and asks for it to be loaded.
    #[track_caller]
    pub fn reload(&self, yaml: &str) -> Response {
        self.write_config(yaml);
        self.ask_admin("POST", "/config/reload")
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().expect("kill runs");
        assert!(sent.success(), "kill -s {name}");
    }

    /// Waits until the process has ended by itself and returns its exit code.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        match wait(&mut self.child, PATIENCE) {
            Some(status) => status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)),
            None => panic!("still runs:\n{}", self.stderr()),
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("lines").join("\n")
    }

    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lock().expect("lines").clone()
    }

    /// The messages of its log with this text.
    pub fn logs(&self, message: &str) -> Vec<Value> {
        let lines = self.stderr.lock().expect("lines");
        let parsed = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        parsed.filter(|entry| entry["message"] == message).collect()
    }

    fn find_log(&self, message: &str) -> Option<Value> {
        self.logs(message).into_iter().next()
    }

    #[track_caller]
    pub fn wait_log(&self, message: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} times {message:?} in the log"), || {
            let found = self.logs(message);
            (found.len() >= count).then_some(found)
        })
    }

    pub fn logged_addresses(&self, message: &str) -> Vec<SocketAddr> {
        let address = |entry: &Value| entry["address"].as_str().and_then(|text| text.parse().ok());
        self.logs(message).iter().filter_map(address).collect()
    }

    /// CPU time of the process so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let behind_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = behind_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Waits until the process does nothing: no hostile input may leave it looping (F60).
    #[track_caller]
    pub fn wait_idle(&self) {
        eventually("the gateway is idle", || {
            let before = self.cpu();
            thread::park_timeout(Duration::from_millis(150));
            (self.cpu() == before).then_some(())
        });
    }

    /// Resident memory of its own, in KiB: pages of the program come and go with what runs.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        end(&mut self.child);
        eventually("the log is read", || (Arc::strong_count(&self.stderr) == 1).then_some(()));
        let text = self.stderr();
        if thread::panicking() {
            eprintln!("--- the gateway's log ---\n{text}\n---");
        } else {
            assert!(self.may_panic || !text.contains("panicked"), "the gateway panicked:\n{text}");
        }
    }
}
