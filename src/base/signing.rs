//! Ed25519 signatures (RFC 8032) with a key that lies in a file of its own.

use std::io;
use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use super::tls::write_private;

/// A key to sign with.
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// Reads the key of this file (PKCS#8), or makes one, readable for its owner alone.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds something else.
    pub fn open_or_create(path: &Path) -> io::Result<Self> {
        let document = match std::fs::read(path) {
            Ok(document) => document,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8());
                let made = made.map_err(|_| io::Error::other("no signing key could be made"))?;
                write_private(path, made.as_ref(), 0o600)?;
                made.as_ref().to_vec()
            }
            Err(error) => return Err(error),
        };
        let wrong = |_| io::Error::new(io::ErrorKind::InvalidData, "this is no Ed25519 key in PKCS#8 form");
        Ok(Self { pair: Ed25519KeyPair::from_pkcs8(&document).map_err(wrong)? })
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }

    /// What its signatures are checked with.
    pub fn public(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }
}

/// Whether the owner of `public` has signed this.
pub fn is_signed(public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn key_is_private_and_lasts_and_signs_one_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let public = SigningKey::open_or_create(&path).unwrap().public();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let key = SigningKey::open_or_create(&path).unwrap();
        assert_eq!(key.public(), public);
        let signature = key.sign(b"one");
        assert!(is_signed(&public, b"one", &signature));
        assert!(!is_signed(&public, b"two", &signature));
        assert!(!is_signed(&[], b"one", &signature));
        std::fs::write(&path, "no key").unwrap();
        assert!(SigningKey::open_or_create(&path).is_err());
    }
}
