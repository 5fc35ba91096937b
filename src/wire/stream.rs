//! A client's connection: plain or TLS, over TCP or a Unix socket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::line::Reader;
use super::listen::Shutdown;
use crate::service::context::Source;

/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection is still read after its last reply.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// As [`LINGER_TIMEOUT`] while the daemon ends: a client that is near has read its last reply and closed by then.
const LINGER_TIMEOUT_ENDING: Duration = Duration::from_millis(100);

/// Why a connection could not turn to TLS; it is closed.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The client sent something in the clear after its STARTTLS: an attempt at injection (RFC 3207 section 4.2,
    /// RFC 2595 section 3.1, CVE-2011-0411).
    #[error("the client sent plaintext after STARTTLS")]
    PlaintextAfterStartTls,
    /// TLS is on already.
    #[error("TLS is already on")]
    AlreadySecure,
    /// The handshake failed.
    #[error("TLS handshake: {0}")]
    Handshake(#[from] io::Error),
    /// The handshake took too long.
    #[error("the TLS handshake took too long")]
    Timeout,
}

/// Connections without TLS.
pub(super) enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(any(test, feature = "fuzzing"))]
    Memory(tokio::io::DuplexStream),
}

enum Io {
    Plain(Plain),
    Tls(Box<TlsStream<Plain>>),
    /// Between the two, and for good after a failed handshake.
    Closed,
}

/// A client's connection.
pub struct Connection {
    io: Io,
    source: Source,
    is_loopback: bool,
    ending: Option<Shutdown>,
}

impl Connection {
    /// A connection from `source`; without one, from a Unix socket.
    pub(super) fn new(plain: Plain, source: Source) -> Self {
        let is_loopback = source.is_none_or(|address| address.to_canonical().is_loopback());
        Self { io: Io::Plain(plain), source, is_loopback, ending: None }
    }

    /// One that a load balancer passes on without telling for whom: from nowhere near.
    pub(super) fn from_unknown(plain: Plain, balancer: Source) -> Self {
        Self { io: Io::Plain(plain), source: balancer, is_loopback: false, ending: None }
    }

    /// One end of a pipe in memory, as if it came from `source`.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn memory(stream: tokio::io::DuplexStream, source: Source) -> Self {
        Self::new(Plain::Memory(stream), source)
    }

    /// The client's address, as the PROXY header tells it where there is one; nothing for a Unix socket.
    pub fn source(&self) -> Source {
        self.source
    }

    /// The user id of the process at the other end, as the kernel tells it; nothing but for a Unix socket.
    pub fn peer_uid(&self) -> Option<u32> {
        match &self.io {
            Io::Plain(Plain::Unix(stream)) => Some(stream.peer_cred().ok()?.uid()),
            _ => None,
        }
    }

    /// Whether TLS is on.
    pub fn is_secure(&self) -> bool {
        matches!(self.io, Io::Tls(_))
    }

    /// Whether the client is on this machine: a loopback address or a Unix socket.
    pub fn is_loopback(&self) -> bool {
        self.is_loopback
    }

    /// Whether a password may be sent in the clear here: under TLS, or from this machine.
    pub fn is_private(&self) -> bool {
        self.is_secure() || self.is_loopback()
    }

    /// TLS version and cipher suite, as in `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
    pub fn tls_description(&self) -> Option<String> {
        let Io::Tls(stream) = &self.io else { return None };
        let (_, session) = stream.get_ref();
        let version = match session.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
            rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
            _ => "TLS",
        };
        Some(format!("{version} {:?}", session.negotiated_cipher_suite()?.suite()))
    }

    /// Turns to TLS in answer to STARTTLS: call it after the go-ahead has been written. `reader` must hold nothing:
    /// what a client sends in the clear after STARTTLS must not be taken for something sent under TLS.
    ///
    /// # Errors
    /// See [`UpgradeError`]; the connection can then only be dropped.
    pub async fn start_tls(
        &mut self,
        config: Arc<ServerConfig>,
        reader: &mut Reader,
    ) -> Result<(), UpgradeError> {
        if reader.clear() {
            return Err(UpgradeError::PlaintextAfterStartTls);
        }
        self.handshake(config).await
    }

    /// From the moment of `shutdown` the connection's end takes less time.
    pub fn ends_with(&mut self, shutdown: Shutdown) {
        self.ending = Some(shutdown);
    }

    /// Ends the connection so that the last reply arrives: a socket that is closed while input is unread is reset,
    /// and the reset may overtake what was sent. So our side ends first, and what still comes is read and dropped,
    /// for a short time.
    pub async fn close(&mut self) {
        let ending = self.ending.clone();
        let linger = async {
            self.shutdown().await?;
            let mut reader = Reader::new();
            loop {
                match reader.chunk(self).await?.len() {
                    0 => return io::Result::Ok(()),
                    octets => reader.consume(octets),
                }
            }
        };
        // Whoever takes over must not wait for clients that are slow to leave.
        let ended = async {
            match ending {
                Some(ending) => ending.requested().await,
                None => std::future::pending().await,
            }
            tokio::time::sleep(LINGER_TIMEOUT_ENDING).await;
        };
        tokio::select! {
            _ = tokio::time::timeout(LINGER_TIMEOUT, linger) => {}
            () = ended => {}
        }
    }

    /// Turns to TLS at once, for ports with implicit TLS.
    ///
    /// # Errors
    /// See [`UpgradeError`]; the connection can then only be dropped.
    pub async fn handshake(&mut self, config: Arc<ServerConfig>) -> Result<(), UpgradeError> {
        match std::mem::replace(&mut self.io, Io::Closed) {
            Io::Plain(plain) => {
                // Boxed, so that sessions that may turn to TLS do not carry the handshake's state.
                let accept = Box::pin(TlsAcceptor::from(config).accept(plain));
                let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, accept)
                    .await
                    .map_err(|_| UpgradeError::Timeout)??;
                self.io = Io::Tls(Box::new(stream));
                Ok(())
            }
            io => {
                self.io = io;
                Err(UpgradeError::AlreadySecure)
            }
        }
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection was closed by a failed handshake")
}

/// Calls `$method` on whatever the stream is made of.
macro_rules! each_plain {
    ($plain:expr, $stream:ident => $call:expr) => {
        match $plain {
            Plain::Tcp($stream) => $call,
            Plain::Unix($stream) => $call,
            #[cfg(any(test, feature = "fuzzing"))]
            Plain::Memory($stream) => $call,
        }
    };
}

macro_rules! each_io {
    ($io:expr, $stream:ident => $call:expr, $closed:expr) => {
        match $io {
            Io::Plain($stream) => $call,
            Io::Tls(stream) => {
                let $stream = stream.as_mut();
                $call
            }
            Io::Closed => $closed,
        }
    };
}

impl AsyncRead for Plain {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each_plain!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each_plain!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_plain!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_plain!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each_plain!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        each_plain!(self, stream => stream.is_write_vectored())
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each_io!(&mut self.get_mut().io, stream => Pin::new(stream).poll_read(cx, buf), Poll::Ready(Ok(())))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each_io!(
            &mut self.get_mut().io,
            stream => Pin::new(stream).poll_write(cx, buf),
            Poll::Ready(Err(closed()))
        )
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_io!(&mut self.get_mut().io, stream => Pin::new(stream).poll_flush(cx), Poll::Ready(Ok(())))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_io!(&mut self.get_mut().io, stream => Pin::new(stream).poll_shutdown(cx), Poll::Ready(Ok(())))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each_io!(
            &mut self.get_mut().io,
            stream => Pin::new(stream).poll_write_vectored(cx, bufs),
            Poll::Ready(Err(closed()))
        )
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
            Io::Closed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustls::RootCertStore;
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, ServerName};
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::base::tls::{CertificateFiles, Tls, self_signed_create};

    fn tls(dir: &Path) -> (Tls, tokio_rustls::TlsConnector) {
        let files = CertificateFiles { certificate: dir.join("c.pem"), key: dir.join("k.pem") };
        self_signed_create(&files, &["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&files.certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (Tls::load(vec![files]).unwrap(), tokio_rustls::TlsConnector::from(Arc::new(config)))
    }

    #[tokio::test]
    async fn lines_go_on_under_tls() {
        let dir = tempfile::tempdir().unwrap();
        let (tls, connector) = tls(dir.path());
        let (client, server) = tokio::io::duplex(1 << 16);
        let mut connection = Connection::memory(server, Some("192.0.2.1".parse().unwrap()));
        assert!(!connection.is_private());
        let client = tokio::spawn(async move {
            let mut client =
                connector.connect(ServerName::try_from("localhost").unwrap(), client).await.unwrap();
            client.write_all(b"NOOP\r\n").await.unwrap();
            let mut answer = [0; 4];
            client.read_exact(&mut answer).await.unwrap();
            answer
        });
        let mut reader = Reader::new();
        connection.start_tls(tls.server_config(), &mut reader).await.unwrap();
        assert!(connection.is_private());
        assert!(connection.tls_description().unwrap().starts_with("TLSv1.3 TLS13_"));
        assert_eq!(reader.line(&mut connection, 100).await.unwrap().text, b"NOOP");
        connection.write_all(b"OK\r\n").await.unwrap();
        connection.flush().await.unwrap();
        assert_eq!(&client.await.unwrap(), b"OK\r\n");
    }

    #[tokio::test]
    async fn plaintext_after_starttls_ends_the_connection() {
        let dir = tempfile::tempdir().unwrap();
        let (tls, _) = tls(dir.path());
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(b"STARTTLS\r\nRSET\r\n").await.unwrap();
        let mut connection = Connection::memory(server, None);
        let mut reader = Reader::new();
        reader.line(&mut connection, 100).await.unwrap();
        let result = connection.start_tls(tls.server_config(), &mut reader).await;
        assert!(matches!(result, Err(UpgradeError::PlaintextAfterStartTls)));
        assert!(reader.buffered().is_empty());
    }

    #[tokio::test]
    async fn garbage_instead_of_a_handshake_closes_the_connection() {
        let dir = tempfile::tempdir().unwrap();
        let (tls, _) = tls(dir.path());
        let (mut client, server) = tokio::io::duplex(1 << 16);
        client.write_all(b"this is no client hello\r\n").await.unwrap();
        let mut connection = Connection::memory(server, None);
        assert!(matches!(connection.handshake(tls.server_config()).await, Err(UpgradeError::Handshake(_))));
        assert!(matches!(
            Reader::new().line(&mut connection, 100).await,
            Err(crate::wire::line::LineError::Closed)
        ));
        assert!(connection.write_all(b"x").await.is_err());
    }

    #[tokio::test]
    async fn last_reply_arrives_although_input_was_not_read() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (stream, peer) = listener.accept().await.unwrap();
            let mut connection = Connection::new(Plain::Tcp(stream), Some(peer.ip()));
            Reader::new().line(&mut connection, 100).await.unwrap_err();
            connection.write_all(b"too long\r\n").await.unwrap();
            connection.close().await;
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&vec![b'x'; 20 << 20]).await.unwrap();
        client.shutdown().await.unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).await.unwrap();
        assert_eq!(reply, "too long\r\n");
        server.await.unwrap();
    }

    #[test]
    fn only_loopback_and_unix_sockets_are_private_without_tls() {
        let private = |source: Option<&str>| {
            let (_, server) = tokio::io::duplex(1);
            Connection::memory(server, source.map(|text| text.parse().unwrap())).is_private()
        };
        assert!(private(None));
        assert!(private(Some("127.0.0.1")));
        assert!(private(Some("::1")));
        assert!(private(Some("::ffff:127.0.0.1")));
        let (_, server) = tokio::io::duplex(1);
        let balancer = Some("127.0.0.1".parse().unwrap());
        assert!(!Connection::from_unknown(Plain::Memory(server), balancer).is_private());
        assert!(!private(Some("192.0.2.1")));
        assert!(!private(Some("2001:db8::1")));
    }
}
