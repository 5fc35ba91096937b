//! Limits are exact: at one message, under concurrency, at every level, on both databases.

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, Database, Setup};

const SENDER: &str = "sender@example.test";

/// Octets and messages that the quota report says a mailbox uses.
#[track_caller]
pub fn used(daemon: &Daemon, address: &str) -> (u64, u64) {
    let (_, domain) = address.split_once('@').expect("an address");
    let report = daemon.json(&["report", "quota", "--domain", domain]).remove(0);
    let rows = report["mailboxes"].as_array().expect("a row for each mailbox");
    let row = rows.iter().find(|row| row["address"] == address);
    row.and_then(|row| Some((row["used"].as_u64()?, row["messages"].as_u64()?)))
        .unwrap_or_else(|| panic!("no {address} in {report}"))
}

/// Octets and messages that are really there.
fn counted(daemon: &Daemon, address: &str) -> (u64, u64) {
    let mut session = daemon.imap(address);
    if session.select("INBOX").exists() == Some(0) {
        return (0, 0);
    }
    let answer = session.command("FETCH 1:* (RFC822.SIZE)").expect("FETCH").ok();
    let sizes: Vec<u64> = answer.all("FETCH").filter_map(|line| line.item_number("RFC822.SIZE")).collect();
    (sizes.iter().sum(), sizes.len() as u64)
}

#[test]
fn mailbox_limit_is_exact_to_the_octet_and_a_raised_one_counts_at_once() {
    for database in Database::all() {
        let daemon = Daemon::with(Setup { database, ..Setup::default() });
        daemon.customer("acme", "acme.test");
        daemon.mailbox_with("alice@acme.test", &["--quota", "10000"]);
        let mut session = daemon.imap("alice@acme.test");
        session.append("INBOX", "", &message(6_000, 1)).expect("APPEND").ok();
        let refused = session.append("INBOX", "", &message(4_001, 2)).expect("APPEND");
        assert_eq!(refused.status, "NO");
        assert!(refused.text.starts_with("[OVERQUOTA]"), "{}", refused.text);
        session.append("INBOX", "", &message(4_000, 3)).expect("APPEND").ok();
        assert_eq!(used(&daemon, "alice@acme.test"), (10_000, 2));
        assert_eq!(counted(&daemon, "alice@acme.test"), (10_000, 2));
        let replies = daemon.lmtp().deliver(SENDER, &["alice@acme.test"], &message(400, 4)).expect("LMTP");
        assert_eq!(replies[0].codes(), "452 4.2.2");
        let replies = daemon.smtp().deliver(SENDER, &["alice@acme.test"], &message(400, 4)).expect("SMTP");
        assert_eq!(replies[0].codes(), "452 4.2.2");
        daemon.posthouse(&["mailbox", "quota", "alice@acme.test", "20000"]).ok();
        daemon.deliver("alice@acme.test", &message(400, 4));
        let (octets, messages) = used(&daemon, "alice@acme.test");
        assert_eq!((octets, messages), counted(&daemon, "alice@acme.test"));
        assert_eq!(messages, 3);
        // A limit below what is there stops growth and deletes nothing; deleting still works and is credited.
        daemon.posthouse(&["mailbox", "quota", "alice@acme.test", "100"]).ok();
        assert_eq!(session.append("INBOX", "", b"x\r\n").expect("APPEND").status, "NO");
        session.select("INBOX");
        session.command("STORE 1:2 +FLAGS (\\Deleted)").expect("STORE").ok();
        session.command("EXPUNGE").expect("EXPUNGE").ok();
        assert_eq!(used(&daemon, "alice@acme.test"), (octets - 10_000, 1));
    }
}

#[test]
fn refusal_names_what_there_is_too_much_of() {
    let daemon = Daemon::start();
    daemon.customer("acme", "acme.test");
    daemon.mailbox_with("alice@acme.test", &["--quota", "100000", "--messages", "2"]);
    let mut session = daemon.imap("alice@acme.test");
    for number in 0..2 {
        session.append("INBOX", "", &message(400, number)).expect("APPEND").ok();
    }
    let refused = session.append("INBOX", "", &message(400, 3)).expect("APPEND");
    assert_eq!(refused.text, "[OVERQUOTA] over quota: the limit of this mailbox on the number of messages");
    session.select("INBOX");
    let refused = session.command("COPY 1 INBOX").expect("COPY");
    assert_eq!(refused.text, "[OVERQUOTA] over quota: the limit of this mailbox on the number of messages");
    for mut sender in [daemon.lmtp(), daemon.smtp()] {
        let reply =
            sender.deliver(SENDER, &["alice@acme.test"], &message(400, 4)).expect("deliver").remove(0);
        assert_eq!(reply.codes(), "452 4.2.2");
        assert!(format!("{reply:?}").contains("as many messages as it may have"), "{reply:?}");
    }
    let refused = session.append("INBOX", "", &message(200_000, 5)).expect("APPEND");
    assert_eq!(refused.text, "[OVERQUOTA] over quota: the limit of this mailbox on the size");
}

/// 32 connections deliver to all `readers` at once until nothing is taken any more; gives how many were accepted.
fn fill(daemon: &Daemon, readers: &[&str], content: &[u8]) -> usize {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..32)
            .map(|worker| {
                let reader = readers[worker % readers.len()];
                scope.spawn(move || {
                    let mut session = daemon.lmtp();
                    // Bounded, so that a limit that is not applied fails the test instead of hanging it.
                    for accepted in 0..200 {
                        let replies = session.deliver(SENDER, &[reader], content).expect("LMTP");
                        if !replies[0].is_ok() {
                            assert_eq!(replies[0].codes(), "452 4.2.2");
                            return accepted;
                        }
                    }
                    panic!("the limit was not applied");
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("worker")).sum()
    })
}

/// Fills up to `limit` in all and checks that it is neither passed nor left unused.
fn assert_fills_exactly(daemon: &Daemon, readers: &[&str], limit: u64) {
    let content = message(4_000, 7);
    let accepted = fill(daemon, readers, &content);
    let mut octets = 0;
    let mut messages = 0;
    for reader in readers {
        let counted = counted(daemon, reader);
        assert_eq!(used(daemon, reader), counted, "{reader}");
        octets += counted.0;
        messages += counted.1;
    }
    assert_eq!(messages as usize, accepted);
    assert!(octets <= limit, "{octets} of {limit}");
    assert!(limit - octets < 2 * (content.len() as u64 + 1_000), "{octets} of {limit}: refused too early");
    assert_no_drift(daemon);
}

/// A recount of everything finds what is recorded.
#[track_caller]
pub fn assert_no_drift(daemon: &Daemon) {
    let verified = daemon.json(&["quota", "verify"]).remove(0);
    assert_eq!(verified["drift"], 0, "{verified}");
}

#[test]
fn parallel_deliveries_never_pass_a_mailbox_limit() {
    for database in Database::all() {
        let daemon = Daemon::with(Setup { database, ..Setup::default() });
        daemon.customer("acme", "acme.test");
        daemon.mailbox_with("alice@acme.test", &["--quota", "300000"]);
        assert_fills_exactly(&daemon, &["alice@acme.test"], 300_000);
    }
}

#[test]
fn parallel_deliveries_never_pass_a_domain_limit() {
    for database in Database::all() {
        let daemon = Daemon::with_alice(Setup { database, ..Setup::default() });
        daemon.mailbox("bob@acme.test");
        daemon.posthouse(&["domain", "limit", "acme.test", "--bytes", "300000"]).ok();
        assert_fills_exactly(&daemon, &["alice@acme.test", "bob@acme.test"], 300_000);
    }
}

#[test]
fn parallel_deliveries_never_pass_a_limit_of_a_customer_above() {
    for database in Database::all() {
        let daemon = Daemon::with_alice(Setup { database, ..Setup::default() });
        daemon.customer("acme/research", "research.test");
        daemon.mailbox("carol@research.test");
        daemon.posthouse(&["customer", "limit", "acme", "--bytes", "300000"]).ok();
        assert_fills_exactly(&daemon, &["alice@acme.test", "carol@research.test"], 300_000);
    }
}

#[test]
fn one_recipient_over_quota_does_not_keep_the_message_from_the_other_over_lmtp_but_does_over_smtp() {
    let daemon = Daemon::with_alice(Setup::default());
    daemon.mailbox_with("tiny@acme.test", &["--quota", "1000"]);
    let content = message(4_000, 9);
    let both = ["alice@acme.test", "tiny@acme.test"];
    // Without SIZE the shortage shows only when the message is stored.
    let mut lmtp = daemon.lmtp();
    let answers = deliver_without_size(&mut lmtp, &both, &content, 2);
    assert_eq!(answers, ["250", "452 4.2.2"]);
    let mut smtp = daemon.smtp();
    let answers = deliver_without_size(&mut smtp, &both, &content, 1);
    assert!(answers[0].starts_with("452"), "{answers:?}");
    assert_eq!(daemon.imap("alice@acme.test").select("INBOX").exists(), Some(1));
    assert_eq!(counted(&daemon, "tiny@acme.test"), (0, 0));
    // The retry announces its size and is answered at RCPT, so the other recipient can be served.
    let replies = smtp.deliver(SENDER, &both, &content).expect("SMTP");
    assert_eq!([replies[0].code, replies[1].code], [250, 452]);
    assert_eq!(daemon.imap("alice@acme.test").select("INBOX").exists(), Some(2));
}

fn deliver_without_size(
    session: &mut crate::support::smtp::Smtp,
    recipients: &[&str],
    content: &[u8],
    answers: usize,
) -> Vec<String> {
    session.command("MAIL FROM:<sender@example.test>").expect("MAIL");
    for recipient in recipients {
        let reply = session.command(&format!("RCPT TO:<{recipient}>")).expect("RCPT");
        assert_eq!(reply.code, 250, "{recipient}: {reply:?}");
    }
    assert_eq!(session.command("DATA").expect("DATA").code, 354);
    let mut stuffed = Vec::new();
    crate::support::smtp::dot_stuff(content, &mut stuffed);
    session.connection.send(&stuffed).expect("content");
    let codes = |reply: crate::support::smtp::Reply| {
        if reply.is_ok() { reply.code.to_string() } else { reply.codes() }
    };
    (0..answers).map(|_| codes(session.reply().expect("answer"))).collect()
}

#[test]
fn mail_for_what_is_full_for_too_long_is_refused_for_good() {
    let daemon = Daemon::start();
    daemon.customer("acme", "acme.test");
    daemon.mailbox_with("tiny@acme.test", &["--quota", "1000"]);
    let answers = |size: usize| {
        let content = message(size, 3);
        let mut codes = Vec::new();
        for mut sender in [daemon.lmtp(), daemon.smtp()] {
            codes.push(sender.deliver(SENDER, &["tiny@acme.test"], &content).expect("deliver")[0].codes());
        }
        codes.extend(deliver_without_size(&mut daemon.lmtp(), &["tiny@acme.test"], &content, 1));
        codes
    };
    assert_eq!(answers(4_000), ["452 4.2.2"; 3]);
    // For how long mail is deferred is the customer's setting.
    let defer = ["customer", "settings", "set", "acme", "delivery.overquota_defer_hours"];
    daemon.posthouse(&[&defer[..], &["0"]].concat()).ok();
    assert_eq!(answers(4_000), ["552 5.2.2"; 3]);
    assert!(answers(100).iter().all(|code| code.starts_with("250")));
    daemon.posthouse(&[&defer[..], &["1"]].concat()).ok();
    assert_eq!(answers(4_000), ["452 4.2.2"; 3]);
}
