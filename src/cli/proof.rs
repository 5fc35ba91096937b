//! `posthouse audit check-proof`: works without a daemon.

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use super::failure::{Exit, Failure};
use super::output::{Output, clean, note};
use crate::base::clock::Timestamp;
use crate::base::proof::{Proof, check};

/// Largest file that is read, in octets.
const FILE_OCTETS_MAX: u64 = 16 << 20;

fn read(path: &Path) -> Result<String, Failure> {
    let failed = |error| Failure::usage(format!("{}: {error}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_OCTETS_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Checks the proof in a file, signed by the key in another.
pub(super) fn check_file(path: &Path, key: Option<&Path>, output: &Output) -> Result<ExitCode, Failure> {
    let proof: Proof = serde_json::from_str(&read(path)?)
        .map_err(|error| Failure::usage(format!("{}: this is no proof: {error}", path.display())))?;
    let key = key.map(read).transpose()?;
    let proven = check(&proof, key.as_deref().map(str::trim))
        .map_err(|error| Failure::new(Exit::Other, format!("{}: NOT PROVEN: {error}", path.display())))?;
    let sealed_at = Timestamp(proven.sealed_at_micros);
    if output.is_json() {
        let columns: serde_json::Map<_, _> =
            proven.columns.into_iter().map(|(name, text)| (name, text.into())).collect();
        let document = serde_json::json!({
            "proven": true, "sealed_at": sealed_at, "key": proven.key, "is_key_trusted": key.is_some(),
            "record": columns,
        });
        output.document(&document)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (name, text) in &proven.columns {
        let text = match (name.as_str(), text.parse()) {
            ("at_micros", Ok(micros)) => format!("{text} ({})", Timestamp(micros)),
            _ => clean(text),
        };
        output.line(&format!("{name:<14}  {text}"))?;
    }
    output.line(&format!("proven: sealed at {sealed_at} with the key {}", proven.key))?;
    if key.is_none() {
        note("compare the key with the operator's, or name a file that has it with --key");
    }
    Ok(ExitCode::SUCCESS)
}
