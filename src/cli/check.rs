//! `ringway check`: everything that is wrong with a configuration, without serving it.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::policy::CompileEnv;

/// Arguments of `ringway check`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Configuration file, YAML or JSON, or the address of a key in a store as for `run`.
    file: PathBuf,
    /// Exit with code 1 when there are warnings.
    #[arg(long)]
    strict: bool,
    /// Print diagnostics as JSON.
    #[arg(long)]
    json: bool,
}

/// Checks the file. Exit code 0: good, 1: warnings and `--strict`, 2: wrong.
pub fn run(arguments: &Arguments) -> ExitCode {
    let source = match super::asked(&arguments.file) {
        Ok(source) => source,
        Err(problem) => return super::wrong(&problem),
    };
    let (diagnostics, code) = match source.examine(CompileEnv { workers: 1, random: 0 }) {
        Ok(ready) if ready.warnings.sorted().is_empty() => (None, 0),
        Ok(ready) => (Some(Box::new(ready.warnings)), u8::from(arguments.strict)),
        Err(diagnostics) => (Some(diagnostics), 2),
    };
    match &diagnostics {
        Some(diagnostics) if arguments.json => println!("{:#}", diagnostics.to_json()),
        Some(diagnostics) => eprint!("{}", diagnostics.render()),
        None if arguments.json => println!("[]"),
        None => println!("{}: the configuration is good", arguments.file.display()),
    }
    ExitCode::from(code)
}
