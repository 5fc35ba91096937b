//! Jobs as an operator sees them: followed, left alone, cut off with the daemon, gone on with.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, PROGRAM, Setup};
use crate::support::programs::wait;
use crate::support::{PATIENCE, wait_for};

/// A daemon with a backup of some packs, whose last file is a named pipe: checking it stands still there.
struct Stuck {
    daemon: Daemon,
    backup: PathBuf,
    /// The files of the backup in the manifest's order.
    files: Vec<String>,
    /// What belongs in the last file's place.
    last: Vec<u8>,
}

impl Stuck {
    fn new() -> Self {
        let daemon = Daemon::with_alice(Setup::default());
        for number in 0..2 {
            daemon.deliver("alice@acme.test", format!("Subject: {number}\r\n\r\ntext\r\n").as_bytes());
            daemon.posthouse(&["store", "pack"]).ok();
        }
        let backup = daemon.dir().join("backup");
        let id = daemon.json(&["backup", "create", backup.to_str().unwrap()])[0]["id"].clone();
        let snapshot = format!("snapshots/{}", id.as_str().unwrap());
        let manifest = std::fs::File::open(backup.join(&snapshot).join("manifest.json.zst")).unwrap();
        let manifest = zstd::stream::decode_all(manifest).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let path = |pack: &Value| format!("packs/{}.pack", pack["name"].as_str().unwrap());
        let mut files = vec![format!("{snapshot}/metadata.db.zst")];
        files.extend(manifest["packs"].as_array().unwrap().iter().map(path));
        assert!(files.len() >= 3, "{files:?}");
        let last = backup.join(files.last().unwrap());
        let content = std::fs::read(&last).unwrap();
        std::fs::remove_file(&last).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &last, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        Self { daemon, backup, files, last: content }
    }

    fn last_path(&self) -> PathBuf {
        self.backup.join(self.files.last().unwrap())
    }

    /// Begins to check the backup and waits until it stands still; answers the job's id.
    fn check(&self) -> String {
        let dir = self.backup.to_str().unwrap();
        let job = self.daemon.json(&["backup", "verify", dir, "--detach"]).remove(0);
        let id = job["id"].as_str().unwrap().to_owned();
        let octets = |file: &String| std::fs::metadata(self.backup.join(file)).unwrap().len();
        let before: u64 = self.files.iter().rev().skip(1).map(octets).sum();
        wait_for("all but the last file are checked", || (self.done(&id) == before).then_some(()));
        id
    }

    fn done(&self, id: &str) -> u64 {
        self.daemon.json(&["job", "show", id])[0]["done"].as_u64().unwrap()
    }

    /// Puts a file in the pipe's place. Whoever waits for the pipe gets nothing from it, and asks again.
    fn mend(&self) {
        self.mend_with(&self.last);
    }

    fn mend_with(&self, content: &[u8]) {
        let mut pipe = std::fs::File::options();
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let pipe = pipe.write(true).custom_flags(flags).open(self.last_path());
        std::fs::remove_file(self.last_path()).unwrap();
        std::fs::write(self.last_path(), content).unwrap();
        drop(pipe);
    }
}

fn watch(daemon: &Daemon, id: &str) -> Child {
    let mut command = Command::new(PROGRAM);
    command.arg("--socket").arg(daemon.admin_socket()).args(["--json", "job", "watch", id]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn text_of(stream: Option<impl std::io::Read>) -> String {
    let mut text = String::new();
    stream.unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn job_goes_on_after_kill_where_it_was_and_who_watches_sees_its_end() {
    let mut stuck = Stuck::new();
    let id = stuck.check();
    let mut watcher = watch(&stuck.daemon, &id);
    stuck.daemon.kill();
    stuck.mend();
    // A file that was checked already is gone: only who begins anew notices.
    std::fs::remove_file(stuck.backup.join(&stuck.files[1])).unwrap();
    stuck.daemon.start_again();
    let status = wait(&mut watcher, PATIENCE).expect("the watcher ends");
    let lines = text_of(watcher.stdout.take());
    assert!(status.success(), "{lines}{}", text_of(watcher.stderr.take()));
    let jobs: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = jobs.last().unwrap();
    assert_eq!((&last["state"], &last["attempts"]), (&json!("done"), &json!(2)), "{last}");
    assert_eq!(last["report"]["damaged"], json!([]), "it went on behind what was checked");
    assert_eq!(last["report"]["files"], json!(stuck.files.len()));
    let done: Vec<u64> = jobs.iter().map(|job| job["done"].as_u64().unwrap()).collect();
    assert!(done.is_sorted(), "{done:?}");
}

#[test]
fn leaving_a_watched_job_lets_it_run_and_says_so() {
    let stuck = Stuck::new();
    let id = stuck.check();
    let mut watcher = watch(&stuck.daemon, &id);
    let mut first = [0_u8; 1];
    watcher.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    kill_process(Pid::from_child(&watcher), Signal::INT).unwrap();
    let status = wait(&mut watcher, PATIENCE).expect("the watcher ends");
    let said = text_of(watcher.stderr.take());
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("job {id} goes on")), "{said}");
    assert_eq!(stuck.daemon.json(&["job", "show", &id])[0]["state"], "running");
    // Damage is told by the exit code.
    stuck.mend_with(&vec![0; stuck.last.len()]);
    let finished = stuck.daemon.posthouse(&["job", "watch", &id]);
    assert_eq!(finished.status.code(), Some(8), "{}", finished.stderr);
}

/// The lines of a watched job over plain HTTP, and whether the last one says that it is the last.
fn stream(socket: &Path, id: &str, while_open: impl FnOnce()) -> (Vec<Value>, bool) {
    stream_as(socket, id, "", while_open)
}

/// As [`stream`], with one more header line.
fn stream_as(socket: &Path, id: &str, header: &str, while_open: impl FnOnce()) -> (Vec<Value>, bool) {
    let mut connection = UnixStream::connect(socket).unwrap();
    let head = format!("GET /v1/jobs/{id} HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n");
    let request = format!("{head}{header}Connection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    let mut text = vec![0; 1];
    connection.read_exact(&mut text).unwrap();
    while_open();
    let mut rest = String::new();
    let _ = connection.read_to_string(&mut rest);
    let lines: Vec<Value> = rest
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ends = lines.last().is_some_and(|last| last.get("end").is_some() || last.get("error").is_some());
    (lines, ends)
}

#[test]
fn stream_that_breaks_off_shows() {
    let mut stuck = Stuck::new();
    let id = stuck.check();
    let socket = stuck.daemon.admin_socket();
    let (lines, ends) = stream(&socket, &id, || stuck.daemon.kill());
    assert!(!ends, "{lines:?}");
    stuck.mend();
    stuck.daemon.start_again();
    let (lines, ends) = stream(&socket, &id, || ());
    assert!(ends, "{lines:?}");
    assert_eq!(lines.last().unwrap()["end"]["state"], "done", "{lines:?}");
}

/// A stream has the authority of the moment: it ends when who watches would not be let in again.
#[test]
fn stream_ends_within_a_second_of_its_reader_being_shut_out() {
    let stuck = Stuck::new();
    let id = stuck.check();
    let daemon = &stuck.daemon;
    daemon.posthouse(&["customer", "create", "up"]).ok();
    daemon.posthouse(&["customer", "create", "up/down"]).ok();
    let made = daemon.json(&["admin", "create", "ops", "--customer", "up/down"]).remove(0);
    let header = format!("Authorization: Bearer {}\r\n", made["token"].as_str().unwrap());
    let ops = made["name"].as_str().unwrap();
    let grant = ["admin", "grant", ops, "--role", "system-admin", "--customer", "/"];
    daemon.posthouse(&grant).ok();
    let never = "not Mon-Sun 00:00-24:00";
    let tokens = daemon.json(&["admin", "token", "list", ops]);
    let cases: [(&[&str], &[&str]); 6] = [
        (&["customer", "suspend", "up", "--switch", "admin", "--yes"], &["customer", "resume", "up"]),
        (
            &["customer", "settings", "set", "up", "service.admin", "off"],
            &["customer", "settings", "unset", "up", "service.admin"],
        ),
        (
            &["customer", "settings", "set", "up/down", "login.windows_administrators", never],
            &["customer", "settings", "unset", "up/down", "login.windows_administrators"],
        ),
        (&["admin", "disable", ops, "--yes"], &["admin", "enable", ops]),
        (&["admin", "revoke", ops, "--role", "system-admin", "--customer", "/", "--yes"], &grant),
        (&["admin", "token", "revoke", tokens[0]["id"].as_str().unwrap(), "--yes"], &["whoami"]),
    ];
    for (shuts_out, lets_in) in cases {
        let mut fastest = std::time::Duration::MAX;
        // The machine that runs the tests may itself be slow at times.
        for _ in 0..4 {
            let mut done = None;
            let (lines, ends) = stream_as(&daemon.admin_socket(), &id, &header, || {
                daemon.posthouse(shuts_out).ok();
                done = Some(std::time::Instant::now());
            });
            fastest = fastest.min(done.unwrap().elapsed());
            assert!(ends && lines.last().unwrap().get("error").is_some(), "{shuts_out:?}: {lines:?}");
            let is_last = shuts_out.contains(&"token");
            daemon.posthouse(lets_in).ok();
            if is_last || fastest < std::time::Duration::from_secs(1) {
                break;
            }
        }
        assert!(fastest < std::time::Duration::from_secs(1), "{shuts_out:?}: {fastest:?}");
    }
    stuck.mend();
}

#[test]
fn cancelled_and_failed_jobs_give_their_exit_codes() {
    let stuck = Stuck::new();
    let id = stuck.check();
    stuck.daemon.posthouse(&["job", "cancel", &id, "--yes"]).ok();
    // The pipe holds a thread, so that the work cannot end by itself; it is dropped.
    let finished = stuck.daemon.posthouse(&["job", "watch", &id]);
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("was cancelled by system"), "{}", finished.stderr);
    assert_eq!(stuck.daemon.json(&["job", "show", &id])[0]["state"], "cancelled");
    let dir = stuck.daemon.data_dir();
    let refused = stuck.daemon.posthouse(&["backup", "create", dir.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(5), "{}", refused.stderr);
    assert!(refused.stderr.contains("is not empty"), "{}", refused.stderr);
    let jobs = stuck.daemon.json(&["job", "list", "--limit", "1"]);
    assert_eq!((&jobs[0]["kind"], &jobs[0]["state"]), (&json!("backup.create"), &json!("failed")));
    assert_eq!(stuck.daemon.posthouse(&["job", "show", "zzzzzzzzzzzzzzzz"]).status.code(), Some(3));
}
