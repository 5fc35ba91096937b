//! Backups on a real daemon, and the ways back: everything, one mailbox, one folder.

use std::path::Path;
use std::process::Command;

use posthouse::base::clock::{Clock, Timestamp};
use posthouse::base::telemetry::metrics::Metrics;
use posthouse::service::housekeeping::{Housekeeping, Kept};
use posthouse::service::mailstore::{MailStore, MailStoreLimits};
use posthouse::storage::bodies::Bodies;
use posthouse::storage::metadata::database::Database as Metadata;
use posthouse::storage::metadata::pack::Node;
use posthouse::storage::pack::Codec;
use posthouse::storage::volumes::Volumes;
use serde_json::Value;

use crate::support::corpus::{dense_message, message};
use crate::support::daemon::{Daemon, Database, PASSWORD, PROGRAM, Setup};
use crate::support::http;
use crate::support::imap::{Imap, body_of};
use crate::support::programs::{run, write};
use crate::support::wait_for;

/// UIDs that a restore leaves out at least.
const GAP_UIDS: u64 = 1 << 24;

fn backup_section(folder: &Path, more: &str) -> String {
    format!("[backup]\ndirectory = \"{}\"\n{more}\n", folder.display())
}

/// A daemon with backups on command.
fn saved(database: Database, folder: &Path) -> Daemon {
    let configuration = backup_section(folder, "every_hours = 0\ntest_every_days = 0");
    Daemon::with_alice(Setup { database, configuration, ..Setup::default() })
}

pub fn take(daemon: &Daemon) -> String {
    daemon.json(&["backup", "create"])[0]["id"].as_str().unwrap().to_owned()
}

/// A new daemon that has everything from a backup.
fn restored(database: Database, folder: &Path, arguments: &[&str]) -> Daemon {
    let (from, arguments) =
        (folder.to_owned(), arguments.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
    let prepare = move |data: &Path, url: &str| {
        let file = data.with_file_name("restore.toml");
        write(&file, format!("[data]\ndir = \"{}\"\n[database]\nurl = \"{url}\"\n", data.display()));
        let restore = || {
            let mut command = Command::new(PROGRAM);
            command.args(["restore", "--config"]).arg(&file).arg("--from").arg(&from).args(&arguments);
            run(&mut command, b"")
        };
        let told = restore().ok().stderr;
        assert!(told.contains("restored 1 mailboxes") || told.contains("restored 2 mailboxes"), "{told}");
        let again = restore();
        assert!(!again.status.success(), "there is an installation now");
        assert!(again.stderr.contains("already"), "{}", again.stderr);
    };
    Daemon::with(Setup { database, prepare: Some(Box::new(prepare)), ..Setup::default() })
}

/// UID, flags and text of every message of a folder.
pub fn seen(session: &mut Imap, folder: &str) -> Vec<(u64, Vec<String>, Vec<u8>, String)> {
    if session.select(folder).exists() == Some(0) {
        return Vec::new();
    }
    let answer = session.command("UID FETCH 1:* (UID FLAGS INTERNALDATE BODY.PEEK[])").expect("FETCH").ok();
    let one = |line: &crate::support::imap::Untagged| {
        let mut flags = line.flags().expect("flags");
        flags.retain(|flag| flag != "\\Recent");
        flags.sort_unstable();
        let (_, date) = line.text.split_once("INTERNALDATE \"").expect("INTERNALDATE");
        let date = date.split('"').next().unwrap_or_default().to_owned();
        (line.item_number("UID").expect("UID"), flags, body_of(line), date)
    };
    answer.all("FETCH").map(one).collect()
}

fn code(session: &mut Imap, folder: &str, name: &str) -> u64 {
    session.select(folder).code(name).expect("code").parse().expect("number")
}

/// Mail in packs, in a pack of its own, and fresh; flags, a keyword, and a second folder.
pub fn furnish(daemon: &Daemon) {
    for number in 0..8 {
        daemon.deliver("alice@acme.test", &message(3_000, number));
    }
    daemon.deliver("alice@acme.test", &dense_message(1_700_000, 8));
    daemon.posthouse(&["store", "pack"]).ok();
    daemon.deliver("alice@acme.test", &message(3_000, 9));
    let mut session = daemon.imap("alice@acme.test");
    session.command("CREATE Work/2026").expect("CREATE").ok();
    session.append("Work/2026", "\\Flagged \\Seen important", &message(900, 77)).expect("APPEND").ok();
    session.select("INBOX");
    session.command("STORE 2,4 +FLAGS (\\Seen \\Answered)").expect("STORE").ok();
}

fn everything_comes_back(from: Database, to: Database) {
    let folder = tempfile::tempdir().unwrap();
    let daemon = saved(from, folder.path());
    furnish(&daemon);
    let token = daemon.json(&["admin", "create", "anna", "--customer", "acme", "--role", "admin"]);
    assert!(token[0]["token"].is_string());
    daemon.json(&["invite", "create", "bert@acme.test", "--customer", "acme"]);
    let mut session = daemon.imap("alice@acme.test");
    let before = [seen(&mut session, "INBOX"), seen(&mut session, "Work/2026")];
    let validity = code(&mut session, "INBOX", "UIDVALIDITY");
    let first = take(&daemon);
    for number in 10..13 {
        daemon.deliver("alice@acme.test", &message(3_000, number));
    }
    session.select("INBOX");
    session.command("STORE 1:3 +FLAGS (\\Deleted)").expect("STORE").ok();
    session.command("EXPUNGE").expect("EXPUNGE").ok();
    let uid_next = code(&mut session, "INBOX", "UIDNEXT");
    take(&daemon);
    drop((session, daemon));

    let daemon = restored(to, folder.path(), &["--backup", &first]);
    let mut session = daemon.imap("alice@acme.test");
    assert_eq!([seen(&mut session, "INBOX"), seen(&mut session, "Work/2026")], before);
    assert_eq!(code(&mut session, "INBOX", "UIDVALIDITY"), validity, "nobody downloads their mail again");
    assert!(code(&mut session, "INBOX", "UIDNEXT") >= GAP_UIDS);
    daemon.deliver("alice@acme.test", &message(3_000, 99));
    let mut session = daemon.wait_for_messages("alice@acme.test", "INBOX", 11);
    let uids: Vec<u64> = seen(&mut session, "INBOX").iter().map(|(uid, ..)| *uid).collect();
    assert!(uids.is_sorted() && uids[10] > uid_next, "{uids:?}");
    assert_eq!(daemon.json(&["quota", "verify"])[0]["drift"], 0);
    assert!(daemon.json(&["admin", "token", "list", "anna"]).is_empty(), "tokens are gone");
    assert!(daemon.json(&["invite", "list"]).is_empty(), "codes are gone");
    let jobs = daemon.json(&["job", "list", "--open"]);
    assert!(jobs.is_empty(), "{jobs:?}");
}

#[test]
fn everything_comes_back_on_sqlite() {
    everything_comes_back(Database::Sqlite, Database::Sqlite);
}

#[test]
fn everything_comes_back_on_postgresql() {
    for (from, to) in Database::all().into_iter().skip(1).zip(Database::all().into_iter().skip(1)) {
        everything_comes_back(from, to);
    }
}

#[test]
fn backup_of_either_database_can_become_the_other() {
    for other in Database::all().into_iter().skip(1) {
        everything_comes_back(Database::Sqlite, other);
    }
    for other in Database::all().into_iter().skip(1) {
        everything_comes_back(other, Database::Sqlite);
    }
}

#[test]
fn mailbox_and_folder_come_back_beside_what_is_there() {
    for database in Database::all() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = saved(database, folder.path());
        furnish(&daemon);
        let mut session = daemon.imap("alice@acme.test");
        let mut before = [seen(&mut session, "INBOX"), seen(&mut session, "Work/2026")];
        let first = daemon.json(&["backup", "create"]).remove(0);
        session.select("INBOX");
        session.command("STORE 1:* +FLAGS (\\Deleted)").expect("STORE").ok();
        session.command("EXPUNGE").expect("EXPUNGE").ok();
        session.command("CLOSE").expect("CLOSE").ok();
        session.command("DELETE Work/2026").expect("DELETE").ok();
        take(&daemon);

        let id = first["id"].as_str().unwrap();
        let restore = ["restore", "mailbox", "alice@acme.test", "--backup", id];
        let report = daemon.json(&restore).remove(0);
        assert_eq!(
            (&report["messages"], &report["unreadable"]),
            (&Value::from(11), &Value::from(0)),
            "{report}"
        );
        let base = format!("Restored {}", &first["at"].as_str().unwrap()[..10]);
        let same = |session: &mut Imap, name: &str, wanted: &mut Vec<(u64, Vec<String>, Vec<u8>, String)>| {
            let found = seen(session, name);
            // UIDs are new; the rest is as it was.
            for (one, other) in wanted.iter_mut().zip(&found) {
                one.0 = other.0;
            }
            assert_eq!(&found, wanted, "{name}");
        };
        same(&mut session, &format!("{base}/INBOX"), &mut before[0]);
        same(&mut session, &format!("{base}/Work/2026"), &mut before[1]);
        assert_eq!(session.select("INBOX").exists(), Some(0));
        let at = first["at"].as_str().unwrap();
        let one =
            ["restore", "mailbox", "alice@acme.test", "--at", at, "--folder", "Work/2026", "--into", "Old"];
        assert_eq!(daemon.json(&one)[0]["messages"], 1);
        same(&mut session, "Old", &mut before[1]);
        assert_eq!(daemon.json(&["quota", "verify"])[0]["drift"], 0);

        let none =
            daemon.posthouse(&["restore", "mailbox", "alice@acme.test", "--at", "2001-01-01T00:00:00Z"]);
        assert_eq!(none.status.code(), Some(3), "{}", none.stderr);
        let none = daemon.posthouse(&["restore", "mailbox", "alice@acme.test", "--folder", "Nothing"]);
        assert_eq!(none.status.code(), Some(3), "{}", none.stderr);
        // What does not fit is refused, as a delivery is.
        daemon.posthouse(&["mailbox", "quota", "alice@acme.test", "1MiB"]).ok();
        let full = daemon.posthouse(&restore);
        assert_eq!(full.status.code(), Some(6), "{}", full.stderr);
        assert_eq!(daemon.json(&["quota", "verify"])[0]["drift"], 0);
    }
}

/// Purges what was deleted, as time does.
fn purge(daemon: &Daemon) {
    let url = daemon.database_url();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let database = Metadata::open(&url).await.unwrap();
        let clock = Clock::system();
        let volumes = Volumes::new(database.clone(), daemon.dir().to_owned(), Metrics::new());
        let node = Node { id: "other".to_owned(), epoch: 1 };
        let bodies = Bodies::new(volumes, Codec::default(), node);
        let store = MailStore::new(database.clone(), clock.clone(), bodies, MailStoreLimits::default());
        let kept = Kept { trace_days: 14, undelete_days: 0 };
        let later = Timestamp::from_secs(clock.now().secs() + 60);
        let housekeeping = Housekeeping::new(database.clone(), store, clock, "other".to_owned(), kept);
        housekeeping.pass(later).await.unwrap();
        drop(housekeeping);
        database.close().await;
    });
}

#[test]
fn what_was_erased_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = saved(Database::Sqlite, folder.path());
    daemon.mailbox("bob@acme.test");
    daemon.customer("gone", "gone.test");
    daemon.mailbox("carol@gone.test");
    for address in ["alice@acme.test", "bob@acme.test", "carol@gone.test"] {
        daemon.deliver(address, &message(3_000, 1));
    }
    daemon.posthouse(&["store", "pack"]).ok();
    let first = take(&daemon);
    daemon.posthouse(&["mailbox", "delete", "bob@acme.test", "--yes"]).ok();
    daemon.posthouse(&["customer", "delete", "gone", "--yes"]).ok();
    daemon.stop();
    purge(&daemon);
    daemon.start_again();
    // The first backup does not know of it; the newest does.
    take(&daemon);
    drop(daemon);
    let from = folder.path().to_owned();
    let prepare = move |data: &Path, url: &str| {
        let file = data.with_file_name("restore.toml");
        write(&file, format!("[data]\ndir = \"{}\"\n[database]\nurl = \"{url}\"\n", data.display()));
        let mut command = Command::new(PROGRAM);
        command.args(["restore", "--config"]).arg(&file).arg("--from").arg(&from).args(["--backup", &first]);
        let told = run(&mut command, b"").ok().stderr;
        assert!(told.contains("3 mailboxes and customers that were purged"), "{told}");
    };
    let daemon = Daemon::with(Setup { prepare: Some(Box::new(prepare)), ..Setup::default() });
    let addresses: Vec<Value> =
        daemon.json(&["mailbox", "list"]).into_iter().map(|mailbox| mailbox["address"].clone()).collect();
    assert_eq!(addresses, ["alice@acme.test"]);
    assert_eq!(daemon.posthouse(&["customer", "show", "gone"]).status.code(), Some(3));
    for address in ["bob@acme.test", "carol@gone.test"] {
        let mut refused = Imap::open(daemon.address("imap")).expect("IMAP");
        let answer = refused.command(&format!("LOGIN {address} \"{PASSWORD}\"")).expect("LOGIN");
        assert_eq!(answer.status, "NO");
        assert_ne!(daemon.posthouse(&["mailbox", "undelete", address]).status.code(), Some(0));
    }
    let mut session = daemon.imap("alice@acme.test");
    assert_eq!(seen(&mut session, "INBOX").len(), 1);
    assert_eq!(daemon.json(&["quota", "verify"])[0]["drift"], 0);
}

#[test]
fn backups_are_taken_and_tried_out_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = backup_section(folder.path(), "every_hours = 24\ntest_every_days = 7");
    let daemon = Daemon::with_alice(Setup { configuration, ..Setup::default() });
    daemon.deliver("alice@acme.test", &message(3_000, 1));
    let backup = wait_for("a backup that was tried out", || {
        let backup = daemon.json(&["backup", "list"]).pop()?;
        backup["tested_at"].is_string().then_some(backup)
    });
    assert_eq!(backup["state"], "good", "{backup}");
    let shown = daemon.json(&["backup", "show", backup["id"].as_str().unwrap()]).remove(0);
    assert!(shown["tested"].as_str().unwrap().contains("counts as they were"), "{shown}");
    let jobs = daemon.json(&["job", "list"]);
    assert!(jobs.iter().all(|job| job["actor"] == "schedule" || job["actor"] == "system"), "{jobs:?}");
    let taken = jobs.iter().filter(|job| job["kind"] == "backup.create").count();
    assert_eq!(taken, 1, "once a turn: {jobs:?}");
    let number = |name: &str| {
        let metrics = http::request(daemon.address("http"), "GET", "/metrics", &[], None).expect("HTTP");
        let text = String::from_utf8(metrics.body).expect("text");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("posthouse_{name} "))?.parse::<i64>().ok());
        line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    };
    wait_for("the numbers", || (number("backup_newest") > 0 && number("backup_tested") > 0).then_some(()));
    assert_eq!(number("backup_overdue"), 0);
    let warnings = daemon.json(&["server", "show"]).remove(0);
    assert!(!warnings["warnings"].to_string().contains("backup"), "{warnings}");
    let verified = daemon.posthouse(&["backup", "verify"]).ok();
    assert!(verified.stdout.contains("damaged"), "{}", verified.stdout);
    let again = daemon.json(&["backup", "test", "--bodies", "0"]).remove(0);
    assert_eq!(again["wrong"], Value::Array(Vec::new()), "{again}");
}

#[test]
fn place_that_is_not_there_is_told_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("not-mounted");
    let configuration = backup_section(&missing, "every_hours = 0");
    let daemon = Daemon::with_alice(Setup { configuration, ..Setup::default() });
    let job = daemon.json(&["backup", "create", "--detach"]).remove(0);
    let id = job["id"].as_str().unwrap();
    wait_for("the job waits for its place", || {
        (daemon.json(&["job", "show", id])[0]["state"] == "running").then_some(())
    });
    assert!(!missing.exists());
    // It goes on once the volume is there.
    std::fs::create_dir(&missing).unwrap();
    wait_for("the backup", || (daemon.json(&["job", "show", id])[0]["state"] == "done").then_some(()));
    assert!(missing.join("index-1").exists());
    assert!(daemon.json(&["server", "show"])[0]["warnings"].is_array());
}
