//! Where to listen.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// A Unix socket is for its owner and group unless `,mode=` says otherwise.
const UNIX_MODE: u32 = 0o660;

/// Where to listen: `HOST:PORT`, or `unix:PATH` with an optional `,mode=OCTAL`.
#[derive(Clone, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum Endpoint {
    /// An address and port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix {
        /// Its file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// A text that is no endpoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is nowhere to listen: expected ADDRESS:PORT, [IPV6]:PORT or unix:PATH[,mode=660]")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = || EndpointError(text.to_owned());
        let Some(path) = text.strip_prefix("unix:") else {
            let address = match text.strip_prefix("localhost:") {
                Some(port) => format!("127.0.0.1:{port}").parse(),
                None => text.parse(),
            };
            return address.map(Self::Tcp).map_err(|_| error());
        };
        let (path, mode) = match path.split_once(",mode=") {
            Some((path, mode)) => (path, u32::from_str_radix(mode, 8).map_err(|_| error())?),
            None => (path, UNIX_MODE),
        };
        if path.is_empty() || mode > 0o777 {
            return Err(error());
        }
        Ok(Self::Unix { path: PathBuf::from(path), mode })
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_parsed() {
        assert_eq!("127.0.0.1:24".parse(), Ok(Endpoint::Tcp("127.0.0.1:24".parse().unwrap())));
        assert_eq!("localhost:24".parse(), Ok(Endpoint::Tcp("127.0.0.1:24".parse().unwrap())));
        assert_eq!("[::1]:24".parse::<Endpoint>().unwrap().to_string(), "[::1]:24");
        assert_eq!(
            "unix:/run/x.sock,mode=666".parse(),
            Ok(Endpoint::Unix { path: "/run/x.sock".into(), mode: 0o666 })
        );
        assert_eq!("unix:/run/x.sock".parse::<Endpoint>().unwrap().to_string(), "unix:/run/x.sock");
        for wrong in ["", "24", ":24", "host", "unix:", "unix:x,mode=9", "unix:x,mode=7777", "1.2.3.4"] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }
}
