//! Server certificates: loading, choice by SNI, reload while running, and a self-signed one for the first start.
//!
//! Invariant: a reload that fails leaves the certificates in force untouched.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Where one certificate chain and its key lie.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFiles {
    /// PEM file with the certificate, followed by the intermediate ones.
    pub certificate: PathBuf,
    /// PEM file with the private key (PKCS #8, PKCS #1 or SEC 1).
    pub key: PathBuf,
}

/// Why certificates could not be loaded or made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate is configured.
    #[error("no certificate is configured")]
    None,
    /// A file could not be read or written, or is no PEM file of the kind expected.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate or key is not usable, or they do not belong together.
    #[error("{}: {error}", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// What the TLS library says.
        error: rustls::Error,
    },
    /// The TLS library cannot serve.
    #[error("TLS: {0}")]
    Library(#[from] rustls::Error),
    /// A certificate could not be made.
    #[error("making a certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

/// The certificates by the names they hold; the first one answers all other names.
#[derive(Debug)]
struct Certificates {
    default: Arc<CertifiedKey>,
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// The files' contents, to see whether a reload changes anything.
    fingerprint: blake3::Hash,
}

impl Certificates {
    fn load(files: &[CertificateFiles], provider: &CryptoProvider) -> Result<Self, TlsError> {
        let mut default = None;
        let mut by_name = HashMap::new();
        let mut fingerprint = blake3::Hasher::new();
        for file in files {
            let certified = Arc::new(load_pair(file, provider, &mut fingerprint)?);
            for name in dns_names(&certified) {
                by_name.entry(name).or_insert_with(|| Arc::clone(&certified));
            }
            default.get_or_insert(certified);
        }
        let default = default.ok_or(TlsError::None)?;
        Ok(Self { default, by_name, fingerprint: fingerprint.finalize() })
    }

    /// Exact name, else the wildcard one level up (RFC 6125 section 6.4.3), else the first certificate.
    fn choose(&self, server_name: Option<&str>) -> Arc<CertifiedKey> {
        let by_name = |name: &str| {
            let name = name.to_ascii_lowercase();
            let wildcard = || name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
            self.by_name.get(&name).or_else(|| self.by_name.get(&wildcard()?))
        };
        Arc::clone(server_name.and_then(by_name).unwrap_or(&self.default))
    }
}

fn load_pair(
    files: &CertificateFiles,
    provider: &CryptoProvider,
    fingerprint: &mut blake3::Hasher,
) -> Result<CertifiedKey, TlsError> {
    let read = |path: &Path| {
        fs::read(path).map_err(|error| TlsError::File { path: path.to_owned(), reason: error.to_string() })
    };
    let pem = |path: &Path, reason: String| TlsError::File { path: path.to_owned(), reason };
    let certificate_pem = read(&files.certificate)?;
    let key_pem = zeroize::Zeroizing::new(read(&files.key)?);
    fingerprint.update(&certificate_pem).update(&key_pem);

    let chain = CertificateDer::pem_slice_iter(&certificate_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| pem(&files.certificate, format!("no PEM certificates: {error}")))?;
    if chain.is_empty() {
        return Err(pem(&files.certificate, "holds no PEM certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&key_pem)
        .map_err(|error| pem(&files.key, format!("no PEM private key: {error}")))?;
    CertifiedKey::from_der(chain, key, provider)
        .map_err(|error| TlsError::Certificate { path: files.certificate.clone(), error })
}

/// The DNS names of the certificate itself in lower case, wildcards included. None for one that cannot be read
/// that way (X.509 version 1): it can still be the default.
fn dns_names(certified: &CertifiedKey) -> Vec<String> {
    let Some(der) = certified.cert.first() else { return Vec::new() };
    match webpki::EndEntityCert::try_from(der) {
        Ok(certificate) => certificate.valid_dns_names().map(str::to_ascii_lowercase).collect(),
        Err(_) => Vec::new(),
    }
}

#[derive(Debug)]
struct Resolver(ArcSwap<Certificates>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().choose(client_hello.server_name()))
    }
}

/// The server side of TLS 1.2 and 1.3 with certificates that can be replaced while it runs. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    files: Arc<[CertificateFiles]>,
    provider: Arc<CryptoProvider>,
    resolver: Arc<Resolver>,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Loads the certificates; the first one is for clients that name no server, or an unknown one.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(files: Vec<CertificateFiles>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificates = Certificates::load(&files, &provider)?;
        let resolver = Arc::new(Resolver(ArcSwap::from_pointee(certificates)));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&resolver) as Arc<dyn ResolvesServerCert>);
        // Stateless tickets: resumption without a cache of sessions.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        Ok(Self { files: files.into(), provider, resolver, config: Arc::new(config) })
    }

    /// Reads the files again. New handshakes use what they hold now; running sessions are left alone. Returns
    /// whether anything changed.
    ///
    /// # Errors
    /// See [`TlsError`]; the certificates in force stay.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let fresh = Certificates::load(&self.files, &self.provider)?;
        let changed = fresh.fingerprint != self.resolver.0.load().fingerprint;
        if changed {
            self.resolver.0.store(Arc::new(fresh));
        }
        Ok(changed)
    }

    /// The configuration for a TLS acceptor; it follows reloads.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

/// Makes a self-signed certificate for `names` (DNS names or IP addresses) and writes it with its key, the key
/// readable by its owner only. An existing pair is left as it is.
///
/// # Errors
/// [`TlsError::File`] when a file cannot be written, [`TlsError::Generate`] when a name is not possible in a
/// certificate.
pub fn self_signed_create(files: &CertificateFiles, names: &[String]) -> Result<(), TlsError> {
    if files.certificate.exists() && files.key.exists() {
        return Ok(());
    }
    let made = rcgen::generate_simple_self_signed(names)?;
    write_file(&files.key, made.signing_key.serialize_pem().as_bytes(), 0o600)?;
    write_file(&files.certificate, made.cert.pem().as_bytes(), 0o644)
}

fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let failed = |error: io::Error| TlsError::File { path: path.to_owned(), reason: error.to_string() };
    write_private(path, bytes, mode).map_err(failed)
}

/// Writes beside the final name and renames, so that a crash leaves no half file.
pub(super) fn write_private(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn files(dir: &Path, name: &str, names: &[&str]) -> CertificateFiles {
        let files = CertificateFiles {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        };
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self_signed_create(&files, &names).unwrap();
        files
    }

    #[test]
    fn key_of_a_made_certificate_is_private_and_a_second_call_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let pair = files(dir.path(), "a", &["localhost", "127.0.0.1"]);
        assert_eq!(fs::metadata(&pair.key).unwrap().permissions().mode() & 0o777, 0o600);
        let before = fs::read(&pair.certificate).unwrap();
        self_signed_create(&pair, &["other.example".to_owned()]).unwrap();
        assert_eq!(fs::read(&pair.certificate).unwrap(), before);
    }

    #[test]
    fn server_name_chooses_exact_then_wildcard_then_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = files(dir.path(), "first", &["localhost"]);
        let wild = files(dir.path(), "wild", &["*.example.org"]);
        let exact = files(dir.path(), "exact", &["imap.example.org"]);
        let provider = aws_lc_rs::default_provider();
        let all = Certificates::load(&[first, wild, exact], &provider).unwrap();
        let names = |name: Option<&str>| dns_names(&all.choose(name));
        assert_eq!(names(None), ["localhost"]);
        assert_eq!(names(Some("unknown.example.net")), ["localhost"]);
        assert_eq!(names(Some("pop.EXAMPLE.org")), ["*.example.org"]);
        assert_eq!(names(Some("a.b.example.org")), ["localhost"]);
        assert_eq!(names(Some("imap.example.org")), ["imap.example.org"]);
    }

    #[test]
    fn reload_takes_a_new_certificate_and_keeps_the_old_one_on_error() {
        let dir = tempfile::tempdir().unwrap();
        let pair = files(dir.path(), "a", &["one.example"]);
        let tls = Tls::load(vec![pair.clone()]).unwrap();
        assert!(!tls.reload().unwrap());

        let other = files(dir.path(), "b", &["two.example"]);
        fs::copy(&other.certificate, &pair.certificate).unwrap();
        assert!(matches!(tls.reload(), Err(TlsError::Certificate { .. })), "key of another certificate");
        assert_eq!(dns_names(&tls.resolver.0.load().choose(None)), ["one.example"]);

        fs::copy(&other.key, &pair.key).unwrap();
        assert!(tls.reload().unwrap());
        assert_eq!(dns_names(&tls.resolver.0.load().choose(None)), ["two.example"]);

        fs::write(&pair.certificate, "nonsense").unwrap();
        assert!(matches!(tls.reload(), Err(TlsError::File { .. })));
    }

    #[test]
    fn missing_certificates_are_named_in_the_error() {
        assert!(matches!(Tls::load(Vec::new()), Err(TlsError::None)));
        let missing = CertificateFiles { certificate: "/nowhere/c.pem".into(), key: "/nowhere/k.pem".into() };
        let error = Tls::load(vec![missing]).err().unwrap().to_string();
        assert!(error.starts_with("/nowhere/c.pem: "), "{error}");
    }
}
