//! A second S3 server, by other people: moto's, a Python program.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::programs::{absent, find};

/// The bucket that is there.
pub const BUCKET: &str = "mail";
/// How long it may take to start, and to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// A running server with one empty bucket; ends with this value. It lets every key in.
pub struct Moto {
    server: Child,
    address: String,
}

impl Moto {
    /// Starts `moto_server` from `POSTHOUSE_TEST_MOTO` or `PATH`, or says what to install.
    #[track_caller]
    pub fn start() -> Option<Self> {
        let told = std::env::var_os("POSTHOUSE_TEST_MOTO").map(PathBuf::from);
        if told.as_ref().is_some_and(|told| told == Path::new("none")) {
            eprintln!(
                "skipped: the index of Python packages could not be reached, so there is no moto_server"
            );
            return None;
        }
        let Some(program) = told.or_else(|| find("moto_server")) else {
            absent("moto_server is not installed (pip install 'moto[server]', then set POSTHOUSE_TEST_MOTO)");
            return None;
        };
        let mut server = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start moto_server");
        let said = BufReader::new(server.stderr.take().expect("stderr is piped"));
        let (tell, told) = std::sync::mpsc::channel();
        // Also reads what it says later, so that it never waits for a reader.
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("Running on http://") {
                    tell.send(address.trim().to_owned()).ok();
                }
            }
        });
        let address = told.recv_timeout(LIMIT);
        let moto = Self { server, address: address.expect("moto_server tells its address") };
        moto.make_bucket();
        Some(moto)
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn make_bucket(&self) {
        let mut stream = TcpStream::connect(&self.address).expect("connect to moto_server");
        stream.set_read_timeout(Some(LIMIT)).expect("set a time limit");
        let host = &self.address;
        let request = format!(
            "PUT /{BUCKET} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("ask for a bucket");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read the answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}
