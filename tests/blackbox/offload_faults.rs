//! Object storage that is away, slow, refuses, or answers with rubbish, and a full disk for the cache, as clients see
//! it: what is in object storage alone is unavailable for a while and never empty; everything else goes on, and when
//! the server is right again, so is the daemon.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::full_disk::{largest_file, limit_files};
use crate::support::corpus::dense_message;
use crate::support::daemon::{Daemon, Setup};
use crate::support::http;
use crate::support::imap::{Answer, Imap, body_of};
use crate::support::s3::{Fault, S3Server};
use crate::support::wait_for;

const READER: &str = "alice@acme.test";
/// Each has blocks of the cache of its own.
const OCTETS: usize = 400_000;
const WRONG: [Fault; 6] = [
    Fault::Outage,
    Fault::Status(500),
    Fault::Status(403),
    Fault::Truncated,
    Fault::Flipped,
    Fault::Slow(Duration::from_millis(300)),
];

struct Scene {
    server: S3Server,
    daemon: Daemon,
    /// What was delivered, by UID.
    sent: BTreeMap<u64, Vec<u8>>,
}

impl Scene {
    /// A mailbox with `cold` messages that are in object storage alone.
    fn new(cold: u64) -> Self {
        let server = S3Server::start();
        let store = server.store_configuration("", "[store.packing]\ngrace_minutes = 0");
        let daemon = Daemon::with_alice(Setup { configuration: store, ..Setup::default() });
        let mut scene = Self { server, daemon, sent: BTreeMap::new() };
        for _ in 0..cold {
            scene.deliver();
        }
        scene.daemon.job("/v1/packing");
        scene.daemon.job("/v1/stores/main/offload");
        assert!(scene.daemon.pack_files().is_empty(), "one pack, which nothing supersedes");
        scene
    }

    /// Delivers one more; answers its UID.
    fn deliver(&mut self) -> u64 {
        let uid = self.sent.len() as u64 + 1;
        let octets = dense_message(OCTETS, uid);
        self.daemon.deliver(READER, &octets);
        self.sent.insert(uid, octets);
        uid
    }

    fn session(&self) -> Imap {
        let mut session = self.daemon.imap(READER);
        session.select("INBOX");
        session
    }

    /// Reads a message that can be read.
    #[track_caller]
    fn read(&self, session: &mut Imap, uid: u64) {
        let answer = fetch(session, uid);
        assert_eq!(answer.status, "OK", "UID {uid}: {}", answer.text);
        self.is_right(&answer, uid);
    }

    #[track_caller]
    fn is_right(&self, answer: &Answer, uid: u64) {
        let bodies: Vec<Vec<u8>> = answer.all("FETCH").map(body_of).collect();
        assert!(matches!(&bodies[..], [body] if body.ends_with(&self.sent[&uid])), "UID {uid} differs");
    }

    /// What never needs object storage.
    fn everything_else(&self, session: &mut Imap, readable: &[u64]) {
        let count = self.sent.len();
        for items in [
            "UID FETCH 1:* (UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE)",
            "UID FETCH 1:* (BODY.PEEK[HEADER])",
            "UID STORE 1:* +FLAGS (\\Flagged)",
            "UID STORE 1:* -FLAGS (\\Flagged)",
        ] {
            let answer = session.command(items).expect("IMAP").ok();
            assert_eq!(answer.all("FETCH").count(), count, "{items}");
        }
        for uid in readable {
            self.read(session, *uid);
        }
    }

    fn ready(&self) -> String {
        let answer = http::request(self.daemon.address("http"), "GET", "/readyz", &[], None).expect("HTTP");
        assert_eq!(answer.status, 200);
        String::from_utf8(answer.body).expect("text")
    }

    /// Until the server's recovery is noticed, which takes a while after an outage.
    fn wait_for_body(&self, session: &mut Imap, uid: u64) {
        wait_for("the message to be readable again", || {
            let answer = fetch(session, uid);
            (answer.status == "OK").then(|| self.is_right(&answer, uid))
        });
    }
}

fn fetch(session: &mut Imap, uid: u64) -> Answer {
    session.command(&format!("UID FETCH {uid} (BODY.PEEK[])")).expect("FETCH")
}

#[test]
fn object_storage_that_does_wrong_makes_cold_bodies_unavailable_and_nothing_else() {
    let cold = WRONG.len() as u64 + 1;
    let mut scene = Scene::new(cold);
    let mut session = scene.session();
    // One that is in the cache, one that is in a local pack, one that is in the database.
    scene.read(&mut session, cold);
    let local = scene.deliver();
    scene.daemon.job("/v1/packing");
    for (uid, wrong) in (1..).zip(WRONG) {
        scene.server.fault(wrong);
        let fresh = scene.deliver();
        session.command("NOOP").expect("NOOP").ok();
        let answer = fetch(&mut session, uid);
        if matches!(wrong, Fault::Slow(_)) {
            assert_eq!(answer.status, "OK", "{wrong:?}: {}", answer.text);
            scene.is_right(&answer, uid);
        } else {
            assert_eq!(answer.status, "NO", "{wrong:?}");
            assert!(
                wrong == Fault::Flipped || answer.text.starts_with("[UNAVAILABLE]"),
                "{wrong:?}: {}",
                answer.text
            );
            assert_eq!(answer.all("FETCH").count(), 0, "{wrong:?}: nothing is told of it");
        }
        // What is wrong once makes the cache forget all that it has of the pack.
        let readable = if wrong == Fault::Flipped { vec![local, fresh] } else { vec![cold, local, fresh] };
        scene.everything_else(&mut session, &readable);
        if matches!(wrong, Fault::Outage | Fault::Status(_)) {
            wait_for("readyz to say so", || {
                // Requests that fail, until it is sure.
                fetch(&mut session, uid);
                scene.ready().starts_with("degraded").then_some(())
            });
        }
        scene.server.heal();
        scene.wait_for_body(&mut session, uid);
        scene.wait_for_body(&mut session, cold);
        wait_for("readyz to be content", || (scene.ready() == "ready\n").then_some(()));
    }
    // What came meanwhile goes where the rest is.
    scene.daemon.job("/v1/packing");
    scene.daemon.job("/v1/stores/main/offload");
    let uids: Vec<u64> = scene.sent.keys().copied().collect();
    scene.everything_else(&mut scene.session(), &uids);
}

#[test]
fn cache_that_cannot_grow_keeps_nothing_and_loses_nothing() {
    const LAST: u64 = 40;
    let mut scene = Scene::new(LAST);
    // The database is one file then.
    scene.daemon.stop();
    scene.daemon.start_again();
    let mut session = scene.session();
    // Files may grow a little, and not as far as the last message lies in its pack.
    let limit = largest_file(scene.daemon.data_dir()) + (2 << 20);
    let pack = scene.server.objects("").iter().map(|file| file.metadata().expect("object").len()).max();
    assert!(pack.is_some_and(|octets| octets > limit + OCTETS as u64), "{pack:?}, limit {limit}");
    limit_files(&scene.daemon, Some(limit));
    let before = scene.server.requests().get;
    for _ in 0..2 {
        scene.read(&mut session, LAST);
    }
    assert!(scene.server.requests().get >= before + 2, "nothing of it is kept");
    let fresh = scene.deliver();
    session.command("NOOP").expect("NOOP").ok();
    scene.everything_else(&mut session, &[1, fresh]);
    limit_files(&scene.daemon, None);
    scene.read(&mut session, LAST);
    let before = scene.server.requests().get;
    scene.read(&mut session, LAST);
    assert_eq!(scene.server.requests().get, before, "now it is kept");
}
