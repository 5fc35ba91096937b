//! A blocking connection with its own read buffer: lines, exact counts, and a time limit on everything.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// No answer of the server takes longer than this in a test.
const IO_TIMEOUT: Duration = Duration::from_secs(60);

enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// Only while TLS is being put on.
    Taken,
}

/// One connection to the server.
pub struct Connection {
    transport: Transport,
    buffer: Vec<u8>,
    start: usize,
}

impl Connection {
    /// Connects to `address`: `host:port`, or `unix:/path`.
    pub fn open(address: &str) -> io::Result<Self> {
        let transport = if let Some(path) = address.strip_prefix("unix:") {
            let stream = UnixStream::connect(Path::new(path))?;
            stream.set_read_timeout(Some(IO_TIMEOUT))?;
            stream.set_write_timeout(Some(IO_TIMEOUT))?;
            Transport::Unix(stream)
        } else {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(IO_TIMEOUT))?;
            stream.set_write_timeout(Some(IO_TIMEOUT))?;
            Transport::Tcp(stream)
        };
        Ok(Self { transport, buffer: Vec::new(), start: 0 })
    }

    /// Puts TLS on a TCP connection; `certificate_pem` is the only certificate that is trusted.
    pub fn start_tls(&mut self, certificate_pem: &str) -> io::Result<()> {
        assert_eq!(self.start, self.buffer.len(), "the server sent bytes in clear after agreeing to TLS");
        let Transport::Tcp(stream) = std::mem::replace(&mut self.transport, Transport::Taken) else {
            return Err(io::Error::other("TLS needs a TCP connection in clear"));
        };
        let mut roots = RootCertStore::empty();
        let certificate =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(io::Error::other)?;
        roots.add(certificate).map_err(io::Error::other)?;
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        self.transport = Transport::Tls(Box::new(StreamOwned::new(session, stream)));
        Ok(())
    }

    /// Sends all of `octets`.
    pub fn send(&mut self, octets: impl AsRef<[u8]>) -> io::Result<()> {
        let octets = octets.as_ref();
        match &mut self.transport {
            Transport::Tcp(stream) => stream.write_all(octets),
            Transport::Unix(stream) => stream.write_all(octets),
            Transport::Tls(stream) => stream.write_all(octets).and_then(|()| stream.flush()),
            Transport::Taken => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn read_some(&mut self) -> io::Result<usize> {
        if self.start > 0 && self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        let filled = self.buffer.len();
        self.buffer.resize(filled + 64 * 1024, 0);
        let room = &mut self.buffer[filled..];
        let result = loop {
            let result = match &mut self.transport {
                Transport::Tcp(stream) => stream.read(room),
                Transport::Unix(stream) => stream.read(room),
                Transport::Tls(stream) => stream.read(room),
                Transport::Taken => Err(io::ErrorKind::NotConnected.into()),
            };
            // A child that ends interrupts the call.
            if !result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
                break result;
            }
        };
        self.buffer.truncate(filled + *result.as_ref().unwrap_or(&0));
        result
    }

    /// Reads a line without its CRLF. A line that ends in a bare LF is an error: no server of ours sends one.
    pub fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut searched = self.start;
        loop {
            if let Some(offset) = self.buffer[searched..].iter().position(|&byte| byte == b'\n') {
                let end = searched + offset;
                let line = &self.buffer[self.start..end];
                let Some(line) = line.strip_suffix(b"\r") else {
                    return Err(io::Error::other(format!("line without CR: {}", line.escape_ascii())));
                };
                let line = line.to_vec();
                self.start = end + 1;
                return Ok(line);
            }
            let unsearched = self.buffer.len() - self.start;
            if self.read_some()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            searched = self.start + unsearched.min(self.buffer.len() - self.start);
        }
    }

    /// Reads up to and with the first occurrence of `end`.
    pub fn through(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        let mut searched = self.start;
        loop {
            let found = self.buffer[searched..].windows(end.len()).position(|window| window == end);
            if let Some(offset) = found {
                let stop = searched + offset + end.len();
                let octets = self.buffer[self.start..stop].to_vec();
                self.start = stop;
                return Ok(octets);
            }
            let unread = self.buffer.len() - self.start;
            if self.read_some()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            searched = self.start + unread.saturating_sub(end.len());
        }
    }

    /// Reads exactly `count` octets.
    pub fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() - self.start < count {
            if self.read_some()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let octets = self.buffer[self.start..self.start + count].to_vec();
        self.start += count;
        Ok(octets)
    }

    /// Reads up to a line that begins with `tag` without looking at or keeping what comes before, for load
    /// generators; gives the number of octets. Nothing may follow that line.
    pub fn skip_to_tagged(&mut self, tag: &str) -> io::Result<usize> {
        const TAIL: usize = 1_000;
        let start = format!("\r\n{tag} ");
        let mut octets = self.buffer.len() - self.start;
        loop {
            let tail = &self.buffer[self.buffer.len().saturating_sub(TAIL).max(self.start)..];
            let is_complete = tail.ends_with(b"\r\n")
                && tail.windows(start.len()).rposition(|window| window == start.as_bytes()).is_some();
            if is_complete {
                self.start = self.buffer.len();
                return Ok(octets);
            }
            let keep_from = self.buffer.len().saturating_sub(TAIL).max(self.start);
            self.buffer.drain(..keep_from);
            self.start = 0;
            let read = self.read_some()?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            octets += read;
        }
    }

    /// Reads until the server closes.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.read_some() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
        }
        Ok(self.buffer.split_off(self.start))
    }

    /// Ends our direction; the server may still answer.
    pub fn finish_sending(&mut self) -> io::Result<()> {
        match &self.transport {
            Transport::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Transport::Unix(stream) => stream.shutdown(Shutdown::Write),
            Transport::Tls(stream) => stream.sock.shutdown(Shutdown::Write),
            Transport::Taken => Ok(()),
        }
    }

    /// Another time limit for reads.
    pub fn read_timeout(&mut self, limit: Duration) -> io::Result<()> {
        match &self.transport {
            Transport::Tcp(stream) => stream.set_read_timeout(Some(limit)),
            Transport::Unix(stream) => stream.set_read_timeout(Some(limit)),
            Transport::Tls(stream) => stream.sock.set_read_timeout(Some(limit)),
            Transport::Taken => Ok(()),
        }
    }
}
