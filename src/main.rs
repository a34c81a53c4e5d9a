//! The `ringway` program: arguments in, exit code out.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ringway::sys::alloc::Allocator = ringway::sys::alloc::Allocator;

fn main() -> ExitCode {
    ringway::cli::main()
}
