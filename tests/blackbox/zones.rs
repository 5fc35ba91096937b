//! A zone in a running daemon: somebody looks after one of two mail stores, and sees nothing of the other.

use serde_json::Value;

use crate::support::daemon::{Daemon, Database, Setup};
use crate::support::programs::Finished;

const BOB: &str = "bob@acme.test";

fn failed(finished: &Finished, code: i32, words: &str) {
    assert_eq!(finished.status.code(), Some(code), "{} {}", finished.stdout, finished.stderr);
    assert!(finished.stderr.contains(words), "{} {}", finished.stdout, finished.stderr);
}

/// The daemon's administrator, as another one who comes with a token.
struct Keeper<'d> {
    daemon: &'d Daemon,
    token: String,
}

impl<'d> Keeper<'d> {
    /// Somebody new of the customer, who looks after the zone.
    fn of(daemon: &'d Daemon, zone: &str) -> Self {
        let token = daemon.dir().join("zoe.token").to_str().expect("a path").to_owned();
        let create = ["admin", "create", "zoe", "--customer", "acme", "--save-token", &token];
        daemon.posthouse(&create).ok();
        daemon.posthouse(&["admin", "grant", "zoe", "--role", "system-admin", "--zone", zone]).ok();
        Self { daemon, token }
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let all: Vec<&str> =
            ["--token-file", &self.token].into_iter().chain(arguments.iter().copied()).collect();
        self.daemon.posthouse(&all)
    }

    fn names(&self, noun: &str, member: &str) -> Vec<String> {
        let listed = self.run(&[noun, "list"]).ok().stdout;
        let documents = serde_json::Deserializer::from_str(&listed).into_iter::<Value>();
        documents.map(|one| one.expect("JSON")[member].as_str().expect("a name").to_owned()).collect()
    }
}

fn state(daemon: &Daemon, store: &str) -> Value {
    daemon.json(&["store", "show", store]).remove(0)["state"].clone()
}

#[test]
fn who_looks_after_a_zone_runs_its_store_and_sees_no_other() {
    for database in Database::all() {
        let daemon = Daemon::with_alice(Setup { database, ..Setup::default() });
        daemon.posthouse(&["store", "create", "second", "--path", "stores/second"]).ok();
        daemon.mailbox_with(BOB, &["--store", "second"]);
        daemon.deliver(BOB, b"From: a@example.test\r\nSubject: one\r\n\r\nthe text\r\n");
        daemon.posthouse(&["zone", "create", "east", "--store", "second"]).ok();
        let zoe = Keeper::of(&daemon, "east");
        assert_eq!(zoe.names("store", "name"), ["second"]);
        assert_eq!(zoe.names("zone", "name"), ["east"]);
        // The other store is as one that is not there.
        for name in ["main", "nowhere"] {
            for verb in ["show", "stop", "start", "drain", "verify"] {
                failed(&zoe.run(&["store", verb, name]), 3, &format!("store {name} does not exist"));
            }
        }
        failed(&zoe.run(&["store", "drain", "second", "--to", "main"]), 3, "store main does not exist");
        failed(&zoe.run(&["store", "create", "third", "--path", "stores/third"]), 4, "system.store.update");
        // Hers she stops, starts, reads back and empties; she follows the jobs that do it.
        zoe.run(&["store", "stop", "second"]).ok();
        assert_eq!((state(&daemon, "second"), state(&daemon, "main")), ("stopped".into(), "online".into()));
        zoe.run(&["store", "start", "second"]).ok();
        assert_eq!(state(&daemon, "second"), "online");
        zoe.run(&["store", "verify", "second"]).ok();
        zoe.run(&["store", "drain", "second"]).ok();
        assert_eq!(state(&daemon, "second"), "draining");
        let shown = daemon.json(&["mailbox", "show", BOB]).remove(0);
        assert_eq!(shown["store"], "main");
        assert_eq!(zoe.names("job", "kind"), ["store.drain", "store.verify", "store.start"]);
        daemon.wait_for_messages(BOB, "INBOX", 1);
        // Servers come with the zone, and with them the disks of its stores alone.
        let node = daemon.json(&["server", "list"]).remove(0)["node"].as_str().expect("a name").to_owned();
        failed(&zoe.run(&["server", "show"]), 3, "server does not exist");
        assert!(zoe.names("server", "node").is_empty());
        daemon.posthouse(&["zone", "update", "east", "--add-server", &node]).ok();
        let shown = zoe.run(&["server", "show"]).ok().stdout;
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(shown["node"], node);
        let disks = shown["used"]["disks"].as_array().expect("disks");
        let of: Vec<&str> = disks.iter().filter_map(|disk| disk["store"].as_str()).collect();
        assert_eq!(of, ["second"], "{shown}");
        // With the grant all of it ends.
        let revoke = ["admin", "revoke", "zoe", "--role", "system-admin", "--zone", "east", "--yes"];
        daemon.posthouse(&revoke).ok();
        failed(&zoe.run(&["store", "list"]), 4, "system.store.read");
        failed(&zoe.run(&["server", "show"]), 4, "system.server.read");
    }
}
