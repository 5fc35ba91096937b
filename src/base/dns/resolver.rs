//! Asks servers, one after the other.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{Answer, MessageError, parse, query};
use crate::base::id::random_bytes;

/// How long one server may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often all servers are asked.
const ROUNDS: usize = 2;
/// Names looked at one after the other because each is an alias of the next.
const ALIASES_MAX: usize = 8;
/// Datagrams taken for one question: what is no answer to it is passed over.
const DATAGRAMS_MAX: usize = 32;
/// Longest answer over UDP, since no other is asked for (RFC 1035 section 4.2.1).
const DATAGRAM_OCTETS_MAX: usize = 512;
/// Where the system says whom to ask (resolv.conf(5)).
const SYSTEM_FILE: &str = "/etc/resolv.conf";
/// Servers that are taken from there.
const SERVERS_MAX: usize = 3;
/// The port.
const PORT: u16 = 53;

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DnsError {
    /// The name cannot stand in the DNS.
    #[error("{0} is too long for the DNS")]
    Name(String),
    /// The system names no server.
    #[error("no DNS server is configured")]
    NoServer,
    /// Nobody answered in time.
    #[error("the DNS did not answer in time")]
    Timeout,
    /// A server answered that it cannot; its response code (RFC 1035 section 4.1.1).
    #[error("the DNS could not answer (response code {0})")]
    Failed(u16),
    /// What came back made no sense.
    #[error("the DNS answered nonsense")]
    Malformed,
    /// The aliases have no end.
    #[error("the name is an alias of an alias of an alias, without end")]
    Aliases,
    /// The network.
    #[error("the DNS server cannot be reached")]
    Unreachable,
}

/// Asks for TXT records. Cheap to clone; it remembers nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resolver {
    server: Option<SocketAddr>,
}

impl Resolver {
    /// Asks this server; without one those that the system names, read anew each time.
    pub const fn new(server: Option<SocketAddr>) -> Self {
        Self { server }
    }

    /// The texts at `name`, the strings of each record joined; none when there is no such name.
    ///
    /// # Errors
    /// See [`DnsError`].
    pub async fn texts(&self, name: &str) -> Result<Vec<Vec<u8>>, DnsError> {
        let servers = self.servers().await?;
        let mut name = name.to_owned();
        for _ in 0..ALIASES_MAX {
            match ask_all(&servers, &name).await? {
                Answer::Alias(to) => name = to,
                Answer::Texts(texts) => return Ok(texts),
                Answer::Truncated => return Err(DnsError::Malformed),
                Answer::Failed(code) => return Err(DnsError::Failed(code)),
            }
        }
        Err(DnsError::Aliases)
    }

    async fn servers(&self) -> Result<Vec<SocketAddr>, DnsError> {
        if let Some(server) = self.server {
            return Ok(vec![server]);
        }
        let text = tokio::fs::read_to_string(SYSTEM_FILE).await.map_err(|_| DnsError::NoServer)?;
        let servers = named_servers(&text);
        if servers.is_empty() { Err(DnsError::NoServer) } else { Ok(servers) }
    }
}

/// The servers of a resolv.conf(5).
fn named_servers(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()?.parse::<IpAddr>().ok()
    });
    addresses.take(SERVERS_MAX).map(|address| SocketAddr::new(address, PORT)).collect()
}

/// The first answer that says something; else why the last server had none.
async fn ask_all(servers: &[SocketAddr], name: &str) -> Result<Answer, DnsError> {
    let mut last = DnsError::NoServer;
    for _ in 0..ROUNDS {
        for &server in servers {
            match timeout(ANSWER_TIMEOUT, ask(server, name)).await.unwrap_or(Err(DnsError::Timeout)) {
                Ok(Answer::Failed(code)) => last = DnsError::Failed(code),
                Ok(answer) => return Ok(answer),
                Err(error @ DnsError::Name(_)) => return Err(error),
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

async fn ask(server: SocketAddr, name: &str) -> Result<Answer, DnsError> {
    // From a port that the system draws, with a number of its own: whoever cannot listen in has to guess both.
    let id = random_bytes(2).iter().fold(0_u16, |id, &octet| (id << 8) | u16::from(octet));
    let question = query(id, name).ok_or_else(|| DnsError::Name(name.to_owned()))?;
    let unreachable = |_: io::Error| DnsError::Unreachable;
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(unreachable)?;
    // Connected: what others send is not even received.
    socket.connect(server).await.map_err(unreachable)?;
    socket.send(&question).await.map_err(unreachable)?;
    let mut octets = [0; DATAGRAM_OCTETS_MAX];
    for _ in 0..DATAGRAMS_MAX {
        let length = socket.recv(&mut octets).await.map_err(unreachable)?;
        match parse(octets.get(..length).unwrap_or_default(), id, name) {
            Ok(Answer::Truncated) => return ask_over_tcp(server, &question, id, name).await,
            Ok(answer) => return Ok(answer),
            Err(MessageError::Other) => {}
            Err(MessageError::Malformed) => return Err(DnsError::Malformed),
        }
    }
    Err(DnsError::Malformed)
}

/// With the length in two octets before each message (RFC 1035 section 4.2.2).
async fn ask_over_tcp(server: SocketAddr, question: &[u8], id: u16, name: &str) -> Result<Answer, DnsError> {
    let unreachable = |_: io::Error| DnsError::Unreachable;
    let mut stream = TcpStream::connect(server).await.map_err(unreachable)?;
    let length = u16::try_from(question.len()).map_err(|_| DnsError::Malformed)?;
    let framed = [&length.to_be_bytes(), question].concat();
    stream.write_all(&framed).await.map_err(unreachable)?;
    let length = stream.read_u16().await.map_err(unreachable)?;
    let mut octets = vec![0; usize::from(length)];
    stream.read_exact(&mut octets).await.map_err(unreachable)?;
    parse(&octets, id, name).map_err(|_| DnsError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_the_system_are_its_first_three() {
        let text = "# a comment\nsearch example\nnameserver 192.0.2.1\nnameserver nonsense\n\
                    nameserver\t2001:db8::1\noptions ndots:1\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let expected = ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.3:53"];
        let servers: Vec<String> = named_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, expected);
    }
}
