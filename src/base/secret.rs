//! Secrets named in the configuration: given in place, in a file, or as a systemd credential.
//!
//! A secret is never shown: neither by `Debug` nor in an error.

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

/// Largest file taken for a secret, in octets.
const FILE_OCTETS_MAX: u64 = 64 * 1024;
/// Where systemd puts a service's credentials (`LoadCredential=`, systemd.exec(5)).
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Where a secret is to be had.
#[derive(Clone)]
pub enum Secret {
    /// Here.
    Plain(SecretString),
    /// In a file; one line end behind it is dropped.
    File(PathBuf),
    /// In the systemd credential of this name.
    Credential(String),
}

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The file is too large or no UTF-8.
    #[error("{} holds no secret: it must be UTF-8 text of at most {FILE_OCTETS_MAX} octets", .0.display())]
    Content(PathBuf),
    /// The process was not started with credentials.
    #[error("credential {0:?}: $CREDENTIALS_DIRECTORY is not set (see LoadCredential= in systemd.exec(5))")]
    Credential(String),
}

impl Secret {
    /// The secret given in place.
    pub fn plain(text: &str) -> Self {
        Self::Plain(SecretString::from(text))
    }

    /// Reads it.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn read(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::Plain(secret) => Ok(secret.clone()),
            Self::File(path) => read_file(path),
            Self::Credential(name) => match std::env::var_os(CREDENTIALS_DIRECTORY) {
                Some(folder) => read_file(&Path::new(&folder).join(name)),
                None => Err(SecretError::Credential(name.clone())),
            },
        }
    }
}

/// Reads a secret from a file; one line end behind it is dropped.
///
/// # Errors
/// See [`SecretError`].
pub fn read_file(path: &Path) -> Result<SecretString, SecretError> {
    use std::io::Read;
    let failed = |error| SecretError::File { path: path.to_owned(), error };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut octets = Zeroizing::new(Vec::new());
    file.take(FILE_OCTETS_MAX + 1).read_to_end(&mut octets).map_err(failed)?;
    let text = std::str::from_utf8(&octets).map_err(|_| SecretError::Content(path.to_owned()))?;
    if text.len() as u64 > FILE_OCTETS_MAX {
        return Err(SecretError::Content(path.to_owned()));
    }
    Ok(SecretString::from(line(text)))
}

/// `text` without one line end at its end.
pub fn line(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain(one), Self::Plain(two)) => one.expose_secret() == two.expose_secret(),
            (Self::File(one), Self::File(two)) => one == two,
            (Self::Credential(one), Self::Credential(two)) => one == two,
            _ => false,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("Plain(…)"),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Credential(name) => write!(f, "Credential({name})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_of_a_file_loses_one_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        for (content, secret) in [("a b", "a b"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("", "")] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(Secret::File(path.clone()).read().unwrap().expose_secret(), secret);
        }
        std::fs::write(&path, [0xff]).unwrap();
        assert!(matches!(Secret::File(path.clone()).read(), Err(SecretError::Content(_))));
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(matches!(Secret::File(path).read(), Err(SecretError::Content(_))));
    }

    #[test]
    fn debug_output_hides_the_secret() {
        assert!(!format!("{:?}", Secret::plain("hunter2")).contains("hunter2"));
    }
}
