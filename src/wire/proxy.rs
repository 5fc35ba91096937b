//! The PROXY protocol, versions 1 and 2 (the HAProxy project's `proxy-protocol.txt`): a load balancer tells the
//! client's address ahead of the connection.
//!
//! Read only from configured networks, and required from them: anybody else could claim any address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Both versions have at least this many octets, enough to tell which it is.
const FIRST_OCTETS: usize = 12;
const V2_SIGNATURE: [u8; FIRST_OCTETS] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1 with its CRLF (section 2.1).
const V1_OCTETS_MAX: usize = 107;
/// Longest version 2 payload taken, in octets: addresses and a few extensions, which are ignored.
const V2_PAYLOAD_OCTETS_MAX: usize = 4096;

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Header {
    /// The client's address.
    Client(IpAddr),
    /// The balancer's own connection, a health check.
    Local,
    /// A client whose address the balancer does not tell, or that has none.
    Unknown,
}

/// Reads a header and not an octet more.
///
/// # Errors
/// `InvalidData` when there is no valid header, or the error of the stream.
pub async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Header> {
    let mut first = [0; FIRST_OCTETS];
    stream.read_exact(&mut first).await?;
    if first == V2_SIGNATURE { read_v2(stream).await } else { read_v1(stream, first).await }
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no valid PROXY header")
}

/// `PROXY TCP4 source destination source-port destination-port` CRLF, or `PROXY UNKNOWN …` CRLF (section 2.1).
async fn read_v1<S: AsyncRead + Unpin>(stream: &mut S, first: [u8; FIRST_OCTETS]) -> io::Result<Header> {
    let mut line = first.to_vec();
    if !line.starts_with(b"PROXY ") {
        return Err(invalid());
    }
    while !line.ends_with(b"\r\n") {
        if line.len() >= V1_OCTETS_MAX {
            return Err(invalid());
        }
        line.push(stream.read_u8().await?);
    }
    parse_v1(&line).ok_or_else(invalid)
}

fn parse_v1(line: &[u8]) -> Option<Header> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?.strip_prefix("PROXY ")?;
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Some(Header::Unknown);
    }
    let fields: Vec<&str> = text.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = fields.as_slice() else { return None };
    source_port.parse::<u16>().ok()?;
    destination_port.parse::<u16>().ok()?;
    let source = match *family {
        "TCP4" => (destination.parse::<Ipv4Addr>().ok()?, IpAddr::V4(source.parse().ok()?)).1,
        "TCP6" => (destination.parse::<Ipv6Addr>().ok()?, IpAddr::V6(source.parse().ok()?)).1,
        _ => return None,
    };
    Some(Header::Client(source.to_canonical()))
}

/// Version and command, family and protocol, payload length; then addresses and ports (section 2.2).
async fn read_v2<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Header> {
    let version_command = stream.read_u8().await?;
    let family = stream.read_u8().await? >> 4;
    let length = usize::from(stream.read_u16().await?);
    if length > V2_PAYLOAD_OCTETS_MAX {
        return Err(invalid());
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    match (version_command, family) {
        (0x20, _) => Ok(Header::Local),
        (0x21, 1) => {
            let source = payload.first_chunk::<4>().filter(|_| length >= 12).ok_or_else(invalid)?;
            Ok(Header::Client(IpAddr::from(*source)))
        }
        (0x21, 2) => {
            let source = payload.first_chunk::<16>().filter(|_| length >= 36).ok_or_else(invalid)?;
            Ok(Header::Client(IpAddr::from(*source).to_canonical()))
        }
        (0x21, 0 | 3) => Ok(Header::Unknown),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn read(mut input: &[u8]) -> (io::Result<Header>, Vec<u8>) {
        let header = read_header(&mut input).await;
        (header, input.to_vec())
    }

    fn v2(version_command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([version_command, family]);
        bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    #[tokio::test]
    async fn version_1_is_read_to_its_end_and_no_further() {
        let (header, rest) = read(b"PROXY TCP4 192.0.2.7 192.0.2.1 56324 143\r\nEHLO x\r\n").await;
        assert_eq!(header.unwrap(), Header::Client("192.0.2.7".parse().unwrap()));
        assert_eq!(rest, b"EHLO x\r\n");
        let (header, _) = read(b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 143\r\n").await;
        assert_eq!(header.unwrap(), Header::Client("2001:db8::7".parse().unwrap()));
        let (header, rest) = read(b"PROXY UNKNOWN\r\nx").await;
        assert_eq!((header.unwrap(), rest.as_slice()), (Header::Unknown, &b"x"[..]));
    }

    #[tokio::test]
    async fn version_2_with_extensions_is_read_to_its_end() {
        let mut payload = vec![192, 0, 2, 7, 192, 0, 2, 1, 0xdc, 4, 0, 143];
        payload.extend([0x04, 0, 3, 1, 2, 3]);
        let mut bytes = v2(0x21, 0x11, &payload);
        bytes.extend(b"rest");
        let (header, rest) = read(&bytes).await;
        assert_eq!(header.unwrap(), Header::Client("192.0.2.7".parse().unwrap()));
        assert_eq!(rest, b"rest");
        assert_eq!(read(&v2(0x20, 0x00, b"")).await.0.unwrap(), Header::Local);
        assert_eq!(read(&v2(0x21, 0x00, b"")).await.0.unwrap(), Header::Unknown);
    }

    #[tokio::test]
    async fn headers_that_are_not_valid_are_refused() {
        for bytes in [
            b"EHLO client.example\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 192.0.2.1 56324\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 192.0.2.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 99999\r\n".to_vec(),
            [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200], b"\r\n".to_vec()].concat(),
            v2(0x11, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x11, &[0; 5000]),
        ] {
            let (header, _) = read(&bytes).await;
            assert_eq!(header.unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        assert_eq!(read(b"PROXY TCP4").await.0.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn arbitrary_octets_never_panic(tail in any::<Vec<u8>>(), which in 0..3) {
            let mut bytes = match which {
                0 => V2_SIGNATURE.to_vec(),
                1 => b"PROXY TCP4 ".to_vec(),
                _ => Vec::new(),
            };
            bytes.extend(tail);
            let mut input = bytes.as_slice();
            let future = read_header(&mut input);
            let mut future = std::pin::pin!(future);
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            prop_assert!(future.as_mut().poll(&mut cx).is_ready());
        }
    }
}
