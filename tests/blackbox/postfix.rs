//! A real Postfix beside Posthouse: it asks the socketmap which domains and recipients there are, delivers over LMTP,
//! and does submission with mailbox passwords through the SASL listener.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, PASSWORD, Setup};
use crate::support::programs::{Finished, absent, is_root, need, run, wait, write};
use crate::support::smtp::{Dialect, Smtp};
use crate::support::{PATIENCE, wait_for};

/// A private instance: its own configuration, queue and ports.
struct Postfix {
    dir: tempfile::TempDir,
    program: PathBuf,
    master: Child,
    /// Where other hosts bring mail.
    mx: u16,
    /// Where users hand mail over.
    submission: u16,
}

/// A port that is free at this moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

impl Postfix {
    /// Starts one beside `daemon` that delivers to `transport`, or says why not.
    fn beside(daemon: &Daemon, transport: &str) -> Option<Self> {
        let program = need("postfix", "postfix")?;
        if !is_root() {
            absent("only root can run Postfix");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("postfix-").tempdir().expect("temporary directory");
        open_to_all(dir.path());
        let (mx, submission) = (free_port(), free_port());
        let etc = dir.path().join("etc");
        write(&etc.join("main.cf"), main_cf(dir.path(), daemon, transport));
        write(
            &etc.join("master.cf"),
            master_cf(mx, submission, daemon.port("socketmap"), daemon.port("sasl")),
        );
        for (folder, owner) in [("queue", "root"), ("data", "postfix")] {
            std::fs::create_dir(dir.path().join(folder)).expect("folder");
            run(Command::new("chown").arg(owner).arg(dir.path().join(folder)), b"").ok();
        }
        let output = File::create(dir.path().join("output")).expect("output file");
        let master = Command::new(&program)
            .arg("-c")
            .arg(&etc)
            .arg("start-fg")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("output file"))
            .stderr(output)
            .spawn()
            .expect("start postfix");
        let mut postfix = Self { dir, program, master, mx, submission };
        wait_for("Postfix to greet", || {
            let ended = postfix.master.try_wait().expect("wait for postfix");
            assert!(ended.is_none(), "Postfix ended: {ended:?}\n{}", postfix.log());
            Smtp::greet(&format!("127.0.0.1:{mx}"), Dialect::Smtp).ok()
        });
        Some(postfix)
    }

    fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        format!("{}{}", read("output"), read("maillog"))
    }

    fn session(&self) -> Smtp {
        Smtp::open(&format!("127.0.0.1:{}", self.mx), Dialect::Smtp).expect("SMTP session with Postfix")
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- Postfix says\n{}", self.log());
        }
        Command::new(&self.program)
            .arg("-c")
            .arg(self.dir.path().join("etc"))
            .arg("abort")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .ok();
        wait(&mut self.master, PATIENCE);
    }
}

/// Postfix's processes run as another user.
fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("permissions");
}

fn main_cf(dir: &Path, daemon: &Daemon, transport: &str) -> String {
    let map = format!("socketmap:inet:127.0.0.1:{}", daemon.port("socketmap"));
    let (dir, files) = (dir.display(), daemon.dir().display());
    format!(
        "compatibility_level = 3.6\nqueue_directory = {dir}/queue\ndata_directory = {dir}/data\n\
         maillog_file = {dir}/maillog\nmaillog_file_prefixes = {dir}\nmyhostname = mx.provider.test\n\
         mydestination =\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nalias_maps =\nalias_database =\n\
         local_recipient_maps =\nlocal_transport = error:no local mail\nmynetworks =\nrelay_domains =\n\
         virtual_mailbox_domains = {map}:domains\nvirtual_mailbox_maps = {map}:recipients\n\
         virtual_transport = {transport}\ndefault_transport = error:no mail leaves this host\n\
         smtpd_relay_restrictions =\n\
         smtpd_recipient_restrictions = reject_unauth_destination, check_recipient_access {map}:access\n\
         smtpd_tls_cert_file = {files}/certificate.pem\nsmtpd_tls_key_file = {files}/key.pem\n\
         smtpd_tls_security_level = may\nminimal_backoff_time = 2s\nmaximal_backoff_time = 2s\nqueue_run_delay = 2s\n\
         smtpd_client_connection_count_limit = 0\n"
    )
}

fn master_cf(mx: u16, submission: u16, socketmap: u16, sasl: u16) -> String {
    let mut text = format!(
        "127.0.0.1:{mx} inet n - n - - smtpd\n\
         127.0.0.1:{submission} inet n - n - - smtpd\n  \
         -o smtpd_sasl_auth_enable=yes -o smtpd_sasl_type=dovecot -o smtpd_sasl_path=inet:127.0.0.1:{sasl}\n  \
         -o smtpd_tls_auth_only=yes -o smtpd_delay_reject=yes\n  \
         -o smtpd_sender_login_maps=socketmap:inet:127.0.0.1:{socketmap}:senders\n  \
         -o smtpd_sender_restrictions=reject_sender_login_mismatch\n  \
         -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject\n\
         postlog unix-dgram n - n - 1 postlogd\n"
    );
    for (name, private, wakeup, processes, command) in [
        ("cleanup", "n", "-", "0", "cleanup"),
        ("qmgr", "n", "300", "1", "qmgr"),
        ("tlsmgr", "-", "1000?", "1", "tlsmgr"),
        ("rewrite", "-", "-", "-", "trivial-rewrite"),
        ("bounce", "-", "-", "0", "bounce"),
        ("defer", "-", "-", "0", "bounce"),
        ("trace", "-", "-", "0", "bounce"),
        ("error", "-", "-", "-", "error"),
        ("retry", "-", "-", "-", "error"),
        ("lmtp", "-", "-", "-", "lmtp"),
        ("smtp", "-", "-", "-", "smtp"),
        ("proxymap", "-", "-", "-", "proxymap"),
        ("anvil", "-", "-", "1", "anvil"),
        ("showq", "n", "-", "-", "showq"),
        ("flush", "n", "1000?", "0", "flush"),
    ] {
        text.push_str(&format!("{name} unix {private} - n {wakeup} {processes} {command}\n"));
    }
    text
}

fn daemon_with_two() -> Daemon {
    let daemon = Daemon::with_alice(Setup::default());
    daemon.mailbox("bob@acme.test");
    // Postfix's processes reach into it for the socket and the key.
    open_to_all(daemon.dir());
    daemon
}

#[test]
fn postfix_delivers_over_lmtp_on_tcp() {
    let daemon = daemon_with_two();
    let transport = format!("lmtp:inet:{}", daemon.address("lmtp"));
    if let Some(postfix) = Postfix::beside(&daemon, &transport) {
        delivers(&daemon, &postfix);
    }
}

#[test]
fn postfix_delivers_over_lmtp_on_a_unix_socket() {
    let daemon = daemon_with_two();
    let transport = format!("lmtp:unix:{}", daemon.dir().join("lmtp.sock").display());
    if let Some(postfix) = Postfix::beside(&daemon, &transport) {
        delivers(&daemon, &postfix);
    }
}

fn delivers(daemon: &Daemon, postfix: &Postfix) {
    let mut session = postfix.session();
    let (alice, bob) = ("alice@acme.test", "bob+list@acme.test");
    for number in 1..=10 {
        let replies =
            session.deliver("far@example.test", &[alice, bob], &message(3_000, number)).expect("SMTP");
        assert!(replies.iter().all(|reply| reply.is_ok()), "{replies:?}");
    }
    daemon.wait_for_messages("bob@acme.test", "INBOX", 10);
    // Unknown recipients and foreign domains are refused at the front, so nothing has to be bounced.
    let code = |session: &mut Smtp, recipient: &str| {
        session.deliver("far@example.test", &[recipient], b"x\r\n").expect("SMTP")[0].code
    };
    assert_eq!(code(&mut session, "nobody@acme.test"), 550);
    assert_eq!(code(&mut session, "somebody@elsewhere.test"), 554);
    // Neither does mail queue up for a mailbox that takes none now.
    daemon.posthouse(&["mailbox", "quota", "bob@acme.test", "1000"]).ok();
    assert_eq!(code(&mut session, bob), 452);
    daemon.posthouse(&["mailbox", "suspend", "bob@acme.test", "--yes"]).ok();
    assert_eq!(code(&mut session, bob), 450);
    daemon.posthouse(&["mailbox", "resume", "bob@acme.test"]).ok();
    for user in ["alice@acme.test", "bob@acme.test"] {
        let mut reader = daemon.wait_for_messages(user, "INBOX", 10);
        for (_, body) in reader.bodies("1:*") {
            let text = String::from_utf8_lossy(&body);
            assert!(text.contains("Return-Path: <far@example.test>"), "{text}");
        }
    }
}

/// Hands a message over with STARTTLS and a password.
fn submit(daemon: &Daemon, postfix: &Postfix, user: &str, password: &str, sender: &str) -> Option<Finished> {
    let curl = need("curl", "curl")?;
    let ca = daemon.dir().join("ca.pem");
    write(&ca, daemon.certificate_pem());
    let mut command = Command::new(curl);
    command.args(["-sS", "--ssl-reqd", "--cacert"]).arg(&ca);
    command.args(["--resolve", &format!("localhost:{}:127.0.0.1", postfix.submission)]);
    command.args(["--user", &format!("{user}:{password}"), "--mail-from", sender]);
    command.args(["--mail-rcpt", "bob@acme.test", "-T", "-"]);
    command.arg(format!("smtp://localhost:{}/client.test", postfix.submission));
    Some(run(&mut command, &message(900, 5)))
}

#[test]
fn postfix_takes_submissions_with_mailbox_passwords() {
    let daemon = daemon_with_two();
    let transport = format!("lmtp:inet:{}", daemon.address("lmtp"));
    let Some(postfix) = Postfix::beside(&daemon, &transport) else { return };
    let alice = "alice@acme.test";
    let Some(finished) = submit(&daemon, &postfix, alice, PASSWORD, alice) else { return };
    finished.ok();
    let mut reader = daemon.wait_for_messages("bob@acme.test", "INBOX", 1);
    let (_, body) = reader.bodies("1").remove(0);
    assert!(String::from_utf8_lossy(&body).contains("Return-Path: <alice@acme.test>"));
    // curl: 67 is a refused login, 55 or 56 a refused command.
    let outcome = |user: &str, password: &str, sender: &str| {
        let finished = submit(&daemon, &postfix, user, password, sender).expect("curl is here");
        (finished.status.code(), finished.stderr)
    };
    assert_eq!(outcome(alice, "wrong", alice).0, Some(67));
    assert_eq!(outcome("nobody@acme.test", PASSWORD, alice).0, Some(67));
    let (status, text) = outcome(alice, PASSWORD, "bob@acme.test");
    assert!(matches!(status, Some(55 | 56)) && text.contains("553"), "{status:?}: {text}");
    daemon.posthouse(&["mailbox", "suspend", alice, "--yes"]).ok();
    assert_eq!(outcome(alice, PASSWORD, alice).0, Some(67));
    daemon.posthouse(&["mailbox", "resume", alice]).ok();
    assert_eq!(outcome(alice, PASSWORD, alice).0, Some(0));
    daemon.wait_for_messages("bob@acme.test", "INBOX", 2);
}

#[test]
fn swaks_delivers_over_smtp_and_lmtp() {
    let Some(swaks) = need("swaks", "swaks") else { return };
    let daemon = daemon_with_two();
    for (protocol, listener) in [("ESMTP", "smtp"), ("LMTP", "lmtp")] {
        let mut command = Command::new(&swaks);
        command.args(["--protocol", protocol, "--server", "127.0.0.1", "--port"]);
        command.arg(daemon.port(listener).to_string());
        command.args([
            "--from",
            "far@example.test",
            "--to",
            "alice@acme.test,bob@acme.test",
            "--body",
            "Hello",
        ]);
        run(&mut command, b"").ok();
    }
    for user in ["alice@acme.test", "bob@acme.test"] {
        assert_eq!(daemon.imap(user).select("INBOX").exists(), Some(2));
    }
    let mut command = Command::new(&swaks);
    command.args(["--server", "127.0.0.1", "--port", &daemon.port("smtp").to_string()]);
    command.args(["--from", "far@example.test", "--to", "somebody@elsewhere.test"]);
    let finished = run(&mut command, b"");
    assert_eq!(finished.status.code(), Some(24), "{}", finished.stdout);
    assert!(finished.stdout.contains("550 5.7.1"), "{}", finished.stdout);
}
