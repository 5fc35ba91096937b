//! Password hashes: argon2id for new ones, and those of other systems as mailboxes bring them along.
//!
//! Comparison takes constant time. Parameters of imported hashes are bounded, since whoever imports them chooses
//! what each login costs.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use password_hash::PasswordVerifier;
use secrecy::{ExposeSecret, SecretString};
use sha_crypt::ShaCrypt;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

use crate::base::id::random_bytes;

/// Memory of a new hash in KiB: OWASP's recommendation of 19 MiB, 2 passes, 1 lane; 73 ms on the reference machine.
const ARGON2_MEMORY_KIB: u32 = 19_456;
const ARGON2_PASSES: u32 = 2;
const ARGON2_LANES: u32 = 1;
/// The memory of a hash is reserved as a piece of at least this size and touched as far as it is needed. Pieces above
/// 32 MiB glibc always maps on their own, so that they go back to the system when they are given up; smaller ones it
/// keeps once one has been given up (mallopt(3), M_MMAP_THRESHOLD).
const ARGON2_RESERVED_KIB_MIN: usize = 33 * 1024;
const SALT_OCTETS: usize = 16;
const HASH_OCTETS: usize = 32;

/// Largest memory of an imported argon2 hash in KiB (256 MiB).
const IMPORTED_MEMORY_KIB_MAX: u32 = 256 * 1024;
/// Most passes of an imported argon2 hash.
const IMPORTED_PASSES_MAX: u32 = 16;
/// Most lanes of an imported argon2 hash.
const IMPORTED_LANES_MAX: u32 = 16;
/// Highest cost of an imported bcrypt hash: 2^16 rounds take about 5 s.
const BCRYPT_COST_MAX: u32 = 16;
/// Rounds that glibc takes at least.
const SHA_CRYPT_ROUNDS_MIN: u32 = 1_000;
/// Most rounds of an imported SHA-crypt hash.
const SHA_CRYPT_ROUNDS_MAX: u32 = 5_000_000;
/// Longest hash text that is looked at, in octets.
const HASH_TEXT_OCTETS_MAX: usize = 512;
/// Longest password, in octets; longer ones match nothing (SHA-crypt takes time by the length).
pub const PASSWORD_OCTETS_MAX: usize = 1_024;

/// Why a text is no usable password hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HashError {
    /// None of the known schemes.
    #[error(
        "unknown password scheme; known are argon2id, bcrypt ($2a$, $2b$, $2y$), SHA-512-crypt ($6$), SHA-256-crypt \
         ($5$), {{SSHA}}, {{SSHA256}} and {{SSHA512}}"
    )]
    Scheme,
    /// The scheme is known, the rest is not what it should be.
    #[error("the {0} hash is malformed")]
    Malformed(&'static str),
    /// Verifying it would cost too much.
    #[error("the {0} hash asks for more work or memory than this server takes")]
    Cost(&'static str),
}

/// A password hash that this server can verify, as it is stored: PHC, crypt(3) or `{SSHA}` form.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    text: String,
    scheme: Scheme,
}

#[derive(Clone, PartialEq, Eq)]
enum Scheme {
    Argon2id {
        params: [u32; 3],
        salt: Vec<u8>,
        hash: Vec<u8>,
    },
    Bcrypt,
    ShaCrypt,
    /// Digest of password and salt.
    Salted {
        digest: SaltedDigest,
        hash: Vec<u8>,
        salt: Vec<u8>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SaltedDigest {
    Sha1,
    Sha256,
    Sha512,
}

/// A hash is no secret that may be shown.
impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

impl PasswordHash {
    /// Hashes a new password with a random salt. Takes tens of milliseconds and 19 MiB: call it where that may be.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(password: &SecretString) -> Result<Self, HashError> {
        let salt = random_bytes(SALT_OCTETS);
        let params = [ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_LANES];
        let mut hash = vec![0; HASH_OCTETS];
        argon2id(params, password.expose_secret().as_bytes(), &salt, &mut hash)
            .ok_or(HashError::Cost("argon2id"))?;
        let text = format!(
            "$argon2id$v=19$m={ARGON2_MEMORY_KIB},t={ARGON2_PASSES},p={ARGON2_LANES}${}${}",
            STANDARD_NO_PAD.encode(&salt),
            STANDARD_NO_PAD.encode(&hash)
        );
        Ok(Self { text, scheme: Scheme::Argon2id { params, salt, hash } })
    }

    /// Reads a hash as stored here or brought along, with or without the prefix that Dovecot writes (`{CRYPT}`,
    /// `{BLF-CRYPT}`, `{SHA512-CRYPT}`, `{ARGON2ID}`…).
    ///
    /// # Errors
    /// See [`HashError`].
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let text = text.trim();
        if text.len() > HASH_TEXT_OCTETS_MAX {
            return Err(HashError::Scheme);
        }
        let (prefix, rest) = match text.strip_prefix('{').and_then(|text| text.split_once('}')) {
            Some((prefix, rest)) => (prefix.to_ascii_uppercase(), rest),
            None => (String::new(), text),
        };
        let salted = |digest, octets| salted(digest, octets, &prefix, rest);
        match prefix.as_str() {
            "" | "CRYPT" | "BLF-CRYPT" | "SHA256-CRYPT" | "SHA512-CRYPT" | "ARGON2ID" => {
                Ok(Self { text: rest.to_owned(), scheme: modular(rest)? })
            }
            "SSHA" => salted(SaltedDigest::Sha1, 20),
            "SSHA256" => salted(SaltedDigest::Sha256, 32),
            "SSHA512" => salted(SaltedDigest::Sha512, 64),
            _ => Err(HashError::Scheme),
        }
    }

    /// The text to store; [`Self::parse`] reads it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is what [`Self::new`] would make, or costs at least as much to guess.
    pub fn is_current(&self) -> bool {
        match &self.scheme {
            Scheme::Argon2id { params: [memory, passes, _], .. } => {
                *memory >= ARGON2_MEMORY_KIB && *passes >= ARGON2_PASSES
            }
            Scheme::Bcrypt | Scheme::ShaCrypt | Scheme::Salted { .. } => false,
        }
    }

    /// Whether `password` is the one. Takes as long as the scheme wants.
    pub fn verify(&self, password: &SecretString) -> bool {
        let password = password.expose_secret().as_bytes();
        if password.len() > PASSWORD_OCTETS_MAX {
            return false;
        }
        match &self.scheme {
            Scheme::Argon2id { params, salt, hash } => {
                let mut computed = vec![0; hash.len()];
                argon2id(*params, password, salt, &mut computed).is_some() && computed.ct_eq(hash).into()
            }
            Scheme::Bcrypt => bcrypt::verify(password, &self.text).unwrap_or(false),
            Scheme::ShaCrypt => ShaCrypt::SHA512.verify_password(password, self.text.as_str()).is_ok(),
            Scheme::Salted { digest, hash, salt } => {
                let computed = match digest {
                    SaltedDigest::Sha1 => digest_of::<Sha1>(password, salt),
                    SaltedDigest::Sha256 => digest_of::<Sha256>(password, salt),
                    SaltedDigest::Sha512 => digest_of::<Sha512>(password, salt),
                };
                computed.ct_eq(hash).into()
            }
        }
    }
}

/// Does the work of verifying a password when there is nothing to verify it with, so that a name that does not
/// exist costs what one that does exist costs.
pub fn verify_nothing(password: &SecretString) {
    let password = password.expose_secret().as_bytes();
    let password = password.get(..PASSWORD_OCTETS_MAX).unwrap_or(password);
    let mut hash = [0; HASH_OCTETS];
    let params = [ARGON2_MEMORY_KIB, ARGON2_PASSES, ARGON2_LANES];
    std::hint::black_box(argon2id(params, password, &[0; SALT_OCTETS], &mut hash));
    std::hint::black_box(hash);
}

fn argon2id([memory, passes, lanes]: [u32; 3], password: &[u8], salt: &[u8], hash: &mut [u8]) -> Option<()> {
    let params = Params::new(memory, passes, lanes, Some(hash.len())).ok()?;
    let count = params.block_count();
    let mut blocks = Vec::new();
    // A block is 1 KiB.
    blocks.try_reserve_exact(count.max(ARGON2_RESERVED_KIB_MIN)).ok()?;
    blocks.resize(count, Block::new());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into_with_memory(password, salt, hash, blocks.as_mut_slice()).ok()
}

fn digest_of<D: Digest>(password: &[u8], salt: &[u8]) -> Vec<u8> {
    let mut digest = D::new();
    digest.update(password);
    digest.update(salt);
    digest.finalize().to_vec()
}

fn salted(digest: SaltedDigest, octets: usize, prefix: &str, rest: &str) -> Result<PasswordHash, HashError> {
    let malformed = HashError::Malformed("salted SHA");
    let decoded = STANDARD.decode(rest).map_err(|_| malformed)?;
    let (hash, salt) = decoded.split_at_checked(octets).ok_or(malformed)?;
    let scheme = Scheme::Salted { digest, hash: hash.to_vec(), salt: salt.to_vec() };
    Ok(PasswordHash { text: format!("{{{prefix}}}{rest}"), scheme })
}

/// Reads the forms that start with a dollar sign.
fn modular(text: &str) -> Result<Scheme, HashError> {
    let mut fields = text.split('$');
    if fields.next() != Some("") {
        return Err(HashError::Scheme);
    }
    let id = fields.next().unwrap_or_default();
    let fields: Vec<&str> = fields.collect();
    match id {
        "argon2id" => parse_argon2id(&fields),
        "2a" | "2b" | "2y" => parse_bcrypt(&fields),
        "5" => parse_sha_crypt(&fields, 43),
        "6" => parse_sha_crypt(&fields, 86),
        _ => Err(HashError::Scheme),
    }
}

fn parse_argon2id(fields: &[&str]) -> Result<Scheme, HashError> {
    let malformed = HashError::Malformed("argon2id");
    let ["v=19", costs, salt, hash] = fields else { return Err(malformed) };
    let mut params = [None; 3];
    for cost in costs.split(',') {
        let (name, value) = cost.split_once('=').ok_or(malformed)?;
        let [memory, passes, lanes] = &mut params;
        let param = match name {
            "m" => memory,
            "t" => passes,
            "p" => lanes,
            _ => return Err(malformed),
        };
        *param = Some(value.parse::<u32>().map_err(|_| malformed)?);
    }
    let [Some(memory), Some(passes), Some(lanes)] = params else { return Err(malformed) };
    if memory > IMPORTED_MEMORY_KIB_MAX || passes > IMPORTED_PASSES_MAX || lanes > IMPORTED_LANES_MAX {
        return Err(HashError::Cost("argon2id"));
    }
    let decode = |text: &str| STANDARD_NO_PAD.decode(text).map_err(|_| malformed);
    let (salt, hash) = (decode(salt)?, decode(hash)?);
    let lengths_ok = (8..=64).contains(&salt.len()) && (16..=64).contains(&hash.len());
    if !lengths_ok || Params::new(memory, passes, lanes, Some(hash.len())).is_err() {
        return Err(malformed);
    }
    Ok(Scheme::Argon2id { params: [memory, passes, lanes], salt, hash })
}

fn parse_bcrypt(fields: &[&str]) -> Result<Scheme, HashError> {
    let malformed = HashError::Malformed("bcrypt");
    let [cost, rest] = fields else { return Err(malformed) };
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    if cost.len() != 2 || rest.len() != 53 || !rest.bytes().all(is_letter) {
        return Err(malformed);
    }
    match cost.parse::<u32>().map_err(|_| malformed)? {
        4..=BCRYPT_COST_MAX => Ok(Scheme::Bcrypt),
        ..4 => Err(malformed),
        _ => Err(HashError::Cost("bcrypt")),
    }
}

fn parse_sha_crypt(fields: &[&str], hash_letters: usize) -> Result<Scheme, HashError> {
    let malformed = HashError::Malformed("SHA-crypt");
    let (salt, hash) = match fields {
        [salt, hash] => (salt, hash),
        [rounds, salt, hash] => {
            let rounds = rounds.strip_prefix("rounds=").ok_or(malformed)?;
            match rounds.parse::<u32>().map_err(|_| malformed)? {
                SHA_CRYPT_ROUNDS_MIN..=SHA_CRYPT_ROUNDS_MAX => (salt, hash),
                ..SHA_CRYPT_ROUNDS_MIN => return Err(malformed),
                _ => return Err(HashError::Cost("SHA-crypt")),
            }
        }
        _ => return Err(malformed),
    };
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    if salt.is_empty() || salt.len() > 16 || hash.len() != hash_letters || !hash.bytes().all(is_letter) {
        return Err(malformed);
    }
    Ok(Scheme::ShaCrypt)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hashes of `correct horse` made by glibc's crypt(3), Dovecot 2.3 and Python's hashlib.
    const KNOWN: [&str; 12] = [
        "$6$saltstring$.r0X7ub5wGR2v4Xz7svCIozfnlorFh19V89t8KC9Umd81uGhFgsyTRNyzQDXDIm17fFcR9z3z7oBNdsyYBbtm/",
        "{SHA512-CRYPT}$6$qREGlFiCbcCvQ6qw$N.Oia2Gtftp6ECM.xZ1FPtvqzFagk6YZyPkGUTxF1fA/b/9bm6qkppXiLJu88Ol8.PMBji\
         /bJLELlRkA8clVe0",
        "{CRYPT}$6$rounds=10000$saltstringsaltst$uWkfitxWIj/pKw1nBSBgiQR8Pwbr7IMycYT33N8JITrE33DUmC8bV6rVVtFeP\
         /iZRI3xx58jHgvVgQRG8FBmF/",
        "$5$rounds=1400$anotherlongsalts$0KT8xKdzAzHA/GLeLkewBNfWJasAb9.GxP2bbi2wnX1",
        "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e",
        "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
        "{BLF-CRYPT}$2y$04$UqQn7H1qnjgjsW3FbPZI9eBRkSbCTsOf8yKWtnFK/eA97SS2txOiu",
        "{SSHA}LhKrkM9Fy+zlstjdD7Kv2s6QvhBzYWx0",
        "{ssha256}n+NyCAC8BTzorAU7AQEsEfh4qDAh0HpRtPLX0dsQdApzYWx0",
        "{SSHA512}MObRFvUHqU5pLIXjc0HkeJH+PKVdEQk34oSyXkDftCxTU6Fk9rWjilWA553MtCFyazGhAOPiDyO1Rv1hndA96XNhbHQ=",
        "{SSHA512}THkaepvJMoizC/3I1LquDhUaKPg/5sLTjXbXEWQPQZx4aHbRLu+zTTu1yhS3Ciqx121wdzd/TjIE4Kjk6EEbWptNzxY=",
        "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$chguPttaIOPQPD1xBixKiA$Hie67IbwsUGYOxImuRLZAfo743PKpoZYbS89HGql6nY",
    ];

    #[test]
    fn known_hashes_match_their_password_alone() {
        let right = SecretString::from("correct horse");
        let wrong = SecretString::from("correct horsf");
        for text in KNOWN {
            let hash = PasswordHash::parse(text).unwrap();
            assert!(hash.verify(&right), "{text}");
            assert!(!hash.verify(&wrong), "{text}");
            assert!(!hash.verify(&SecretString::from("")), "{text}");
            assert_eq!(PasswordHash::parse(hash.as_str()).unwrap(), hash);
        }
    }

    #[test]
    fn new_hash_is_salted_argon2id_and_parses() {
        let password = SecretString::from("correct horse");
        let hash = PasswordHash::new(&password).unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_ne!(hash.as_str(), PasswordHash::new(&password).unwrap().as_str());
        assert_eq!(PasswordHash::parse(hash.as_str()).unwrap(), hash);
        assert!(hash.verify(&password) && !hash.verify(&SecretString::from("correct")));
    }

    #[test]
    fn bcrypt_takes_72_octets_and_others_a_bounded_length() {
        let hash = PasswordHash::parse("{SSHA}LhKrkM9Fy+zlstjdD7Kv2s6QvhBzYWx0").unwrap();
        assert!(!hash.verify(&SecretString::from("x".repeat(PASSWORD_OCTETS_MAX + 1))));
        let bcrypt = PasswordHash::parse(KNOWN[4]).unwrap();
        assert!(!bcrypt.verify(&SecretString::from("x".repeat(100))));
    }

    #[test]
    fn unknown_malformed_and_costly_hashes_are_refused() {
        let bcrypt = "abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e";
        let sha = "0KT8xKdzAzHA/GLeLkewBNfWJasAb9.GxP2bbi2wnX1";
        let cases = [
            (String::new(), HashError::Scheme),
            ("secret".to_owned(), HashError::Scheme),
            ("{PLAIN}secret".to_owned(), HashError::Scheme),
            ("$1$ab$.ThsTrbyIbEahEdE8LNwj1".to_owned(), HashError::Scheme),
            (format!("$2x$04${bcrypt}"), HashError::Scheme),
            (format!("$2b$17${bcrypt}"), HashError::Cost("bcrypt")),
            (format!("$2b$03${bcrypt}"), HashError::Malformed("bcrypt")),
            ("$2b$04$short".to_owned(), HashError::Malformed("bcrypt")),
            (format!("$5$rounds=5000001$salt${sha}"), HashError::Cost("SHA-crypt")),
            (format!("$5$rounds=999$salt${sha}"), HashError::Malformed("SHA-crypt")),
            (format!("$6$salt${sha}"), HashError::Malformed("SHA-crypt")),
            ("{SSHA}c2hvcnQ=".to_owned(), HashError::Malformed("salted SHA")),
            ("$argon2id$v=19$m=262145,t=1,p=1$c2FsdHNhbHQ$x".to_owned(), HashError::Cost("argon2id")),
            ("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAA".to_owned(), HashError::Malformed("argon2id")),
            ("$argon2id$v=19$m=8,t=1$c2FsdHNhbHQ$AAAA".to_owned(), HashError::Malformed("argon2id")),
            ("x".repeat(513), HashError::Scheme),
        ];
        for (text, error) in cases {
            assert_eq!(PasswordHash::parse(&text).unwrap_err(), error, "{text}");
        }
    }
}
