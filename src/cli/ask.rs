//! `ringway reload` and `ringway upgrade`: ask a running gateway, wait, and tell what became of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::control::outcome;
use crate::sys::process::{self, Ask};

/// Longer than the gateway takes for anything that it answers.
const PATIENCE: Duration = Duration::from_secs(25);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Help of `ringway upgrade`.
pub const UPGRADE_HELP: &str = "\
Replace a running gateway by its program as it is on disk now, without losing a client.

The running process starts its program anew, with the same arguments, and passes all its listening sockets on. The new
process reads and checks its configuration and starts its workers; only when it says that it serves does the old one
stop accepting. The old one finishes its requests, gives each kept connection one more response with
`Connection: close`, and ends after `server.drain_timeout` at the latest. If the new one does not serve within 10 s, the
old one goes on as before and this command tells why.

Exit code 0: the new process serves; 1: it does not, the old one serves on; 3: no upgrade was begun (another one or a
reload is under way, or the gateway stops); 4: nobody answered.

The same without an answer: kill -USR2 PID.";

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Address of its admin API. Without this and others: 127.0.0.1:9901.
    #[arg(long, group = "whom")]
    admin: Option<SocketAddr>,
    /// Its configuration file, or the address of its key in a store, which tells the address of its admin API.
    #[arg(short, long, group = "whom")]
    config: Option<PathBuf>,
    /// Its process id: asks by signal.
    #[arg(long, group = "whom")]
    pid: Option<u32>,
    /// The file with its process id: asks by signal.
    #[arg(long, group = "whom")]
    pid_file: Option<PathBuf>,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

/// `ringway reload`. Exit code 0: applied, 2: refused, the old configuration serves on, 3: busy, 4: no answer.
pub fn reload(arguments: &Arguments) -> ExitCode {
    finish(arguments, ask(arguments, "reload", "/config/reload", Ask::Reload))
}

/// `ringway upgrade`. Exit codes as in [`UPGRADE_HELP`].
pub fn upgrade(arguments: &Arguments) -> ExitCode {
    finish(arguments, ask(arguments, "upgrade", "/upgrade", Ask::Upgrade))
}

fn finish(arguments: &Arguments, outcome: Result<Value, String>) -> ExitCode {
    match outcome {
        Ok(outcome) => {
            let code = exit_code(&outcome);
            let text = if arguments.json { format!("{outcome:#}") } else { told(&outcome) };
            if code == 0 {
                println!("{text}")
            } else {
                eprintln!("{text}")
            }
            ExitCode::from(code)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(4)
        }
    }
}

fn exit_code(outcome: &Value) -> u8 {
    match outcome["result"].as_str() {
        Some("applied" | "unchanged" | "done") => 0,
        Some("failed") => 1,
        Some("rejected") => 2,
        _ => 3,
    }
}

fn told(outcome: &Value) -> String {
    let text = |key: &str| outcome[key].as_str().unwrap_or_default().to_owned();
    match outcome["result"].as_str() {
        Some("applied") => format!("generation {} serves\n{}", outcome["generation"], changes(&outcome["changes"])),
        Some("unchanged") => format!("generation {} serves on: nothing has changed", outcome["generation"]),
        Some("rejected") => {
            format!("refused, generation {} serves on\n{}", outcome["generation"], diagnostics(&outcome["diagnostics"]))
        }
        Some("done") => format!("process {} serves", outcome["pid"]),
        Some("failed") => format!("failed, the old process serves on: {}", text("error")),
        Some("refused") => format!("not begun: {}", text("error")),
        _ => match text("error") {
            error if error.is_empty() => "busy: a reload or an upgrade is under way, or the gateway stops".to_owned(),
            error => error,
        },
    }
}

/// One line for each kind of thing that is different.
fn changes(changes: &Value) -> String {
    let names = |value: &Value| {
        let names = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        names.collect::<Vec<_>>().join(", ")
    };
    let mut lines = Vec::new();
    for (kind, parts) in changes.as_object().into_iter().flatten() {
        if parts.is_array() && !names(parts).is_empty() {
            lines.push(format!("  needs a restart or an upgrade: {}", names(parts)));
        }
        for (what, list) in parts.as_object().into_iter().flatten().filter(|(_, list)| !names(list).is_empty()) {
            lines.push(format!("  {kind} {what}: {}", names(list)));
        }
    }
    if lines.is_empty() {
        lines.push("  nothing with a name has changed".to_owned());
    }
    lines.join("\n")
}

fn diagnostics(all: &Value) -> String {
    let line = |one: &Value| {
        let place = match (one["file"].as_str(), one["line"].as_u64(), one["column"].as_u64()) {
            (Some(file), Some(line), Some(column)) => format!("{file}:{line}:{column}: "),
            _ => String::new(),
        };
        format!("  {place}{}", one["message"].as_str().map_or_else(|| one.to_string(), str::to_owned))
    };
    // The compiler's findings come with their file, the system's refusals as they are.
    let all = all["diagnostics"].as_array().or(all.as_array());
    all.into_iter().flatten().map(line).collect::<Vec<_>>().join("\n")
}

fn ask(arguments: &Arguments, what: &str, path: &str, signal: Ask) -> Result<Value, String> {
    let pid = match &arguments.pid_file {
        Some(path) => Some(pid_in(path)?),
        None => arguments.pid,
    };
    match pid {
        Some(pid) => by_signal(pid, what, signal),
        None => over_admin(admin_address(arguments)?, path),
    }
}

fn pid_in(path: &Path) -> Result<u32, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    text.trim().parse().map_err(|_| format!("{}: no process id", path.display()))
}

fn by_signal(pid: u32, what: &str, signal: Ask) -> Result<Value, String> {
    let listener = outcome::Listener::new(what, pid)
        .map_err(|error| format!("somebody else waits for the {what} of process {pid} already: {error}"))?;
    process::ask(pid, signal).map_err(|error| format!("process {pid} cannot be asked: {error}"))?;
    let outcome = listener.wait(PATIENCE);
    outcome.ok_or_else(|| format!("process {pid} was asked, but gave no answer: see its log"))
}

fn admin_address(arguments: &Arguments) -> Result<SocketAddr, String> {
    if let Some(address) = arguments.admin {
        return Ok(address);
    }
    let Some(path) = &arguments.config else { return Ok(SocketAddr::from(([127, 0, 0, 1], 9901))) };
    let loaded = super::asked(path)?.load();
    let config = loaded.map_err(|_| format!("{} is wrong, so use --admin or --pid", path.display()))?.config;
    match config.admin.enabled {
        true => Ok(config.admin.listen.0),
        false => Err("its admin API is off, so use --pid".to_owned()),
    }
}

fn over_admin(address: SocketAddr, path: &str) -> Result<Value, String> {
    let answer = exchange(address, "POST", path)
        .map_err(|error| format!("the admin API at {address} gives no answer: {error}"))?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).unwrap_or("none");
    match serde_json::from_str::<Value>(body) {
        Ok(outcome) if outcome["result"].is_string() || status == "409" => Ok(outcome),
        Ok(other) => Err(format!("the admin API at {address} answers {status}: {}", other["error"])),
        Err(_) => Ok(json!({ "error": format!("the admin API at {address} answers {status}") })),
    }
}

/// What the admin API tells; None where there is no such thing.
///
/// # Errors
/// Why it tells nothing.
pub(super) fn get(address: SocketAddr, path: &str) -> Result<Option<Value>, String> {
    let answer = exchange(address, "GET", path);
    let answer = answer.map_err(|error| format!("the admin API at {address} gives no answer: {error}"))?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    match head.split(' ').nth(1) {
        Some("200") => serde_json::from_str(body).map(Some).map_err(|_| format!("{address} is no admin API")),
        Some("404") => Ok(None),
        status => Err(format!("the admin API at {address} answers {}", status.unwrap_or("nothing"))),
    }
}

fn exchange(address: SocketAddr, method: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_have_their_codes_and_words() {
        for (outcome, code, words) in [
            (json!({"result": "done", "pid": 7}), 0, "process 7 serves"),
            (json!({"result": "failed", "error": "no port"}), 1, "failed, the old process serves on: no port"),
            (json!({"result": "refused", "error": "busy"}), 3, "not begun: busy"),
            (json!({"result": "busy"}), 3, "busy: a reload or an upgrade is under way, or the gateway stops"),
            (
                json!({"result": "applied", "generation": 2, "changes": {
                    "routes": {"added": ["a"], "removed": [], "changed": []}, "needs_restart": ["server.workers"]}}),
                0,
                "generation 2 serves\n  routes added: a\n  needs a restart or an upgrade: server.workers",
            ),
            (
                json!({"result": "rejected", "generation": 1, "diagnostics": [{"message": "bad"}]}),
                2,
                "refused, generation 1 serves on\n  bad",
            ),
            (
                json!({"result": "rejected", "generation": 1, "diagnostics": {"file": "a.yaml", "diagnostics": [
                    {"file": "a.yaml", "line": 2, "column": 3, "message": "worse"}]}}),
                2,
                "refused, generation 1 serves on\n  a.yaml:2:3: worse",
            ),
        ] {
            assert_eq!((exit_code(&outcome), told(&outcome).as_str()), (code, words));
        }
    }
}
