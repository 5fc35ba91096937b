//! `posthouse admin second-factor …`

use std::path::{Path, PathBuf};

use clap::Subcommand;
use secrecy::ExposeSecret as _;

use super::client::Call;
use super::failure::Failure;
use super::output::{Column, columns};
use super::plan::{Change, Destruction, Plan, RecoveryFile};
use super::prompt::{ask_code, consent};

const BEGUN: &[Column] = columns![
    "Administrator" "name" Text, "Secret, shown only now" "secret" Text, "For a QR code" "uri" Text
];
const CODES: &[Column] = columns![
    "Administrator" "name" Text, "Recovery codes, shown only now" "recovery_codes" List,
    "Recovery codes in" "saved_in" Text
];
const GONE: &[Column] = columns!["Administrator" "name" Text];

/// Second factors: codes of an authenticator beside the password. All but `reset` is about your own
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Begin to set yours up: prints a secret for an authenticator. It counts once it is confirmed
    Enrol {
        #[command(flatten)]
        change: Change,
    },
    /// Confirm it with a code of the authenticator; recovery codes are printed once
    Confirm {
        /// Read the code from a file; otherwise it is asked for
        #[arg(long, value_name = "FILE")]
        code_file: Option<PathBuf>,
        #[command(flatten)]
        recovery_file: RecoveryFile,
        #[command(flatten)]
        change: Change,
    },
    /// Make new recovery codes; those of before end
    RecoveryCodes {
        /// Read a code from a file, where you are not asked for it by --login
        #[arg(long, value_name = "FILE")]
        code_file: Option<PathBuf>,
        #[command(flatten)]
        recovery_file: RecoveryFile,
        #[command(flatten)]
        change: Change,
    },
    /// Remove yours, with a code of it
    Remove {
        /// Read a code from a file, where you are not asked for it by --login
        #[arg(long, value_name = "FILE")]
        code_file: Option<PathBuf>,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Take away the second factor of an administrator who has lost it
    Reset {
        /// The administrator
        name: String,
        #[command(flatten)]
        destruction: Destruction,
    },
}

/// The operation, with the code of a file that was named.
fn with_code(operation: &'static str, file: Option<&Path>) -> Result<Call, Failure> {
    let code = file.map(|file| ask_code(Some(file))).transpose()?;
    Ok(Call::new(operation).maybe("code", code.map(|code| code.expose_secret().to_owned())))
}

impl Command {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        let kept = "keep the recovery codes apart from the authenticator";
        Ok(match self {
            Self::Enrol { change } => {
                let done = "give the secret to an authenticator, then: posthouse admin second-factor confirm";
                let call = Call::new("second-factor.enrol");
                Plan::Change { call, change, done: done.to_owned(), columns: BEGUN }
            }
            Self::Confirm { code_file, recovery_file, change } => {
                let code = ask_code(code_file.as_deref())?;
                let call = Call::new("second-factor.confirm").with("code", code.expose_secret());
                let done = format!("from now on logging in takes a code; {kept}");
                Plan::Issue { call, change, done, columns: CODES, secret: recovery_file.into() }
            }
            Self::RecoveryCodes { code_file, recovery_file, change } => {
                let call = with_code("second-factor.recovery-codes", code_file.as_deref())?;
                let done = format!("those of before have ended; {kept}");
                Plan::Issue { call, change, done, columns: CODES, secret: recovery_file.into() }
            }
            Self::Remove { code_file, destruction } => {
                let Destruction { dry_run, yes } = destruction;
                // Not by a dry run that shows the plan: it would take a code of its own.
                if !dry_run {
                    consent("Remove your second factor and its recovery codes?", yes)?;
                }
                let call = with_code("second-factor.remove", code_file.as_deref())?;
                let done = "your second factor is removed".to_owned();
                Plan::Change { call, change: Change { dry_run }, done, columns: &[] }
            }
            Self::Reset { name, destruction } => {
                let call = Call::new("second-factor.reset").with("name", name.clone());
                let question = format!("Take away the second factor of {name}?");
                let done = format!("{name} logs in with the password alone, until a second factor is set up");
                Plan::Destroy { call, destruction, effects: GONE, question, done }
            }
        })
    }
}
