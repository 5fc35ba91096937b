//! Messages over IMAP: appending, fetching, flags, searching, copying, expunging, mod-sequences.

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, Setup};
use crate::support::imap::{Answer, Imap, Untagged};

const USER: &str = "alice@acme.test";

const NESTED: &str = "From: \"A. B\" <a@x.example>\r\nTo: b@y.example\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\
    Date: Fri, 21 Nov 1997 09:55:06 -0600\r\nMIME-Version: 1.0\r\n\
    Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Transfer-Encoding: 8bit\r\n\r\nüber alles\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n\
    Subject: inner\r\n\r\ninner text\r\n--b--\r\n";

fn daemon() -> Daemon {
    Daemon::with_alice(Setup::default())
}

#[track_caller]
fn fetch(session: &mut Imap, arguments: &str) -> Vec<Untagged> {
    let answer = session.command(&format!("FETCH {arguments}")).unwrap().ok();
    answer.all("FETCH").cloned().collect()
}

fn search(session: &mut Imap, arguments: &str) -> Vec<u32> {
    let answer = session.command(&format!("SEARCH {arguments}")).unwrap().ok();
    let line = answer.all("SEARCH").next().expect("SEARCH");
    line.text.split(' ').skip(1).map_while(|word| word.parse().ok()).collect()
}

fn mod_seq(line: &Untagged) -> Option<u64> {
    line.text.split_once("MODSEQ (")?.1.split_once(')')?.0.parse().ok()
}

fn flags_of(answer: &Answer, sequence: u32) -> Option<Vec<String>> {
    answer.all("FETCH").filter(|line| line.number() == Some(sequence)).filter_map(Untagged::flags).last()
}

/// More messages than are read at a time, whatever is read ahead.
#[test]
fn headers_of_a_large_folder_come_in_order_and_those_that_went_away_are_left_out() {
    const COUNT: u64 = 700;
    let daemon = daemon();
    let mut session = daemon.imap(USER);
    let mut command = b"big APPEND INBOX".to_vec();
    for number in 0..COUNT {
        let content = message(400, number);
        command.extend_from_slice(format!(" (\\Seen) {{{}+}}\r\n", content.len()).as_bytes());
        command.extend_from_slice(&content);
    }
    command.extend_from_slice(b"\r\n");
    session.connection.send(&command).expect("APPEND");
    session.finish("big").expect("answer").ok();
    session.select("INBOX");
    let items = "(UID ENVELOPE BODYSTRUCTURE BODY.PEEK[HEADER.FIELDS (SUBJECT)])";
    let check = |lines: &[Untagged], numbers: &[u64]| {
        assert_eq!(lines.len(), numbers.len());
        for (line, number) in lines.iter().zip(numbers) {
            assert_eq!(line.number().map(u64::from), Some(number + 1));
            let subject = format!("Message number {number}");
            assert!(line.text.contains(&format!("\"{subject}\"")), "{}", line.text);
            assert_eq!(line.literals, [format!("Subject: {subject}\r\n\r\n").into_bytes()]);
        }
    };
    let all: Vec<u64> = (0..COUNT).collect();
    check(&fetch(&mut session, &format!("1:* {items}")), &all);
    let odd: Vec<u64> = (0..COUNT).step_by(2).collect();
    let set: Vec<String> = odd.iter().map(|number| (number + 1).to_string()).collect();
    check(&fetch(&mut session, &format!("{} {items}", set.join(","))), &odd);

    // Another session removes every third message; this one has not been told.
    let mut other = daemon.imap(USER);
    other.select("INBOX");
    let doomed: Vec<String> = (0..COUNT).step_by(3).map(|number| (number + 1).to_string()).collect();
    other.command(&format!("STORE {} +FLAGS.SILENT (\\Deleted)", doomed.join(","))).unwrap().ok();
    other.command("EXPUNGE").unwrap().ok();
    let answer = session.command(&format!("FETCH 1:* {items}")).unwrap();
    assert_eq!(answer.status, "NO");
    assert!(answer.text.starts_with("[EXPUNGEISSUED]"), "{}", answer.text);
    let lines: Vec<Untagged> =
        answer.all("FETCH").filter(|line| line.text.contains("ENVELOPE")).cloned().collect();
    let left: Vec<u64> = (0..COUNT).filter(|number| number % 3 != 0).collect();
    check(&lines, &left);
}

#[test]
fn append_keeps_every_octet() {
    let daemon = daemon();
    let mut session = daemon.imap(USER);
    let odd: Vec<u8> = (1..=255).chain([b'\r', b'x', b'\n', b'\n', b'\r']).collect();
    for octets in [b"a".to_vec(), b"Subject: x\n\nbare line feeds\n".to_vec(), odd, message(200_000, 3)] {
        let answer = session.append("INBOX", "\\Seen custom", &octets).unwrap().ok();
        let uid: u64 = answer.code("APPENDUID").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        session.select("INBOX");
        assert_eq!(session.bodies(&uid.to_string()), [(uid, octets.clone())]);
        let line = &fetch(&mut session, "* (RFC822.SIZE FLAGS)")[0];
        assert_eq!(line.item_number("RFC822.SIZE"), Some(octets.len() as u64));
        let flags = line.flags().unwrap();
        assert!(flags.contains(&"\\Seen".to_owned()) && flags.contains(&"custom".to_owned()), "{flags:?}");
    }
}

#[test]
fn append_refuses_nul_and_what_is_too_large_and_missing_folders() {
    let daemon = Daemon::with_alice(Setup {
        configuration: "[limits]\nmessage_octets_max = 1000000\n".to_owned(),
        ..Setup::default()
    });
    let mut session = daemon.imap(USER);
    let nul = session.append("INBOX", "", b"Subject: x\r\n\r\na\0b\r\n").unwrap();
    assert_eq!(nul.status, "NO", "{}", nul.text);
    let none = session.append("none", "", b"x").unwrap();
    assert!(none.text.starts_with("[TRYCREATE]"), "{}", none.text);
    let large = session.append("INBOX", "", &vec![b'x'; 1_000_001]).unwrap();
    assert!(large.text.starts_with("[TOOBIG]"), "{}", large.text);
    // Without asking first: the literal is taken and dropped, the session stays in step.
    session.connection.send("x APPEND INBOX {1000001+}\r\n").unwrap();
    session.connection.send(vec![b'x'; 1_000_001]).unwrap();
    session.connection.send("\r\n").unwrap();
    assert!(session.read_line().unwrap().text.starts_with("x NO [TOOBIG]"));
    assert_eq!(session.select("INBOX").exists(), Some(0));
}

#[test]
fn several_messages_are_appended_all_or_none() {
    let daemon = daemon();
    let mut session = daemon.imap(USER);
    let answer = session
        .command_with_literals("APPEND INBOX (\\Seen) ", &[(b"one", " (\\Draft) "), (b"two", "")])
        .unwrap()
        .ok();
    assert!(answer.code("APPENDUID").unwrap().ends_with(" 1:2"));
    let answer = session.command_with_literals("APPEND INBOX ", &[(b"three", " "), (b"fo\0r", "")]).unwrap();
    assert_eq!(answer.status, "NO");
    assert_eq!(session.select("INBOX").exists(), Some(2));
    assert_eq!(session.bodies("1:*"), [(1, b"one".to_vec()), (2, b"two".to_vec())]);
}

#[test]
fn sections_partials_and_structure() {
    let daemon = daemon();
    let mut session = daemon.imap(USER);
    session.append("INBOX", "", NESTED.as_bytes()).unwrap().ok();
    session.select("INBOX");
    for (section, want) in [
        ("BODY.PEEK[]", NESTED.to_owned()),
        ("BODY.PEEK[]<5.7>", NESTED[5..12].to_owned()),
        ("BODY.PEEK[]<100000.7>", String::new()),
        ("BODY.PEEK[HEADER]", NESTED[..NESTED.find("preamble").unwrap()].to_owned()),
        ("BODY.PEEK[TEXT]", NESTED[NESTED.find("preamble").unwrap()..].to_owned()),
        ("BODY.PEEK[HEADER.FIELDS (TO from)]", format!("{}\r\n", &NESTED[..NESTED.find("Subject").unwrap()])),
        ("BODY.PEEK[1]", "über alles".to_owned()),
        (
            "BODY.PEEK[1.MIME]",
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n".to_owned(),
        ),
        ("BODY.PEEK[2]", "Subject: inner\r\n\r\ninner text".to_owned()),
        ("BODY.PEEK[2.HEADER]", "Subject: inner\r\n\r\n".to_owned()),
        ("BODY.PEEK[2.TEXT]", "inner text".to_owned()),
        ("BODY.PEEK[2.1]", "inner text".to_owned()),
    ] {
        let line = &fetch(&mut session, &format!("1 {section}"))[0];
        assert_eq!(String::from_utf8_lossy(&line.literals[0]), want, "{section}");
    }
    assert!(fetch(&mut session, "1 BODY.PEEK[7]")[0].text.contains("BODY[7] NIL"));
    let line = fetch(&mut session, "1 (ENVELOPE BODYSTRUCTURE BODY INTERNALDATE)").remove(0).text;
    assert!(
        line.contains(
            r#"ENVELOPE ("Fri, 21 Nov 1997 09:55:06 -0600" "=?utf-8?q?Gr=C3=BC=C3=9Fe?=" (("A. B""#
        )
    );
    assert!(
        line.contains(r#"BODYSTRUCTURE (("text" "plain" ("charset" "utf-8") NIL NIL "8bit" 11 0 NIL"#),
        "{line}"
    );
    assert!(line.contains(r#" "mixed" ("boundary" "b") NIL NIL NIL)"#), "{line}");
    let all = fetch(&mut session, "1 FULL").remove(0).text;
    for item in ["FLAGS (", "INTERNALDATE \"", "RFC822.SIZE ", "ENVELOPE (", "BODY (("] {
        assert!(all.contains(item), "{item} in {all}");
    }
}

#[test]
fn delivered_mail_is_fetched_with_its_trace_lines() {
    let daemon = daemon();
    let content = message(3_000, 9);
    daemon.deliver(USER, &content);
    let mut session = daemon.imap(USER);
    session.select("INBOX");
    let (_, whole) = session.bodies("1").remove(0);
    assert!(whole.ends_with(&content) && whole.len() > content.len());
    let line = &fetch(&mut session, "1 (RFC822.SIZE BODY.PEEK[HEADER] BODY.PEEK[TEXT])")[0];
    assert_eq!(line.item_number("RFC822.SIZE"), Some(whole.len() as u64));
    assert_eq!(line.literals.concat(), whole);
    let fields = &fetch(&mut session, "1 BODY.PEEK[HEADER.FIELDS (Received Subject)]")[0].literals[0];
    let fields = String::from_utf8_lossy(fields);
    assert!(
        fields.starts_with("Received: ") && fields.contains("\r\nSubject: Message number 9\r\n"),
        "{fields}"
    );
    let date = fetch(&mut session, "1 INTERNALDATE").remove(0).text;
    assert!(date.contains(" +0000\")"), "{date}");
}

#[test]
fn reading_sets_seen_only_where_it_may() {
    let daemon = daemon();
    let mut session = daemon.imap(USER);
    for number in 0..3 {
        session.append("INBOX", "", &message(500, number)).unwrap().ok();
    }
    session.command("EXAMINE INBOX").unwrap().ok();
    session.command("FETCH 1 BODY[]").unwrap().ok();
    assert_eq!(session.command("STORE 1 +FLAGS (\\Seen)").unwrap().status, "NO");
    assert_eq!(session.command("EXPUNGE").unwrap().status, "NO");
    session.select("INBOX");
    assert_eq!(search(&mut session, "SEEN"), [0; 0]);
    session.command("FETCH 1 BODY.PEEK[]").unwrap().ok();
    session.command("FETCH 1 (RFC822.HEADER ENVELOPE)").unwrap().ok();
    assert_eq!(search(&mut session, "SEEN"), [0; 0]);
    let answer = session.command("FETCH 2 BODY[TEXT]").unwrap().ok();
    assert!(flags_of(&answer, 2).unwrap().contains(&"\\Seen".to_owned()));
    let again = session.command("FETCH 2 BODY[TEXT]").unwrap().ok();
    assert_eq!(flags_of(&again, 2), None, "flags that did not change are not told");
    session.command("FETCH 3 BODY[HEADER.FIELDS (From)]").unwrap().ok();
    assert_eq!(search(&mut session, "SEEN"), [2, 3]);
}

#[test]
fn flags_are_changed_told_and_seen_by_others() {
    let daemon = daemon();
    let mut one = daemon.imap(USER);
    for number in 0..3 {
        one.append("INBOX", "", &message(400, number)).unwrap().ok();
    }
    one.select("INBOX");
    let mut other = daemon.imap(USER);
    other.select("INBOX");
    let answer = one.command("STORE 1:2 +FLAGS (\\Flagged $Label)").unwrap().ok();
    assert_eq!(answer.all("FETCH").count(), 2);
    assert!(answer.all("FLAGS").any(|line| line.text.contains("$Label")), "{answer:?}");
    let silent = one.command("STORE 2 -FLAGS.SILENT (\\Flagged)").unwrap().ok();
    assert_eq!(silent.all("FETCH").count(), 0);
    one.command("UID STORE 3 FLAGS (\\Answered)").unwrap().ok();
    let told = other.command("NOOP").unwrap().ok();
    let of = |number| flags_of(&told, number).unwrap();
    assert!(of(1).contains(&"\\Flagged".to_owned()) && of(1).contains(&"$Label".to_owned()));
    assert!(!of(2).contains(&"\\Flagged".to_owned()));
    assert!(of(3).contains(&"\\Answered".to_owned()));
    assert_eq!(other.command("NOOP").unwrap().ok().untagged, []);
    assert_eq!(search(&mut other, "KEYWORD $label"), [1, 2]);
    let replaced = one.command("STORE 1 FLAGS ()").unwrap().ok();
    assert_eq!(flags_of(&replaced, 1).unwrap().iter().filter(|flag| *flag != "\\Recent").count(), 0);
}

#[test]
fn sequence_numbers_move_only_when_it_was_told() {
    let daemon = daemon();
    let mut one = daemon.imap(USER);
    for number in 0..4 {
        one.append("INBOX", "", &message(400, number)).unwrap().ok();
    }
    one.select("INBOX");
    let mut other = daemon.imap(USER);
    other.select("INBOX");
    other.command("STORE 2 +FLAGS.SILENT (\\Deleted)").unwrap().ok();
    let gone = other.command("EXPUNGE").unwrap().ok();
    assert_eq!(gone.all("EXPUNGE").map(|line| line.number()).collect::<Vec<_>>(), [Some(2)]);
    // FETCH, STORE and SEARCH by number do not tell it, and the numbers stay.
    for text in ["FETCH 3 (UID)", "STORE 3 +FLAGS (\\Seen)", "SEARCH ALL"] {
        let answer = one.command(text).unwrap().ok();
        assert_eq!(answer.all("EXPUNGE").count(), 0, "{text}");
    }
    assert_eq!(fetch(&mut one, "3 (UID)")[0].item_number("UID"), Some(3));
    let told = one.command("NOOP").unwrap().ok();
    assert_eq!(told.all("EXPUNGE").map(|line| line.number()).collect::<Vec<_>>(), [Some(2)]);
    assert_eq!(fetch(&mut one, "3 (UID)")[0].item_number("UID"), Some(4));
    assert_eq!(one.command("FETCH 4 (UID)").unwrap().status, "BAD");
    assert_eq!(one.command("UID FETCH 2 (FLAGS)").unwrap().ok().all("FETCH").count(), 0);
    // UID EXPUNGE spares what it does not name; CLOSE expunges without telling.
    one.command("STORE 1:3 +FLAGS.SILENT (\\Deleted)").unwrap().ok();
    let gone = one.command("UID EXPUNGE 3").unwrap().ok();
    assert_eq!(gone.all("EXPUNGE").map(|line| line.number()).collect::<Vec<_>>(), [Some(2)]);
    let closed = one.command("CLOSE").unwrap().ok();
    assert_eq!(closed.all("EXPUNGE").count(), 0);
    assert_eq!(one.select("INBOX").exists(), Some(0));
}

#[test]
fn copy_and_move_tell_where_messages_went() {
    let daemon = daemon();
    let mut session = daemon.imap(USER);
    for number in 0..4 {
        session.append("INBOX", "\\Flagged word", &message(400, number)).unwrap().ok();
    }
    session.select("INBOX");
    for text in ["COPY 1 none", "UID MOVE 1 none"] {
        let answer = session.command(text).unwrap();
        assert!(answer.text.starts_with("[TRYCREATE]"), "{text}: {}", answer.text);
    }
    session.command("CREATE to").unwrap().ok();
    let copied = session.command("COPY 2:3 to").unwrap().ok().code("COPYUID").unwrap();
    assert!(copied.ends_with(" 2:3 1:2"), "{copied}");
    let moved = session.command("MOVE 1,4 to").unwrap().ok();
    assert!(moved.code("COPYUID").unwrap().ends_with(" 1,4 3:4"), "{moved:?}");
    assert_eq!(moved.all("EXPUNGE").count(), 2);
    assert_eq!(session.command("UID COPY 100:200 to").unwrap().ok().code("COPYUID"), None);
    let target = session.select("to");
    assert_eq!(target.exists(), Some(4));
    let flags = fetch(&mut session, "1:4 (FLAGS)");
    assert!(flags.iter().all(|line| line.flags().unwrap().contains(&"word".to_owned())), "{flags:?}");
    let expected: Vec<Vec<u8>> = [1, 2, 0, 3].map(|number| message(400, number)).to_vec();
    assert_eq!(session.bodies("1:*").into_iter().map(|(_, body)| body).collect::<Vec<_>>(), expected);
    assert_eq!(session.select("INBOX").exists(), Some(2));
}

#[test]
fn searches_find_what_they_ask_for() {
    let daemon = daemon();
    let mut session = daemon.imap(USER);
    session.append("INBOX", "\\Seen", &message(600, 1)).unwrap().ok();
    let dated = " \"17-Jul-1996 02:44:25 -0700\" ";
    session
        .command_with_literals(&format!("APPEND INBOX (\\Flagged){dated}"), &[(NESTED.as_bytes(), "")])
        .unwrap()
        .ok();
    session.append("INBOX", "", &message(5_000, 3)).unwrap().ok();
    session.select("INBOX");
    for (keys, want) in [
        ("ALL", vec![1, 2, 3]),
        ("SEEN", vec![1]),
        ("NOT SEEN", vec![2, 3]),
        ("OR SEEN FLAGGED", vec![1, 2]),
        ("2:* UNFLAGGED", vec![3]),
        ("UID 2", vec![2]),
        ("LARGER 3000", vec![3]),
        ("SMALLER 3000", vec![1, 2]),
        ("BEFORE 1-Jan-2000", vec![2]),
        ("ON 17-Jul-1996", vec![2]),
        ("SINCE 1-Jan-2000", vec![1, 3]),
        ("SENTON 21-Nov-1997", vec![2]),
        ("SENTBEFORE 22-Nov-1997", vec![2]),
        ("SENTSINCE 22-Nov-1997", vec![1, 3]),
        ("FROM a@x.example", vec![2]),
        ("TO READER", vec![1, 3]),
        ("SUBJECT \"number 3\"", vec![3]),
        ("HEADER Content-Type multipart", vec![2]),
        ("HEADER X-None \"\"", vec![]),
        ("BODY \"inner text\"", vec![2]),
        ("TEXT meeting TEXT \"Message number\"", vec![1, 3]),
        ("(SEEN SMALLER 3000) NOT DELETED", vec![1]),
    ] {
        assert_eq!(search(&mut session, keys), want, "{keys}");
    }
    let text = |session: &mut Imap, charset: &str, octets: &[u8]| {
        let answer = session
            .command_with_literals(&format!("SEARCH {charset}SUBJECT "), &[(octets, "")])
            .unwrap()
            .ok();
        answer.all("SEARCH").next().unwrap().text.clone()
    };
    assert_eq!(text(&mut session, "CHARSET UTF-8 ", "GRÜß".as_bytes()), "SEARCH 2");
    assert_eq!(text(&mut session, "CHARSET ISO-8859-1 ", b"gr\xfc\xdfe"), "SEARCH 2");
    let unknown = session.command("SEARCH CHARSET X-BOGUS ALL").unwrap();
    assert_eq!(unknown.status, "NO");
    assert!(unknown.text.starts_with("[BADCHARSET ("), "{}", unknown.text);
    let tag = session.start("UID SEARCH RETURN (MIN MAX COUNT ALL) UNSEEN").unwrap();
    let answer = session.finish(&tag).unwrap().ok();
    assert_eq!(
        answer.all("ESEARCH").next().unwrap().text,
        format!("ESEARCH (TAG \"{tag}\") UID MIN 2 MAX 3 ALL 2:3 COUNT 2")
    );
}

#[test]
fn mod_sequences_guard_and_narrow() {
    let daemon = daemon();
    let mut session = daemon.imap(USER);
    for number in 0..3 {
        session.append("INBOX", "", &message(400, number)).unwrap().ok();
    }
    let selected = session.command("SELECT INBOX (CONDSTORE)").unwrap().ok();
    let start: u64 = selected.code("HIGHESTMODSEQ").unwrap().parse().unwrap();
    let mut other = daemon.imap(USER);
    other.select("INBOX");
    other.command("STORE 2 +FLAGS.SILENT (\\Answered)").unwrap().ok();
    let stored =
        session.command(&format!("STORE 1:3 (UNCHANGEDSINCE {start}) +FLAGS (\\Flagged)")).unwrap().ok();
    assert_eq!(stored.code("MODIFIED").as_deref(), Some("2"));
    let mod_seqs: Vec<_> = stored.all("FETCH").filter_map(mod_seq).collect();
    assert!(mod_seqs.len() >= 2 && mod_seqs.iter().all(|mod_seq| *mod_seq > start), "{stored:?}");
    let changed = session.command(&format!("FETCH 1:* (FLAGS) (CHANGEDSINCE {start})")).unwrap().ok();
    assert_eq!(changed.all("FETCH").count(), 3);
    let newest = changed.all("FETCH").filter_map(mod_seq).max().unwrap();
    let none = session.command(&format!("UID FETCH 1:* (FLAGS) (CHANGEDSINCE {newest})")).unwrap().ok();
    assert_eq!(none.all("FETCH").count(), 0);
    let found = session.command(&format!("SEARCH MODSEQ {newest}")).unwrap().ok();
    assert!(found.all("SEARCH").next().unwrap().text.ends_with(&format!("(MODSEQ {newest})")));
    // The first command that asks for mod-sequences tells where the open folder stands.
    let status = other.command("STATUS INBOX (HIGHESTMODSEQ)").unwrap().ok();
    assert!(status.code("HIGHESTMODSEQ").is_some(), "{status:?}");
    let silent = session.command("STORE 1 +FLAGS.SILENT (\\Seen)").unwrap().ok();
    assert!(silent.all("FETCH").filter_map(mod_seq).next().unwrap() > newest);
}

#[test]
fn long_folders_are_told_in_full() {
    const MESSAGES: usize = 1_500;
    let daemon = daemon();
    let mut session = daemon.imap(USER);
    let content = message(300, 1);
    for _ in 0..MESSAGES / 100 {
        let parts: Vec<(&[u8], &str)> =
            (0..100).map(|index| (content.as_slice(), if index < 99 { " " } else { "" })).collect();
        session.command_with_literals("APPEND INBOX ", &parts).unwrap().ok();
    }
    assert_eq!(session.select("INBOX").exists(), Some(MESSAGES as u32));
    for items in
        ["(UID FLAGS)", "(UID ENVELOPE BODYSTRUCTURE BODY.PEEK[HEADER.FIELDS (From)])", "(UID BODY[])"]
    {
        let lines = fetch(&mut session, &format!("1:* {items}"));
        let uids: Vec<_> = lines.iter().filter_map(|line| line.item_number("UID")).collect();
        assert_eq!(uids, (1..=MESSAGES as u64).collect::<Vec<_>>(), "{items}");
    }
    assert_eq!(search(&mut session, "SEEN").len(), MESSAGES);
    session.command("STORE 1:* +FLAGS.SILENT (\\Deleted)").unwrap().ok();
    assert_eq!(session.command("EXPUNGE").unwrap().ok().all("EXPUNGE").count(), MESSAGES);
}
