//! Mailboxes that move while they are in use: to another mail store, and with their domain to another customer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::Value;

use crate::support::corpus::{dense_message, message};
use crate::support::daemon::{Daemon, Database, Setup};
use crate::support::wait_for;

const ALICE: &str = "alice@acme.test";
const STORES: &str = "[[store]]\nname = \"main\"\n\n[[store]]\nname = \"second\"\n";

fn with_two_stores(database: Database) -> Daemon {
    Daemon::with_alice(Setup { database, configuration: STORES.to_owned(), ..Setup::default() })
}

/// Bodies of all messages of INBOX, in order.
fn bodies(daemon: &Daemon, user: &str) -> Vec<Vec<u8>> {
    let mut session = daemon.imap(user);
    session.select("INBOX");
    session.bodies("1:*").into_iter().map(|(_, body)| body).collect()
}

fn store(daemon: &Daemon, name: &str) -> Value {
    daemon.json(&["store", "show", name]).remove(0)
}

/// Mail of all kinds: small, large, packed and fresh.
fn furnish(daemon: &Daemon, user: &str) {
    for number in 0..40 {
        daemon.deliver(user, &message(1_000 + 700 * number, number as u64));
    }
    daemon.deliver(user, &dense_message(1_700_000, 1));
    daemon.posthouse(&["store", "pack"]).ok();
    for number in 40..60 {
        daemon.deliver(user, &message(1_000 + 700 * number, number as u64));
    }
    daemon.deliver(user, &dense_message(1_700_000, 2));
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn mailbox_moves_while_it_is_read_and_delivered_to() {
    for database in Database::all() {
        let daemon = with_two_stores(database);
        furnish(&daemon, ALICE);
        let before = bodies(&daemon, ALICE);
        let (is_over, delivered) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            // Also when something fails here: the thread below goes on until then.
            let _over = SetOnDrop(&is_over);
            scope.spawn(|| {
                let mut session = daemon.imap(ALICE);
                session.select("INBOX");
                let last = before.len();
                // By turns, so that deliveries never outrun what moves.
                while !is_over.load(Ordering::SeqCst) {
                    let number = delivered.load(Ordering::SeqCst);
                    daemon.deliver(ALICE, &message(2_000, 1_000 + number));
                    delivered.store(number + 1, Ordering::SeqCst);
                    let found = session.bodies(&format!("1:{last}"));
                    assert!(found.iter().map(|(_, body)| body).eq(before.iter()), "a message changed");
                }
            });
            for target in ["second", "main", "second"] {
                let report = daemon.json(&["mailbox", "move", ALICE, "--store", target]).remove(0);
                assert_eq!(report["damaged"], 0, "{report}");
                assert!(report["messages"].as_u64().unwrap() >= before.len() as u64, "{report}");
                let since = delivered.load(Ordering::SeqCst);
                wait_for("deliveries and reading to go on", || {
                    (delivered.load(Ordering::SeqCst) > since + 1).then_some(())
                });
            }
        });
        let after = bodies(&daemon, ALICE);
        assert_eq!(after.len() as u64, before.len() as u64 + delivered.load(Ordering::SeqCst));
        assert!(after.starts_with(&before));
        let shown = daemon.json(&["mailbox", "show", ALICE]).remove(0);
        assert_eq!(shown["store"], "second");
        assert_eq!(store(&daemon, "main")["bodies"], 0);
        assert_eq!(store(&daemon, "second")["bodies"], after.len());
        daemon.posthouse(&["quota", "verify"]).ok();
    }
}

#[test]
fn move_goes_on_after_kill_and_loses_nothing() {
    let mut daemon = with_two_stores(Database::Sqlite);
    furnish(&daemon, ALICE);
    let before = bodies(&daemon, ALICE);
    for target in ["second", "main"] {
        let job = daemon.json(&["mailbox", "move", ALICE, "--store", target, "--detach"]).remove(0);
        daemon.kill();
        daemon.start_again();
        let id = job["id"].as_str().unwrap();
        daemon.posthouse(&["job", "watch", id]).ok();
        assert_eq!(bodies(&daemon, ALICE), before);
        let others = if target == "main" { "second" } else { "main" };
        assert_eq!(store(&daemon, others)["bodies"], 0);
    }
    daemon.posthouse(&["quota", "verify"]).ok();
}

#[test]
fn drained_store_is_empty_and_nothing_is_missing() {
    for database in Database::all() {
        let daemon = with_two_stores(database);
        daemon.mailbox("bob@acme.test");
        daemon.mailbox("gone@acme.test");
        furnish(&daemon, ALICE);
        // One body for all of them.
        let shared = message(30_000, 99);
        let recipients = [ALICE, "bob@acme.test", "gone@acme.test"];
        let replies = daemon.lmtp().deliver("sender@example.test", &recipients, &shared).unwrap();
        assert!(replies.iter().all(|reply| reply.is_ok()), "{replies:?}");
        let before = recipients.map(|user| bodies(&daemon, user));
        let all = store(&daemon, "main")["bodies"].clone();
        daemon.posthouse(&["mailbox", "delete", "gone@acme.test", "--yes"]).ok();
        let report = daemon.json(&["store", "drain", "main"]).remove(0);
        assert_eq!((&report["mailboxes"], &report["left"]), (&3.into(), &0.into()), "{report}");
        let main = store(&daemon, "main");
        assert_eq!(
            (&main["state"], &main["bodies"], &main["mailboxes"]),
            (&"draining".into(), &0.into(), &0.into())
        );
        assert_eq!(store(&daemon, "second")["bodies"], all, "what was shared is shared");
        daemon.posthouse(&["mailbox", "undelete", "gone@acme.test"]).ok();
        assert_eq!(recipients.map(|user| bodies(&daemon, user)), before);
        daemon.mailbox("new@acme.test");
        assert_eq!(daemon.json(&["mailbox", "show", "new@acme.test"])[0]["store"], "second");
        let refused = daemon.posthouse(&["mailbox", "move", ALICE, "--store", "main"]);
        assert_eq!(refused.status.code(), Some(5), "{}", refused.stderr);
        daemon.deliver(ALICE, &shared);
        daemon.posthouse(&["quota", "verify"]).ok();
    }
}

#[test]
fn domain_goes_to_another_customer_with_its_mail() {
    for database in Database::all() {
        let daemon = with_two_stores(database);
        daemon.customer("other", "other.test");
        daemon.posthouse(&["domain", "create", "go.test", "--customer", "acme"]).ok();
        daemon.mailbox("bob@go.test");
        furnish(&daemon, "bob@go.test");
        let shared = message(30_000, 99);
        let replies = daemon.lmtp().deliver("sender@example.test", &[ALICE, "bob@go.test"], &shared).unwrap();
        assert!(replies.iter().all(|reply| reply.is_ok()), "{replies:?}");
        let before = [ALICE, "bob@go.test"].map(|user| bodies(&daemon, user));
        let count = store(&daemon, "main")["bodies"].as_u64().unwrap();
        let mut session = daemon.imap("bob@go.test");
        session.select("INBOX");
        daemon.posthouse(&["domain", "move", "go.test", "--to", "other", "--yes"]).ok();
        assert_eq!(daemon.json(&["mailbox", "show", "bob@go.test"])[0]["customer"], "other");
        // Whoever is logged in logs in again.
        let ended = wait_for("the session to end", || session.command("NOOP").err());
        drop(ended);
        daemon.deliver("bob@go.test", &shared);
        let mut now = bodies(&daemon, "bob@go.test");
        assert_eq!(now.len(), before[1].len() + 1);
        now.pop();
        assert_eq!([bodies(&daemon, ALICE), now], before);
        // What both had was one body, and each has its own in the end.
        wait_for("the mail to follow", || (store(&daemon, "main")["bodies"] == count + 2).then_some(()));
        daemon.posthouse(&["customer", "delete", "acme", "--yes"]).ok();
        let after = bodies(&daemon, "bob@go.test");
        assert!(after.starts_with(&before[1]));
        daemon.posthouse(&["quota", "verify"]).ok();
    }
}
