//! kill -9 while mail comes in and is packed, again and again: acknowledged messages are there exactly once and intact,
//! quotas equal the recount, and every file of a pack is one that the database names.

use std::collections::BTreeSet;

use posthouse::storage::StorageError;
use posthouse::storage::metadata::database::Database as Metadata;

use super::crash::{History, Ledger, READERS};
use crate::support::daemon::{Daemon, Database, KilledAtEnd, Setup};
use crate::support::http;
use crate::support::{Random, wait_for};

const ROUNDS: u64 = 12;
const SENDERS: u64 = 6;

/// Names of the files in the packs folder, with what ends they have.
fn files(daemon: &Daemon) -> BTreeSet<String> {
    let name = |path: &std::path::PathBuf| path.file_name()?.to_str().map(str::to_owned);
    daemon.pack_files().iter().filter_map(name).collect()
}

/// Names of the files that the database knows: packs, and what is only intended.
fn known(daemon: &Daemon) -> (BTreeSet<String>, usize) {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let database = Metadata::open(&daemon.database_url()).await.expect("database");
        let read = database.read(|conn| {
            Box::pin(async move {
                let packs = conn.rows("SELECT public_id FROM pack", Vec::new()).await?;
                let intents = conn.rows("SELECT public_id FROM pack_intent", Vec::new()).await?;
                let names = packs.iter().map(|row| Ok(format!("{}.pack", row.text(0)?)));
                Ok::<_, StorageError>((names.collect::<Result<_, StorageError>>()?, intents.len()))
            })
        });
        let known = read.await.expect("packs");
        database.close().await;
        known
    })
}

/// Packs without a pause until the daemon is gone.
fn pack(daemon_socket: &std::path::Path) {
    let nothing = serde_json::json!({});
    loop {
        let answer = http::over_socket(daemon_socket, "POST", "/v1/packing", &[], Some(&nothing));
        let Ok(answer) = answer else { return };
        let job = answer.json();
        assert_eq!(answer.status, 202, "{job}");
        let path = format!("/v1/jobs/{}", job["id"].as_str().expect("the job's id"));
        let watch = [("Accept", "application/x-ndjson")];
        if http::over_socket(daemon_socket, "GET", &path, &watch, None).is_err() {
            return;
        }
    }
}

fn survive(database: Database) {
    let mut daemon = Daemon::with_alice(Setup { database, ..Setup::default() });
    daemon.mailbox(READERS[1]);
    daemon.posthouse(&["domain", "limit", "acme.test", "--bytes", "10GB"]).ok();
    daemon.posthouse(&["customer", "limit", "acme", "--bytes", "10GB"]).ok();
    let ledger = Ledger::default();
    let mut histories: [History; 2] = Default::default();
    for round in 0..ROUNDS {
        let mut random = Random::new(round);
        // Files, not passes: each pass has more to do than the one before, as long as mail comes in faster than it is
        // packed.
        let (messages, packs) = (1 + random.below(70), 1 + random.below(12));
        let enough = ledger.acknowledged_count() + messages;
        let packs = files(&daemon).len() + packs;
        let (lmtp, socket) = (daemon.address("lmtp").to_owned(), daemon.admin_socket());
        std::thread::scope(|scope| {
            for _ in 0..SENDERS {
                scope.spawn(|| ledger.send(&lmtp));
            }
            scope.spawn(|| pack(&socket));
            let daemon = KilledAtEnd(&mut daemon);
            wait_for("deliveries and packing under load", || {
                let is_deep = ledger.acknowledged_count() >= enough && files(&daemon).len() >= packs;
                is_deep.then_some(())
            });
        });
        daemon.start_again();
        let acknowledged = ledger.acknowledged();
        for (reader, history) in histories.iter_mut().enumerate() {
            history.check(&daemon, reader, &acknowledged);
        }
        let verified = daemon.json(&["quota", "verify"]).remove(0);
        assert_eq!(verified["drift"], 0, "{verified}");
        // What the last process left behind is removed right after the start.
        wait_for("files to be those that the database names", || {
            let (packs, intents) = known(&daemon);
            (intents == 0 && files(&daemon) == packs).then_some(())
        });
    }
    let (packs, _) = known(&daemon);
    assert!(packs.len() as u64 > ROUNDS / 2, "hardly anything was packed: {packs:?}");
}

#[test]
fn mail_survives_kill_while_it_is_packed_on_sqlite() {
    survive(Database::Sqlite);
}

#[test]
fn mail_survives_kill_while_it_is_packed_on_postgres() {
    let Some(server) = crate::support::postgres::Postgres::start() else { return };
    survive(Database::Postgres(server));
}
