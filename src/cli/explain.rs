//! `ringway explain`: which route takes a request, why the others do not, and what happens to it (U08, A1).
//!
//! Nothing here decides anything: the request goes through the parser, the routing, the policies and the balancers that
//! serve, so that what is explained is what happens. What workers remember (limits used up, whose turn it is) is not
//! known here; policies and balancers are taken as they are when a worker starts. What a running gateway knows of its
//! endpoints comes from its admin API, where that is given.

pub mod asked;
pub mod live;
mod pick;
pub mod report;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use asked::Asked;
use live::Live;
use report::{Report, explain, explain_live};

use crate::policy::CompileEnv;
use crate::snapshot::{Listener, Snapshot};

/// Candidates that are shown unless `--all` is given.
pub const CANDIDATES_SHOWN_MAX: usize = 10;

/// Arguments of `ringway explain`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Request method.
    method: String,
    /// URL (`http://host/path?query`), `host/path`, or a path alone.
    url: String,
    /// Request header, `Name: value`; may be repeated.
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// Configuration file, YAML or JSON, or the address of a key in a store as for `run`.
    #[arg(short, long)]
    config: PathBuf,
    /// Address of the peer that connects.
    #[arg(long, default_value = "127.0.0.1")]
    client: IpAddr,
    /// Name of the listener that it connects to; the first one if not given.
    #[arg(long)]
    listener: Option<String>,
    /// Address of the admin API of a gateway that runs with this configuration: explains with the endpoints as they are
    /// there now (found, drained, ejected, in slow start), their loads, and circuit breakers.
    #[arg(long)]
    admin: Option<SocketAddr>,
    /// Show every route, however far from matching.
    #[arg(long)]
    all: bool,
    /// Print the explanation as JSON.
    #[arg(long)]
    json: bool,
}

/// Explains the request. Exit code 0: a route takes it, 1: none does, 2: the configuration or the request is wrong.
pub fn run(arguments: &Arguments) -> ExitCode {
    match explained(arguments) {
        Ok(report) => {
            match arguments.json {
                true => println!("{:#}", serde_json::json!(report)),
                false => print!("{report}"),
            }
            ExitCode::from(report.exit_code())
        }
        Err(problem) => {
            eprint!("{problem}");
            ExitCode::from(2)
        }
    }
}

fn explained(arguments: &Arguments) -> Result<Report, String> {
    let source = super::asked(&arguments.config).map_err(|problem| format!("error: {problem}\n"))?;
    let env = CompileEnv { workers: 1, random: 0 };
    let ready = source.examine(env).map_err(|diagnostics| diagnostics.render())?;
    let listener = listener(&ready.snapshot, arguments.listener.as_deref())?;
    let asked = Asked {
        method: arguments.method.clone(),
        url: arguments.url.clone(),
        headers: arguments.headers.clone(),
        peer: arguments.client,
    };
    let shown_max = if arguments.all { usize::MAX } else { CANDIDATES_SHOWN_MAX };
    let line = |problem: String| format!("{problem}\n");
    let report = explain(&ready.snapshot, listener, &asked, shown_max).map_err(line)?;
    let Some(admin) = arguments.admin else { return Ok(report) };
    let live = Live::ask(admin, &report).map_err(line)?;
    explain_live(&ready.snapshot, listener, &asked, shown_max, &live).map_err(line)
}

fn listener<'a>(snapshot: &'a Snapshot, wanted: Option<&str>) -> Result<&'a Listener, String> {
    let found = match wanted {
        Some(name) => snapshot.listeners.iter().find(|listener| listener.name == name),
        None => snapshot.listeners.first(),
    };
    let names: Vec<_> = snapshot.listeners.iter().map(|listener| listener.name.as_str()).collect();
    found.ok_or_else(|| format!("there is no such listener; there are: {}\n", names.join(", ")))
}
