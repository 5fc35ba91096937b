//! The database is lost, and the mail is not: `posthouse store rebuild` from catalogs and packs.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use posthouse::base::clock::Clock;
use posthouse::base::id::{CustomerId, StoreId};
use posthouse::base::progress::Progress;
use posthouse::base::telemetry::metrics::Metrics;
use posthouse::storage::Result;
use posthouse::storage::bodies::Bodies;
use posthouse::storage::catalogs::Catalogs;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::lane::Priority;
use posthouse::storage::metadata::pack::Node;
use posthouse::storage::metadata::{dictionary, instance};
use posthouse::storage::offload::Offloader;
use posthouse::storage::pack::Codec;
use posthouse::storage::packer::{Packer, PackerSettings};
use posthouse::storage::volumes::Volumes;
use serde_json::Value;

use crate::support::corpus;
use crate::support::daemon::{Daemon, PASSWORD, Setup};
use crate::support::imap::{Imap, Untagged};
use crate::support::postgres::Postgres;
use crate::support::s3::{self, S3Server};

const ALICE: &str = "alice@acme.test";
const BOB: &str = "bob@acme.test";
const CAROL: &str = "carol@beta.test";

/// UID, flags and bytes of the messages of a folder.
type Messages = Vec<(u64, Vec<String>, Vec<u8>)>;

/// Notices come by themselves, such as the one that somebody has set the password.
fn is_notice(message: &[u8]) -> bool {
    let mark = b"X-Posthouse-Notice:";
    message.windows(mark.len()).any(|octets| octets == mark)
}

fn messages(daemon: &Daemon, user: &str, folder: &str) -> Messages {
    let mut session = daemon.imap(user);
    if session.select(folder).exists() == Some(0) {
        return Vec::new();
    }
    let answer = session.command("UID FETCH 1:* (UID FLAGS)").unwrap().ok();
    let flags = |line: &Untagged| {
        let mut flags = line.flags().unwrap();
        flags.retain(|flag| flag != "\\Recent");
        flags.sort();
        (line.item_number("UID").unwrap(), flags)
    };
    let mut flags: BTreeMap<u64, Vec<String>> = answer.all("FETCH").map(flags).collect();
    let bodies = session.bodies("1:*");
    let sent = bodies.into_iter().filter(|(_, body)| !is_notice(body));
    sent.map(|(uid, body)| (uid, flags.remove(&uid).unwrap(), body)).collect()
}

fn uid_validity(daemon: &Daemon, user: &str) -> u64 {
    let answer = daemon.imap(user).command("STATUS INBOX (UIDVALIDITY)").unwrap().ok();
    answer.all("STATUS").next().and_then(|line| line.item_number("UIDVALIDITY")).unwrap()
}

/// Everything that is to come back.
fn everything(daemon: &Daemon) -> BTreeMap<(&'static str, &'static str), Messages> {
    let places = [
        (ALICE, "INBOX"),
        (ALICE, "Projects/Old"),
        (ALICE, "Trash"),
        (BOB, "INBOX"),
        (CAROL, "INBOX"),
        (CAROL, "Archive"),
    ];
    places.into_iter().map(|place| (place, messages(daemon, place.0, place.1))).collect()
}

/// A message with an attachment that others have too.
fn attached(number: u64) -> Vec<u8> {
    let attachment = corpus::dense_message(40_000, 7);
    let mut text = format!(
        "Subject: attached {number}\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n"
    );
    for line in STANDARD.encode(attachment).as_bytes().chunks(76) {
        text.push_str(std::str::from_utf8(line).unwrap());
        text.push_str("\r\n");
    }
    text.into_bytes()
}

/// Three mailboxes of two customers, with flags, folders, an alias, a limit, attachments that are shared, and something
/// expunged.
fn furnish(daemon: &Daemon) {
    daemon.customer("acme", "acme.test");
    daemon.posthouse(&["customer", "create", "acme/sub", "--name", "Sub", "--domain", "beta.test"]).ok();
    daemon.mailbox_with(ALICE, &["--quota", "1GiB", "--name", "Alice A"]);
    daemon.mailbox(BOB);
    daemon.mailbox(CAROL);
    daemon.posthouse(&["alias", "create", "info@acme.test", ALICE]).ok();
    daemon.posthouse(&["customer", "limit", "acme", "--bytes", "2GiB"]).ok();
    for number in 0..12 {
        daemon.deliver(ALICE, &corpus::message(2_000 + 100 * number as usize, number));
        daemon.deliver(BOB, &attached(number % 3));
        daemon.deliver(CAROL, &corpus::message(9_000, 100 + number));
    }
    daemon.deliver("info@acme.test", &attached(1));
    let mut session = daemon.imap(ALICE);
    session.command("CREATE Projects/Old").unwrap().ok();
    session.command("SUBSCRIBE Projects/Old").unwrap().ok();
    session.select("INBOX");
    session.command("UID STORE 2 +FLAGS (\\Flagged $Work)").unwrap().ok();
    session.command("UID STORE 3:5 +FLAGS (\\Seen)").unwrap().ok();
    session.command("UID MOVE 6:7 Projects/Old").unwrap().ok();
    session.command("UID COPY 8 Trash").unwrap().ok();
    session.command("UID STORE 9 +FLAGS (\\Deleted)").unwrap().ok();
    session.command("EXPUNGE").unwrap().ok();
    daemon.imap(CAROL).append("Archive", "\\Answered", &corpus::message(30_000, 55)).unwrap().ok();
}

/// Runs the command and gives its report.
fn rebuild(daemon: &Daemon, more: &[&str]) -> Value {
    let file = daemon.configuration_file();
    let mut arguments = vec!["store", "rebuild", "--config", file.to_str().unwrap()];
    arguments.extend(more);
    let finished = daemon.posthouse(&arguments).ok();
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {}", finished.stdout))
}

fn lose_database(daemon: &Daemon) {
    for name in ["metadata.db", "metadata.db-wal", "metadata.db-shm"] {
        std::fs::remove_file(daemon.data_dir().join(name)).ok();
    }
}

fn set_passwords(daemon: &Daemon) {
    for user in [ALICE, BOB, CAROL] {
        daemon.posthouse_with_input(&["mailbox", "password", user, "--password-stdin"], PASSWORD).ok();
    }
}

fn check_restored(daemon: &Daemon, before: &BTreeMap<(&'static str, &'static str), Messages>) {
    let mut locked = Imap::open_tls(daemon.address("imaps"), daemon.certificate_pem()).unwrap();
    let refused = locked.command(&format!("LOGIN {ALICE} \"{PASSWORD}\"")).unwrap();
    assert_eq!(refused.status, "NO", "nobody can log in: {refused:?}");
    set_passwords(daemon);
    let after = everything(daemon);
    for (place, messages) in before {
        assert_eq!(after[place].len(), messages.len(), "{place:?}");
        assert!(after[place] == *messages, "{place:?} is not what it was");
    }
    let subscribed = daemon.imap(ALICE).command("LSUB \"\" *").unwrap().ok();
    assert!(subscribed.all("LSUB").any(|line| line.text.contains("Projects/Old")));
    let verify = daemon.json(&["quota", "verify"]).remove(0);
    assert_eq!(verify["drift"], 0, "{verify}");
    assert_eq!(daemon.json(&["mailbox", "show", ALICE])[0]["name"], "Alice A");
    assert_eq!(daemon.json(&["mailbox", "deleted", ALICE]).len(), 1, "what was expunged can come back");
    // New mail comes in, by the alias too, is packed and read; nothing collides with what was before.
    daemon.deliver("info@acme.test", &attached(2));
    daemon.deliver(CAROL, &corpus::message(800, 999));
    daemon.posthouse(&["store", "pack"]).ok();
    let inbox = messages(daemon, ALICE, "INBOX");
    assert_eq!(inbox.len(), before[&(ALICE, "INBOX")].len() + 1);
    assert!(inbox.iter().zip(&before[&(ALICE, "INBOX")]).all(|(now, then)| now == then));
}

#[test]
fn lost_database_is_rebuilt_and_what_was_only_in_it_is_told() {
    let mut daemon = Daemon::start();
    furnish(&daemon);
    daemon.posthouse(&["store", "pack"]).ok();
    let (before, validity) = (everything(&daemon), uid_validity(&daemon, ALICE));
    // This one is in no pack when the daemon ends; the catalog written then knows of it.
    daemon.deliver(BOB, &corpus::message(700, 77));
    daemon.stop();
    let refused =
        daemon.posthouse(&["store", "rebuild", "--config", daemon.configuration_file().to_str().unwrap()]);
    assert!(!refused.status.success() && refused.stderr.contains("not empty"), "{}", refused.stderr);
    lose_database(&daemon);
    let dry = rebuild(&daemon, &["--dry-run"]);
    assert!(!daemon.data_dir().join("metadata.db").exists());
    let report = rebuild(&daemon, &[]);
    assert_eq!((&dry["messages"], &dry["lost_messages"]), (&report["messages"], &report["lost_messages"]));
    assert_eq!((&report["mailboxes"], &report["lost_messages"]), (&3.into(), &1.into()), "{report}");
    assert_eq!(report["lost"][0]["address"], BOB);
    assert_eq!(
        (&report["customers"], &report["domains"], &report["aliases"]),
        (&3.into(), &2.into(), &1.into())
    );
    assert_eq!(report["recovered"], 0, "{report}");
    let count: usize = before.values().map(Vec::len).sum();
    assert_eq!(report["messages"], count, "{report}");
    daemon.start_again();
    check_restored(&daemon, &before);
    assert_ne!(uid_validity(&daemon, ALICE), validity);
    assert_eq!(daemon.json(&["mailbox", "show", CAROL])[0]["customer"], "acme/sub");
}

/// Mail that is in packs younger than the catalogs must not come to anybody but the provider; and the database may be
/// another afterwards.
#[test]
fn mail_that_no_catalog_knows_goes_to_the_provider() {
    let mut daemon = Daemon::start();
    furnish(&daemon);
    daemon.posthouse(&["store", "pack"]).ok();
    let before = everything(&daemon);
    let (catalogs, aside) = (daemon.data_dir().join("stores/main/catalogs"), daemon.dir().join("aside"));
    copy(&catalogs, &aside);
    let stray = attached(9);
    daemon.deliver(CAROL, &stray);
    daemon.posthouse(&["store", "pack"]).ok();
    daemon.kill();
    std::fs::remove_dir_all(&catalogs).unwrap();
    copy(&aside, &catalogs);
    lose_database(&daemon);
    let other = Postgres::start();
    if let Some(other) = &other {
        let file = std::fs::read_to_string(daemon.configuration_file()).unwrap();
        let file = file.replace(&daemon.database_url(), &other.url());
        std::fs::write(daemon.configuration_file(), file).unwrap();
    }
    let report = rebuild(&daemon, &[]);
    assert_eq!((&report["recovered"], &report["lost_messages"]), (&1.into(), &0.into()), "{report}");
    let place = report["recovered_in"].as_str().unwrap().to_owned();
    daemon.start_again();
    check_restored(&daemon, &before);
    daemon.posthouse_with_input(&["mailbox", "password", &place, "--password-stdin"], PASSWORD).ok();
    let recovered = messages(&daemon, &place, "Recovered");
    assert_eq!(recovered.len(), 1);
    assert_eq!(recovered[0].2, stray);
    daemon.stop();
}

/// Some catalogs and a pack are damaged: the others come back.
#[test]
fn damage_is_told_and_keeps_nothing_else() {
    let mut daemon = Daemon::start();
    furnish(&daemon);
    daemon.posthouse(&["store", "pack"]).ok();
    let before = everything(&daemon);
    daemon.stop();
    let store = daemon.data_dir().join("stores/main");
    let current = store.join("catalogs/CURRENT");
    let mut bytes = std::fs::read(&current).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&current, bytes).unwrap();
    lose_database(&daemon);
    let report = rebuild(&daemon, &[]);
    assert!(report["stores"][0]["damaged"][0].as_str().unwrap().contains("CURRENT"), "{report}");
    assert_eq!(report["mailboxes"], 3, "the catalogs themselves are there: {report}");
    daemon.start_again();
    set_passwords(&daemon);
    assert!(everything(&daemon) == before);
    daemon.stop();
    // A pack is damaged in one place, and every catalog.
    lose_database(&daemon);
    let pack = daemon.pack_files().into_iter().next().unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let report = rebuild(&daemon, &[]);
    let (kept, lost) = (report["messages"].as_u64().unwrap(), report["lost_messages"].as_u64().unwrap());
    assert!(lost >= 1 && kept >= 20, "{report}");
    assert_eq!(kept + lost, before.values().map(Vec::len).sum::<usize>() as u64, "{report}");
    daemon.start_again();
    assert_eq!(daemon.json(&["quota", "verify"]).remove(0)["drift"], 0);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Gives the customer a dictionary of its own, packs, writes catalogs, sends all packs away.
async fn offload(url: &str, folder: &Path) {
    let database = Database::open(url).await.unwrap();
    let (clock, metrics) = (Clock::system(), Metrics::new());
    let now = clock.now();
    let start = database.write(Priority::Interactive, move |conn| {
        Box::pin(async move {
            let learned: Vec<u8> = corpus::message(9_000, 100);
            dictionary::replace(conn, CustomerId(3), &learned, now).await?;
            instance::node_start(conn, "test", now).await
        })
    });
    let epoch: Result<i64> = start.await;
    let node = Node { id: "test".to_owned(), epoch: epoch.unwrap() };
    let bodies =
        Bodies::new(Volumes::new(database.clone(), folder.to_owned(), metrics), Codec::default(), node);
    let packer = Packer::new(bodies.clone(), PackerSettings::default());
    packer.pack_everything(now).await.unwrap();
    let volume = bodies.volumes().get(StoreId(1)).await.unwrap();
    Catalogs::new(bodies.clone()).write(&volume, now).await.unwrap();
    let offloader = Offloader::new(bodies.clone());
    let done = offloader.offload_now(StoreId(1), now, &Progress::default()).await.unwrap();
    assert!(done.uploaded > 0 && done.removed > 0, "{done:?}");
}

/// Packs, catalogs and dictionaries are in object storage alone: of the machine nothing is left but its configuration.
#[test]
fn store_is_rebuilt_from_object_storage_alone() {
    let server = S3Server::start();
    let configuration = format!(
        "[[store]]\nname = \"main\"\npath = \"stores/main\"\n[store.offload]\nendpoint = \"{}\"\nbucket = \"{}\"\n\
         prefix = \"a/b\"\naccess_key = \"{}\"\nsecret_key = \"{}\"\n",
        server.endpoint(),
        s3::BUCKET,
        s3::ACCESS_KEY,
        s3::SECRET_KEY
    );
    let mut daemon = Daemon::with(Setup { configuration, ..Setup::default() });
    furnish(&daemon);
    let before = everything(&daemon);
    daemon.stop();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(offload(&daemon.database_url(), daemon.dir()));
    let store = daemon.dir().join("stores/main");
    assert!(!server.objects("a/b/dictionaries").is_empty(), "the dictionary is in use");
    std::fs::remove_dir_all(&store).unwrap();
    lose_database(&daemon);
    let report = rebuild(&daemon, &[]);
    assert_eq!(
        (&report["mailboxes"], &report["lost_messages"], &report["recovered"]),
        (&3.into(), &0.into(), &0.into()),
        "{report}"
    );
    assert_eq!(report["stores"][0]["damaged"], serde_json::json!([]), "{report}");
    daemon.start_again();
    check_restored(&daemon, &before);
}
