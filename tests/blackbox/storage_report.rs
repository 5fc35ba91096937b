//! The report on storage says of a real instance what its mail store says of itself, before packing and after.

use std::process::Command;

use serde_json::Value;

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, Database, PROGRAM, Setup};
use crate::support::programs::run;

/// Compares what customers have together with what the only store has.
fn agrees(daemon: &Daemon) -> Value {
    let store = daemon.json(&["store", "show", "main"]).remove(0);
    let report = daemon.json(&["report", "storage"]).remove(0);
    let whole = &report["customers"][0];
    assert_eq!(whole["customer"], "/", "{report}");
    for (of_customers, of_store) in
        [("bodies", "bodies"), ("body_octets", "octets"), ("stored_octets", "stored_octets")]
    {
        assert_eq!(whole[of_customers], store[of_store], "{of_customers}: {report} {store}");
        assert_eq!(whole[of_customers], report["stores"][0][of_customers], "{report}");
    }
    let number = |name: &str| whole[name].as_i64().expect("a number");
    assert_eq!(number("stored_octets"), number("database_octets") + number("local_octets"), "{report}");
    assert_eq!(number("remote_octets"), 0);
    let quota = daemon.json(&["report", "quota"]).remove(0);
    assert_eq!(whole["octets"], quota["total"]["used"], "{report} {quota}");
    report
}

fn storage_agrees_with_store_and_quota(daemon: &Daemon) {
    daemon.mailbox("bob@acme.test");
    daemon.customer("acme/sales", "sales.test");
    daemon.mailbox("carol@sales.test");
    for number in 0..10 {
        let all = ["alice@acme.test", "bob@acme.test", "carol@sales.test"];
        let replies = daemon.lmtp().deliver("sender@example.test", &all, &message(9_000, number));
        assert!(replies.expect("LMTP").iter().all(|reply| reply.is_ok()));
    }
    let report = agrees(daemon);
    assert_eq!(report["customers"][0]["bodies"], 20, "once for each customer: {report}");
    assert_eq!(report["customers"][0]["local_octets"], 0, "{report}");
    daemon.posthouse(&["store", "pack"]).ok();
    let report = agrees(daemon);
    assert_eq!(report["customers"][0]["database_octets"], 0, "{report}");
    // What both of a customer's mailboxes have lost goes; what can come back stays.
    for user in ["alice@acme.test", "bob@acme.test"] {
        let mut session = daemon.imap(user);
        session.select("INBOX");
        session.command("STORE 1:5 +FLAGS.SILENT (\\Deleted)").expect("STORE").ok();
        session.command("EXPUNGE").expect("EXPUNGE").ok();
    }
    let report = agrees(daemon);
    assert_eq!(report["customers"][0]["bodies"], 20, "{report}");
    assert!(report["customers"][0]["undelete_octets"].as_i64() > Some(10 * 9_000), "{report}");
    let paths: Vec<&str> = report["customers"]
        .as_array()
        .expect("lines")
        .iter()
        .filter_map(|line| line["customer"].as_str())
        .collect();
    assert_eq!(paths, ["/", "acme", "acme/sales"]);

    let mut command = Command::new(PROGRAM);
    command.args(["report", "storage", "--customer", "acme/sales", "--format", "csv"]);
    command.env("POSTHOUSE_SOCKET", daemon.admin_socket()).env_remove("POSTHOUSE_TOKEN_FILE");
    let csv = run(&mut command, b"").ok().stdout;
    let lines: Vec<&str> = csv.lines().collect();
    assert!(lines[0].starts_with("kind,name,mailboxes,messages,octets,"), "{csv}");
    assert!(lines[1].starts_with("customer,acme/sales,1,10,"), "{csv}");
    assert!(lines[2].starts_with("store,main,1,10,"), "{csv}");
}

#[test]
fn storage_report_agrees_with_store_and_quota() {
    for database in Database::all() {
        storage_agrees_with_store_and_quota(&Daemon::with_alice(Setup { database, ..Setup::default() }));
    }
}
