//! Real IMAP clients doing what their users do.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::corpus::{self, message};
use crate::support::daemon::{Daemon, PASSWORD, Setup};
use crate::support::programs::{need, run, write};
use crate::support::wait_for;

const READER: &str = "alice@acme.test";

/// The files of a Maildir folder, without those that are marked as deleted.
fn maildir(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ["cur", "new"]
        .iter()
        .flat_map(|sub| std::fs::read_dir(folder.join(sub)).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

/// The messages of a Maildir folder.
fn contents(folder: &Path) -> BTreeSet<Vec<u8>> {
    maildir(folder).iter().map(|file| without_cr(&std::fs::read(file).expect("message file"))).collect()
}

/// Fails with the beginnings of those messages that only one side has.
#[track_caller]
fn assert_same(here: &BTreeSet<Vec<u8>>, there: &BTreeSet<Vec<u8>>) {
    let beginnings = |only: std::collections::btree_set::Difference<Vec<u8>>| -> Vec<String> {
        only.take(3).map(|body| body[..body.len().min(600)].escape_ascii().to_string()).collect()
    };
    let (here, there) = (beginnings(here.difference(there)), beginnings(there.difference(here)));
    assert!(here.is_empty() && there.is_empty(), "only here: {here:#?}\nonly on the server: {there:#?}");
}

/// As in a Maildir: LF line ends, and without the header field with which mbsync marks its copies.
fn without_cr(octets: &[u8]) -> Vec<u8> {
    let lines = octets.split_inclusive(|&octet| octet == b'\n').filter(|line| !line.starts_with(b"X-TUID: "));
    lines.flatten().copied().filter(|&octet| octet != b'\r').collect()
}

fn on_server(daemon: &Daemon, folder: &str) -> BTreeSet<Vec<u8>> {
    let mut session = daemon.imap(READER);
    if session.select(folder).exists() == Some(0) {
        return BTreeSet::new();
    }
    session.bodies("1:*").into_iter().map(|(_, body)| without_cr(&body)).collect()
}

/// Clients pass over messages without an end of the header; loops are not taken.
fn is_usual(message: &[u8]) -> bool {
    contains(message, b"\r\n\r\n") && message.windows(10).filter(|one| one == b"\nReceived:").count() < 30
}

/// A varied hundred of messages in the INBOX.
fn deliver_some(daemon: &Daemon) {
    let samples = corpus::clean();
    let step = (samples.len() / 100).max(1);
    let mut lmtp = daemon.lmtp();
    for sample in samples.iter().step_by(step).filter(|sample| is_usual(&sample.octets)) {
        let replies = lmtp.deliver("sender@example.test", &[READER], &sample.octets).expect("LMTP");
        assert!(replies[0].is_ok(), "{}: {replies:?}", sample.name);
    }
}

#[test]
fn mbsync_syncs_both_ways() {
    let Some(mbsync) = need("mbsync", "isync") else { return };
    let daemon = Daemon::with_alice(Setup::default());
    deliver_some(&daemon);
    let home = daemon.dir().join("mbsync");
    let local = home.join("mail");
    std::fs::create_dir_all(&local).expect("mail folder");
    let configuration = format!(
        "IMAPAccount posthouse\nHost 127.0.0.1\nPort {}\nUser {READER}\nPass \"{PASSWORD}\"\nSSLType None\n\
         AuthMechs LOGIN\n\nIMAPStore remote\nAccount posthouse\n\nMaildirStore local\nPath {mail}/\n\
         Inbox {mail}/INBOX\nSubFolders Verbatim\n\nChannel all\nFar :remote:\nNear :local:\nPatterns *\n\
         Create Both\nRemove Both\nExpunge Both\nSyncState *\nCopyArrivalDate yes\n",
        daemon.port("imap"),
        mail = local.display()
    );
    write(&home.join("mbsyncrc"), configuration);
    let sync = || {
        let mut command = Command::new(&mbsync);
        command.arg("-c").arg(home.join("mbsyncrc")).args(["-a", "-V"]).env("HOME", &home);
        run(&mut command, b"").ok()
    };
    sync();
    let inbox = local.join("INBOX");
    assert!(maildir(&inbox).len() > 50);
    assert_same(&contents(&inbox), &on_server(&daemon, "INBOX"));

    // Changes here: one read, one deleted, one new, a new folder. Changes there: one flagged, one deleted, one new.
    let files = maildir(&inbox);
    let rename = |file: &Path, flags: &str| {
        let name = file.file_name().expect("name").to_string_lossy().into_owned();
        let base = name.split(":2,").next().expect("base name").to_owned();
        std::fs::rename(file, inbox.join("cur").join(format!("{base}:2,{flags}"))).expect("rename");
    };
    rename(&files[0], "S");
    rename(&files[1], "ST");
    let gone_here = without_cr(&std::fs::read(inbox.join("cur")).unwrap_or_default());
    assert!(gone_here.is_empty());
    let here = message(900, 77);
    write(&inbox.join("new/1700000000.here.host"), without_cr(&here));
    for sub in ["cur", "new", "tmp"] {
        std::fs::create_dir_all(local.join("Projects").join(sub)).expect("folder");
    }
    write(&local.join("Projects/new/1700000001.there.host"), without_cr(&message(800, 78)));
    let mut session = daemon.imap(READER);
    let count = session.select("INBOX").exists().expect("EXISTS");
    session.command(&format!("STORE {count} +FLAGS (\\Flagged)")).expect("STORE").ok();
    session.command(&format!("STORE {} +FLAGS (\\Deleted)", count - 1)).expect("STORE").ok();
    session.command("EXPUNGE").expect("EXPUNGE").ok();
    session.append("INBOX", "", &message(950, 79)).expect("APPEND").ok();
    sync();
    let synced = on_server(&daemon, "INBOX");
    // One left on each side, one came on each side.
    assert_eq!(synced.len(), count as usize);
    assert_same(&contents(&inbox), &synced);
    assert!(synced.contains(&without_cr(&message(950, 79))));
    assert!(synced.iter().any(|body| contains(body, b"Subject: Message number 77")));
    assert_eq!(on_server(&daemon, "Projects").len(), 1);
    let flagged = maildir(&inbox).iter().filter(|file| file.to_string_lossy().contains(":2,F")).count();
    assert_eq!(flagged, 1);
    session.select("INBOX");
    let seen = session.command("UID SEARCH SEEN").expect("SEARCH").ok();
    let seen = seen.all("SEARCH").next().expect("SEARCH response").text.clone();
    assert_eq!(seen.split(' ').count(), 2, "{seen}");
    // Nothing is left to do.
    let before = on_server(&daemon, "INBOX");
    sync();
    assert_same(&on_server(&daemon, "INBOX"), &before);
    assert_same(&contents(&inbox), &before);
}

fn behind_header(message: &[u8]) -> Vec<u8> {
    let end = message.windows(2).position(|window| window == b"\n\n");
    end.map_or(Vec::new(), |end| message[end + 2..].to_vec())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn offlineimap_syncs_both_ways() {
    let Some(offlineimap) = need("offlineimap", "offlineimap3") else { return };
    let daemon = Daemon::with_alice(Setup::default());
    deliver_some(&daemon);
    let home = daemon.dir().join("offlineimap");
    let local = home.join("mail");
    let configuration = format!(
        "[general]\naccounts = posthouse\nmetadata = {home}/state\n\n[Account posthouse]\n\
         localrepository = local\nremoterepository = remote\n\n[Repository local]\ntype = Maildir\n\
         localfolders = {mail}\n\n[Repository remote]\ntype = IMAP\nremotehost = 127.0.0.1\nremoteport = {port}\n\
         remoteuser = {READER}\nremotepass = {PASSWORD}\nssl = no\nstarttls = no\n",
        home = home.display(),
        mail = local.display(),
        port = daemon.port("imap")
    );
    write(&home.join("offlineimaprc"), configuration);
    let sync = || {
        let mut command = Command::new(&offlineimap);
        command.arg("-c").arg(home.join("offlineimaprc")).args(["-o", "-u", "basic"]).env("HOME", &home);
        run(&mut command, b"").ok()
    };
    sync();
    let inbox = local.join("INBOX");
    let count = maildir(&inbox).len();
    assert_eq!(count, on_server(&daemon, "INBOX").len());
    // It writes header fields anew, those of parts as well; text stays.
    let texts = |all: BTreeSet<Vec<u8>>| -> BTreeSet<Vec<u8>> {
        all.iter().filter(|one| !contains(one, b"multipart/")).map(|one| behind_header(one)).collect()
    };
    assert_same(&texts(contents(&inbox)), &texts(on_server(&daemon, "INBOX")));
    std::fs::remove_file(&maildir(&inbox)[0]).expect("delete here");
    write(&inbox.join("new/1700000000_0.1.host"), without_cr(&message(900, 5)));
    daemon.deliver(READER, &message(901, 6));
    sync();
    assert_eq!(on_server(&daemon, "INBOX").len(), count + 1);
    assert_eq!(maildir(&inbox).len(), count + 1);
}

/// Reads one message in a text-mode client and moves another to a folder, as keys would.
fn by_keys(program: &str, package: &str) {
    let Some(program) = need(program, package) else { return };
    let Some(_) = need("tmux", "tmux") else { return };
    let daemon = Daemon::with_alice(Setup::default());
    daemon.imap(READER).command("CREATE Filed").expect("CREATE").ok();
    for number in 1..=3 {
        daemon.deliver(READER, &message(900, number));
    }
    let home = daemon.dir().join("mutt");
    let saved = home.join("saved");
    let configuration = format!(
        "set imap_user=\"{READER}\"\nset imap_pass=\"{PASSWORD}\"\nset ssl_starttls=no\nset ssl_force_tls=no\n\
         set folder=\"imap://127.0.0.1:{port}/\"\nset spoolfile=\"+INBOX\"\nset imap_authenticators=\"login\"\n\
         set header_cache=\"{home}/cache\"\nset confirmappend=no\nset confirmcreate=no\nset delete=yes\n\
         set quit=yes\nset move=no\nset record=\"\"\nset wait_key=no\nset timeout=5\nset mbox_type=Maildir\n\
         set sort=mailbox-order\npush \"<first-entry><display-message><exit><copy-message>{saved}<enter>\
         <next-entry><save-message>=Filed<enter><sync-mailbox><quit>\"\n",
        port = daemon.port("imap"),
        home = home.display(),
        saved = saved.display()
    );
    write(&home.join("muttrc"), configuration);
    let socket = home.join("tmux");
    let run_tmux = |arguments: &[&str]| {
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(&socket)
            .args(["-f", "/dev/null"])
            .args(arguments)
            .env("HOME", &home)
            // Not the user's own: an account without login has a shell that runs nothing.
            .env("SHELL", "/bin/sh")
            .env("TERM", "xterm");
        run(&mut command, b"")
    };
    let line = format!("{} -n -F {}", program.display(), home.join("muttrc").display());
    run_tmux(&["new-session", "-d", "-x", "120", "-y", "40", &line]).ok();
    let mut reader = daemon.imap(READER);
    let screen = || run_tmux(&["capture-pane", "-p"]).stdout;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("the client to archive a message", || {
            (reader.select("Filed").exists() == Some(1)).then_some(())
        });
        wait_for("the client to leave", || (!run_tmux(&["has-session"]).status.success()).then_some(()));
    }));
    if outcome.is_err() {
        let last = screen();
        run_tmux(&["kill-server"]);
        panic!("the client shows\n{last}");
    }
    assert!(reader.bodies("1").remove(0).1.ends_with(&message(900, 2)));
    assert_eq!(reader.select("INBOX").exists(), Some(2));
    let copies: Vec<Vec<u8>> =
        maildir(&saved).iter().map(|file| std::fs::read(file).expect("copy")).collect();
    assert_eq!(copies.len(), 1);
    assert!(contains(&copies[0], b"Subject: Message number 1\n"));
    let flags = reader.command("FETCH 1 (FLAGS)").expect("FETCH").ok();
    let seen = flags.all("FETCH").next().and_then(|line| line.flags()).expect("flags");
    assert!(seen.iter().any(|flag| flag == "\\Seen"), "{seen:?}");
}

#[test]
fn mutt_reads_copies_and_files() {
    by_keys("mutt", "mutt");
}

#[test]
fn neomutt_reads_copies_and_files() {
    by_keys("neomutt", "neomutt");
}

#[test]
fn curl_lists_searches_fetches_and_appends() {
    let Some(curl) = need("curl", "curl") else { return };
    let daemon = Daemon::with_alice(Setup::default());
    let content = message(1_200, 4);
    daemon.deliver(READER, &content);
    write(&daemon.dir().join("upload.eml"), message(700, 5));
    let base = format!("imap://127.0.0.1:{}", daemon.port("imap"));
    let ask = |path: &str, arguments: &[&str]| {
        let mut command = Command::new(&curl);
        command
            .args(["-sS", "--user", &format!("{READER}:{PASSWORD}")])
            .args(arguments)
            .arg(format!("{base}{path}"));
        run(&mut command, b"").ok().stdout
    };
    assert!(ask("/", &[]).contains("INBOX"));
    assert!(ask("/INBOX;UID=1", &[]).ends_with(std::str::from_utf8(&content).expect("text")));
    assert!(ask("/INBOX?SUBJECT%20number", &[]).starts_with("* SEARCH 1"));
    let upload = daemon.dir().join("upload.eml");
    ask("/INBOX", &["-T", upload.to_str().expect("path")]);
    assert_eq!(daemon.imap(READER).select("INBOX").exists(), Some(2));
    // Implicit TLS with our certificate, and nothing without it.
    write(&daemon.dir().join("ca.pem"), daemon.certificate_pem());
    let secure = format!("imaps://localhost:{}/INBOX;UID=1", daemon.port("imaps"));
    let mut command = Command::new(&curl);
    command.args(["-sS", "--resolve", &format!("localhost:{}:127.0.0.1", daemon.port("imaps")), "--cacert"]);
    command.arg(daemon.dir().join("ca.pem")).args(["--user", &format!("{READER}:{PASSWORD}"), &secure]);
    assert!(run(&mut command, b"").ok().stdout.contains("Subject: Message number 4"));
}

#[test]
fn python_imaplib_walks_the_commands() {
    let Some(python) = need("python3", "python3") else { return };
    let daemon = Daemon::with_alice(Setup::default());
    let script = r#"
import imaplib, sys, time
port, user, password = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def ok(result):
    assert result[0] == 'OK', result
    return result[1]
m = imaplib.IMAP4('127.0.0.1', port)
assert 'IMAP4REV1' in m.capabilities, m.capabilities
ok(m.login(user, password))
ok(m.create('Work/2026'))
ok(m.subscribe('Work/2026'))
assert any(b'Work/2026' in line for line in ok(m.list()))
assert any(b'Work/2026' in line for line in ok(m.lsub()))
for number in range(5):
    text = ('From: a@example.test\r\nSubject: number %d\r\n\r\nbody %d\r\n' % (number, number)).encode()
    ok(m.append('Work/2026', r'(\Seen)' if number % 2 else None, imaplib.Time2Internaldate(time.time()), text))
assert ok(m.select('Work/2026')) == [b'5']
assert ok(m.search(None, 'UNSEEN'))[0].split() == [b'1', b'3', b'5']
assert ok(m.search('UTF-8', 'SUBJECT', '"number 3"'))[0].split() == [b'4']
data = ok(m.fetch('2', '(FLAGS BODY[HEADER.FIELDS (SUBJECT)] RFC822.SIZE)'))
assert b'Subject: number 1' in data[0][1], data
data = ok(m.fetch('1', '(RFC822)'))
assert data[0][1].endswith(b'body 0\r\n'), data
ok(m.store('1', '+FLAGS', r'(\Flagged keyword)'))
ok(m.copy('1:2', 'INBOX'))
ok(m.uid('MOVE', '3', 'INBOX'))
ok(m.store('4', '+FLAGS', r'(\Deleted)'))
m.response('EXPUNGE')
assert len(ok(m.expunge())) == 1
assert m.status('INBOX', '(MESSAGES UIDNEXT UNSEEN)')[0] == 'OK'
ok(m.rename('Work/2026', 'Work/2027'))
ok(m.select('INBOX'))
assert len(ok(m.search(None, 'ALL'))[0].split()) == 3
assert len(ok(m.search(None, 'KEYWORD', 'keyword'))[0].split()) == 1
ok(m.getquotaroot('INBOX'))
ok(m.namespace())
ok(m.delete('Work/2027'))
ok(m.noop())
m.logout()
print('done')
"#;
    let mut command = Command::new(python);
    command.args(["-c", script, &daemon.port("imap").to_string(), READER, PASSWORD]);
    assert_eq!(run(&mut command, b"").ok().stdout.trim(), "done");
}
