//! Listening on TCP and Unix sockets, within limits, until shutdown.
//!
//! Invariants
//! - Every accepted TCP socket has TCP_NODELAY: answers are written whole, waiting for more would only delay them.
//! - A connection counts against the limits from accept to the end of its session.
//! - Nothing a client does before its session starts (PROXY header, TLS handshake) holds up the accept loop.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::proxy::{self, Header};
use super::stream::{Connection, Plain};
use crate::base::endpoint::Endpoint;
use crate::base::network::Network;
use crate::service::context::Source;

/// How long a PROXY header may take.
const PROXY_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait after an accept error such as "too many open files", doubled up to the longest.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(20);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A peer that vanished without a word is found out after about this time of silence.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// Tells sessions and accept loops to end. Cheap to clone.
#[derive(Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// The side that asks, and the side that is told. Send `true` to ask; dropping the sender asks as well.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Whether it has been asked for.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Completes when it has been asked for. Cancel-safe; may be awaited again and again.
    pub async fn requested(&self) {
        let _ = self.0.clone().wait_for(|asked| *asked).await;
    }
}

/// Limits shared by the listeners of one protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionLimits {
    /// Most connections at a time.
    pub connections_max: usize,
    /// Most connections at a time from one IPv4 address or IPv6 /64; Unix sockets are not counted here.
    pub connections_per_address_max: usize,
}

/// What a protocol's listeners share.
pub struct Gate {
    limits: ConnectionLimits,
    all: Arc<Semaphore>,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    proxy_networks: Vec<Network>,
    /// Sent in the clear to a connection beyond the limits before it is closed.
    busy_reply: &'static [u8],
}

/// A connection's place within the limits.
struct Place {
    gate: Arc<Gate>,
    address: Option<IpAddr>,
    _all: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            let mut counts = self.gate.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = counts.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&address);
                }
            }
        }
    }
}

impl Gate {
    /// A gate for the listeners of one protocol. `busy_reply` is its way of saying "too many connections".
    pub fn new(
        limits: ConnectionLimits,
        proxy_networks: Vec<Network>,
        busy_reply: &'static [u8],
    ) -> Arc<Self> {
        let all = Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { limits, all, by_address: Mutex::default(), proxy_networks, busy_reply })
    }

    /// Connections at present.
    pub fn connections(&self) -> usize {
        self.limits.connections_max.min(Semaphore::MAX_PERMITS) - self.all.available_permits()
    }

    fn enter(self: &Arc<Self>) -> Option<Place> {
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { gate: Arc::clone(self), address: None, _all: all })
    }

    fn count_address(&self, place: &mut Place, source: Source) -> bool {
        let Some(address) = source.map(limited_as) else { return true };
        let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_insert(0);
        if *count >= self.limits.connections_per_address_max {
            if *count == 0 {
                counts.remove(&address);
            }
            return false;
        }
        *count += 1;
        place.address = Some(address);
        true
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxy_networks.iter().any(|network| network.contains(address))
    }
}

/// An IPv6 client commonly has a /64 to itself, so it counts as one.
fn limited_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Accepts on a bound socket ([`super::bind::Bound`]).
pub struct Listener {
    socket: Socket,
    endpoint: Endpoint,
}

impl Listener {
    /// Accepts on a socket that is bound to `endpoint`.
    pub(super) fn new(socket: OwnedFd, endpoint: Endpoint) -> io::Result<Self> {
        let socket = match &endpoint {
            Endpoint::Tcp(_) => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                Socket::Tcp(TcpListener::from_std(listener)?)
            }
            Endpoint::Unix { .. } => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                Socket::Unix(UnixListener::from_std(listener)?)
            }
        };
        Ok(Self { socket, endpoint })
    }

    /// Where it listens, with the port that was taken.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    async fn accept(&self) -> io::Result<(Plain, Source)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
                socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                Ok((Plain::Tcp(stream), Some(peer.ip().to_canonical())))
            }
            Socket::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Plain::Unix(stream), None))
            }
        }
    }
}

/// Accepts connections and runs `session` for each in a task of its own until `shutdown`; then stops accepting
/// and waits for the sessions, at most `drain`; what still runs is cut off. Connections that come later are left to
/// the next one who accepts on the same bound socket.
///
/// With `implicit_tls` the handshake comes first.
pub async fn serve<F, S>(
    listener: Listener,
    gate: Arc<Gate>,
    implicit_tls: Option<Arc<ServerConfig>>,
    shutdown: Shutdown,
    drain: Duration,
    session: F,
) where
    F: Fn(Connection, Shutdown) -> S + Clone + Send + Sync + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let mut sessions = JoinSet::new();
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.requested() => break,
            Some(ended) = sessions.join_next(), if !sessions.is_empty() => {
                report(&ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((plain, source)) => {
                pause = ACCEPT_PAUSE_MIN;
                let place = gate.enter();
                let (gate, tls) = (Arc::clone(&gate), implicit_tls.clone());
                let (shutdown, session) = (shutdown.clone(), session.clone());
                // Boxed apart, so that an idle session does not carry the handshake's state.
                sessions.spawn(async move {
                    let opened = Box::pin(open(&gate, plain, source, place, tls)).await;
                    if let Some((mut connection, _place)) = opened {
                        connection.ends_with(shutdown.clone());
                        session(connection, shutdown).await;
                    }
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(endpoint = %listener.endpoint, %error, "cannot accept connections");
                tokio::select! {
                    () = shutdown.requested() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
    drop(listener);
    let finished = async {
        while let Some(ended) = sessions.join_next().await {
            report(&ended);
        }
    };
    if tokio::time::timeout(drain, finished).await.is_err() {
        sessions.shutdown().await;
    }
}

/// A session that panicked is a defect; it took nobody else with it.
fn report(ended: &Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a session broke off");
    }
}

/// Errors of the connection that was to be accepted, not of accepting (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | InvalidInput | NotConnected
    )
}

/// What comes before a session: limits, PROXY header, TLS handshake. Nothing when the connection is refused.
async fn open(
    gate: &Arc<Gate>,
    mut plain: Plain,
    mut source: Source,
    place: Option<Place>,
    implicit_tls: Option<Arc<ServerConfig>>,
) -> Option<(Connection, Place)> {
    let busy = if implicit_tls.is_some() { &b""[..] } else { gate.busy_reply };
    let Some(mut place) = place else {
        refuse(plain, busy).await;
        return None;
    };
    let mut is_unknown = false;
    if source.is_some_and(|address| gate.is_proxy(address)) {
        match tokio::time::timeout(PROXY_TIMEOUT, proxy::read_header(&mut plain)).await {
            Ok(Ok(Header::Client(address))) => source = Some(address),
            Ok(Ok(Header::Unknown)) => is_unknown = true,
            Ok(Ok(Header::Local)) => {}
            Ok(Err(error)) => {
                tracing::debug!(?source, %error, "connection from a proxy network refused");
                return None;
            }
            Err(_) => return None,
        }
    }
    if !gate.count_address(&mut place, source) {
        tracing::debug!(?source, "too many connections from this address");
        refuse(plain, busy).await;
        return None;
    }
    let mut connection = match is_unknown {
        true => Connection::from_unknown(plain, source),
        false => Connection::new(plain, source),
    };
    if let Some(config) = implicit_tls
        && let Err(error) = connection.handshake(config).await
    {
        tracing::debug!(?source, %error, "connection dropped");
        return None;
    }
    Some((connection, place))
}

/// Says why, if the client listens, and closes.
async fn refuse(mut plain: Plain, reply: &'static [u8]) {
    let farewell = async {
        plain.write_all(reply).await?;
        plain.shutdown().await
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), farewell).await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::os::unix::fs::PermissionsExt;

    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpStream, UnixStream};

    use super::*;
    use crate::wire::bind::Bound;
    use crate::wire::line::Reader;

    const DRAIN: Duration = Duration::from_secs(5);

    fn gate(all: usize, per_address: usize, networks: &[&str]) -> Arc<Gate> {
        let limits = ConnectionLimits { connections_max: all, connections_per_address_max: per_address };
        let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
        Gate::new(limits, networks, b"421 busy\r\n")
    }

    /// Says where the client comes from, then echoes one line, or says goodbye at shutdown.
    async fn hello(mut connection: Connection, shutdown: Shutdown) {
        let greeting = format!("{:?}\n", connection.source());
        connection.write_all(greeting.as_bytes()).await.unwrap();
        let mut reader = Reader::new();
        let line = tokio::select! {
            line = reader.line(&mut connection, 100) => line.map(|line| line.text.to_vec()).unwrap_or_default(),
            () = shutdown.requested() => b"bye".to_vec(),
        };
        let _ = connection.write_all(&line).await;
    }

    async fn read_line(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
        let mut reader = Reader::new();
        let line = reader.line(stream, 1000).await.unwrap();
        String::from_utf8(line.text.to_vec()).unwrap()
    }

    async fn start(
        endpoint: &str,
        gate: Arc<Gate>,
    ) -> (Endpoint, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
        let bound = Bound::bind(&endpoint.parse().unwrap()).unwrap();
        let endpoint = bound.endpoint().clone();
        let (stop, shutdown) = Shutdown::new();
        let served = tokio::spawn(async move {
            serve(bound.listener().unwrap(), gate, None, shutdown, DRAIN, hello).await;
        });
        (endpoint, stop, served)
    }

    fn address(endpoint: &Endpoint) -> SocketAddr {
        match endpoint {
            Endpoint::Tcp(address) => *address,
            Endpoint::Unix { .. } => panic!("no TCP endpoint"),
        }
    }

    #[tokio::test]
    async fn tcp_sessions_run_and_are_told_of_shutdown() {
        let gate = gate(10, 10, &[]);
        let (endpoint, stop, served) = start("127.0.0.1:0", Arc::clone(&gate)).await;
        let mut client = TcpStream::connect(address(&endpoint)).await.unwrap();
        assert_eq!(read_line(&mut client).await, "Some(127.0.0.1)");
        assert_eq!(gate.connections(), 1);
        stop.send(true).unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "bye");
        served.await.unwrap();
        assert_eq!(gate.connections(), 0);
        assert!(TcpStream::connect(address(&endpoint)).await.is_err());
    }

    #[tokio::test]
    async fn connection_beyond_the_limit_is_told_so_and_a_closed_one_makes_room() {
        let (endpoint, _stop, _served) = start("127.0.0.1:0", gate(10, 1, &[])).await;
        let mut first = TcpStream::connect(address(&endpoint)).await.unwrap();
        read_line(&mut first).await;
        let mut second = TcpStream::connect(address(&endpoint)).await.unwrap();
        assert_eq!(read_line(&mut second).await, "421 busy");
        first.write_all(b"done\n").await.unwrap();
        let mut rest = String::new();
        first.read_to_string(&mut rest).await.unwrap();
        // The place is given back when the session's task ends, which may be a moment after the client sees it.
        for attempt in 0.. {
            let mut third = TcpStream::connect(address(&endpoint)).await.unwrap();
            if read_line(&mut third).await == "Some(127.0.0.1)" {
                break;
            }
            assert!(attempt < 1000, "the place was not given back");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn unix_socket_replaces_a_stale_file_and_is_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let text = format!("unix:{},mode=600", path.display());
        let (endpoint, stop, served) = start(&text, gate(10, 1, &[])).await;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for _ in 0..2 {
            let mut client = UnixStream::connect(&path).await.unwrap();
            assert_eq!(read_line(&mut client).await, "None");
        }
        let taken = Bound::bind(&endpoint).err().unwrap();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        stop.send(true).unwrap();
        served.await.unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn connections_wait_for_the_next_who_accepts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        for endpoint in ["127.0.0.1:0".to_owned(), format!("unix:{}", path.display())] {
            let mut bound = Bound::bind(&endpoint.parse().unwrap()).unwrap();
            let endpoint = bound.endpoint().clone();
            let (stop, shutdown) = Shutdown::new();
            let gate = gate(10, 10, &[]);
            let first = bound.listener().unwrap();
            let first = tokio::spawn(serve(first, Arc::clone(&gate), None, shutdown, DRAIN, hello));
            stop.send(true).unwrap();
            first.await.unwrap();
            let mut client: Box<dyn tokio::io::AsyncRead + Unpin> = match &endpoint {
                Endpoint::Tcp(address) => Box::new(TcpStream::connect(address).await.unwrap()),
                Endpoint::Unix { path, .. } => Box::new(UnixStream::connect(path).await.unwrap()),
            };
            let socket = bound.socket().try_clone_to_owned().unwrap();
            let mut successor = Bound::inherited(socket, endpoint.clone()).unwrap();
            successor.own();
            bound.leave();
            drop(bound);
            let (_stop, shutdown) = Shutdown::new();
            let second = successor.listener().unwrap();
            tokio::spawn(serve(second, gate, None, shutdown, DRAIN, hello));
            assert!(read_line(&mut client).await.contains(if path.exists() { "None" } else { "127.0.0.1" }));
            drop(successor);
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn proxy_header_is_required_from_its_networks_and_gives_the_source() {
        let (endpoint, _stop, _served) = start("127.0.0.1:0", gate(10, 10, &["127.0.0.1"])).await;
        let mut client = TcpStream::connect(address(&endpoint)).await.unwrap();
        client.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 143\r\nhello\r\n").await.unwrap();
        assert_eq!(read_line(&mut client).await, "Some(192.0.2.7)");
        let mut rude = TcpStream::connect(address(&endpoint)).await.unwrap();
        rude.write_all(b"EHLO client.example\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _ = rude.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_as_one() {
        let limited = |text: &str| limited_as(text.parse().unwrap());
        assert_eq!(limited("2001:db8::1"), limited("2001:db8::ffff:2"));
        assert_ne!(limited("2001:db8::1"), limited("2001:db8:0:1::1"));
        assert_ne!(limited("192.0.2.1"), limited("192.0.2.2"));
    }
}
