//! Other people's programs: where they are, and what a test does without them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Whether absence of a program fails the test instead of skipping it.
pub fn all_required() -> bool {
    std::env::var("POSTHOUSE_TEST_REQUIRE").is_ok_and(|value| value == "all")
}

/// Looks for `program` in `PATH` and in the directories where Debian keeps daemons.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The program, or a message that says what to install. The caller returns at once on `None`: the test counts as
/// skipped. With `POSTHOUSE_TEST_REQUIRE=all` absence is a failure.
#[track_caller]
pub fn need(program: &str, package: &str) -> Option<PathBuf> {
    let found = find(program);
    if found.is_none() {
        absent(&format!("{program} is not installed (Debian package {package})"));
    }
    found
}

/// Says why a test does not run, or fails it where everything is required.
#[track_caller]
pub fn absent(why: &str) {
    assert!(!all_required(), "{why}, and POSTHOUSE_TEST_REQUIRE=all");
    eprintln!("skipped: {why}");
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What a finished program left behind.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Fails the test with everything the program said unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(
            self.status.success(),
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }
}

/// Runs `command` with `input` on its standard input; kills it and fails when it takes longer than two minutes.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8]) -> Finished {
    run_within(command, input, Duration::from_secs(120))
}

/// As [`run`] with another time limit.
#[track_caller]
pub fn run_within(command: &mut Command, input: &[u8], limit: Duration) -> Finished {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let mut stderr = child.stderr.take().expect("stderr is piped");
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut stdin, input));
        let out = scope.spawn(move || read_all(&mut stdout));
        let err = scope.spawn(move || read_all(&mut stderr));
        let status = wait(&mut child, limit);
        let stdout = out.join().expect("reader of stdout");
        let stderr = err.join().expect("reader of stderr");
        let Some(status) = status else {
            panic!("{name} took longer than {limit:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        };
        Finished { status, stdout, stderr }
    })
}

fn read_all(pipe: &mut impl std::io::Read) -> String {
    let mut octets = Vec::new();
    pipe.read_to_end(&mut octets).ok();
    String::from_utf8_lossy(&octets).into_owned()
}

/// Waits for `child` up to `limit`; kills it afterwards and gives nothing.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let pid = Pid::from_child(child);
    let (ended, is_ended) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // It stays a zombie until its owner waits for it below, so that nobody else can get its number.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
            ended.send(()).ok();
        });
        let in_time = is_ended.recv_timeout(limit).is_ok();
        if !in_time {
            child.kill().ok();
        }
        let status = child.wait().expect("wait for a child");
        in_time.then_some(status)
    })
}

/// Writes a file, with the folders above it.
#[track_caller]
pub fn write(path: &Path, content: impl AsRef<[u8]>) {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).expect("make a folder");
    }
    std::fs::write(path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
