//! Every command, well formed, malformed, and beyond its bounds.

use super::*;
use crate::base::clock::Timestamp;
use crate::imap::command::{DateComparison, FetchItem, Key, SearchReturn, Section, SectionText, StatusItem};
use crate::service::mailstore::types::{FlagBits, FlagSet, SpecialUse};

fn command(text: &str) -> Command {
    match parse(Bytes::copy_from_slice(text.as_bytes())) {
        Ok(tagged) => tagged.command,
        Err(malformed) => panic!("{text:?}: {malformed:?}"),
    }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn set(text: &'static str) -> SequenceSet {
    SequenceSet::parse(&mut Lexer::new(bytes(text))).unwrap()
}

#[test]
fn commands_without_arguments_in_any_case() {
    for (text, want) in [
        ("a CAPABILITY", Command::Capability),
        ("a1 noop", Command::Noop),
        ("A.1 Logout ", Command::Logout),
        ("a STARTTLS", Command::StartTls),
        ("a NAMESPACE", Command::Namespace),
        ("a IDLE", Command::Idle),
        ("a CHECK", Command::Check),
        ("a CLOSE", Command::Close),
        ("a UNSELECT", Command::Unselect),
        ("a EXPUNGE", Command::Expunge(None)),
        ("a UID EXPUNGE 3:*", Command::Expunge(Some(set("3:*")))),
        ("a SETQUOTA \"\" (STORAGE 512)", Command::QuotaSet),
        ("a ID NIL", Command::Id),
        ("a ID ()", Command::Id),
        ("a ID (\"name\" \"x\" \"version\" NIL)", Command::Id),
    ] {
        assert_eq!(command(text), want, "{text}");
    }
}

#[test]
fn login_and_authenticate() {
    let login = |username, password| Command::Login { username: bytes(username), password: bytes(password) };
    assert_eq!(command("a LOGIN joe pass"), login("joe", "pass"));
    assert_eq!(command("a LOGIN \"j\\\"oe\" {4}\r\npa\r\n"), login("j\"oe", "pa\r\n"));
    assert_eq!(command("a LOGIN {3+}\r\njoe \"\""), login("joe", ""));
    let authenticate = |initial| Command::Authenticate { mechanism: "PLAIN".to_owned(), initial };
    assert_eq!(command("a AUTHENTICATE plain"), authenticate(None));
    assert_eq!(command("a AUTHENTICATE PLAIN ="), authenticate(Some(bytes("="))));
    assert_eq!(command("a AUTHENTICATE PLAIN AGE+/w=="), authenticate(Some(bytes("AGE+/w=="))));
    assert_eq!(
        command("a ENABLE condstore QRESYNC"),
        Command::Enable(vec!["CONDSTORE".to_owned(), "QRESYNC".to_owned()])
    );
}

#[test]
fn folder_commands() {
    let select = |condstore| Command::Select { folder: bytes("INBOX"), access: Access::ReadWrite, condstore };
    assert_eq!(command("a SELECT INBOX"), select(false));
    assert_eq!(command("a SELECT \"INBOX\" (CONDSTORE)"), select(true));
    assert!(matches!(command("a EXAMINE x"), Command::Select { access: Access::ReadOnly, .. }));
    assert_eq!(command("a CREATE a/b/"), Command::Create { folder: bytes("a/b/"), special_use: None });
    assert_eq!(
        command("a CREATE x (USE (\\Sent))"),
        Command::Create { folder: bytes("x"), special_use: Some(SpecialUse::Sent) }
    );
    assert_eq!(command("a DELETE {1}\r\nx"), Command::Delete(bytes("x")));
    assert_eq!(command("a RENAME x \"y z\""), Command::Rename { from: bytes("x"), to: bytes("y z") });
    assert_eq!(command("a SUBSCRIBE x"), Command::Subscribe { folder: bytes("x"), subscribed: true });
    assert_eq!(command("a UNSUBSCRIBE x"), Command::Subscribe { folder: bytes("x"), subscribed: false });
    assert_eq!(
        command("a STATUS x (MESSAGES UIDNEXT DELETED-STORAGE)"),
        Command::Status {
            folder: bytes("x"),
            items: vec![StatusItem::Messages, StatusItem::UidNext, StatusItem::DeletedStorage]
        }
    );
    assert_eq!(command("a GETQUOTA \"\""), Command::QuotaOfRoot(bytes("")));
    assert_eq!(command("a GETQUOTAROOT INBOX"), Command::QuotaRootsOf(bytes("INBOX")));
}

#[test]
fn list_with_and_without_options() {
    let list = |text| match command(text) {
        Command::List(list) => list,
        other => panic!("{other:?}"),
    };
    let plain = list("a LIST \"\" *");
    assert_eq!((plain.reference, plain.patterns), (bytes(""), vec![bytes("*")]));
    assert!(!plain.extended);
    let full = list(
        "a LIST (SUBSCRIBED RECURSIVEMATCH REMOTE SPECIAL-USE) x/ (\"%\" a*) \
         RETURN (CHILDREN SUBSCRIBED STATUS (MESSAGES SIZE))",
    );
    assert!(full.extended && full.select_subscribed && full.select_recursive && full.select_special_use);
    assert!(full.return_subscribed);
    assert_eq!(full.patterns, [bytes("%"), bytes("a*")]);
    assert_eq!(full.return_status, [StatusItem::Messages, StatusItem::Size]);
    assert!(list("a LIST () \"\" % RETURN ()").extended);
    assert_eq!(command("a LSUB \"\" %"), Command::Lsub { reference: bytes(""), pattern: bytes("%") });
}

#[test]
fn append_of_one_and_many() {
    let text =
        "a APPEND x (\\Seen todo) \"17-Jul-1996 02:44:25 -0700\" {3}\r\nabc (\\Draft) {1+}\r\nd {0}\r\n";
    let Command::Append { folder, messages } = command(text) else { panic!("no APPEND") };
    assert_eq!(folder, bytes("x"));
    let [first, second, third] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!(first.flags, FlagSet { system: FlagBits::SEEN, keywords: vec!["todo".to_owned()] });
    assert_eq!(first.internal_date, Some(Timestamp::from_secs(837_596_665)));
    assert_eq!(first.bytes, bytes("abc"));
    assert_eq!((second.flags.system, &second.bytes), (FlagBits::DRAFT, &bytes("d")));
    assert_eq!((third.internal_date, &third.bytes), (None, &bytes("")));
}

#[test]
fn append_is_recognised_before_its_message_comes() {
    let head = |text: &str| append_head(text.as_bytes());
    let message = |folder| Ok(AppendHead::Message(bytes(folder)));
    assert_eq!(head("a APPEND x {9}\r\n"), message("x"));
    assert_eq!(head("a append {1}\r\nx (\\Seen) \" 1-Jul-1996 02:44:25 +0000\" {9+}\r\n"), message("x"));
    assert_eq!(head("a APPEND x {3}\r\nabc {9}\r\n"), message("x"));
    assert_eq!(head("a APPEND {9}\r\n"), Ok(AppendHead::Argument));
    assert_eq!(head("a LOGIN {9}\r\n"), Ok(AppendHead::Argument));
    assert_eq!(head("{9}\r\n"), Ok(AppendHead::Argument));
    assert!(head("a APPEND x (\\Bogus) {9}\r\n").is_err());
    assert!(head("a APPEND x ~{9}\r\n").is_err());
}

#[test]
fn fetch_items_and_their_labels() {
    let items = |text: &str| match command(&format!("a FETCH 1 {text}")) {
        Command::Fetch(fetch) => fetch.items,
        other => panic!("{other:?}"),
    };
    use FetchItem::{Body, BodyStructure, Envelope, Flags, InternalDate, ModSeq, Size, Uid};
    assert_eq!(items("FAST"), [Flags, InternalDate, Size]);
    assert_eq!(items("all"), [Flags, InternalDate, Size, Envelope]);
    assert_eq!(items("FULL"), [Flags, InternalDate, Size, Envelope, Body]);
    assert_eq!(items("(FLAGS uid BODYSTRUCTURE MODSEQ)"), [Flags, Uid, BodyStructure, ModSeq]);
    let section = |text: &str| match items(text).pop() {
        Some(FetchItem::Section(section)) => section,
        other => panic!("{other:?}"),
    };
    for (text, label, part, peek, partial) in [
        ("BODY[]", "BODY[]", vec![], false, None),
        ("body.peek[]<10.20>", "BODY[]<10>", vec![], true, Some((10, 20))),
        ("BODY[1.2.3]", "BODY[1.2.3]", vec![1, 2, 3], false, None),
        ("BODY[1.mime]", "BODY[1.MIME]", vec![1], false, None),
        ("BODY[2.header]", "BODY[2.HEADER]", vec![2], false, None),
        ("BODY.PEEK[HEADER.FIELDS (From \"X Y\")]", "BODY[HEADER.FIELDS (From \"X Y\")]", vec![], true, None),
        ("BODY[TEXT]<0.1>", "BODY[TEXT]<0>", vec![], false, Some((0, 1))),
        ("RFC822", "RFC822", vec![], false, None),
        ("RFC822.HEADER", "RFC822.HEADER", vec![], true, None),
        ("RFC822.TEXT", "RFC822.TEXT", vec![], false, None),
    ] {
        let found = section(text);
        assert_eq!(String::from_utf8(found.label).unwrap(), label);
        assert_eq!((found.section.part, found.peek, found.partial), (part, peek, partial), "{text}");
    }
    assert_eq!(
        section("BODY[3.HEADER.FIELDS.NOT (A)]").section,
        Section { part: vec![3], text: SectionText::HeaderFields { names: vec![bytes("A")], not: true } }
    );
}

#[test]
fn fetch_modifiers_add_what_they_imply() {
    let Command::Fetch(fetch) = command("a UID FETCH 1:* (FLAGS) (CHANGEDSINCE 12345)") else {
        panic!("no FETCH")
    };
    assert!(fetch.by_uid);
    assert_eq!(fetch.changed_since, Some(ModSeq(12_345)));
    assert_eq!(fetch.items, [FetchItem::Uid, FetchItem::ModSeq, FetchItem::Flags]);
}

#[test]
fn store_modes() {
    let store = |text: &str| match command(text) {
        Command::Store(store) => store,
        other => panic!("{other:?}"),
    };
    let replace = store("a STORE 1 FLAGS ()");
    assert_eq!((replace.mode, replace.silent, replace.flags), (FlagMode::Replace, false, FlagSet::default()));
    let add = store("a UID STORE 1:3 (UNCHANGEDSINCE 7) +FLAGS.SILENT \\Seen $Junk $junk");
    assert_eq!((add.mode, add.silent, add.by_uid), (FlagMode::Add, true, true));
    assert_eq!(add.unchanged_since, Some(ModSeq(7)));
    assert_eq!(add.flags, FlagSet { system: FlagBits::SEEN, keywords: vec!["$Junk".to_owned()] });
    assert_eq!(store("a STORE * -FLAGS (\\Deleted)").mode, FlagMode::Remove);
}

#[test]
fn every_search_key() {
    let keys = |text: &str| match command(&format!("a SEARCH {text}")) {
        Command::Search { program, .. } => program.keys,
        other => panic!("{other:?}"),
    };
    let flag = Key::Flag;
    let not = |key| Key::Not(Box::new(key));
    for (text, want) in [
        ("ALL", Key::All),
        ("ANSWERED", flag(FlagBits::ANSWERED)),
        ("DELETED", flag(FlagBits::DELETED)),
        ("DRAFT", flag(FlagBits::DRAFT)),
        ("FLAGGED", flag(FlagBits::FLAGGED)),
        ("SEEN", flag(FlagBits::SEEN)),
        ("UNANSWERED", not(flag(FlagBits::ANSWERED))),
        ("UNDELETED", not(flag(FlagBits::DELETED))),
        ("UNDRAFT", not(flag(FlagBits::DRAFT))),
        ("UNFLAGGED", not(flag(FlagBits::FLAGGED))),
        ("UNSEEN", not(flag(FlagBits::SEEN))),
        ("RECENT", Key::Recent),
        ("OLD", not(Key::Recent)),
        ("NEW", Key::And(vec![Key::Recent, not(flag(FlagBits::SEEN))])),
        ("KEYWORD $x", Key::Keyword(bytes("$x"))),
        ("UNKEYWORD x", not(Key::Keyword(bytes("x")))),
        ("LARGER 10", Key::Larger(10)),
        ("SMALLER 10", Key::Smaller(10)),
        ("UID 1:*", Key::Uid(set("1:*"))),
        ("2,4:7", Key::Sequence(set("2,4:7"))),
        ("HEADER X-A \"\"", Key::Header(bytes("X-A"), bytes(""))),
        ("BCC a", Key::Header(bytes("BCC"), bytes("a"))),
        ("CC a", Key::Header(bytes("CC"), bytes("a"))),
        ("FROM {3}\r\na b", Key::Header(bytes("FROM"), bytes("a b"))),
        ("SUBJECT a", Key::Header(bytes("SUBJECT"), bytes("a"))),
        ("TO a", Key::Header(bytes("TO"), bytes("a"))),
        ("BODY a", Key::Body(bytes("a"))),
        ("TEXT \"a b\"", Key::Text(bytes("a b"))),
        ("MODSEQ 620162338", Key::ModSeq(ModSeq(620_162_338))),
        ("MODSEQ \"/flags/\\\\draft\" all 7", Key::ModSeq(ModSeq(7))),
        ("OR SEEN DRAFT", Key::Or(Box::new(flag(FlagBits::SEEN)), Box::new(flag(FlagBits::DRAFT)))),
        ("NOT (SEEN ALL)", not(Key::And(vec![flag(FlagBits::SEEN), Key::All]))),
    ] {
        assert_eq!(keys(text), [want], "{text}");
    }
    for (word, sent, comparison) in [
        ("BEFORE", false, DateComparison::Before),
        ("ON", false, DateComparison::On),
        ("SINCE", false, DateComparison::Since),
        ("SENTBEFORE", true, DateComparison::Before),
        ("SENTON", true, DateComparison::On),
        ("SENTSINCE", true, DateComparison::Since),
    ] {
        let want = [Key::Date { sent, comparison, day: 8797 }];
        assert_eq!(keys(&format!("{word} 1-Feb-1994")), want);
        assert_eq!(keys(&format!("{word} \"01-feb-1994\"")), want);
    }
    assert_eq!(keys("1 SEEN (ALL)").len(), 3);
}

#[test]
fn search_options_and_charset() {
    let Command::Search { program, by_uid } =
        command("a UID SEARCH RETURN (MIN COUNT) CHARSET ISO-8859-1 TEXT x")
    else {
        panic!("no SEARCH")
    };
    assert!(by_uid);
    assert_eq!(program.options, Some(SearchReturn { min: true, count: true, ..SearchReturn::default() }));
    assert_eq!(program.charset, Some(bytes("ISO-8859-1")));
    let Command::Search { program, .. } = command("a SEARCH RETURN () ALL") else { panic!("no SEARCH") };
    assert_eq!(program.options, Some(SearchReturn { all: true, ..SearchReturn::default() }));
}

#[test]
fn copy_and_move() {
    let transfer = |by_uid| Transfer { set: set("1:3"), by_uid, folder: bytes("x y") };
    assert_eq!(command("a COPY 1:3 \"x y\""), Command::Copy(transfer(false)));
    assert_eq!(command("a UID COPY 1:3 \"x y\""), Command::Copy(transfer(true)));
    assert_eq!(command("a MOVE 1:3 \"x y\""), Command::Move(transfer(false)));
    assert_eq!(command("a UID MOVE 1:3 \"x y\""), Command::Move(transfer(true)));
}

#[test]
fn malformed_commands_say_so_under_their_tag() {
    for text in [
        "a",
        "a ",
        "a BOGUS",
        "a NOOP x",
        "a UID NOOP",
        "a LOGIN joe",
        "a LOGIN joe pass more",
        "a LOGIN joe {5}\r\nab",
        "a SELECT",
        "a SELECT x (BOGUS)",
        "a SELECT \"x",
        "a CREATE x (USE (\\Sent \\Trash))",
        "a LIST \"\"",
        "a LIST (RECURSIVEMATCH) \"\" *",
        "a LIST \"\" * RETURN",
        "a STATUS x ()",
        "a STATUS x (BOGUS)",
        "a APPEND x",
        "a APPEND x abc",
        "a APPEND x (\\Recent) {1}\r\nx",
        "a APPEND x \"32-Jan-2020 00:00:00 +0000\" {1}\r\nx",
        "a APPEND x \"01-Jan-2020 25:00:00 +0000\" {1}\r\nx",
        "a FETCH 1 ()",
        "a FETCH 0 FLAGS",
        "a FETCH 1 BODY[0]",
        "a FETCH 1 BODY[MIME]",
        "a FETCH 1 BODY[HEADER.FIELDS ()]",
        "a FETCH 1 BODY[]<5.0>",
        "a FETCH 1 BODY[",
        "a FETCH 1 (FLAGS) (BOGUS 1)",
        "a STORE 1 FLAGS",
        "a STORE 1 FLAGS (\\Recent)",
        "a STORE 1 FLAGS (\\Bogus)",
        "a STORE 1 FLAGS (\\Seen",
        "a SEARCH",
        "a SEARCH BOGUS",
        "a SEARCH ON 31-Feb-2020",
        "a SEARCH OR SEEN",
        "a SEARCH (SEEN",
        "a SEARCH RETURN (SAVE) ALL",
        "a COPY 1",
        "a ENABLE",
        "a ID x",
        "a AUTHENTICATE",
    ] {
        let malformed = parse(Bytes::copy_from_slice(text.as_bytes())).expect_err(text);
        assert_eq!(malformed.tag.as_deref(), Some(&b"a"[..]), "{text}");
    }
    for text in ["", " NOOP", "+ NOOP", "* NOOP", "\"a\" NOOP"] {
        assert_eq!(parse(bytes(text)).expect_err(text).tag, None, "{text}");
    }
    let long = "t".repeat(TAG_OCTETS_MAX + 1);
    assert_eq!(parse(format!("{long} NOOP").into()).expect_err("long tag").tag, None);
}

#[test]
fn hostile_nesting_and_lists_are_bounded() {
    for text in [
        format!("a SEARCH {}ALL", "NOT ".repeat(10_000)),
        format!("a SEARCH {}", "(".repeat(10_000)),
        format!("a SEARCH {}", "ALL ".repeat(10_000)),
        format!("a SEARCH TEXT {}", "x".repeat(10_000)),
        format!("a FETCH 1 BODY[{}1]", "1.".repeat(1_000)),
        format!("a FETCH 1 ({}UID)", "UID ".repeat(1_000)),
        format!("a FETCH {}1 FLAGS", "1,".repeat(40_000)),
        format!("a STORE 1 FLAGS ({}x)", "x ".repeat(1_000)),
        format!("a STORE 1 FLAGS ({})", "x".repeat(1_000)),
        format!("a ID ({}\"a\" \"b\")", "\"a\" \"b\" ".repeat(1_000)),
        format!("a APPEND x{}", " {0}\r\n".repeat(2_000)),
    ] {
        assert!(parse(text.into()).is_err());
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_octets_never_panic(octets in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = append_head(&octets);
        let _ = parse(octets.into());
    }

    #[test]
    fn arbitrary_words_never_panic(
        words in proptest::collection::vec(
            proptest::sample::select(vec![
                "a", "UID", "FETCH", "STORE", "SEARCH", "APPEND", "LIST", "STATUS", "1:*", "0", "(", ")", "\"", "\\",
                "{3}\r\n", "{1+}\r\nx", "BODY[", "]", "HEADER.FIELDS", "<1.2>", "FLAGS", "NOT", "OR", "RETURN",
                "CHARSET", "\\Seen", "1-Feb-1994", "*", "%", "NIL", "ID", "CREATE", "USE", "&", "4294967296",
            ]),
            0..12,
        ),
        spaced in proptest::bool::ANY,
    ) {
        let text = format!("a {}", words.join(if spaced { " " } else { "" }));
        let _ = append_head(text.as_bytes());
        let _ = parse(text.into());
    }
}
