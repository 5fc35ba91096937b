//! A small HTTP server that takes what is posted to it: one request a connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use super::PATIENCE;

/// Longest body that is taken, in octets.
const BODY_OCTETS_MAX: usize = 1 << 20;

/// What was posted.
#[derive(Clone, Debug)]
pub struct Posted {
    /// The request's path.
    pub path: String,
    /// The header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub body: String,
}

impl Posted {
    /// The first header of that name (lower case).
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map_or_else(|| panic!("no {name} in {:?}", self.headers), |(_, value)| value)
    }

    /// The content as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// The server; it ends with the process.
pub struct Receiver {
    address: SocketAddr,
    posted: mpsc::Receiver<Posted>,
    statuses: mpsc::Sender<String>,
}

impl Receiver {
    /// Serves on a free port of this machine. Each request is answered with 204 unless [`Self::answer`] says otherwise.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("the address");
        let (send, posted) = mpsc::channel();
        let (statuses, wanted) = mpsc::channel::<String>();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let status = wanted.try_recv().unwrap_or_else(|_| "204 No Content".to_owned());
                // Whoever breaks off has sent nothing.
                let Ok(one) = take(stream, &status) else { continue };
                if send.send(one).is_err() {
                    return;
                }
            }
        });
        Self { address, posted, statuses }
    }

    /// Where it is reached.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Status line and further header lines of one of the next requests, in the order in which they are given.
    pub fn answer(&self, status: &str) {
        self.statuses.send(status.to_owned()).expect("the server");
    }

    /// The next request.
    #[track_caller]
    pub fn next(&self) -> Posted {
        self.posted.recv_timeout(PATIENCE).expect("something that is posted")
    }

    /// Whether nothing has come that was not taken.
    pub fn is_quiet(&self) -> bool {
        self.posted.try_recv().is_err()
    }
}

fn take(stream: TcpStream, status: &str) -> std::io::Result<Posted> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0_usize);
    let mut body = vec![0; length.min(BODY_OCTETS_MAX)];
    reader.read_exact(&mut body)?;
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    reader.get_mut().write_all(answer.as_bytes())?;
    Ok(Posted { path, headers, body: String::from_utf8_lossy(&body).into_owned() })
}
