//! kill -9 while mail is brought back from a backup: of everything, into an empty installation, and of one mailbox,
//! into a running one. Whoever tries again gets everything, each message once.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use hyper::Method;

use super::restore::{furnish, seen, take};
use crate::support::daemon::{Daemon, Database, PROGRAM, Setup};
use crate::support::imap::Imap;
use crate::support::programs::{run, write};
use crate::support::s3::{ACCESS_KEY, BUCKET, Moment, S3Server, SECRET_KEY};
use crate::support::wait_for;

/// More requests than any restore makes here.
const REQUESTS_MAX: u64 = 100;
const FOLDERS: [&str; 2] = ["INBOX", "Work/2026"];

type Seen = [Vec<(u64, Vec<String>, Vec<u8>, String)>; 2];

fn everything(session: &mut Imap, base: &str) -> Seen {
    FOLDERS.map(|folder| seen(session, &format!("{base}{folder}")))
}

fn bucket(server: &S3Server) -> String {
    format!(
        "[backup]\nevery_hours = 0\ntest_every_days = 0\nendpoint = \"{}\"\nbucket = \"{BUCKET}\"\n\
         access_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n",
        server.endpoint()
    )
}

/// A daemon with a backup of some mail in the bucket, and what a client sees of the mail.
fn saved(server: &S3Server, database: Database) -> (Daemon, Seen) {
    let configuration = bucket(server);
    let daemon = Daemon::with_alice(Setup { database, configuration, ..Setup::default() });
    furnish(&daemon);
    let before = everything(&mut daemon.imap("alice@acme.test"), "");
    assert_eq!((before[0].len(), before[1].len()), (10, 1));
    take(&daemon);
    (daemon, before)
}

fn restoring(configuration: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["restore", "--config"]).arg(configuration);
    command
}

fn spawn(configuration: &Path) -> Child {
    restoring(configuration).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("restore")
}

fn kill(mut child: Child) {
    child.kill().ok();
    child.wait().expect("wait for the killed restore");
}

/// Restores and is killed at each request in turn, until there are no more; the last restore is whole.
fn kill_at_every_request(server: &S3Server, configuration: &Path) {
    let mut kills = 0;
    for passed in 0..REQUESTS_MAX {
        for moment in [Moment::Before, Moment::After] {
            let held = server.hold_after(passed, Method::GET, moment);
            let mut child = spawn(configuration);
            let is_held = wait_for("a held request, or the end", || {
                let ended = child.try_wait().expect("wait");
                held.try_recv().is_ok().then_some(true).or(ended.map(|_| false))
            });
            if is_held {
                kills += 1;
                kill(child);
                server.heal();
                continue;
            }
            server.heal();
            let ended = child.wait_with_output().expect("output");
            let told = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert!(ended.status.success(), "{told}");
            assert!(told.contains("restored 1 mailboxes with 11 messages"), "{told}");
            // The index, the manifest, the database, and at least one pack.
            assert!(kills >= 8, "{kills}");
            return;
        }
    }
    panic!("the restore makes more than {REQUESTS_MAX} requests");
}

/// Restores and is killed when the packs are there and the database is about to be; then it is tried again.
fn kill_before_the_end(configuration: &Path) {
    let mut child = spawn(configuration);
    let lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
    let is_reached = lines.map_while(Result::ok).any(|line| line.contains("preparing the database"));
    assert!(is_reached);
    kill(child);
    let again = run(&mut restoring(configuration), b"");
    // It may have been whole already.
    let is_whole =
        again.stderr.contains("there already:") || again.stderr.contains("an installation already");
    assert!(again.status.success() || is_whole, "{}", again.stderr);
}

fn restored(from: Database, to: Database, ways: fn(&S3Server, &Path)) {
    let server = Arc::new(S3Server::start());
    let (daemon, before) = saved(&server, from);
    drop(daemon);
    let own = Arc::clone(&server);
    let prepare = move |data: &Path, url: &str| {
        let file = data.with_file_name("restore.toml");
        let place = bucket(&own);
        write(&file, format!("[data]\ndir = \"{}\"\n[database]\nurl = \"{url}\"\n{place}", data.display()));
        ways(&own, &file);
    };
    let daemon = Daemon::with(Setup { database: to, prepare: Some(Box::new(prepare)), ..Setup::default() });
    assert_eq!(everything(&mut daemon.imap("alice@acme.test"), ""), before);
    assert_eq!(daemon.json(&["quota", "verify"])[0]["drift"], 0);
    let verified = daemon.json(&["store", "verify", "main", "--all"]).remove(0);
    assert_eq!(verified["damaged"], serde_json::json!([]), "{verified}");
    // Nothing is left of what was cut off; the daemon may be writing a pack of its own.
    let is_pack = |file: &std::path::PathBuf| file.to_string_lossy().ends_with(".pack");
    wait_for("packs and nothing else", || daemon.pack_files().iter().all(is_pack).then_some(()));
    assert!(!daemon.data_dir().join("restore").exists());
}

#[test]
fn restore_of_everything_survives_kill_at_every_request_on_sqlite() {
    restored(Database::Sqlite, Database::Sqlite, kill_at_every_request);
}

#[test]
fn restore_of_everything_survives_kill_at_every_request_on_postgresql() {
    for database in Database::all().into_iter().skip(1) {
        restored(Database::Sqlite, database, kill_at_every_request);
    }
}

#[test]
fn restore_of_everything_survives_kill_before_its_end() {
    for database in Database::all() {
        restored(Database::Sqlite, database, |_, configuration| kill_before_the_end(configuration));
    }
}

#[test]
fn restore_of_a_mailbox_goes_on_after_kill_at_every_request() {
    for database in Database::all() {
        let server = S3Server::start();
        let (mut daemon, before) = saved(&server, database);
        let contents = |mail: &Seen| {
            mail.clone().map(|folder| folder.into_iter().map(|one| (one.1, one.2)).collect::<Vec<_>>())
        };
        let mut kills = 0;
        for passed in 0..REQUESTS_MAX {
            let base = format!("Back{passed}");
            let held = server.hold_after(passed, Method::GET, Moment::After);
            let job = daemon
                .json(&["restore", "mailbox", "alice@acme.test", "--into", &base, "--detach"])
                .remove(0);
            let id = job["id"].as_str().expect("id").to_owned();
            let state = |daemon: &Daemon| daemon.json(&["job", "show", &id])[0]["state"].clone();
            let is_held = wait_for("a held request, or the end", || {
                let is_held = held.try_recv().is_ok();
                (is_held || state(&daemon) == "done").then_some(is_held)
            });
            if is_held {
                kills += 1;
                daemon.kill();
                server.heal();
                daemon.start_again();
                wait_for("the job goes on", || (state(&daemon) == "done").then_some(()));
            }
            server.heal();
            let found = everything(&mut daemon.imap("alice@acme.test"), &format!("{base}/"));
            assert_eq!(contents(&found), contents(&before), "killed at request {passed}");
            if !is_held {
                break;
            }
        }
        assert!(kills >= 4, "{kills}");
        assert_eq!(daemon.json(&["quota", "verify"])[0]["drift"], 0);
    }
}
