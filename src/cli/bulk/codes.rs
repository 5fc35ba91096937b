//! One-time codes of imported mailboxes, as a CSV file that nobody else can read.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::csv::write_record;
use crate::cli::failure::{Exit, Failure};

/// The file.
pub(super) struct Codes {
    path: PathBuf,
    file: File,
}

impl Codes {
    /// Begins a new file; one that is there is not touched.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        let mut codes = Self { path: path.to_owned(), file };
        codes.record(&["address", "code", "expires_at"])?;
        Ok(codes)
    }

    /// Keeps the code of a row, if it has one; at once, since it is told only now.
    pub(super) fn take(&mut self, address: &str, result: &Value) -> Result<(), Failure> {
        let text = |name: &str| result.get(name).and_then(Value::as_str);
        match text("secret") {
            Some(code) => self.record(&[address, code, text("expires_at").unwrap_or_default()]),
            None => Ok(()),
        }
    }

    fn record(&mut self, fields: &[&str]) -> Result<(), Failure> {
        let mut line = Vec::new();
        let written = write_record(&mut line, fields.iter().copied());
        written.and_then(|()| self.file.write_all(&line)).map_err(|error| {
            let message = format!("{}: {error}", self.path.display());
            Failure::new(Exit::Other, message).hint("posthouse mailbox invite makes a new code for a mailbox")
        })
    }
}
