//! The command line: parse, dispatch, exit code.

use std::process::ExitCode;

use posthouse::cli::{self, Start};
use posthouse::daemon;

fn main() -> ExitCode {
    let outcome = match cli::start(std::env::args_os()) {
        Start::Done(code) => return code,
        Start::Serve { config, file } => daemon::serve(*config, file),
        Start::Restore { config, from, at, backup } => {
            daemon::restore(&config, &daemon::Restoring { from, at, backup })
        }
        Start::Quickstart { dir, demo } => daemon::quickstart(&dir, demo),
        Start::Rebuild { config, store, dry_run, json } => {
            daemon::rebuild(&config, &daemon::RebuildRequest { store, dry_run, json })
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::fail(&error),
    }
}
