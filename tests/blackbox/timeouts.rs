//! Clients that connect and say nothing are sent away in every room, after the configured time to log in.

use std::io;
use std::time::{Duration, Instant};

use crate::support::daemon::{Daemon, Setup};
use crate::support::stream::Connection;

/// Far longer than the configured second, far shorter than any other timeout of the server.
const PATIENCE: Duration = Duration::from_secs(8);

#[track_caller]
fn assert_closes(name: &str, connection: &mut Connection) {
    connection.read_timeout(PATIENCE).expect("a time limit");
    let begun = Instant::now();
    match connection.rest() {
        Ok(_) => assert!(begun.elapsed() < PATIENCE, "{name}"),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            panic!("{name} keeps a silent client")
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

#[test]
fn silent_clients_are_sent_away_in_every_room() {
    let setup = Setup { configuration: "[limits]\nlogin_timeout_secs = 1\n".to_owned(), ..Setup::default() };
    let daemon = Daemon::with_alice(setup);
    let mut rooms: Vec<(String, String)> = daemon
        .listeners()
        .iter()
        .flat_map(|(name, addresses)| addresses.iter().map(|address| (name.clone(), address.clone())))
        .collect();
    rooms.sort();
    for name in ["lmtp", "smtp", "imap", "pop3", "imaps", "pop3s", "socketmap", "sasl", "http", "admin"] {
        assert!(rooms.iter().any(|(room, _)| room == name), "{name} is not there: {rooms:?}");
    }
    let mut silent: Vec<(String, Connection)> = rooms
        .iter()
        // TLS has a time of its own for the handshake.
        .filter(|(name, _)| name != "imaps" && name != "pop3s")
        .map(|(name, address)| (name.clone(), Connection::open(address).expect("connect")))
        .collect();
    for name in ["imaps", "pop3s"] {
        let mut connection = Connection::open(daemon.address(name)).expect("connect");
        connection.start_tls(daemon.certificate_pem()).expect("TLS");
        silent.push((name.to_owned(), connection));
    }
    for (name, connection) in &mut silent {
        assert_closes(name, connection);
    }
    // Words that are no login win no time.
    for (name, word) in [("imap", "a NOOP\r\n"), ("pop3", "NOOP\r\n"), ("smtp", "NOOP\r\n")] {
        let mut connection = Connection::open(daemon.address(name)).expect("connect");
        connection.send(word).expect("send");
        assert_closes(name, &mut connection);
    }
    // Whoever has introduced themselves has the longer time of their protocol: they outlive somebody who came later.
    let mut smtp = daemon.smtp();
    let mut imap = daemon.imap("alice@acme.test");
    let mut later = Connection::open(daemon.address("smtp")).expect("connect");
    assert_closes("smtp", &mut later);
    assert_eq!(smtp.command("NOOP").expect("NOOP").code, 250);
    assert_eq!(imap.select("INBOX").exists(), Some(0));
}
