//! Connections and POP3 sessions: limits, load balancers, new certificates, what a POP3 session sees and does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::corpus::message;
use crate::support::daemon::{Daemon, PASSWORD, Setup};
use crate::support::pop3::Pop3;
use crate::support::programs::write;
use crate::support::smtp::{Dialect, Smtp};
use crate::support::stream::Connection;
use crate::support::wait_for;

const READER: &str = "alice@acme.test";

#[test]
fn connections_of_one_address_are_bounded_for_each_protocol() {
    let configuration = "[limits]\nconnections_per_address_max = 2\n".to_owned();
    let daemon = Daemon::with_alice(Setup { configuration, ..Setup::default() });
    let first = daemon.smtp();
    let _second = daemon.smtp();
    let mut third = Connection::open(daemon.address("smtp")).expect("connect");
    let told = String::from_utf8(third.line().expect("an answer")).expect("text");
    assert!(told.starts_with("421 4.7.0 "), "{told}");
    assert_eq!(third.rest().expect("closed"), b"");
    assert_eq!(daemon.pop3(READER).stat().expect("STAT"), (0, 0));
    drop(first);
    wait_for("the place of a closed connection", || Smtp::open(daemon.address("smtp"), Dialect::Smtp).ok());
}

/// A connection that comes from 127.0.0.2, which the configuration makes a load balancer.
fn from_balancer(address: &str) -> TcpStream {
    let address: SocketAddr = address.parse().expect("a TCP address");
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    let from: SocketAddr = "127.0.0.2:0".parse().expect("address");
    socket.bind(&from.into()).expect("bind to 127.0.0.2");
    socket.connect(&address.into()).expect("connect");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
    stream
}

fn through_balancer(daemon: &Daemon, listener: &str, script: &str) -> String {
    let mut stream = from_balancer(daemon.address(listener));
    stream.write_all(script.as_bytes()).expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok();
    answer
}

#[test]
fn load_balancer_tells_the_address_of_its_client() {
    let mut daemon = Daemon::with_alice(Setup::default());
    daemon.stop();
    let file = daemon.configuration_file();
    let text = std::fs::read_to_string(&file).expect("configuration");
    write(&file, text.replace("[listen]\n", "[listen]\nproxy_networks = [\"127.0.0.2/32\"]\n"));
    daemon.start_again();

    let header = "PROXY TCP4 192.0.2.7 192.0.2.1 4000 25\r\n";
    let dialogue = "EHLO c.test\r\nMAIL FROM:<>\r\nRCPT TO:<alice@acme.test>\r\nDATA\r\n\
                    Subject: x\r\n\r\nx\r\n.\r\nQUIT\r\n";
    let answer = through_balancer(&daemon, "smtp", &format!("{header}{dialogue}"));
    assert!(answer.contains("\r\n250 2.0.0 "), "{answer}");
    let mut session = daemon.imap(READER);
    assert_eq!(session.select("INBOX").exists(), Some(1));
    let stored = String::from_utf8(session.bodies("1").remove(0).1).expect("text");
    assert!(stored.contains("([192.0.2.7])"), "{stored}");

    // The client is not on this machine, so its password must not come in the clear.
    let answer = through_balancer(&daemon, "pop3", &format!("{header}USER {READER}\r\nQUIT\r\n"));
    assert!(answer.contains("-ERR [SYS/PERM]"), "{answer}");
    // Without a header there is no session, and from elsewhere there is no header.
    assert_eq!(through_balancer(&daemon, "smtp", dialogue), "");
    let mut stranger = Connection::open(daemon.address("smtp")).expect("connect");
    stranger.send(format!("{header}QUIT\r\n")).expect("send");
    let answer = String::from_utf8(stranger.rest().expect("closed")).expect("text");
    assert!(answer.contains("\r\n500 ") && !answer.contains("192.0.2.7"), "{answer}");
}

#[test]
fn new_certificate_is_taken_without_a_restart() {
    let daemon = Daemon::with_alice(Setup::default());
    let hello = |certificate: &str| {
        let mut session = daemon.smtp();
        assert_eq!(session.command("STARTTLS").expect("STARTTLS").code, 220);
        session.connection.start_tls(certificate).expect("TLS set-up");
        session.hello().map(|reply| reply.code).ok()
    };
    assert_eq!(hello(daemon.certificate_pem()), Some(250));
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("certificate");
    write(&daemon.dir().join("key.pem"), certified.signing_key.serialize_pem());
    write(&daemon.dir().join("certificate.pem"), certified.cert.pem());
    let pid = Pid::from_raw(daemon.pid().expect("running") as i32).expect("pid");
    kill_process(pid, Signal::HUP).expect("SIGHUP");
    wait_for("the new certificate", || (hello(&certified.cert.pem()) == Some(250)).then_some(()));
    assert_eq!(hello(daemon.certificate_pem()), None);
}

#[test]
fn pop3_session_sees_the_inbox_as_it_was_and_deletes_at_quit_only() {
    let daemon = Daemon::with_alice(Setup::default());
    let texts: Vec<Vec<u8>> = (1..=3).map(|number| message(900, number)).collect();
    texts.iter().for_each(|text| daemon.deliver(READER, text));
    let mut session = daemon.pop3(READER);
    let ids = session.unique_ids().expect("UIDL");
    assert_eq!(ids.len(), 3);

    let in_use = Pop3::login(daemon.address("pop3"), READER, PASSWORD).err().expect("one session at a time");
    assert!(in_use.to_string().contains("[IN-USE]"), "{in_use}");
    daemon.deliver(READER, &message(900, 4));
    assert_eq!(session.stat().expect("STAT").0, 3);
    session.command("DELE 2").expect("DELE").expect("marked");
    assert!(session.command("RETR 2").expect("RETR").is_err());
    drop(session);

    // That session ended without QUIT.
    let mut session =
        wait_for("the mailbox to be free", || Pop3::login(daemon.address("pop3"), READER, PASSWORD).ok());
    assert_eq!(session.unique_ids().expect("UIDL")[..3], ids);
    assert!(session.retrieve(2).expect("RETR").ends_with(&texts[1]));
    session.command("DELE 2").expect("DELE").expect("marked");
    session.command("QUIT").expect("QUIT").expect("deleted");
    let mut session = daemon.pop3(READER);
    let left = session.unique_ids().expect("UIDL");
    assert_eq!(left[..2], [ids[0].clone(), ids[2].clone()]);
    assert!(session.retrieve(2).expect("RETR").ends_with(&texts[2]));
    assert_eq!(daemon.imap(READER).select("INBOX").exists(), Some(3));
}

#[test]
fn pop3_top_is_the_beginning_of_the_message() {
    let daemon = Daemon::with_alice(Setup::default());
    let body = "one\r\n.two\r\n..\r\nthree\r\n";
    daemon.deliver(READER, format!("Subject: dots\r\n\r\n{body}").as_bytes());
    let mut session = daemon.pop3(READER);
    let whole = session.retrieve(1).expect("RETR");
    let header = &whole[..whole.len() - body.len()];
    assert_eq!(session.stat().expect("STAT"), (1, whole.len() as u64));
    assert_eq!(session.multiline("TOP 1 0").expect("TOP"), header);
    assert_eq!(session.multiline("TOP 1 2").expect("TOP"), [header, b"one\r\n.two\r\n"].concat());
    assert_eq!(session.multiline("TOP 1 99").expect("TOP"), whole);
}

#[test]
fn pop3_over_tls_logs_in_by_both_ways() {
    let daemon = Daemon::with_alice(Setup::default());
    daemon.deliver(READER, &message(700, 1));
    let mut session = Pop3::open(daemon.address("pop3")).expect("POP3");
    session.command("STLS").expect("STLS").expect("TLS");
    session.connection.start_tls(daemon.certificate_pem()).expect("TLS");
    let capabilities = String::from_utf8(session.multiline("CAPA").expect("CAPA")).expect("text");
    assert!(capabilities.contains("SASL PLAIN") && !capabilities.contains("STLS"), "{capabilities}");
    session.command(&format!("USER {READER}")).expect("USER").expect("USER");
    session.command(&format!("PASS {PASSWORD}")).expect("PASS").expect("logged in");
    assert_eq!(session.stat().expect("STAT").0, 1);
}
