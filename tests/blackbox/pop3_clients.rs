//! Real POP3 clients: everything is fetched once, deleted when asked to, and fetched only when new otherwise.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, PASSWORD, Setup};
use crate::support::programs::{is_root, need, run, write};

const READER: &str = "alice@acme.test";

fn deliver(daemon: &Daemon, numbers: std::ops::Range<u64>) {
    for number in numbers {
        daemon.deliver(READER, &message(700 + 40 * number as usize, number));
    }
}

fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
}

#[test]
fn fetchmail_takes_mail_away() {
    let Some(fetchmail) = need("fetchmail", "fetchmail") else { return };
    let daemon = Daemon::with_alice(Setup::default());
    deliver(&daemon, 1..8);
    let home = daemon.dir().join("fetchmail");
    let taken = home.join("taken");
    std::fs::create_dir_all(&taken).expect("folder");
    // Each message goes to a file of its own.
    let configuration = format!(
        "poll 127.0.0.1 service {} protocol pop3 user \"{READER}\" password \"{PASSWORD}\" sslproto '' fetchall \
         mda \"/bin/sh -c 'cat > {}/$$.eml'\"\n",
        daemon.port("pop3"),
        taken.display()
    );
    write(&home.join("fetchmailrc"), configuration);
    private(&home.join("fetchmailrc"));
    let fetch = || {
        let mut command = Command::new(&fetchmail);
        command.arg("-f").arg(home.join("fetchmailrc")).args(["--nosyslog", "--pidfile"]);
        command.arg(home.join("pid")).env("HOME", &home).env("FETCHMAILHOME", &home);
        run(&mut command, b"")
    };
    fetch().ok();
    let files: Vec<PathBuf> =
        std::fs::read_dir(&taken).expect("folder").map(|entry| entry.expect("entry").path()).collect();
    assert_eq!(files.len(), 7);
    let mut numbers: Vec<u64> = files
        .iter()
        .map(|file| {
            let text = std::fs::read_to_string(file).expect("message");
            let (_, behind) = text.split_once("Subject: Message number ").expect("subject");
            behind.lines().next().and_then(|line| line.parse().ok()).expect("number")
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..8).collect::<Vec<_>>());
    assert_eq!(daemon.pop3(READER).stat().expect("STAT"), (0, 0));
    // 1: there was no mail.
    assert_eq!(fetch().status.code(), Some(1));
}

#[test]
fn getmail_fetches_only_what_is_new_by_unique_id() {
    let Some(getmail) = need("getmail", "getmail6") else { return };
    let mut daemon = Daemon::with_alice(Setup::default());
    deliver(&daemon, 1..6);
    let home = daemon.dir().join("getmail");
    let mail = home.join("mail");
    for sub in ["cur", "new", "tmp"] {
        std::fs::create_dir_all(mail.join(sub)).expect("Maildir");
    }
    // It refuses to deliver as root, and then delivers as the owner of the Maildir.
    let user = if is_root() {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(daemon.dir(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
        run(Command::new("chown").args(["-R", "mail"]).arg(&mail), b"").ok();
        "user = mail\n"
    } else {
        ""
    };
    let fetch = |daemon: &Daemon| {
        let configuration = format!(
            "[retriever]\ntype = SimplePOP3Retriever\nserver = 127.0.0.1\nport = {}\nusername = {READER}\n\
             password = {PASSWORD}\n[destination]\ntype = Maildir\npath = {}/\n{user}\
             [options]\nread_all = false\ndelete = false\ndelivered_to = false\nreceived = false\n",
            daemon.port("pop3"),
            mail.display()
        );
        write(&home.join("getmailrc"), configuration);
        private(&home.join("getmailrc"));
        let mut command = Command::new(&getmail);
        command.arg("--getmaildir").arg(&home).arg("--rcfile").arg(home.join("getmailrc")).env("HOME", &home);
        run(&mut command, b"").ok();
        std::fs::read_dir(mail.join("new")).expect("Maildir").count()
    };
    assert_eq!(fetch(&daemon), 5);
    assert_eq!(fetch(&daemon), 5);
    deliver(&daemon, 6..8);
    // The port is part of getmail's memory; the ids must survive a restart all the same.
    let ids = daemon.pop3(READER).unique_ids().expect("UIDL");
    assert_eq!(fetch(&daemon), 7);
    daemon.stop();
    daemon.start_again();
    assert_eq!(daemon.pop3(READER).unique_ids().expect("UIDL"), ids);
    assert_eq!(daemon.imap(READER).select("INBOX").exists(), Some(7));
}

#[test]
fn curl_lists_and_retrieves() {
    let Some(curl) = need("curl", "curl") else { return };
    let daemon = Daemon::with_alice(Setup::default());
    deliver(&daemon, 1..3);
    write(&daemon.dir().join("ca.pem"), daemon.certificate_pem());
    let get = |url: String, arguments: &[&str]| {
        let mut command = Command::new(&curl);
        command.args(["-sS", "--user", &format!("{READER}:{PASSWORD}"), "--cacert"]);
        command.arg(daemon.dir().join("ca.pem")).args(arguments).arg(url);
        run(&mut command, b"").ok().stdout
    };
    let plain = format!("pop3://127.0.0.1:{}", daemon.port("pop3"));
    assert_eq!(get(format!("{plain}/"), &[]).lines().count(), 2);
    let text = std::str::from_utf8(&message(780, 2)).expect("text").to_owned();
    assert!(get(format!("{plain}/2"), &[]).ends_with(&text));
    let upgraded = format!("pop3://localhost:{}/2", daemon.port("pop3"));
    assert!(get(upgraded, &["--ssl-reqd"]).ends_with(&text));
    let secure = format!("pop3s://localhost:{}/2", daemon.port("pop3s"));
    assert!(get(secure, &[]).ends_with(&text));
}
