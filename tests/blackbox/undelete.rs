//! Undelete inside a mailbox, as its owner and an operator see it: over IMAP and POP3, and with the command line.

use serde_json::Value;

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, Database, Setup};
use crate::support::imap::Imap;

const USER: &str = "alice@acme.test";

/// UIDVALIDITY of a folder.
fn uid_validity(session: &mut Imap, folder: &str) -> u64 {
    let answer = session.command(&format!("STATUS {folder} (UIDVALIDITY)")).unwrap().ok();
    answer.all("STATUS").next().and_then(|line| line.item_number("UIDVALIDITY")).expect("UIDVALIDITY")
}

fn bodies(session: &mut Imap) -> Vec<Vec<u8>> {
    session.bodies("1:*").into_iter().map(|(_, body)| body).collect()
}

#[test]
fn expunged_message_and_deleted_folder_come_back_with_the_command_line() {
    for database in Database::all() {
        let daemon = Daemon::with_alice(Setup { database, ..Setup::default() });
        let (one, two) = (message(400, 1), message(90_000, 2));
        let mut session = daemon.imap(USER);
        session.append("INBOX", "\\Flagged $Work", &one).unwrap().ok();
        session.append("INBOX", "", &two).unwrap().ok();
        session.command("CREATE Projects/Old").unwrap().ok();
        session.append("Projects/Old", "", &two).unwrap().ok();
        let before = uid_validity(&mut session, "Projects/Old");
        session.select("INBOX");
        session.command("UID STORE 1:2 +FLAGS (\\Deleted)").unwrap().ok();
        session.command("EXPUNGE").unwrap().ok();
        session.command("DELETE Projects/Old").unwrap().ok();
        let listed = daemon.json(&["mailbox", "deleted", USER, "--folder", "INBOX"]);
        let uids: Vec<&Value> = listed.iter().map(|one| &one["uid"]).collect();
        assert_eq!(uids, [1, 2]);
        assert_eq!((&listed[0]["folder"], &listed[0]["size"]), (&"INBOX".into(), &400.into()), "{listed:?}");
        assert!(listed[0].get("subject").is_none(), "what it says is its owner's alone");
        assert_eq!(daemon.json(&["mailbox", "deleted", USER, "--until", "1d"]).len(), 0);
        let nobodys = daemon.posthouse(&["mailbox", "deleted", USER, "--folder", "None"]);
        assert_eq!(nobodys.status.code(), Some(3), "{}", nobodys.stderr);

        let dry = ["mailbox", "undelete-messages", USER, "--dry-run"];
        daemon.posthouse(&dry).ok();
        let report =
            daemon.json(&["mailbox", "undelete-messages", USER, "--folder", "INBOX", "--since", "1h"]);
        assert_eq!((&report[0]["messages"], &report[0]["octets"]), (&2.into(), &90_400.into()));
        // The open session is told.
        let told = session.command("NOOP").unwrap().ok();
        assert_eq!(told.exists(), Some(2), "{told:?}");
        let flags = session.command("UID FETCH 3:4 (FLAGS)").unwrap().ok();
        let flags: Vec<Vec<String>> = flags.all("FETCH").map(|line| line.flags().unwrap()).collect();
        assert!(
            flags[0].contains(&"\\Flagged".to_owned()) && flags[0].contains(&"$Work".to_owned()),
            "{flags:?}"
        );
        assert!(flags.iter().flatten().all(|flag| flag != "\\Deleted"), "{flags:?}");
        assert_eq!(bodies(&mut session), [one, two.clone()]);

        daemon.posthouse(&["mailbox", "undelete-folder", USER, "Projects/Old"]).ok();
        assert!(uid_validity(&mut session, "Projects/Old") > before);
        session.select("Projects/Old");
        assert_eq!(bodies(&mut session), [two]);
        assert_eq!(daemon.json(&["mailbox", "deleted", USER]).len(), 0);
        let again = daemon.posthouse(&["mailbox", "undelete-folder", USER, "Projects/Old"]);
        assert_eq!(again.status.code(), Some(3), "{}", again.stderr);
        daemon.posthouse(&["quota", "verify"]).ok();
    }
}

#[test]
fn messages_deleted_over_pop3_come_back_as_far_as_the_quota_allows() {
    let daemon = Daemon::with_alice(Setup::default());
    for number in 0..2 {
        daemon.deliver(USER, &message(5_000, number));
    }
    let mut session = daemon.pop3(USER);
    let original = session.retrieve(1).unwrap();
    session.command("DELE 1").unwrap().unwrap();
    session.command("DELE 2").unwrap().unwrap();
    session.command("QUIT").unwrap().unwrap();
    daemon.posthouse(&["mailbox", "quota", USER, "9000"]).ok();
    let refused = daemon.posthouse(&["mailbox", "undelete-messages", USER]);
    assert!(!refused.status.success() && refused.stderr.contains("over quota"), "{}", refused.stderr);
    assert_eq!(daemon.json(&["mailbox", "deleted", USER]).len(), 2);
    let some = ["mailbox", "undelete-messages", USER, "--folder", "INBOX", "--uids", "1", "--into", "Back"];
    daemon.posthouse(&some).ok();
    let mut session = daemon.imap(USER);
    session.select("Back");
    assert_eq!(bodies(&mut session), [original]);
}

#[test]
fn nothing_comes_back_where_nothing_is_kept() {
    let configuration = "[retention]\nundelete_days = 0\n".to_owned();
    let daemon = Daemon::with_alice(Setup { configuration, ..Setup::default() });
    let mut session = daemon.imap(USER);
    session.append("INBOX", "\\Deleted", &message(400, 1)).unwrap().ok();
    session.select("INBOX");
    session.command("EXPUNGE").unwrap().ok();
    assert_eq!(daemon.json(&["mailbox", "deleted", USER]).len(), 0);
    let nothing = daemon.posthouse(&["mailbox", "undelete-messages", USER]);
    assert!(nothing.status.success(), "{}", nothing.stderr);
    session.command("NOOP").unwrap().ok();
    assert_eq!(session.bodies("1:*").len(), 0);
}
