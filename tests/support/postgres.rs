//! A throw-away PostgreSQL from the system's package, on a Unix socket in a temporary directory.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::programs::{absent, is_root, run, wait};
use super::{PATIENCE, wait_for};

/// A running server; ends with this value.
pub struct Postgres {
    dir: tempfile::TempDir,
    server: Child,
}

impl Postgres {
    /// Starts one, or says what to install.
    #[track_caller]
    pub fn start() -> Option<Self> {
        let Some(programs) = programs_dir() else {
            absent("PostgreSQL is not installed (Debian package postgresql)");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("posthouse-pg").tempdir().expect("temporary directory");
        if is_root() {
            let (uid, gid) = postgres_user();
            chown(dir.path(), Some(uid), Some(gid)).expect("give the directory to postgres");
        }
        let data = dir.path().join("data");
        let options = ["-U", "postgres", "--auth=trust", "--no-sync", "--no-locale", "-E", "UTF8"];
        run(as_postgres(&programs.join("initdb")).arg("-D").arg(&data).args(options), b"").ok();
        let log = std::fs::File::create(dir.path().join("log")).expect("log file");
        let server = as_postgres(&programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=", "-c", "max_connections=60", "-c"])
            .arg(format!("unix_socket_directories={}", dir.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start postgres");
        let postgres = Self { dir, server };
        wait_for("PostgreSQL to answer", || {
            let ready = Command::new(programs.join("pg_isready"))
                .arg("-h")
                .arg(postgres.dir.path())
                .args(["-U", "postgres", "-q"])
                .status();
            ready.is_ok_and(|status| status.success()).then_some(())
        });
        Some(postgres)
    }

    /// The URL for `database.url`.
    pub fn url(&self) -> String {
        format!("postgres:///postgres?host={}&user=postgres", self.dir.path().display())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT is PostgreSQL's immediate shutdown; its children go with it.
        if let Some(pid) = rustix::process::Pid::from_raw(self.server.id() as i32) {
            rustix::process::kill_process(pid, rustix::process::Signal::QUIT).ok();
        }
        wait(&mut self.server, PATIENCE);
    }
}

fn programs_dir() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut dirs: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    dirs.sort();
    let in_path = super::programs::find("initdb").and_then(|file| Some(file.parent()?.to_owned()));
    dirs.into_iter().rev().find(|dir| dir.join("initdb").is_file()).or(in_path)
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    command
}

fn postgres_user() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("user postgres");
    let mut ids = line.split(':').skip(2).map(|id| id.parse().expect("numeric id"));
    (ids.next().expect("uid"), ids.next().expect("gid"))
}
