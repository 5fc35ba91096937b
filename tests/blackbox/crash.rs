//! kill -9 under delivery load: what was acknowledged is there exactly once and intact, what the quota says is what
//! is there, and no UID is ever given twice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::support::corpus::{dense_message, message};
use crate::support::daemon::{Daemon, Database, KilledAtEnd, Setup};
use crate::support::imap::Imap;
use crate::support::smtp::{Dialect, Smtp};
use crate::support::{Random, wait_for};

const SENDER: &str = "sender@example.test";
pub(super) const READERS: [&str; 2] = ["alice@acme.test", "bob@acme.test"];
const ROUNDS: u64 = 20;
const SENDERS: u64 = 8;

/// What the senders know.
#[derive(Default)]
pub(super) struct Ledger {
    next: AtomicU64,
    /// Acknowledged messages: number and reader.
    acknowledged: Mutex<Vec<(u64, usize)>>,
    stop: AtomicBool,
}

impl Ledger {
    /// Delivers until the connection breaks.
    pub(super) fn send(&self, lmtp: &str) {
        let Ok(mut session) = Smtp::open(lmtp, Dialect::Lmtp) else { return };
        while !self.stop.load(Ordering::Relaxed) {
            if self.send_next(&mut session).is_none() {
                return;
            }
        }
    }

    /// Delivers one message; nothing when the connection broke.
    pub(super) fn send_next(&self, session: &mut Smtp) -> Option<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let content = content(number);
        let reader = (number % READERS.len() as u64) as usize;
        let replies = session.deliver(SENDER, &[READERS[reader]], &content).ok()?;
        assert!(replies[0].is_ok(), "{replies:?}");
        self.acknowledged.lock().expect("ledger").push((number, reader));
        Some(())
    }

    pub(super) fn acknowledged(&self) -> Vec<(u64, usize)> {
        self.acknowledged.lock().expect("ledger").clone()
    }

    pub(super) fn acknowledged_count(&self) -> usize {
        self.acknowledged.lock().expect("ledger").len()
    }
}

/// Message `number`, of a size that is its own; some are large enough to be stored apart.
fn content(number: u64) -> Vec<u8> {
    if number % 41 == 40 {
        return dense_message(1_700_000, number);
    }
    message(500 + Random::new(number).below(12_000), number)
}

/// UID and body of every message in a reader's INBOX, in order.
fn stored(session: &mut Imap) -> BTreeMap<u64, Vec<u8>> {
    let count = session.select("INBOX").exists().expect("EXISTS");
    if count == 0 { BTreeMap::new() } else { session.bodies("1:*").into_iter().collect() }
}

fn number_of(body: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(body);
    let (_, behind) = text.split_once("Subject: Message number ").expect("subject");
    behind.split("\r\n").next().and_then(|digits| digits.parse().ok()).expect("number")
}

/// The highest UID ever seen in use and every UID that was seen or expunged, per reader.
#[derive(Default)]
pub(super) struct History {
    numbers: HashMap<u64, u64>,
    expunged: HashSet<u64>,
    uid_next: u64,
}

impl History {
    /// Compares what is there with what was promised and with what was there before.
    pub(super) fn check(&mut self, daemon: &Daemon, reader: usize, acknowledged: &[(u64, usize)]) {
        let mut session = daemon.imap(READERS[reader]);
        let uid_next = session.select("INBOX").code("UIDNEXT").and_then(|text| text.parse().ok());
        let uid_next: u64 = uid_next.expect("UIDNEXT");
        assert!(uid_next >= self.uid_next, "UIDNEXT went back from {} to {uid_next}", self.uid_next);
        let stored = stored(&mut session);
        let mut octets = 0;
        let mut found = HashMap::new();
        for (&uid, body) in &stored {
            let number = number_of(body);
            assert!(body.ends_with(&content(number)), "message {number} is damaged");
            assert!(uid < uid_next && !self.expunged.contains(&uid), "UID {uid} is used again");
            assert!(found.insert(number, uid).is_none(), "message {number} is there twice");
            if uid < self.uid_next {
                assert_eq!(self.numbers.get(&uid), Some(&number), "UID {uid} means another message");
            }
            self.numbers.insert(uid, number);
            octets += body.len() as u64;
        }
        for (number, _) in acknowledged.iter().filter(|(_, owner)| *owner == reader) {
            let gone = self.expunged.iter().any(|uid| self.numbers.get(uid) == Some(number));
            assert!(gone || found.contains_key(number), "acknowledged message {number} is lost");
        }
        self.uid_next = uid_next;
        assert_eq!(super::quota::used(daemon, READERS[reader]), (octets, stored.len() as u64));
        self.expunge_last(&mut session, &stored);
    }

    /// Removes the message with the highest UID, so that its UID could be given again by mistake.
    fn expunge_last(&mut self, session: &mut Imap, stored: &BTreeMap<u64, Vec<u8>>) {
        let Some(uid) = stored.keys().next_back() else { return };
        self.expunge(session, *uid);
    }

    /// Removes the oldest message.
    pub(super) fn expunge_first(&mut self, daemon: &Daemon, reader: usize) {
        let there = self.numbers.keys().filter(|uid| !self.expunged.contains(uid));
        let Some(&uid) = there.min() else { return };
        let mut session = daemon.imap(READERS[reader]);
        session.select("INBOX");
        self.expunge(&mut session, uid);
    }

    fn expunge(&mut self, session: &mut Imap, uid: u64) {
        session.command(&format!("UID STORE {uid} +FLAGS.SILENT (\\Deleted)")).expect("STORE").ok();
        session.command("EXPUNGE").expect("EXPUNGE").ok();
        self.expunged.insert(uid);
    }
}

fn survive(database: Database) {
    let mut daemon = Daemon::with_alice(Setup { database, ..Setup::default() });
    daemon.mailbox(READERS[1]);
    // Limits nobody reaches: what is counted for them must be right after each crash, too.
    daemon.posthouse(&["customer", "limit", "acme", "--bytes", "1GiB", "--messages", "1000000"]).ok();
    daemon.posthouse(&["domain", "limit", "acme.test", "--bytes", "1GiB"]).ok();
    let ledger = Ledger::default();
    let mut histories: [History; 2] = Default::default();
    for round in 0..ROUNDS {
        let before = ledger.acknowledged_count();
        // Kills come at different depths into the load.
        let enough = before + 1 + Random::new(round).below(60);
        let lmtp = daemon.address("lmtp").to_owned();
        std::thread::scope(|scope| {
            for _ in 0..SENDERS {
                scope.spawn(|| ledger.send(&lmtp));
            }
            let _daemon = KilledAtEnd(&mut daemon);
            wait_for("deliveries under load", || (ledger.acknowledged_count() >= enough).then_some(()));
        });
        daemon.start_again();
        let acknowledged = ledger.acknowledged();
        for (reader, history) in histories.iter_mut().enumerate() {
            history.check(&daemon, reader, &acknowledged);
        }
        super::quota::assert_no_drift(&daemon);
    }
    assert!(ledger.acknowledged_count() as u64 > ROUNDS);
}

#[test]
fn acknowledged_mail_survives_kill_on_sqlite() {
    survive(Database::Sqlite);
}

#[test]
fn acknowledged_mail_survives_kill_on_postgres() {
    let Some(server) = crate::support::postgres::Postgres::start() else { return };
    survive(Database::Postgres(server));
}
