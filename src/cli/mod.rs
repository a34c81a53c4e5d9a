//! The command line: one file per verb.

mod ask;
#[cfg(feature = "cert")]
mod cert;
mod check;
pub mod explain;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::schema_json;
use crate::control::serve::{self, RunOptions};
use crate::control::source::ConfigSource;
use crate::demo;
use crate::policy;
use crate::sys::ring::Driver;

/// A thread-per-core API gateway and edge proxy for Linux, on io_uring.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve. Without a configuration: a demonstration with upstreams of its own.
    Run {
        /// Configuration file, YAML or JSON, or a key of Consul's or etcd's that has such a text:
        /// `consul://HOST:8500/KEY`, `etcd://HOST:2379,HOST:2379/KEY`, over TLS `consul+https` and `etcd+https`.
        /// Credentials come from the environment: CONSUL_HTTP_TOKEN, ETCDCTL_USER, ETCDCTL_PASSWORD.
        #[arg(short, long)]
        config: Option<PathBuf>,
        /// Where the last good configuration of a store is kept, for a start while it cannot be reached; `none` for
        /// nowhere. Without this: a file in $STATE_DIRECTORY or /var/lib/ringway.
        #[arg(long, value_name = "FILE", requires = "config")]
        config_cache: Option<PathBuf>,
        /// Worker threads, whatever the configuration says.
        #[arg(long)]
        workers: Option<u32>,
        /// I/O driver to begin with: `defer`, `coop` or `ring` (io_uring, best first) or `epoll`.
        #[arg(long, default_value = "defer", value_parser = parse_driver)]
        driver: Driver,
        /// File to write the process id to.
        #[arg(long)]
        pid_file: Option<PathBuf>,
    },
    /// Let a running gateway load its configuration anew, and tell what became of it.
    Reload(ask::Arguments),
    /// Replace a running gateway by its program as it is on disk now, without losing a client.
    #[command(long_about = ask::UPGRADE_HELP)]
    Upgrade(ask::Arguments),
    /// Check a configuration and report everything that is wrong with it. Exit code 0: good, 2: wrong.
    Check(check::Arguments),
    /// Tell which route takes a request, why the others do not, and what happens to it.
    Explain(explain::Arguments),
    /// Make a certificate for development, signed by an authority of your own.
    #[cfg(feature = "cert")]
    Cert(cert::Arguments),
    /// Print what the program knows about configurations.
    Config {
        #[command(subcommand)]
        what: ConfigVerb,
    },
    /// List the policies of this build, in the order in which they run.
    Policies,
    /// Serve as an origin for demonstrations and load tests.
    #[command(hide = true)]
    DemoUpstream {
        /// Address to listen on.
        #[arg(long)]
        listen: std::net::SocketAddr,
        /// Name that its answers carry.
        #[arg(long, default_value = "demo")]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
    /// Print the reference page of the configuration.
    Reference,
    /// Print a configuration with every default written out and secrets masked.
    Show {
        /// Configuration file, YAML or JSON, or the address of a key in a store as for `run`.
        file: PathBuf,
    },
}

fn parse_driver(word: &str) -> Result<Driver, String> {
    Driver::of(word).ok_or_else(|| "use defer, coop, ring or epoll".to_owned())
}

/// Runs the program.
pub fn main() -> ExitCode {
    match Arguments::parse().verb {
        Verb::Run { config: None, workers, driver, .. } => run_demo(workers, driver),
        Verb::Run { config: Some(word), config_cache, workers, driver, pid_file } => {
            match source(&word, config_cache.as_deref()) {
                Ok(source) => serve::run(RunOptions { source, driver, workers, pid_file }),
                Err(problem) => wrong(&problem),
            }
        }
        Verb::Reload(arguments) => ask::reload(&arguments),
        Verb::Upgrade(arguments) => ask::upgrade(&arguments),
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Explain(arguments) => explain::run(&arguments),
        #[cfg(feature = "cert")]
        Verb::Cert(arguments) => cert::run(&arguments),
        Verb::Config { what: ConfigVerb::Schema } => print_json(&schema_json(policy::SCHEMA)),
        Verb::Config { what: ConfigVerb::Reference } => {
            print!("{}", crate::config::reference_markdown(policy::SCHEMA));
            ExitCode::SUCCESS
        }
        Verb::Config { what: ConfigVerb::Show { file } } => show(file),
        Verb::Policies => {
            for kind in policy::KINDS {
                println!("{:<12} {:<10} {}", kind.name, kind.phase.word(), kind.summary);
            }
            ExitCode::SUCCESS
        }
        Verb::DemoUpstream { listen, name } => demo_upstream(listen, &name),
    }
}

/// Where a configuration comes from that a gateway runs with.
fn source(word: &Path, cache: Option<&Path>) -> Result<ConfigSource, String> {
    let source = ConfigSource::of(word, cache)?;
    match cache.is_some() && source.store().is_none() {
        true => Err("--config-cache is for a configuration in a store, and this one is a file".to_owned()),
        false => Ok(source),
    }
}

/// A configuration for somebody who runs nothing; a store has been asked.
fn asked(word: &Path) -> Result<ConfigSource, String> {
    let source = ConfigSource::of(word, None)?;
    source.ask().map_err(|error| format!("the store cannot be asked: {error}"))?;
    Ok(source)
}

fn wrong(problem: &str) -> ExitCode {
    eprintln!("error: {problem}");
    ExitCode::from(2)
}

/// The gateway in front of origins of its own, so that one command shows a routed, balanced and limited request.
fn run_demo(workers: Option<u32>, driver: Driver) -> ExitCode {
    match demo::embedded() {
        Ok((origins, text)) => {
            let code = serve::run(RunOptions { source: ConfigSource::Embedded(text), driver, workers, pid_file: None });
            drop(origins);
            code
        }
        Err(error) => {
            eprintln!("error: the demo upstreams do not start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo_upstream(listen: std::net::SocketAddr, name: &str) -> ExitCode {
    // A failure to raise the limit shows when connections are refused.
    let _ = crate::sys::limit::raise_descriptors();
    match demo::serve_forever_as(demo::Kind::Bench, listen, name, Driver::RingDeferTaskrun) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot serve on {listen}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show(file: PathBuf) -> ExitCode {
    let source = match asked(&file) {
        Ok(source) => source,
        Err(problem) => return wrong(&problem),
    };
    match source.load() {
        Ok(loaded) => print_json(&loaded.effective()),
        Err(diagnostics) => {
            eprint!("{}", diagnostics.render());
            ExitCode::from(2)
        }
    }
}

fn print_json(value: &serde_json::Value) -> ExitCode {
    println!("{value:#}");
    ExitCode::SUCCESS
}
