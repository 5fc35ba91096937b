//! HTTP/1.1 over the admin socket: one request per connection.

use std::io;
use std::path::Path;

use super::stream::Connection;

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The content, chunks joined.
    pub body: Vec<u8>,
}

impl Response {
    /// The content as JSON; null when it is empty.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        if self.body.is_empty() {
            return serde_json::Value::Null;
        }
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.body.escape_ascii()))
    }

    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Sends one request to `address` (`unix:/path` or `host:port`) and reads the response.
pub fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&serde_json::Value>,
) -> io::Result<Response> {
    let mut connection = Connection::open(address)?;
    let content = body.map(ToString::to_string).unwrap_or_default();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if body.is_some() {
        head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", content.len()));
    }
    connection.send(format!("{head}\r\n{content}"))?;
    read_response(&mut connection)
}

/// As [`request`], on a Unix socket.
pub fn over_socket(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&serde_json::Value>,
) -> io::Result<Response> {
    request(&format!("unix:{}", socket.display()), method, path, headers, body)
}

/// The lines of an answer that goes on.
pub struct Lines {
    connection: Connection,
    waiting: Vec<u8>,
}

/// Sends one GET request to `address` for an answer of lines, and reads as far as its head.
pub fn lines(address: &str, path: &str, headers: &[(&str, &str)]) -> io::Result<Lines> {
    let mut connection = Connection::open(address)?;
    let mut head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    connection.send(format!("{head}\r\n"))?;
    let status = String::from_utf8(connection.line()?).map_err(io::Error::other)?;
    if !status.contains(" 200 ") {
        return Err(io::Error::other(status));
    }
    while !connection.line()?.is_empty() {}
    Ok(Lines { connection, waiting: Vec::new() })
}

impl Lines {
    /// The next line as JSON; nothing at the end.
    pub fn next(&mut self) -> io::Result<Option<serde_json::Value>> {
        loop {
            if let Some(end) = self.waiting.iter().position(|&octet| octet == b'\n') {
                let line: Vec<u8> = self.waiting.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(io::Error::other);
            }
            let size = String::from_utf8(self.connection.line()?).map_err(io::Error::other)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            let chunk = self.connection.exactly(size)?;
            self.connection.line()?;
            if size == 0 {
                return Ok(None);
            }
            self.waiting.extend_from_slice(&chunk);
        }
    }
}

fn read_response(connection: &mut Connection) -> io::Result<Response> {
    let text = |octets: Vec<u8>| String::from_utf8(octets).map_err(io::Error::other);
    let status_line = text(connection.line()?)?;
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status line: {status_line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = text(connection.line()?)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(line.clone()))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Vec::new() };
    if let Some(length) = response.header("content-length").and_then(|value| value.parse().ok()) {
        response.body = connection.exactly(length)?;
    } else if response.header("transfer-encoding") == Some("chunked") {
        loop {
            let size = text(connection.line()?)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            let chunk = connection.exactly(size)?;
            connection.line()?;
            if size == 0 {
                break;
            }
            response.body.extend_from_slice(&chunk);
        }
    } else {
        response.body = connection.rest()?;
    }
    Ok(response)
}
