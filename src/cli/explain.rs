//! `ringway explain`: which route takes a request, why the others do not, and what happens to it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `ringway explain`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Request method.
    method: String,
    /// URL, or path.
    url: String,
    /// Request header, `Name: value`; may be repeated.
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// Configuration file, YAML or JSON.
    #[arg(short, long)]
    config: PathBuf,
    /// Address of the client.
    #[arg(long, default_value = "127.0.0.1")]
    client: IpAddr,
}

/// Explains the request. Exit code 0: a route takes it, 1: none does, 2: the configuration or the request is wrong.
pub fn run(_arguments: &Arguments) -> ExitCode {
    ExitCode::FAILURE
}
