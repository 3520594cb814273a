//! The `tidemark` binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidemark::cli::main()
}
