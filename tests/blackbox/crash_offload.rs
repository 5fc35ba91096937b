//! kill -9 while packs are written, sent to object storage, written anew, deleted there and backed up: at each request
//! that is made, before it is done and after, while files are half written, and at any time. Acknowledged messages are
//! there exactly once and intact, quotas equal the recount, and files and objects are those that the database names.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use hyper::Method;
use posthouse::storage::StorageError;
use posthouse::storage::metadata::database::Database as Metadata;
use serde_json::json;

use super::crash::{History, Ledger, READERS};
use crate::support::daemon::{Daemon, Database, KilledAtEnd, Setup};
use crate::support::http;
use crate::support::s3::{Fault, Moment, S3Server};
use crate::support::wait_for;

const SENDERS: usize = 3;
/// Messages of a round before the kill comes.
const MESSAGES: usize = 12;

/// When the daemon is killed.
enum Kill {
    /// At the next request of this method.
    Request(Method, Moment),
    /// When a pack is being written.
    Packing,
    /// When a backup has files.
    BackingUp,
    /// After so many more messages, while the server is slow.
    Anywhere(usize),
}

const FULL: [Kill; 13] = [
    Kill::Request(Method::PUT, Moment::Before),
    Kill::Request(Method::PUT, Moment::After),
    Kill::Request(Method::HEAD, Moment::Before),
    Kill::Request(Method::HEAD, Moment::After),
    Kill::Request(Method::GET, Moment::Before),
    Kill::Request(Method::GET, Moment::After),
    Kill::Request(Method::DELETE, Moment::Before),
    Kill::Request(Method::DELETE, Moment::After),
    Kill::Packing,
    Kill::Anywhere(5),
    Kill::Anywhere(17),
    Kill::Anywhere(31),
    Kill::BackingUp,
];

/// A new server for each round of PostgreSQL costs time, and what differs are transactions.
const FEW: [Kill; 4] = [
    Kill::Request(Method::PUT, Moment::After),
    Kill::Request(Method::GET, Moment::After),
    Kill::Request(Method::DELETE, Moment::After),
    Kill::Anywhere(17),
];

/// Starts jobs one after the other, and follows each to its end, until the daemon is gone.
fn work(socket: &Path) {
    let nothing = json!({});
    for path in ["/v1/packing", "/v1/stores/main/offload", "/v1/stores/main/compact"].iter().cycle() {
        let Ok(answer) = http::over_socket(socket, "POST", path, &[], Some(&nothing)) else { return };
        let job = answer.json();
        assert_eq!(answer.status, 202, "{job}");
        let place = format!("/v1/jobs/{}", job["id"].as_str().expect("the job's id"));
        let watch = [("Accept", "application/x-ndjson")];
        if http::over_socket(socket, "GET", &place, &watch, None).is_err() {
            return;
        }
    }
}

/// What the database says is there.
#[derive(Default, PartialEq, Eq, Debug)]
struct Places {
    local: BTreeSet<String>,
    remote: BTreeSet<String>,
    /// What is half done: intents, and packs whose file or object is about to come or go.
    begun: Vec<String>,
}

fn known(daemon: &Daemon) -> Places {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let database = Metadata::open(&daemon.database_url()).await.expect("database");
        let read = database.read(|conn| {
            Box::pin(async move {
                let mut places = Places::default();
                for row in
                    conn.rows("SELECT public_id, local_state, remote_state FROM pack", Vec::new()).await?
                {
                    let name = format!("{}.pack", row.text(0)?);
                    match row.text(1)?.as_str() {
                        "present" => drop(places.local.insert(name.clone())),
                        "absent" => {}
                        state => places.begun.push(format!("{name} {state}")),
                    }
                    match row.text(2)?.as_str() {
                        "present" => drop(places.remote.insert(name)),
                        "absent" => {}
                        state => places.begun.push(format!("{name} {state}")),
                    }
                }
                for row in conn.rows("SELECT public_id FROM pack_intent", Vec::new()).await? {
                    places.begun.push(row.text(0)?);
                }
                Ok::<_, StorageError>(places)
            })
        });
        let known = read.await.expect("packs");
        database.close().await;
        known
    })
}

fn names<'a>(files: impl IntoIterator<Item = &'a std::path::PathBuf>) -> BTreeSet<String> {
    let name = |file: &std::path::PathBuf| Some(file.file_name()?.to_str()?.to_owned());
    // Catalogs are in the bucket too.
    let is_pack = |name: &String| name.ends_with(".pack") || name.ends_with(".tmp");
    files.into_iter().filter_map(name).filter(is_pack).collect()
}

fn found(daemon: &Daemon, server: &S3Server) -> Places {
    let (files, objects) = (daemon.pack_files(), server.objects(""));
    Places { local: names(&files), remote: names(&objects), begun: Vec::new() }
}

struct Scene {
    daemon: Daemon,
    server: S3Server,
    ledger: Ledger,
    histories: [History; 2],
}

impl Scene {
    fn new(database: Database) -> Self {
        let server = S3Server::start();
        let store = server.store_configuration("", "[store.packing]\ngrace_minutes = 0");
        // What is expunged is dead at once, and compaction has something to do.
        let configuration = format!("[retention]\nundelete_days = 0\n{store}");
        let daemon = Daemon::with_alice(Setup { database, configuration, ..Setup::default() });
        daemon.mailbox(READERS[1]);
        Self { daemon, server, ledger: Ledger::default(), histories: Default::default() }
    }

    /// Loads the daemon with work, kills it, starts it again, and looks at everything.
    fn round(&mut self, number: usize, kill: &Kill) {
        for reader in 0..READERS.len() {
            self.histories[reader].expunge_first(&self.daemon, reader);
        }
        let enough = self.ledger.acknowledged_count() + MESSAGES;
        let (lmtp, socket) = (self.daemon.address("lmtp").to_owned(), self.daemon.admin_socket());
        let (ledger, server) = (&self.ledger, &self.server);
        std::thread::scope(|scope| {
            for _ in 0..SENDERS {
                scope.spawn(|| ledger.send(&lmtp));
            }
            let daemon = KilledAtEnd(&mut self.daemon);
            let acknowledged =
                |count| wait_for("deliveries", || (ledger.acknowledged_count() >= count).then_some(()));
            match kill {
                Kill::Request(method, moment) => {
                    let held: Receiver<()> = server.hold(method.clone(), *moment);
                    scope.spawn(|| work(&socket));
                    acknowledged(enough);
                    wait_for("the request", || held.try_recv().ok());
                }
                Kill::Packing => {
                    scope.spawn(|| work(&socket));
                    acknowledged(enough);
                    let is_begun = |file: &std::path::PathBuf| file.to_string_lossy().ends_with(".tmp");
                    wait_for("a pack that is being written", || {
                        daemon.pack_files().iter().any(is_begun).then_some(())
                    });
                }
                Kill::Anywhere(more) => {
                    server.fault(Fault::Slow(Duration::from_millis(20)));
                    scope.spawn(|| work(&socket));
                    acknowledged(enough + more);
                }
                Kill::BackingUp => {
                    acknowledged(enough);
                    let backup = daemon.dir().join(format!("backup-{number}"));
                    let dir = backup.to_str().expect("UTF-8").to_owned();
                    daemon.posthouse(&["backup", "create", &dir, "--detach"]).ok();
                    let entries = || std::fs::read_dir(&backup).into_iter().flatten().count();
                    wait_for("files of the backup", || (entries() > 0).then_some(()));
                }
            }
        });
        self.server.heal();
        self.daemon.start_again();
        self.check();
    }

    fn check(&mut self) {
        let acknowledged = self.ledger.acknowledged();
        for (reader, history) in self.histories.iter_mut().enumerate() {
            history.check(&self.daemon, reader, &acknowledged);
        }
        let verified = self.daemon.json(&["quota", "verify"]).remove(0);
        assert_eq!(verified["drift"], 0, "{verified}");
        self.settle();
        // Once more, from where the bodies are now.
        let acknowledged = self.ledger.acknowledged();
        for (reader, history) in self.histories.iter_mut().enumerate() {
            history.check(&self.daemon, reader, &acknowledged);
        }
    }

    /// What was cut off is finished, and nothing is where no row says so.
    fn settle(&self) {
        let mut last = (Places::default(), Places::default());
        let deadline = std::time::Instant::now() + crate::support::PATIENCE;
        while last.0 != last.1 || last.1.local.is_empty() && last.1.remote.is_empty() {
            assert!(std::time::Instant::now() < deadline, "known and found differ: {last:#?}");
            self.daemon.job("/v1/packing");
            self.daemon.job("/v1/stores/main/offload");
            last = (known(&self.daemon), found(&self.daemon, &self.server));
        }
    }
}

fn survive(database: Database, kills: &[Kill]) {
    let mut scene = Scene::new(database);
    // The first packs, so that there is something to write anew.
    let mut session = scene.daemon.lmtp();
    for _ in 0..10 {
        scene.ledger.send_next(&mut session).expect("LMTP");
    }
    scene.check();
    for (number, kill) in kills.iter().enumerate() {
        scene.round(number, kill);
    }
    assert!(scene.ledger.acknowledged_count() > kills.len() * MESSAGES);
}

#[test]
fn mail_survives_kill_at_every_request_to_object_storage_on_sqlite() {
    survive(Database::Sqlite, &FULL);
}

#[test]
fn mail_survives_kill_at_some_requests_to_object_storage_on_postgres() {
    let Some(server) = crate::support::postgres::Postgres::start() else { return };
    survive(Database::Postgres(server), &FEW);
}
