//! The S3 server of the tests as a process of its own, so that its time can be told from the load generator's.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::s3::{Requests, S3Server};

/// The argument that makes of the benchmark's program the server.
pub const SERVE: &str = "--serve-objects";

/// Where Linux has a file system in memory.
const MEMORY: &str = "/dev/shm";

/// A running server; ends with this value.
pub struct ObjectStore {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    endpoint: String,
}

impl ObjectStore {
    pub fn start() -> Self {
        let own = std::env::current_exe().expect("the benchmark's program");
        let mut command = Command::new(own);
        command.arg(SERVE).stdin(Stdio::piped()).stdout(Stdio::piped());
        // The disks of a real one are not the daemon's.
        if Path::new(MEMORY).is_dir() {
            command.env("TMPDIR", MEMORY);
        }
        let mut child = command.spawn().expect("start the object store");
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("its answers"));
        let mut own = Self { child, questions, answers, endpoint: String::new() };
        own.endpoint = own.answer();
        own
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Requests so far.
    pub fn requests(&mut self) -> Requests {
        let questions = self.questions.as_mut().expect("the object store runs");
        questions.write_all(b"requests\n").expect("ask the object store");
        let answer = self.answer();
        let mut numbers = answer.split(' ').map(|number| number.parse().expect("a number"));
        let mut next = || numbers.next().expect("five numbers");
        Requests { put: next(), post: next(), get: next(), head: next(), delete: next() }
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the object store answers");
        line.trim_end().to_owned()
    }
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        drop(self.questions.take());
        self.child.wait().ok();
    }
}

/// Serves until nobody asks any more.
pub fn serve() {
    let server = S3Server::start();
    println!("{}", server.endpoint());
    for _ in std::io::stdin().lines() {
        let Requests { put, post, get, head, delete } = server.requests();
        println!("{put} {post} {get} {head} {delete}");
    }
}
