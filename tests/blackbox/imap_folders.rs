//! Folders over IMAP: making, naming, listing, subscribing, counting, quotas.

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, Setup};
use crate::support::imap::{Answer, Imap};

const USER: &str = "alice@acme.test";

fn session() -> (Daemon, Imap) {
    let daemon = Daemon::with_alice(Setup::default());
    let session = daemon.imap(USER);
    (daemon, session)
}

/// The untagged lines of one kind, as text.
fn lines(answer: &Answer, keyword: &str) -> Vec<String> {
    answer.all(keyword).map(|line| line.text.clone()).collect()
}

#[track_caller]
fn listed(session: &mut Imap, arguments: &str) -> Vec<String> {
    let answer = session.command(&format!("LIST {arguments}")).unwrap().ok();
    lines(&answer, "LIST").iter().map(|line| line.rsplit_once("\"/\" ").expect("name").1.to_owned()).collect()
}

#[test]
fn folders_are_created_renamed_and_deleted() {
    let (_daemon, mut session) = session();
    session.command("CREATE a/b/c").unwrap().ok();
    assert_eq!(listed(&mut session, "\"\" a*"), ["\"a\"", "\"a/b\"", "\"a/b/c\""]);
    let twice = session.command("CREATE a/b").unwrap();
    assert_eq!(twice.status, "NO");
    assert!(twice.text.starts_with("[ALREADYEXISTS]"), "{}", twice.text);
    session.append("a/b/c", "", &message(400, 1)).unwrap().ok();
    let before = session.command("STATUS a/b/c (MESSAGES UIDVALIDITY UIDNEXT)").unwrap().ok();
    session.command("RENAME a x").unwrap().ok();
    assert_eq!(listed(&mut session, "\"\" a*"), [""; 0]);
    assert_eq!(listed(&mut session, "\"\" x*"), ["\"x\"", "\"x/b\"", "\"x/b/c\""]);
    let after = session.command("STATUS x/b/c (MESSAGES UIDVALIDITY UIDNEXT)").unwrap().ok();
    assert_eq!(before.untagged[0].text.replace("a/b/c", "x/b/c"), after.untagged[0].text);
    let missing = session.command("SELECT a").unwrap();
    assert!(missing.text.starts_with("[NONEXISTENT]"), "{}", missing.text);
    // A folder with children stays as a name.
    session.command("DELETE x/b").unwrap().ok();
    let listed = session.command("LIST \"\" x/b").unwrap().ok();
    assert!(lines(&listed, "LIST")[0].contains("\\Noselect"), "{listed:?}");
    assert_eq!(session.command("SELECT x/b").unwrap().status, "NO");
    session.command("DELETE x/b/c").unwrap().ok();
    for text in
        ["DELETE INBOX", "DELETE none", "RENAME none y", "CREATE INBOX", "CREATE inbox", "CREATE \"\""]
    {
        assert_eq!(session.command(text).unwrap().status, "NO", "{text}");
    }
}

#[test]
fn renaming_inbox_moves_its_mail() {
    let (_daemon, mut session) = session();
    session.append("INBOX", "", &message(400, 1)).unwrap().ok();
    session.command("RENAME INBOX old").unwrap().ok();
    assert_eq!(session.select("INBOX").exists(), Some(0));
    assert_eq!(session.select("old").exists(), Some(1));
}

#[test]
fn deleting_the_selected_folder_goes_by_what_it_is_and_not_by_its_name() {
    let (daemon, mut session) = session();
    // Renamed since SELECT: the name of then means nothing, that of now means the selected folder.
    session.command("CREATE a").unwrap().ok();
    session.select("a");
    session.command("RENAME a b").unwrap().ok();
    let answer = session.command("DELETE b").unwrap().ok();
    assert!(answer.untagged.iter().any(|line| line.text.contains("[CLOSED]")), "{answer:?}");
    session.command("NOOP").unwrap().ok();
    assert_eq!(session.command("FETCH 1 FLAGS").unwrap().status, "BAD");

    // The name of the selected folder was given to another one, which is deleted: the selected one stays open.
    session.command("CREATE a").unwrap().ok();
    session.select("a");
    session.command("RENAME a b").unwrap().ok();
    session.command("CREATE a").unwrap().ok();
    let answer = session.command("DELETE a").unwrap().ok();
    assert!(!answer.untagged.iter().any(|line| line.text.contains("[CLOSED]")), "{answer:?}");
    session.append("b", "", &message(400, 1)).unwrap().ok();
    assert_eq!(session.command("NOOP").unwrap().ok().untagged.len(), 0);
    assert!(session.command("FETCH 1 FLAGS").unwrap().ok().untagged.len() == 1);

    // Deleted by another session, and its name given to a new folder: that one is deleted, and a session whose
    // folder is gone ends.
    let mut other = daemon.imap(USER);
    other.command("DELETE b").unwrap().ok();
    other.command("CREATE b").unwrap().ok();
    other.append("b", "", &message(400, 2)).unwrap().ok();
    let answer = session.command("DELETE b").unwrap().ok();
    assert!(!answer.untagged.iter().any(|line| line.text.contains("[CLOSED]")), "{answer:?}");
    assert!(other.command("SELECT b").unwrap().text.starts_with("[NONEXISTENT]"));
    let told = session.command("NOOP");
    assert!(told.is_err(), "the selected folder is gone: {told:?}");
}

#[test]
fn names_that_a_folder_cannot_take_are_refused_with_the_reason() {
    let (_daemon, mut session) = session();
    let longest = "x".repeat(255);
    let deepest = vec!["d"; 32].join("/");
    for text in ["CREATE a/b", "CREATE c", &format!("CREATE {longest}"), &format!("CREATE {deepest}")] {
        session.command(text).unwrap().ok();
    }
    session.append("INBOX", "", &message(400, 1)).unwrap().ok();
    for (text, code) in [
        ("RENAME a a/x", "[CANNOT]"),
        ("RENAME a a/b/x/y", "[CANNOT]"),
        ("RENAME a c", "[ALREADYEXISTS]"),
        ("RENAME a a", "[ALREADYEXISTS]"),
        ("RENAME a INBOX", "[ALREADYEXISTS]"),
        ("RENAME a inbox", "[ALREADYEXISTS]"),
        ("RENAME INBOX c", "[ALREADYEXISTS]"),
        ("RENAME none a", "[NONEXISTENT]"),
        // What is below must find room too: 255 octets, 32 levels.
        (&format!("RENAME a {}", "y".repeat(254)), "[CANNOT]"),
        (&format!("RENAME a {}", vec!["e"; 32].join("/")), "[CANNOT]"),
        (&format!("CREATE {longest}x"), "[CANNOT]"),
        (&format!("CREATE {deepest}/d"), "[CANNOT]"),
    ] {
        let answer = session.command(text).unwrap();
        assert_eq!(answer.status, "NO", "{text}");
        assert!(answer.text.starts_with(code), "{text}: {}", answer.text);
    }
    assert_eq!(listed(&mut session, "\"\" (a* c* y* e*)"), ["\"a\"", "\"a/b\"", "\"c\""]);
    // INBOX may go below itself: its mail does, and it stays (RFC 3501 section 6.3.5).
    session.command("RENAME INBOX INBOX/old").unwrap().ok();
    assert_eq!(session.select("INBOX/old").exists(), Some(1));
    assert_eq!(session.select("INBOX").exists(), Some(0));
    // Moving deeper into another folder takes along what is below.
    session.command("RENAME a c/a").unwrap().ok();
    assert_eq!(listed(&mut session, "\"\" c*"), ["\"c\"", "\"c/a\"", "\"c/a/b\""]);
}

#[test]
fn names_travel_in_modified_utf_7() {
    let (_daemon, mut session) = session();
    session.command("CREATE \"Entw&APw-rfe/&U,BTFw-\"").unwrap().ok();
    assert_eq!(listed(&mut session, "\"\" Entw%"), ["\"Entw&APw-rfe\""]);
    assert_eq!(listed(&mut session, "\"Entw&APw-rfe/\" %"), ["\"Entw&APw-rfe/&U,BTFw-\""]);
    session.select("Entw&APw-rfe/&U,BTFw-");
    session.command("CREATE \"A&-B\"").unwrap().ok();
    assert_eq!(listed(&mut session, "\"\" A&-*"), ["\"A&-B\""]);
    for bad in ["CREATE \"A&B\"", "CREATE \"x&AAA\"", "CREATE a//b", "CREATE \"a%b\"", "SELECT \"&broken\""] {
        let answer = session.command(bad).unwrap();
        assert_eq!(answer.status, "NO", "{bad}: {}", answer.text);
    }
}

#[test]
fn list_answers_patterns_and_options() {
    let (_daemon, mut session) = session();
    for name in ["a", "a/b", "a/b/c", "d"] {
        session.command(&format!("CREATE {name}")).unwrap().ok();
    }
    let top = listed(&mut session, "\"\" %");
    assert!(top.contains(&"\"INBOX\"".to_owned()) && top.contains(&"\"d\"".to_owned()), "{top:?}");
    assert!(!top.iter().any(|name| name.contains('/')), "{top:?}");
    assert_eq!(listed(&mut session, "a/ %"), ["\"a/b\""]);
    assert_eq!(listed(&mut session, "\"\" inbox"), ["\"INBOX\""]);
    assert_eq!(listed(&mut session, "\"\" (d a/*)"), ["\"a/b\"", "\"a/b/c\"", "\"d\""]);
    let root = session.command("LIST \"\" \"\"").unwrap().ok();
    assert_eq!(lines(&root, "LIST"), ["LIST (\\Noselect) \"/\" \"\""]);

    session.command("SUBSCRIBE a/b/c").unwrap().ok();
    session.command("SUBSCRIBE d").unwrap().ok();
    session.command("SUBSCRIBE not/there").unwrap().ok();
    let answer = session.command("LIST (SUBSCRIBED) \"\" (a* d not*) RETURN (CHILDREN)").unwrap().ok();
    assert_eq!(
        lines(&answer, "LIST"),
        [
            "LIST (\\HasNoChildren \\Subscribed) \"/\" \"a/b/c\"",
            "LIST (\\HasNoChildren \\Subscribed) \"/\" \"d\"",
            "LIST (\\NonExistent \\Subscribed) \"/\" \"not/there\""
        ]
    );
    let answer = session.command("LIST (SUBSCRIBED RECURSIVEMATCH) \"\" a").unwrap().ok();
    assert_eq!(lines(&answer, "LIST"), ["LIST (\\HasChildren) \"/\" \"a\" (\"CHILDINFO\" (\"SUBSCRIBED\"))"]);
    let answer = session.command("LSUB \"\" %").unwrap().ok();
    let told = lines(&answer, "LSUB");
    for want in ["LSUB (\\Noselect) \"/\" \"a\"", "LSUB () \"/\" \"d\"", "LSUB (\\Noselect) \"/\" \"not\""] {
        assert!(told.iter().any(|line| line == want), "{want} in {told:?}");
    }
    session.command("UNSUBSCRIBE d").unwrap().ok();
    assert!(lines(&session.command("LSUB \"\" d").unwrap().ok(), "LSUB").is_empty());
}

#[test]
fn special_uses_are_kept_and_listed() {
    let (_daemon, mut session) = session();
    session.command("CREATE Sent-Mail (USE (\\Sent))").unwrap().ok();
    let answer = session.command("LIST (SPECIAL-USE) \"\" *").unwrap().ok();
    assert!(
        lines(&answer, "LIST").iter().any(|line| line.contains("\\Sent") && line.contains("Sent-Mail")),
        "{answer:?}"
    );
    let plain = session.command("LIST \"\" Sent-Mail RETURN (SPECIAL-USE)").unwrap().ok();
    assert!(lines(&plain, "LIST")[0].contains("\\Sent"));
    assert_eq!(session.command("CREATE y (USE (\\Bogus))").unwrap().status, "BAD");
}

#[test]
fn status_counts_what_is_there() {
    let (_daemon, mut session) = session();
    let octets = message(700, 1).len();
    session.append("INBOX", "\\Seen", &message(700, 1)).unwrap().ok();
    session.append("INBOX", "\\Deleted", &message(900, 2)).unwrap().ok();
    let deleted = message(900, 2).len();
    let answer = session
        .command(
            "STATUS INBOX (MESSAGES UNSEEN UIDNEXT SIZE DELETED DELETED-STORAGE APPENDLIMIT HIGHESTMODSEQ)",
        )
        .unwrap()
        .ok();
    let status = answer.all("STATUS").next().expect("STATUS");
    let number = |item: &str| status.item_number(item).expect(item);
    assert_eq!((number("MESSAGES"), number("UNSEEN"), number("UIDNEXT")), (2, 1, 3));
    assert_eq!(number("SIZE"), (octets + deleted) as u64);
    assert_eq!((number("DELETED"), number("DELETED-STORAGE")), (1, deleted as u64));
    assert!(number("APPENDLIMIT") > 1_000_000 && number("HIGHESTMODSEQ") > 0);
    let listed = session.command("LIST \"\" * RETURN (STATUS (MESSAGES SIZE))").unwrap().ok();
    let inbox = listed.all("STATUS").find(|line| line.text.contains("INBOX")).unwrap();
    assert_eq!(inbox.item_number("MESSAGES"), Some(2));
    assert_eq!(session.command("STATUS none (MESSAGES)").unwrap().status, "NO");
}

#[test]
fn quota_is_told_and_holds() {
    let daemon = Daemon::with_alice(Setup::default());
    daemon.mailbox_with("bob@acme.test", &["--quota", "10KiB"]);
    let mut session = daemon.imap("bob@acme.test");
    session.append("INBOX", "", &message(4_000, 1)).unwrap().ok();
    let answer = session.command("GETQUOTAROOT INBOX").unwrap().ok();
    let root = answer.all("QUOTAROOT").next().unwrap().text.clone();
    let name = root.rsplit_once(' ').unwrap().1.to_owned();
    let quota = answer.all("QUOTA").next().unwrap().text.clone();
    assert_eq!(quota, format!("QUOTA {name} (STORAGE 4 10)"));
    assert_eq!(session.command(&format!("GETQUOTA {name}")).unwrap().ok().untagged[0].text, quota);
    assert_eq!(session.command("GETQUOTA bogus").unwrap().status, "NO");
    assert_eq!(session.command(&format!("SETQUOTA {name} (STORAGE 99999)")).unwrap().status, "NO");
    // Refused before the message is sent, and nothing changes.
    let full = session.append("INBOX", "", &message(8_000, 2)).unwrap();
    assert_eq!(full.status, "NO");
    assert!(full.text.starts_with("[OVERQUOTA]"), "{}", full.text);
    assert_eq!(session.select("INBOX").exists(), Some(1));
    let full = session.command("COPY 1 INBOX").unwrap().ok();
    assert!(full.code("COPYUID").is_some());
    let full = session.command("COPY 1:2 INBOX").unwrap();
    assert!(full.text.starts_with("[OVERQUOTA]"), "{}", full.text);
    // A mailbox without limits has no root.
    let answer = daemon.imap(USER).command("GETQUOTAROOT INBOX").unwrap().ok();
    assert!(answer.all("QUOTA").next().is_none());
}
