//! What a sender is told, and what a reader then finds.

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, PASSWORD, Setup};
use crate::support::smtp::{Dialect, Smtp};

const SENDER: &str = "sender@example.test";

fn one(session: &mut Smtp, recipient: &str, content: &[u8]) -> String {
    let replies = session.deliver(SENDER, &[recipient], content).expect("delivery");
    replies[0].codes()
}

#[test]
fn recipients_that_do_not_exist_are_refused_at_rcpt() {
    let daemon = Daemon::with_alice(Setup::default());
    let mut lmtp = daemon.lmtp();
    assert_eq!(one(&mut lmtp, "nobody@acme.test", b"x\r\n"), "550 5.1.1");
    assert_eq!(one(&mut lmtp, "alice@elsewhere.test", b"x\r\n"), "550 5.1.2");
    let mut smtp = daemon.smtp();
    assert_eq!(one(&mut smtp, "nobody@acme.test", b"x\r\n"), "550 5.1.1");
    assert_eq!(one(&mut smtp, "alice@elsewhere.test", b"x\r\n"), "550 5.7.1");
    // The session is still good, and the good recipient next to a bad one gets the message.
    let message = message(1_000, 1);
    let replies = lmtp.deliver(SENDER, &["nobody@acme.test", "alice@acme.test"], &message).expect("LMTP");
    assert_eq!([replies[0].code, replies[1].code], [550, 250]);
    assert_eq!(daemon.imap("alice@acme.test").select("INBOX").exists(), Some(1));
}

#[test]
fn stored_message_is_the_sent_one_behind_its_trace_lines() {
    let daemon = Daemon::with_alice(Setup::default());
    let message = message(2_000, 2);
    daemon.deliver("Alice+tickets@ACME.test", &message);
    let mut session = daemon.imap("alice@acme.test");
    session.select("INBOX");
    let (_, stored) = session.bodies("1:*").remove(0);
    assert!(stored.ends_with(&message));
    let trace =
        String::from_utf8(stored[..stored.len() - message.len()].to_vec()).expect("ASCII trace lines");
    assert!(trace.starts_with("Return-Path: <sender@example.test>\r\n"), "{trace}");
    assert!(trace.contains("\r\nDelivered-To: "), "{trace}");
    assert!(trace.contains("\r\nReceived: from client.example.test"), "{trace}");
    assert!(trace.contains("with LMTP"), "{trace}");
}

#[test]
fn same_mailbox_named_twice_gets_one_message() {
    let daemon = Daemon::with_alice(Setup::default());
    let recipients = ["alice@acme.test", "alice+again@acme.test", "ALICE@acme.test"];
    let replies = daemon.lmtp().deliver(SENDER, &recipients, &message(1_000, 3)).expect("LMTP");
    assert_eq!(replies.len(), 3);
    assert!(replies.iter().all(|reply| reply.is_ok()), "{replies:?}");
    assert_eq!(daemon.imap("alice@acme.test").select("INBOX").exists(), Some(1));
}

#[test]
fn alias_with_two_targets_reaches_both() {
    let daemon = Daemon::with_alice(Setup::default());
    daemon.mailbox("bob@acme.test");
    daemon.posthouse(&["alias", "create", "sales@acme.test", "alice@acme.test", "bob@acme.test"]).ok();
    daemon.deliver("sales@acme.test", &message(1_000, 4));
    for user in ["alice@acme.test", "bob@acme.test"] {
        assert_eq!(daemon.imap(user).select("INBOX").exists(), Some(1), "{user}");
    }
    daemon.posthouse(&["alias", "delete", "sales@acme.test", "--yes"]).ok();
    assert_eq!(one(&mut daemon.lmtp(), "sales@acme.test", b"x\r\n"), "550 5.1.1");
}

#[test]
fn postmaster_is_always_accepted() {
    let daemon = Daemon::with_alice(Setup::default());
    daemon.posthouse(&["customer", "rename", "/", "--contact", "alice@acme.test"]).ok();
    for recipient in ["postmaster@acme.test", "Postmaster@acme.test", "postmaster"] {
        let replies = daemon.lmtp().deliver(SENDER, &[recipient], &message(600, 5)).expect("LMTP");
        assert!(replies[0].is_ok(), "{recipient}: {replies:?}");
        let replies = daemon.smtp().deliver("", &[recipient], &message(600, 6)).expect("SMTP");
        assert!(replies[0].is_ok(), "{recipient}: {replies:?}");
    }
}

/// Nobody was asked to be postmaster, and somebody reads it all the same; nobody of another branch.
#[test]
fn postmaster_without_a_contact_goes_to_whoever_is_nearest() {
    let daemon = Daemon::with_alice(Setup::default());
    daemon.customer("other", "other.test");
    daemon.posthouse(&["customer", "create", "acme/low", "--domain", "low.test"]).ok();
    // Only customers have mailboxes: the host's own postmaster is nobody's, and the operator is told.
    assert_eq!(one(&mut daemon.lmtp(), "postmaster", b"x\r\n"), "451 4.3.0");
    let warnings = |daemon: &Daemon| daemon.json(&["server", "show"])[0]["warnings"].to_string();
    assert!(warnings(&daemon).contains("postmaster"), "{}", warnings(&daemon));
    assert_eq!(one(&mut daemon.lmtp(), "postmaster@other.test", b"x\r\n"), "451 4.3.0");
    // A domain without mailboxes goes by the nearest customer above that has one.
    for (number, recipient) in ["postmaster@acme.test", "postmaster@low.test"].into_iter().enumerate() {
        assert_eq!(one(&mut daemon.lmtp(), recipient, b"x\r\n"), "250 2.0.0", "{recipient}");
        let exists = daemon.imap("alice@acme.test").select("INBOX").exists();
        assert_eq!(exists, Some(number as u32 + 1), "{recipient}");
    }
    daemon.posthouse(&["domain", "create", "provider.test", "--customer", "/"]).ok();
    daemon.mailbox("desk@provider.test");
    for recipient in ["postmaster", "postmaster@other.test"] {
        assert_eq!(one(&mut daemon.lmtp(), recipient, b"x\r\n"), "250 2.0.0", "{recipient}");
    }
    assert_eq!(daemon.imap("desk@provider.test").select("INBOX").exists(), Some(2));
    assert_eq!(warnings(&daemon), "[]");
    // A contact elsewhere is never relayed to.
    daemon.posthouse(&["customer", "rename", "/", "--contact", "boss@elsewhere.test"]).ok();
    assert_eq!(one(&mut daemon.lmtp(), "postmaster", b"x\r\n"), "250 2.0.0");
    assert_eq!(daemon.imap("desk@provider.test").select("INBOX").exists(), Some(3));
}

#[test]
fn alias_and_catch_all_to_a_deleted_mailbox_defer_mail_until_it_is_back() {
    let daemon = Daemon::with_alice(Setup::default());
    daemon.mailbox("bob@acme.test");
    daemon.posthouse(&["alias", "create", "sales@acme.test", "bob@acme.test"]).ok();
    daemon.posthouse(&["domain", "catch-all", "acme.test", "bob@acme.test"]).ok();
    daemon.posthouse(&["mailbox", "delete", "bob@acme.test", "--yes"]).ok();
    for recipient in ["sales@acme.test", "sales+x@acme.test", "whoever@acme.test"] {
        assert_eq!(one(&mut daemon.lmtp(), recipient, b"x\r\n"), "451 4.3.5", "{recipient}");
        assert_eq!(one(&mut daemon.smtp(), recipient, b"x\r\n"), "451 4.3.5", "{recipient}");
    }
    daemon.posthouse(&["mailbox", "undelete", "bob@acme.test"]).ok();
    for recipient in ["sales@acme.test", "whoever@acme.test"] {
        daemon.deliver(recipient, &message(600, 9));
    }
    assert_eq!(daemon.imap("bob@acme.test").select("INBOX").exists(), Some(2));
}

/// Makes aliases, each with the next as its only target, and the last with this one. The last is made first, since a
/// target has to be there; with a target among the aliases they are a loop.
fn chain(daemon: &Daemon, aliases: &[&str], target: &str) {
    let mut next = "alice@acme.test".to_owned();
    for alias in aliases.iter().rev() {
        let address = format!("{alias}@acme.test");
        daemon.posthouse(&["alias", "create", &address, &next]).ok();
        next = address;
    }
    let last = format!("{}@acme.test", aliases[aliases.len() - 1]);
    lead(daemon, &last, &[target]);
}

fn lead(daemon: &Daemon, alias: &str, targets: &[&str]) {
    let path = format!("/v1/aliases/{alias}/targets");
    let answer = daemon.api("PUT", &path, Some(&serde_json::json!({ "targets": targets })));
    assert_eq!(answer.status, 200, "{}", answer.json());
}

#[test]
fn aliases_that_lead_to_each_other_are_refused_clearly_and_lose_nothing() {
    let daemon = Daemon::with_alice(Setup::default());
    chain(&daemon, &["a", "b"], "a@acme.test");
    chain(&daemon, &["long-1", "long-2", "long-3", "long-4"], "long-1@acme.test");
    let mut stored = 0;
    let mut loops = vec!["a", "b", "a+detail", "long-1", "long-3"];
    for is_taken in [false, true] {
        if is_taken {
            // Addresses that nobody has come to the same loop.
            daemon.posthouse(&["domain", "catch-all", "acme.test", "a@acme.test"]).ok();
            loops.push("whoever");
        }
        for name in &loops {
            let address = format!("{name}@acme.test");
            let recipients = [address.as_str(), "alice@acme.test"];
            let replies = daemon.lmtp().deliver(SENDER, &recipients, &message(600, stored)).expect("LMTP");
            assert_eq!(replies[0].codes(), "451 4.3.5", "{name}: {replies:?}");
            assert!(replies[0].lines[0].contains("leads to no mailbox"), "{name}: {replies:?}");
            // The other recipient of the message has it.
            assert!(replies[1].is_ok(), "{name}: {replies:?}");
            stored += 1;
            assert_eq!(one(&mut daemon.smtp(), &address, b"x\r\n"), "451 4.3.5", "{name}");
        }
    }
    let has = |count: u64| {
        let exists = daemon.imap("alice@acme.test").select("INBOX").exists();
        assert_eq!(exists.map(u64::from), Some(count));
    };
    has(11);
    assert_eq!(stored, 11);
    // Who is reached besides a loop gets one copy.
    daemon.posthouse(&["alias", "create", "team@acme.test", "a@acme.test"]).ok();
    lead(&daemon, "b@acme.test", &["a@acme.test", "team@acme.test", "alice@acme.test"]);
    for address in ["a@acme.test", "team@acme.test", "whoever@acme.test"] {
        daemon.deliver(address, &message(600, 50 + stored));
        stored += 1;
        has(stored);
    }
}

#[test]
fn aliases_are_followed_so_far_and_no_recipient_is_left_out() {
    let daemon = Daemon::with_alice(Setup::default());
    let names: Vec<String> = (1..=9).map(|number| format!("step-{number}")).collect();
    let steps: Vec<&str> = names.iter().map(String::as_str).collect();
    chain(&daemon, &steps, "alice@acme.test");
    // Eight aliases one after the other, and one too many.
    daemon.deliver("step-2@acme.test", &message(600, 1));
    assert_eq!(one(&mut daemon.lmtp(), "step-1@acme.test", b"x\r\n"), "451 4.3.5");
    // Nobody gets a copy while somebody else would be left out.
    daemon.mailbox("bob@acme.test");
    daemon.posthouse(&["alias", "create", "both@acme.test", "bob@acme.test", "step-1@acme.test"]).ok();
    assert_eq!(one(&mut daemon.lmtp(), "both@acme.test", b"x\r\n"), "451 4.3.5");
    // What is near by one way and far by another is near.
    daemon.posthouse(&["alias", "create", "near@acme.test", "bob@acme.test"]).ok();
    lead(&daemon, "step-9@acme.test", &["near@acme.test"]);
    lead(&daemon, "both@acme.test", &["near@acme.test", "step-2@acme.test"]);
    daemon.deliver("both@acme.test", &message(600, 3));
    let exists = |user: &str| daemon.imap(user).select("INBOX").exists();
    assert_eq!((exists("alice@acme.test"), exists("bob@acme.test")), (Some(1), Some(1)));
}

#[test]
fn trace_finds_mail_by_mailbox_and_by_message_id() {
    let daemon = Daemon::with_alice(Setup::default());
    daemon.posthouse(&["alias", "create", "sales@acme.test", "alice@acme.test"]).ok();
    let text = b"Message-ID: <wanted@client.test>\r\nSubject: x\r\n\r\nx\r\n";
    daemon.deliver("sales@acme.test", text);
    daemon.deliver("alice@acme.test", b"Message-ID: <other@client.test>\r\n\r\ny\r\n");
    let found = |what: &str| {
        let mut found: Vec<String> = daemon
            .json(&["trace", what])
            .iter()
            .map(|line| {
                format!("{} {} {}", line["recipient"], line["message_id"], line["outcome"]).replace('"', "")
            })
            .collect();
        found.sort();
        found
    };
    let wanted = "sales@acme.test <wanted@client.test> stored".to_owned();
    let other = "alice@acme.test <other@client.test> stored".to_owned();
    // What came by an alias is the mailbox's mail too.
    assert_eq!(found("alice@acme.test"), [other, wanted.clone()]);
    assert_eq!(found("sales@acme.test"), std::slice::from_ref(&wanted));
    for id in ["<wanted@client.test>", "wanted@client.test"] {
        assert_eq!(found(id), std::slice::from_ref(&wanted), "{id}");
    }
    assert!(found("nobody@acme.test").is_empty());
}

/// Anybody could claim any address: from a network that is not configured a PROXY header is no command.
#[test]
fn proxy_header_from_a_network_that_is_not_configured_is_refused() {
    let listen = "proxy_networks = [\"192.0.2.0/24\"]\n";
    for networks in ["", listen] {
        let daemon = Daemon::with_alice(Setup { listen: networks.to_owned(), ..Setup::default() });
        let version_1 = b"PROXY TCP4 198.51.100.7 192.0.2.1 1000 25\r\n".to_vec();
        let mut version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        version_2.extend([198, 51, 100, 7, 192, 0, 2, 1, 3, 232, 0, 25]);
        for header in [version_1, version_2] {
            let mut session = Smtp::greet(daemon.address("smtp"), Dialect::Smtp).expect("greeting");
            session.connection.send(&header).expect("send");
            assert_eq!(session.reply().expect("an answer").code, 500);
            let mut imap = crate::support::imap::Imap::open(daemon.address("imap")).expect("IMAP");
            imap.connection.send(&header).expect("send");
            let answer = imap.read_line().expect("an answer").text;
            assert!(answer.contains("BAD") || answer.contains("BYE"), "{answer}");
        }
        let mut session = Smtp::greet(daemon.address("smtp"), Dialect::Smtp).expect("greeting");
        session.connection.send("PROXY TCP4 198.51.100.7 192.0.2.1 1000 25\r\n").expect("send");
        session.reply().expect("an answer");
        session.hello().expect("EHLO");
        assert_eq!(one(&mut session, "alice@acme.test", &message(600, 10)), "250 2.0.0");
        let lines = daemon.json(&["trace", "alice@acme.test"]);
        assert_eq!(lines[0]["source"], "127.0.0.1");
    }
}

#[test]
fn repeated_parameters_are_refused() {
    let daemon = Daemon::with_alice(Setup::default());
    let mut session = daemon.smtp();
    let reply = session.command("MAIL FROM:<> SIZE=1 SIZE=2").expect("a reply");
    assert_eq!(reply.codes(), "501 5.5.4");
    assert_eq!(session.command("MAIL FROM:<> SIZE=1 BODY=8BITMIME").expect("a reply").code, 250);
}

#[test]
fn suspended_mailbox_defers_mail_and_takes_it_again() {
    let daemon = Daemon::with_alice(Setup::default());
    daemon.posthouse(&["mailbox", "suspend", "alice@acme.test", "--yes"]).ok();
    assert_eq!(one(&mut daemon.lmtp(), "alice@acme.test", b"x\r\n"), "450 4.2.1");
    assert_eq!(one(&mut daemon.smtp(), "alice@acme.test", b"x\r\n"), "450 4.2.1");
    daemon.posthouse(&["mailbox", "resume", "alice@acme.test"]).ok();
    daemon.deliver("alice@acme.test", &message(600, 7));
    assert_eq!(daemon.imap("alice@acme.test").select("INBOX").exists(), Some(1));
}

#[test]
fn loops_are_refused() {
    let daemon = Daemon::with_alice(Setup::default());
    let mut looping = Vec::new();
    for hop in 0..200 {
        let line = format!("Received: from a{hop}.test by b{hop}.test; Tue, 3 Nov 2026 10:20:30 +0000\r\n");
        looping.extend_from_slice(line.as_bytes());
    }
    looping.extend_from_slice(&message(600, 8));
    assert_eq!(one(&mut daemon.lmtp(), "alice@acme.test", &looping), "554 5.4.6");
    assert_eq!(daemon.imap("alice@acme.test").select("INBOX").exists(), Some(0));
}

#[test]
fn announced_size_over_the_limit_is_refused_before_the_content() {
    let daemon = Daemon::with_alice(Setup::default());
    for dialect in [Dialect::Lmtp, Dialect::Smtp] {
        let listener = if dialect == Dialect::Lmtp { "lmtp" } else { "smtp" };
        let mut session = Smtp::greet(daemon.address(listener), dialect).expect("greeting");
        let hello = session.hello().expect("hello");
        for extension in ["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING", "STARTTLS"]
        {
            assert!(
                hello.lines.iter().any(|line| line == extension),
                "{listener} lacks {extension}: {hello:?}"
            );
        }
        let size = hello.lines.iter().find_map(|line| line.strip_prefix("SIZE ")).expect("SIZE");
        let octets_max: u64 = size.parse().expect("SIZE has a number");
        let reply = session.command(&format!("MAIL FROM:<> SIZE={}", octets_max + 1)).expect("MAIL");
        assert_eq!(reply.codes(), "552 5.3.4", "{listener}");
        let reply = session.command(&format!("MAIL FROM:<> SIZE={octets_max}")).expect("MAIL");
        assert_eq!(reply.code, 250, "{listener}");
    }
}

#[test]
fn starttls_protects_the_session_and_starts_it_anew() {
    let daemon = Daemon::with_alice(Setup::default());
    let mut session = daemon.smtp();
    assert_eq!(session.command("STARTTLS").expect("STARTTLS").code, 220);
    session.connection.start_tls(daemon.certificate_pem()).expect("TLS");
    let hello = session.hello().expect("EHLO again");
    assert!(hello.is_ok() && !hello.lines.iter().any(|line| line == "STARTTLS"), "{hello:?}");
    assert_eq!(one(&mut session, "alice@acme.test", &message(600, 9)).split(' ').next(), Some("250"));
    let mut reader = daemon.imap("alice@acme.test");
    reader.select("INBOX");
    let stored = String::from_utf8(reader.bodies("1").remove(0).1).expect("text");
    assert!(stored.contains("with ESMTPS"), "{stored}");
}

/// Ends of DATA that some servers take for the end and others do not: none may be, and nothing behind one may be
/// taken for a second message.
#[test]
fn smuggled_messages_are_refused() {
    let daemon = Daemon::with_alice(Setup::default());
    for end in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\0\r\n.\n"] {
        for (listener, dialect) in [("smtp", Dialect::Smtp), ("lmtp", Dialect::Lmtp)] {
            let mut session = Smtp::open(daemon.address(listener), dialect).expect("session");
            session.command("MAIL FROM:<>").expect("MAIL");
            session.command("RCPT TO:<alice@acme.test>").expect("RCPT");
            assert_eq!(session.command("DATA").expect("DATA").code, 354);
            let smuggled =
                "MAIL FROM:<>\r\nRCPT TO:<alice@acme.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\n";
            session.connection.send(format!("Subject: outer\r\n\r\nx{end}{smuggled}")).expect("content");
            let reply = session.reply().expect("an answer to the content");
            assert!((500..600).contains(&reply.code), "{listener} {end:?}: {reply:?}");
        }
    }
    assert_eq!(daemon.imap("alice@acme.test").select("INBOX").exists(), Some(0));
}

#[test]
fn wrong_order_of_commands_is_refused_and_changes_nothing() {
    let daemon = Daemon::with_alice(Setup::default());
    let mut session = Smtp::greet(daemon.address("smtp"), Dialect::Smtp).expect("greeting");
    for line in ["MAIL FROM:<>", "RCPT TO:<alice@acme.test>", "DATA"] {
        assert_eq!(session.command(line).expect(line).code, 503, "{line} before EHLO");
    }
    session.hello().expect("EHLO");
    assert_eq!(session.command("DATA").expect("DATA").code, 503);
    assert_eq!(session.command("LHLO x").expect("LHLO").code, 500);
    session.command("MAIL FROM:<>").expect("MAIL");
    assert_eq!(session.command("MAIL FROM:<>").expect("MAIL twice").code, 503);
    assert_eq!(session.command("DATA").expect("DATA without recipient").code, 503);
    assert_eq!(session.command("RSET").expect("RSET").code, 250);
    assert_eq!(one(&mut session, "alice@acme.test", &message(600, 10)).split(' ').next(), Some("250"));
    assert_eq!(session.command("QUIT").expect("QUIT").code, 221);
}

#[test]
fn new_mail_reaches_an_idling_session() {
    let daemon = Daemon::with_alice(Setup::default());
    let mut session = daemon.imap("alice@acme.test");
    session.select("INBOX");
    let tag = session.start("IDLE").expect("IDLE");
    assert!(session.read_line().expect("continuation").text.starts_with('+'));
    daemon.deliver("alice@acme.test", &message(600, 11));
    let told = session.read_untagged().expect("told of the new message");
    assert_eq!((told.number(), told.keyword()), (Some(1), "EXISTS"));
    session.connection.send("DONE\r\n").expect("DONE");
    session.finish(&tag).expect("end of IDLE").ok();
}

#[test]
fn wrong_password_and_unknown_mailbox_are_one_answer() {
    let daemon = Daemon::with_alice(Setup::default());
    let answer = |user: &str, password: &str| {
        let mut session = crate::support::imap::Imap::open(daemon.address("imap")).expect("IMAP");
        let answer = session.command(&format!("LOGIN {user} {password}")).expect("LOGIN");
        (answer.status, answer.text)
    };
    let wrong = answer("alice@acme.test", "wrong");
    assert_eq!(wrong.0, "NO");
    assert_eq!(wrong, answer("nobody@acme.test", "wrong"));
    assert_eq!(wrong, answer("nobody@elsewhere.test", PASSWORD.split(' ').next().unwrap()));
}
