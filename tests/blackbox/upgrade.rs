//! What an earlier version wrote opens in this one: databases and packs as they were are in `tests/fixtures/upgrade`,
//! in a folder named after the newest migration they have.
//!
//! A fixture is made once, in a checkout of the version it stands for, and never changed:
//! `cargo test --test blackbox -- --ignored upgrade::fixtures_are_made` writes `sqlite` and `postgres` into the folder
//! [`MADE`]. It needs the programs sqlite3 and pg_dump.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

use crate::support::Random;
use crate::support::corpus::message;
use crate::support::daemon::{Daemon, Database, Setup};
use crate::support::imap::{Imap, body_of};
use crate::support::programs::{need, run, write};

/// Folders with fixtures, oldest first.
const FIXTURES: &[&str] = &["0001", "0004", "0029"];
/// The folder that a new fixture is written to.
const MADE: &str = "0029";
/// What is read back: mailbox and folder.
const FOLDERS: [(&str, &str); 5] = [
    ("alice@acme.test", "INBOX"),
    ("alice@acme.test", "Work/2026"),
    ("alice@acme.test", "Trash"),
    ("bob@acme.test", "INBOX"),
    ("carol@research.test", "INBOX"),
];

fn folder(fixture: &str, database: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/upgrade").join(fixture).join(database)
}

/// A folder as a client sees it: numbers, flags, and every octet.
fn seen(session: &mut Imap, name: &str) -> Value {
    let selected = session.select(name);
    let mut messages = Vec::new();
    if selected.exists() != Some(0) {
        let answer =
            session.command("UID FETCH 1:* (UID FLAGS INTERNALDATE BODY.PEEK[])").expect("FETCH").ok();
        for line in answer.all("FETCH") {
            let (_, date) = line.text.split_once("INTERNALDATE \"").expect("INTERNALDATE");
            let mut flags = line.flags().expect("flags");
            flags.retain(|flag| flag != "\\Recent");
            messages.push(json!({
                "uid": line.item_number("UID").expect("UID"),
                "flags": flags,
                "date": date.split('"').next(),
                "text": String::from_utf8(body_of(line)).expect("ASCII"),
            }));
        }
    }
    json!({
        "uid_validity": selected.code("UIDVALIDITY"),
        "uid_next": selected.code("UIDNEXT"),
        "messages": messages,
    })
}

fn everything(daemon: &Daemon) -> Vec<Value> {
    FOLDERS.iter().map(|(mailbox, name)| seen(&mut daemon.imap(mailbox), name)).collect()
}

/// Use as the report tells it, without what changes by looking.
fn report(daemon: &Daemon) -> Vec<Value> {
    let mut lines = Vec::new();
    for domain in ["acme.test", "research.test"] {
        let report = daemon.json(&["report", "quota", "--domain", domain]).remove(0);
        for row in report["mailboxes"].as_array().expect("mailboxes") {
            let columns = ["address", "used", "limit", "messages"];
            lines.push(columns.iter().map(|key| row[*key].clone()).collect());
        }
    }
    lines
}

/// What can come back of the expunged messages of alice's INBOX: folder and UID.
fn deleted(daemon: &Daemon) -> Value {
    let rows = daemon.json(&["mailbox", "deleted", "alice@acme.test", "--folder", "INBOX"]);
    rows.iter().map(|row| json!({ "folder": row["folder"], "uid": row["uid"] })).collect()
}

/// What is administered besides mailboxes, as the command line tells it.
fn administration(daemon: &Daemon) -> Value {
    let commands: [&[&str]; 9] = [
        &["role", "show", "desk-lead"],
        &["group", "show", "desk"],
        &["admin", "show", "dora"],
        &["template", "show", "small", "--customer", "acme"],
        &["process", "show", "acme"],
        &["customer", "settings", "get", "acme/research", "password.length_min"],
        &["customer", "show", "acme/research"],
        &["customer", "legal-hold", "list", "acme"],
        &["customer", "hold", "list", "acme"],
    ];
    commands.iter().map(|command| Value::from(daemon.json(command))).collect()
}

/// Whether `found` says all that `expected` says: later versions may tell more.
fn says(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(key, expected)| found.get(key).is_some_and(|found| says(found, expected)))
        }
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, expected)| says(found, expected))
        }
        _ => found == expected,
    }
}

/// Copies the files of a folder and those below it.
fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("folder") {
        let (from, to) = (entry.as_ref().expect("entry").path(), to.join(entry.expect("entry").file_name()));
        if from.is_dir() {
            copy_all(&from, &to);
        } else {
            write(&to, std::fs::read(&from).expect("file"));
        }
    }
}

/// Brings a dump into an empty database.
async fn load(url: &str, dump: String) {
    if url.starts_with("sqlite:") {
        let mut connection =
            sqlx::SqliteConnection::connect(&format!("{url}?mode=rwc")).await.expect("database");
        // Belongs to the file, and a dump doesn't have it.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL").await.expect("auto_vacuum");
        connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(dump))).await.expect("dump");
        connection.close().await.expect("close");
    } else {
        let mut connection = sqlx::PgConnection::connect(url).await.expect("database");
        connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(dump))).await.expect("dump");
        connection.close().await.expect("close");
    }
}

/// Puts a fixture where a daemon will find its data.
fn restore(fixture: &str, data: &Path, url: &str) {
    let name = if url.starts_with("sqlite:") { "sqlite" } else { "postgres" };
    let from = folder(fixture, name);
    copy_all(&from.join("data"), data);
    let dump = std::fs::read_to_string(from.join("dump.sql")).expect("dump");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(load(url, dump));
}

#[test]
fn data_of_earlier_versions_opens_and_goes_on() {
    for fixture in FIXTURES {
        for database in Database::all() {
            let name = if matches!(database, Database::Sqlite) { "sqlite" } else { "postgres" };
            let expected =
                std::fs::read_to_string(folder(fixture, name).join("expected.json")).expect("expected");
            let expected: Value = serde_json::from_str(&expected).expect("JSON");
            let prepare = |data: &Path, url: &str| restore(fixture, data, url);
            // What a fixture has expunged can come back whenever this runs.
            let configuration = "[retention]\nundelete_days = 36500\n".to_owned();
            let setup =
                Setup { database, configuration, prepare: Some(Box::new(prepare)), ..Setup::default() };
            let daemon = Daemon::with(setup);
            check(&daemon, &expected);
        }
    }
}

fn check(daemon: &Daemon, expected: &Value) {
    let folders = everything(daemon);
    for (index, (mailbox, name)) in FOLDERS.iter().enumerate() {
        assert_eq!(folders[index], expected["folders"][index], "{name} of {mailbox}");
    }
    assert_eq!(Value::from(report(daemon)), expected["report"]);
    if let Some(expected) = expected.get("deleted") {
        assert_eq!(&deleted(daemon), expected);
    }
    if let Some(expected) = expected.get("administration") {
        let found = administration(daemon);
        assert!(says(&found, expected), "{found:#}\ninstead of\n{expected:#}");
    }
    let verify = || daemon.json(&["quota", "verify"]).remove(0)["drift"].clone();
    assert_eq!(verify(), 0);
    // It goes on where it was: new mail gets the next UID, limits hold, old mail is packed and expunged.
    let uid_next: u64 = folders[0]["uid_next"].as_str().and_then(|text| text.parse().ok()).expect("UIDNEXT");
    daemon.deliver("sales@acme.test", &message(2_000, 900));
    let (uid, body) = {
        let mut session = daemon.imap("alice@acme.test");
        session.select("INBOX");
        session.bodies("*").pop().expect("the new message")
    };
    assert_eq!(uid, uid_next);
    assert!(body.ends_with(&message(2_000, 900)));
    let refused = daemon.lmtp().deliver("", &["carol@research.test"], &message(9_000, 901)).expect("LMTP");
    assert_eq!(refused[0].codes(), "452 4.2.2");
    daemon.posthouse(&["store", "pack"]).ok();
    let again = everything(daemon);
    assert_eq!(again[1..], folders[1..]);
    let mut session = daemon.imap("alice@acme.test");
    session.select("INBOX");
    session.command("STORE 1:* +FLAGS (\\Deleted)").expect("STORE").ok();
    session.command("EXPUNGE").expect("EXPUNGE").ok();
    assert_eq!(session.select("INBOX").exists(), Some(0));
    assert_eq!(seen(&mut daemon.imap("bob@acme.test"), "INBOX"), folders[3]);
    // Also what an earlier version expunged comes back.
    let gone = deleted(daemon).as_array().map_or(0, Vec::len);
    daemon.posthouse(&["mailbox", "undelete-messages", "alice@acme.test", "--folder", "INBOX"]).ok();
    assert_eq!(session.select("INBOX").exists(), Some(gone as u32));
    assert_eq!(session.bodies("1:*").len(), gone);
    assert_eq!(verify(), 0);
}

/// A message with an attachment that others have too.
fn with_attachment(subject: &str) -> Vec<u8> {
    let mut random = Random::new(4);
    let attachment: Vec<u8> = (0..2_200).flat_map(|_| random.next().to_le_bytes()).collect();
    let mut text = format!(
        "Subject: {subject}\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    );
    for line in STANDARD.encode(attachment).as_bytes().chunks(76) {
        text.push_str(std::str::from_utf8(line).expect("ASCII"));
        text.push_str("\r\n");
    }
    text.push_str("--b--\r\n");
    text.into_bytes()
}

/// An administrator with a role of the customer's own by way of a group; a template, a process, a setting, holds, a
/// guarantee.
fn manage(daemon: &Daemon) {
    let commands: [&[&str]; 11] = [
        &["role", "create", "desk-lead", "--customer", "acme", "--base", "admin", "--allow", "mailbox.read"],
        &["group", "create", "desk", "--customer", "acme"],
        &["admin", "create", "dora", "--customer", "acme", "--role", "viewer"],
        &["group", "add", "desk", "dora"],
        &["group", "grant", "desk", "--role", "desk-lead", "--customer", "acme/research"],
        &["template", "create", "small", "--customer", "acme", "--for", "mailbox", "--bytes", "1GiB"],
        &["process", "set", "acme", "role:admin", "admin:dora"],
        &["customer", "settings", "set", "acme", "password.length_min", "9"],
        &["customer", "limit", "acme/research", "--bytes", "100000", "--guarantee", "50000"],
        &["customer", "legal-hold", "add", "acme/research", "--reason", "case 7"],
        &["customer", "suspend", "acme/research", "--switch", "send", "--yes"],
    ];
    for command in commands {
        daemon.posthouse(command).ok();
    }
}

/// Customers, domains, mailboxes, folders, flags; some bodies packed, some fresh, one shared, one expunged; one
/// attachment shared by two bodies; jobs that are done.
fn fill(daemon: &Daemon) {
    daemon.customer("acme", "acme.test");
    daemon.customer("acme/research", "research.test");
    daemon.mailbox("alice@acme.test");
    daemon.mailbox_with("bob@acme.test", &["--quota", "1000000"]);
    daemon.mailbox_with("carol@research.test", &["--quota", "10000"]);
    daemon.posthouse(&["alias", "create", "sales@acme.test", "alice@acme.test"]).ok();
    manage(daemon);
    daemon.posthouse(&["domain", "limit", "acme.test", "--bytes", "5000000"]).ok();
    daemon.posthouse(&["customer", "limit", "acme", "--bytes", "9000000"]).ok();
    let both = ["alice@acme.test", "bob@acme.test"];
    daemon.lmtp().deliver("sender@example.test", &both, &message(3_000, 1)).expect("LMTP");
    for number in 2..6 {
        daemon.deliver("alice@acme.test", &message(700 * number as usize, number));
    }
    daemon.deliver("carol@research.test", &message(2_500, 6));
    for subject in ["one", "two"] {
        daemon.deliver("bob@acme.test", &with_attachment(subject));
    }
    let mut session = daemon.imap("alice@acme.test");
    session.command("CREATE Work/2026").expect("CREATE").ok();
    session.append("Work/2026", "\\Seen $Later", &message(1_200, 7)).expect("APPEND").ok();
    session.select("INBOX");
    session.command("COPY 2:3 Work/2026").expect("COPY").ok();
    session.command("MOVE 4 Trash").expect("MOVE").ok();
    daemon.posthouse(&["store", "pack"]).ok();
    session.command("STORE 1 +FLAGS (\\Flagged \\Answered)").expect("STORE").ok();
    session.command("STORE 3 +FLAGS (\\Deleted)").expect("STORE").ok();
    session.command("EXPUNGE").expect("EXPUNGE").ok();
    session.append("Work/2026", "\\Draft", &message(900, 8)).expect("APPEND").ok();
    daemon.deliver("alice@acme.test", &message(5_000, 9));
    daemon.deliver("bob@acme.test", &message(1_500, 10));
}

#[test]
#[ignore = "writes the fixture of this version into the source tree"]
fn fixtures_are_made() {
    let (Some(sqlite3), Some(pg_dump)) = (need("sqlite3", "sqlite3"), need("pg_dump", "postgresql-client"))
    else {
        return;
    };
    for database in Database::all() {
        let is_sqlite = matches!(database, Database::Sqlite);
        let mut daemon = Daemon::with(Setup { database, ..Setup::default() });
        fill(&daemon);
        let expected = json!({
            "folders": everything(&daemon),
            "report": report(&daemon),
            "deleted": deleted(&daemon),
            "administration": administration(&daemon),
        });
        let url = daemon.database_url();
        daemon.stop();
        let mut dump = Command::new(if is_sqlite { &sqlite3 } else { &pg_dump });
        match url.strip_prefix("sqlite:") {
            Some(file) => dump.args([file, ".dump"]),
            None => dump.args(["--inserts", "--no-owner", "--no-privileges", "--dbname", &url]),
        };
        // Lines that begin with a backslash are commands for psql.
        let lines = run(&mut dump, b"").ok().stdout;
        let lines: Vec<&str> = lines.lines().filter(|line| !line.starts_with('\\')).collect();
        let made = folder(MADE, if is_sqlite { "sqlite" } else { "postgres" });
        assert!(!made.exists(), "{} is there; a fixture is never changed", made.display());
        write(&made.join("dump.sql"), lines.join("\n") + "\n");
        write(&made.join("expected.json"), serde_json::to_string_pretty(&expected).expect("JSON") + "\n");
        write(&made.join("data/node"), std::fs::read(daemon.data_dir().join("node")).expect("node"));
        for file in daemon.pack_files() {
            let below = file.strip_prefix(daemon.data_dir()).expect("below the data directory");
            write(&made.join("data").join(below), std::fs::read(&file).expect("pack"));
        }
    }
}
