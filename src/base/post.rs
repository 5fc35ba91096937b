//! Sending a document to somebody else's server: HTTP POST, guarded.
//!
//! Who names the address is a customer, so it must not lead to what only this machine reaches: every address that a
//! name resolves to is looked at, and the connection goes to one that was. Redirects are not followed, the answer's
//! content is not read, and everything has one time limit.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::network::Network;

/// How long one attempt takes at most, from the name to the status.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest address, in octets.
const URL_OCTETS_MAX: usize = 2_000;

/// Where to send: an address that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    host: String,
    port: u16,
    is_tls: bool,
    path: String,
}

/// Why something was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The name has no address.
    #[error("the name has no address")]
    Name,
    /// Its addresses are not allowed.
    #[error("the address {0} is not allowed")]
    Address(IpAddr),
    /// In clear where that is not allowed.
    #[error("without TLS only to networks of webhooks.allow_networks")]
    Clear,
    /// No connection.
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    /// TLS or HTTP.
    #[error("{0}")]
    Protocol(String),
    /// It took too long.
    #[error("no answer within 10 s")]
    Timeout,
}

/// Sends documents; cheap to clone.
#[derive(Clone)]
pub struct Poster {
    tls: Arc<ClientConfig>,
    allowed: Arc<[Network]>,
}

impl Target {
    /// Understands an address.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong = || format!("expected https://HOST/PATH of at most {URL_OCTETS_MAX} octets");
        if url.len() > URL_OCTETS_MAX || url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(wrong());
        }
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err("an address with a user or password is not taken: what is sent is signed".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() {
            return Err(wrong());
        }
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { host, port, is_tls, path })
    }

    /// Whether it is sent over TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Name or address of the machine.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl Poster {
    /// A sender that may also reach `allowed`, which are not public. The system's certificates are trusted.
    pub fn new(allowed: Vec<Network>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        // The provider has the default versions.
        let config = config.map(|config| config.with_root_certificates(roots).with_no_client_auth());
        let tls = config.unwrap_or_else(|_| {
            ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
        });
        Self { tls: Arc::new(tls), allowed: allowed.into() }
    }

    /// Whether anything that is not public may be reached.
    pub fn reaches_private(&self) -> bool {
        !self.allowed.is_empty()
    }

    /// Sends JSON; answers the status.
    ///
    /// # Errors
    /// When there is none; then it may have arrived all the same.
    pub async fn post(
        &self,
        target: &Target,
        headers: &[(&'static str, String)],
        body: String,
    ) -> Result<u16, PostError> {
        let sending = self.attempt(target, headers, body);
        tokio::time::timeout(TIMEOUT, sending).await.unwrap_or(Err(PostError::Timeout))
    }

    async fn attempt(
        &self,
        target: &Target,
        headers: &[(&'static str, String)],
        body: String,
    ) -> Result<u16, PostError> {
        let address = self.address(target).await?;
        let stream = TcpStream::connect(address).await.map_err(PostError::Connect)?;
        if !target.is_tls {
            return exchange(stream, target, headers, body).await;
        }
        let name = ServerName::try_from(target.host.clone());
        let name = name.map_err(|error| PostError::Protocol(error.to_string()))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
        let stream = stream.map_err(|error| PostError::Protocol(error.to_string()))?;
        exchange(stream, target, headers, body).await
    }

    /// The first address of the name that may be reached.
    async fn address(&self, target: &Target) -> Result<SocketAddr, PostError> {
        let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
        let found: Vec<SocketAddr> = found.map_err(|_| PostError::Name)?.collect();
        let first = found.first().ok_or(PostError::Name)?.ip();
        let is_listed = |address: &IpAddr| self.allowed.iter().any(|network| network.contains(*address));
        if target.is_tls {
            let mut good = found.iter().filter(|one| is_public(one.ip()) || is_listed(&one.ip()));
            return good.next().copied().ok_or(PostError::Address(first));
        }
        found.iter().find(|one| is_listed(&one.ip())).copied().ok_or(PostError::Clear)
    }
}

async fn exchange<S>(
    stream: S,
    target: &Target,
    headers: &[(&'static str, String)],
    body: String,
) -> Result<u16, PostError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: &dyn std::fmt::Display| PostError::Protocol(error.to_string());
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
    let mut request = Request::post(target.path.as_str())
        .header("host", format!("{host}:{}", target.port))
        .header("content-type", "application/json")
        .header("user-agent", concat!("posthouse/", env!("CARGO_PKG_VERSION")))
        .header("connection", "close");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|error| failed(&error))?;
    let mut answer =
        pin!(async { sender.send_request(request).await.map(|answer| answer.status().as_u16()) });
    let outcome = tokio::select! {
        outcome = answer.as_mut() => outcome,
        // A connection that has ended has given its answer before, or never will.
        _ = connection => answer.await,
    };
    outcome.map_err(|error| failed(&error))
}

/// Whether an address is somebody's on the internet (IANA's registries of special-purpose addresses, RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            !(a == 0
                || a >= 224
                || address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_documentation()
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && (b == 18 || b == 19)))
        }
        IpAddr::V6(address) => {
            let [first, second, third, ..] = address.segments();
            // Global unicast without the ranges that lead elsewhere: IETF assignments and Teredo (2001::/23),
            // documentation, 6to4.
            first & 0xe000 == 0x2000
                && !(first == 0x2001 && second < 0x200)
                && !(first == 0x2001 && second == 0xdb8)
                && first != 0x2002
                && !(first == 0x3fff && third < 0x1000 && second < 0x1000)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_side_are_not_public() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
            "2001::1",
            "2001:db8::1",
            "fec0::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in
            ["93.184.216.34", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:2800:220:1::1", "2a00::1"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn addresses_are_understood_or_refused() {
        let target = Target::parse("https://Hooks.Example/a?b=c").unwrap();
        assert_eq!((target.host(), target.port, target.path.as_str()), ("hooks.example", 443, "/a?b=c"));
        assert_eq!(Target::parse("http://[::1]:8080").unwrap().host(), "::1");
        for wrong in [
            "",
            "hooks.example",
            "ftp://x/",
            "https://",
            "https://u:p@x/",
            "https://x/ y",
            "https://x/\n",
            "/x",
        ] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Target::parse(&format!("https://x/{}", "a".repeat(3_000))).is_err());
    }

    #[tokio::test]
    async fn what_is_not_allowed_is_not_reached() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let poster = Poster::new(Vec::new());
        for url in [format!("https://127.0.0.1:{port}/"), format!("https://localhost:{port}/")] {
            let refused = poster.post(&Target::parse(&url).unwrap(), &[], String::new()).await;
            assert!(matches!(refused, Err(PostError::Address(_))), "{refused:?}");
        }
        let clear = Target::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
        let refused = poster.post(&clear, &[], String::new()).await;
        assert!(matches!(refused, Err(PostError::Clear)), "{refused:?}");
    }
}
