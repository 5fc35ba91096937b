//! Sessions, stores, recounts, housekeeping and backups, through the registry of operations, on SQLite and PostgreSQL.

use posthouse::base::telemetry::metrics::Metrics;
use posthouse::storage::volumes::Volumes;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use posthouse::base::backup_settings::BackupSettings;
use posthouse::base::clock::{Clock, Timestamp};
use posthouse::base::id::{BodyId, MailboxId};
use posthouse::base::progress::Progress;
use posthouse::base::store_settings::{PackingSettings, StoreSettings};
use posthouse::service::audit::Sealer;
use posthouse::service::backup::BackupSetup;
use posthouse::service::context::{Authentication, Service};
use posthouse::service::error::ServiceError;
use posthouse::service::housekeeping::{Housekeeping, Kept};
use posthouse::service::jobs::Runner;
use posthouse::service::login::Login;
use posthouse::service::mailstore::{MailStore, MailStoreLimits};
use posthouse::service::registry::{Management, ManagementOptions, RunOptions, operation};
use posthouse::service::server::meter::Meter;
use posthouse::storage::backup::{Target, fetch_database, restore_packs};
use posthouse::storage::bodies::Bodies;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::delivery::{Deliver, DeliverTarget, Packed, TraceOrigin};
use posthouse::storage::metadata::instance::{StoreSetup, ensure_stores, node_start};
use posthouse::storage::metadata::lane::Priority;
use posthouse::storage::metadata::pack::Node;
use posthouse::storage::pack::Codec;
use posthouse::storage::packer::{Packer, PackerSettings};
use posthouse::storage::{Result, StorageError};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::support::postgres::Postgres;

const NOW: Timestamp = Timestamp::from_secs(1_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const WORD: &str = "correct horse battery";

#[path = "system/clock_steps.rs"]
mod clock_steps;
#[path = "system/counted.rs"]
mod counted;
#[path = "system/expunged.rs"]
mod expunged;
#[path = "system/guarantees.rs"]
mod guarantees;
#[path = "system/legal_hold.rs"]
mod legal_hold;
#[path = "system/login_log.rs"]
mod login_log;
#[path = "system/metered.rs"]
mod metered;
#[path = "system/moved_and_purged.rs"]
mod moved_and_purged;
#[path = "system/notices.rs"]
mod notices;
#[path = "system/random_charges.rs"]
mod random_charges;
#[path = "system/recounted.rs"]
mod recounted;
#[path = "system/sealed.rs"]
mod sealed;
#[path = "system/watched.rs"]
mod watched;

use clock_steps::*;
use counted::{
    limit_on_mailboxes_asks_the_number_that_is_kept,
    numbers_at_customers_with_limits_are_kept_through_every_change,
};
use expunged::expunged_messages_hold_their_packs_until_their_time_is_over;
use guarantees::{
    deliveries_at_once_stop_exactly_at_what_a_guarantee_leaves,
    guarantee_is_reserved_above_and_no_one_else_can_take_it, overcommit_bounds_the_limits_right_below,
};
use legal_hold::*;
use login_log::*;
use metered::{bills_are_sums_of_rounded_lines_by_the_nearest_prices, use_adds_up_by_the_hour_across_moves};
use moved_and_purged::moved_mail_outlives_the_customer_that_had_it;
use notices::*;
use random_charges::random_changes_equal_a_naive_model;
use recounted::recount_is_clean_under_deliveries_and_repairs_what_drifted;
use sealed::*;
use watched::nearing_a_limit_is_told_once_for_each_crossing;

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let url = format!("sqlite:{}", dir.path().join("metadata.db").display());
                super::$name(super::World::new(&url, dir.path()).await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let Some(postgres) = super::Postgres::start() else { return };
                let dir = tempfile::tempdir().unwrap();
                super::$name(super::World::new(&postgres.url(), dir.path()).await).await;
            })+
        }
    };
}

on_both!(
    sessions_are_listed_and_closed_within_the_subtree_only,
    stores_and_server_are_shown_to_the_system_only,
    recount_is_clean_under_deliveries_and_repairs_what_drifted,
    deleted_objects_are_purged_after_their_time_with_charge_and_bodies,
    expunged_messages_hold_their_packs_until_their_time_is_over,
    legal_hold_keeps_everything_until_it_is_released,
    legal_hold_on_a_mailbox_keeps_that_one_alone,
    logins_are_counted_by_service_source_and_hour,
    further_sources_of_an_hour_share_a_line,
    logins_that_cannot_be_written_are_written_later,
    logins_stay_with_the_customer_and_go_after_their_time,
    tampering_with_the_audit_trail_is_located,
    audit_trail_of_a_restored_database_tells_what_is_gone,
    tampering_with_what_was_not_published_yet_is_not_claimed_to_be_found,
    records_are_proven_to_who_has_nothing_but_the_proof,
    proofs_tell_neither_how_deep_a_customer_is_nor_what_others_did,
    what_was_pruned_is_told_by_a_sealed_record_and_nothing_else,
    password_set_by_an_administrator_ends_sessions_and_is_told_in_the_mailbox,
    notice_reaches_each_mailbox_once_however_often_it_is_tried,
    notice_waits_for_room_and_goes_with_its_mailbox,
    notice_for_a_customer_goes_to_its_contact_when_it_may_be_disturbed,
    guarantee_is_reserved_above_and_no_one_else_can_take_it,
    overcommit_bounds_the_limits_right_below,
    deliveries_at_once_stop_exactly_at_what_a_guarantee_leaves,
    numbers_at_customers_with_limits_are_kept_through_every_change,
    limit_on_mailboxes_asks_the_number_that_is_kept,
    random_changes_equal_a_naive_model,
    use_adds_up_by_the_hour_across_moves,
    bills_are_sums_of_rounded_lines_by_the_nearest_prices,
    nearing_a_limit_is_told_once_for_each_crossing,
    moved_mail_outlives_the_customer_that_had_it,
    metering_counts_each_hour_once_whichever_way_the_clock_steps,
    trail_is_sealed_and_verified_whichever_way_the_clock_steps,
    warnings_and_purges_survive_a_clock_that_steps,
);

/// A provider with the customers `a` and `b`, each with a domain, a mailbox `x` and an administrator.
struct World {
    database: Database,
    management: Management,
    login: Login,
    bodies: Bodies,
    sealer: Arc<Sealer>,
    clock: Clock,
    system: Authentication,
    a: Authentication,
    b: Authentication,
}

impl World {
    async fn new(url: &str, folder: &Path) -> Self {
        let database = Database::open(url).await.unwrap();
        let clock = Clock::manual(NOW);
        let write = database.write(Priority::Interactive, |conn| {
            Box::pin(async move {
                let store = StoreSetup {
                    name: "main".to_owned(),
                    path: "stores/main".to_owned(),
                    settings: StoreSettings::default(),
                    fixed: Vec::new(),
                };
                ensure_stores(conn, &[store], NOW).await?;
                node_start(conn, "node", NOW).await
            })
        });
        let epoch: Result<i64> = write.await;
        let node = Node { id: "node".to_owned(), epoch: epoch.unwrap() };
        let bodies = Bodies::new(
            Volumes::new(database.clone(), folder.to_owned(), Metrics::new()),
            Codec::default(),
            node,
        );
        let login = Login::new(database.clone(), clock.clone());
        let options = ManagementOptions { system_uids: vec![0], ..ManagementOptions::default() };
        let management = Management::open(database.clone(), clock.clone(), options).await.unwrap();
        management.attach_login(login.clone());
        management.attach_bodies(bodies.clone());
        let meter = Meter::new(database.clone(), bodies.clone(), Metrics::new(), clock.clone());
        management.attach_meter(Arc::new(meter));
        let packer = Packer::new(bodies.clone(), PackerSettings::default());
        management.attach_packer(Arc::new(packer));
        let (settings, scratch) = (BackupSettings::default(), folder.join("scratch"));
        management.attach_backup(BackupSetup { settings, scratch, metrics: Metrics::new() });
        let sealer = sealer(&database, &clock, folder);
        management.attach_sealer(Arc::clone(&sealer));
        let system = management.authenticate_peer(0).await.unwrap().unwrap();
        let mut administrators = Vec::new();
        for name in ["a", "b"] {
            let run = |operation, fields| run(&management, &system, operation, fields);
            let domain = format!("{name}.example");
            run("customer.create", json!({ "path": name, "domain": domain })).await.unwrap();
            let mailbox = json!({ "address": format!("x@{domain}"), "password": WORD });
            run("mailbox.create", mailbox).await.unwrap();
            let administrator = json!({ "name": name, "customer": name, "role": "admin" });
            let made = run("administrator.create", administrator).await.unwrap();
            let token = made["token"].as_str().unwrap();
            administrators.push(management.authenticate_token(token, None).await.unwrap().unwrap());
        }
        let (b, a) = (administrators.pop().unwrap(), administrators.pop().unwrap());
        Self { database, management, login, bodies, sealer, clock, system, a, b }
    }

    async fn run(
        &self,
        who: &Authentication,
        operation: &str,
        fields: Value,
    ) -> std::result::Result<Value, ServiceError> {
        run(&self.management, who, operation, fields).await
    }

    /// Runs an operation that starts a job, and the job; answers its report, or why it failed.
    async fn job(
        &self,
        who: &Authentication,
        operation: &str,
        fields: Value,
    ) -> std::result::Result<Value, String> {
        let job = self.run(who, operation, fields).await.map_err(|error| error.to_string())?;
        Runner::new(&self.management, self.bodies.node().clone()).run_all().await.unwrap();
        let ended = self.run(who, "job.show", json!({ "id": job["id"] })).await.unwrap();
        match ended["state"].as_str() {
            Some("done") => Ok(ended["report"].clone()),
            _ => Err(ended["error"]["detail"].as_str().unwrap_or_default().to_owned()),
        }
    }

    async fn execute(&self, text: &'static str) {
        let write = self.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move { conn.execute(text, Vec::new()).await })
        });
        let changed: Result<u64> = write.await;
        changed.unwrap();
    }

    async fn number(&self, text: &'static str) -> i64 {
        let read = self.database.read(|conn| {
            Box::pin(
                async move { conn.row(text, Vec::new()).await?.ok_or(StorageError::Gone("row"))?.int(0) },
            )
        });
        read.await.unwrap()
    }

    async fn deliver(&self, mailbox: i64, original: &Bytes) {
        deliver(&self.database, &self.bodies, mailbox, original).await;
    }

    fn mail_store(&self) -> MailStore {
        let limits = MailStoreLimits { message_octets_max: 1 << 20, undelete_days: 30 };
        MailStore::new(self.database.clone(), self.clock.clone(), self.bodies.clone(), limits)
    }

    fn housekeeping(&self) -> Housekeeping {
        let store = self.mail_store();
        let kept = Kept { trace_days: 14, undelete_days: 30 };
        Housekeeping::new(self.database.clone(), store, self.clock.clone(), "node".to_owned(), kept)
    }
}

async fn run(
    management: &Management,
    who: &Authentication,
    name: &str,
    fields: Value,
) -> std::result::Result<Value, ServiceError> {
    let operation = operation(name).unwrap_or_else(|| panic!("no operation {name}"));
    let context = who.context(None, "request".to_owned(), None);
    (operation.run)(management, context, fields, RunOptions::default()).await
}

async fn deliver(database: &Database, bodies: &Bodies, mailbox: i64, original: &Bytes) {
    let mailbox = MailboxId(mailbox);
    let place = bodies.place(original.clone(), &[mailbox], NOW).await.unwrap();
    let prefix: Packed = bodies.compress(b"Return-Path: <>\r\n");
    let target = DeliverTarget { mailbox, prefix, recipient: String::new() };
    let deliver = Deliver {
        at: NOW,
        octets: original.len() as u64,
        body: place.clone(),
        summary: bodies.compress(b"summary"),
        targets: vec![target],
        all_or_nothing: false,
        trace: TraceOrigin::default(),
        notice_mail: None,
    };
    assert!(database.deliver(deliver).await.unwrap()[0].is_ok());
    bodies.settle(&place).await.unwrap();
}

async fn sessions_are_listed_and_closed_within_the_subtree_only(world: World) {
    let word = SecretString::from(WORD);
    let mut sessions = Vec::new();
    for name in ["x@a.example", "x@b.example"] {
        sessions.push(world.login.password(Service::Imap, name, &word, None).await.unwrap());
    }
    let ids = |answer: &Value| -> Vec<String> {
        let items = answer["items"].as_array().unwrap();
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    let all = world.run(&world.system, "session.list", json!({})).await.unwrap();
    assert_eq!(ids(&all).len(), 2);
    let own = world.run(&world.a, "session.list", json!({})).await.unwrap();
    assert_eq!(ids(&own), [sessions[0].id()]);
    assert_eq!(own["items"][0]["address"], "x@a.example");
    // What is a neighbour's and what does not exist are one answer.
    for (theirs, nobodys) in [
        (json!({ "address": "x@b.example" }), json!({ "address": "y@b.example" })),
        (json!({ "domain": "b.example" }), json!({ "domain": "c.example" })),
        (json!({ "customer": "b" }), json!({ "customer": "c" })),
    ] {
        let mut answers = Vec::new();
        for fields in [&theirs, &nobodys] {
            let refused = world.run(&world.a, "session.list", fields.clone()).await.unwrap_err().to_string();
            let word = fields.as_object().unwrap().values().next().unwrap().as_str().unwrap();
            answers.push(refused.replace(&format!(" {word} "), " NAME "));
        }
        assert_eq!(answers[0], answers[1]);
        assert!(answers[0].ends_with("NAME does not exist"), "{answers:?}");
    }
    let close = json!({ "id": sessions[1].id() });
    let refused = world.run(&world.a, "session.close", close.clone()).await.unwrap_err();
    assert_eq!(refused.to_string(), format!("session {} does not exist", sessions[1].id()));
    let dry = operation("session.close").unwrap().run;
    let options = RunOptions { dry_run: true, ..RunOptions::default() };
    let context = world.b.context(None, "request".to_owned(), None);
    dry(&world.management, context, close.clone(), options).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), sessions[1].ended()).await.is_err());
    let closed = world.run(&world.b, "session.close", close).await.unwrap();
    assert_eq!(closed["closed"], 1);
    tokio::time::timeout(Duration::from_secs(20), sessions[1].ended()).await.unwrap();
    let closed = world.run(&world.a, "session.close", json!({ "address": "x@a.example" })).await.unwrap();
    assert_eq!(closed["closed"], 1);
    tokio::time::timeout(Duration::from_secs(20), sessions[0].ended()).await.unwrap();
}

async fn stores_and_server_are_shown_to_the_system_only(world: World) {
    let text = Bytes::from_static(b"Subject: a\r\n\r\nsome text\r\n");
    for _ in 0..3 {
        world.deliver(1, &text).await;
    }
    let packer = Packer::new(world.bodies.clone(), PackerSettings::default());
    packer.pack_everything(NOW).await.unwrap();
    world.deliver(2, &text).await;
    let stores = world.run(&world.system, "store.list", json!({})).await.unwrap();
    let store = &stores["items"][0];
    assert_eq!(store["name"], "main");
    assert_eq!(
        (&store["packs"], &store["packed_bodies"], &store["fresh_bodies"]),
        (&json!(1), &json!(3), &json!(1))
    );
    assert_eq!(store["octets"], json!(4 * text.len()));
    assert_eq!((&store["local_octets"], &store["remote_octets"]), (&store["pack_octets"], &json!(0)));
    let saved = store["octets"].as_i64().unwrap() - store["stored_octets"].as_i64().unwrap();
    assert_eq!(store["saved_octets"], json!(saved));
    // Alone it is shown with its ETag and the packs in which damage was found.
    let mut shown = world.run(&world.system, "store.show", json!({ "name": "main" })).await.unwrap();
    let members = shown.as_object_mut().unwrap();
    assert!(members.remove("etag").is_some_and(|etag| etag.is_string()));
    assert_eq!(members.remove("damaged"), Some(json!([])));
    assert_eq!(shown, *store);
    assert!(world.run(&world.system, "store.show", json!({ "name": "none" })).await.is_err());
    let fresh = world.number("SELECT count(*) FROM fresh_body").await;
    assert!(fresh > 0);
    let packed = world.job(&world.system, "store.pack", json!({})).await.unwrap();
    assert_eq!((&packed["packs"], &packed["bodies"]), (&json!(1), &json!(fresh)));
    assert_eq!(world.number("SELECT count(*) FROM fresh_body").await, 0);
    let packed = world.job(&world.system, "store.pack", json!({})).await.unwrap();
    assert_eq!(packed["packs"], json!(0));
    let server = world.run(&world.system, "server.show", json!({})).await.unwrap();
    assert_eq!((&server["node"], &server["epoch"]), (&json!("node"), &json!(1)));
    assert!(server["database_octets"].as_u64().unwrap() > 0);
    // Whoever may not gets the same answer whether the store exists or not.
    for (operation, fields) in [
        ("store.list", json!({})),
        ("store.show", json!({ "name": "main" })),
        ("store.show", json!({ "name": "none" })),
        ("store.pack", json!({})),
        ("server.show", json!({})),
        ("backup.create", json!({ "dir": "/nowhere" })),
        ("backup.verify", json!({ "dir": "/nowhere" })),
        ("backup.test", json!({ "dir": "/nowhere" })),
        ("backup.prune", json!({ "dir": "/nowhere" })),
        ("backup.list", json!({})),
        ("backup.show", json!({ "id": "none" })),
    ] {
        let refused = world.run(&world.a, operation, fields).await.unwrap_err();
        assert!(matches!(refused, ServiceError::Forbidden { .. }), "{operation}: {refused}");
    }
}

async fn deleted_objects_are_purged_after_their_time_with_charge_and_bodies(world: World) {
    world.execute("UPDATE customer SET bytes_max = 1000000000 WHERE parent_id IS NULL").await;
    world
        .execute("INSERT INTO customer_usage SELECT id, 0, 0, 0 FROM customer WHERE parent_id IS NULL")
        .await;
    let text = Bytes::from_static(b"Subject: a\r\n\r\nsome text\r\n");
    // More than one slice.
    for _ in 0..300 {
        world.deliver(1, &text).await;
    }
    world.deliver(2, &text).await;
    let one = world.number("SELECT bytes_used FROM mailbox WHERE id = 2").await;
    world.run(&world.system, "customer.delete", json!({ "path": "a" })).await.unwrap();
    let housekeeping = world.housekeeping();
    let early = housekeeping.pass(NOW.plus(DAY * 29)).await.unwrap();
    assert_eq!((early.mailboxes, early.domains, early.customers), (0, 0, 0));
    assert_eq!(early.traces, 301);
    assert_eq!(world.number("SELECT bytes_used FROM customer_usage").await, 301 * one);
    let removed = housekeeping.pass(NOW.plus(DAY * 31)).await.unwrap();
    assert_eq!((removed.mailboxes, removed.domains, removed.customers), (1, 1, 1));
    for (count, table) in [
        (1, "SELECT count(*) FROM message"),
        (1, "SELECT count(*) FROM body"),
        (1, "SELECT count(*) FROM summary"),
        (1, "SELECT count(*) FROM message_prefix"),
        (1, "SELECT count(*) FROM mailbox"),
        (1, "SELECT count(*) FROM domain"),
        (2, "SELECT count(*) FROM customer"),
        (1, "SELECT count(*) FROM administrator"),
        (1, "SELECT count(DISTINCT mailbox_id) FROM folder"),
    ] {
        assert_eq!(world.number(table).await, count, "{table}");
    }
    assert_eq!(world.number("SELECT bytes_used FROM customer_usage").await, one);
    let answer = world.job(&world.system, "quota.verify", json!({})).await.unwrap();
    assert_eq!(answer["drift"], 0, "{answer}");
    assert_eq!(housekeeping.pass(NOW.plus(DAY * 31)).await.unwrap().mailboxes, 0);
}

/// A message of its own, some larger than what stays in the database.
fn original(number: usize) -> Bytes {
    let mut text = format!("Subject: {number}\r\n\r\n").into_bytes();
    if number.is_multiple_of(50) {
        text.extend(posthouse::base::id::random_bytes(2 << 20));
    }
    Bytes::from(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_under_deliveries_holds_everything_from_before_and_shows_a_flipped_bit() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("metadata.db").display());
    let world = World::new(&url, dir.path()).await;
    let mut before = Vec::new();
    for number in 0..120 {
        before.push(original(number));
        world.deliver(1, &before[number]).await;
        if number == 60 {
            Packer::new(world.bodies.clone(), PackerSettings::default()).pack_everything(NOW).await.unwrap();
        }
    }
    let newest = world.number("SELECT max(id) FROM body").await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (database, bodies) = (world.database.clone(), world.bodies.clone());
    let sender = tokio::spawn(async move {
        let mut number = 1_000;
        while !*stopped.borrow() {
            number += 1;
            deliver(&database, &bodies, 2, &original(number)).await;
        }
    });
    let target = dir.path().join("backup");
    let taken = world.job(&world.system, "backup.create", json!({ "dir": target })).await.unwrap();
    stop.send(true).unwrap();
    sender.await.unwrap();
    assert!(taken["packs"].as_u64().unwrap() >= 4, "{taken}");
    assert_eq!(taken["missing"], json!([]));
    assert_eq!(world.number("SELECT count(*) FROM pin").await, 0);
    let good = world.job(&world.system, "backup.verify", json!({ "dir": target })).await.unwrap();
    assert_eq!(good["damaged"], json!([]));

    let restored = dir.path().join("restored");
    let id = taken["id"].as_str().unwrap();
    let back = Target::directory(&target, &Metrics::new());
    let progress = Progress::default();
    let manifest = back.manifest_of(id, &progress).await.unwrap();
    std::fs::create_dir(&restored).unwrap();
    fetch_database(&back, &manifest, &restored.join("metadata.db"), &progress).await.unwrap();
    let folders = HashMap::from([("main".to_owned(), restored.join("stores/main/packs"))]);
    restore_packs(&back, &manifest, &folders, &progress).await.unwrap();
    let live = world;
    let world = World::reopen(&restored).await;
    let mut found = Vec::new();
    for id in 1..=newest {
        if let Ok(body) = world.bodies.read(BodyId(id)).await {
            found.push(body);
        }
    }
    for (number, wanted) in before.iter().enumerate() {
        assert!(found.contains(wanted), "message {number} is not in the backup");
    }
    let bodies = world.number("SELECT count(*) FROM body").await;
    let mut readable = 0;
    for id in 1..=world.number("SELECT max(id) FROM body").await {
        readable += i64::from(world.bodies.read(BodyId(id)).await.is_ok());
    }
    assert_eq!(readable, bodies);
    let answer = world.job(&world.system, "quota.verify", json!({})).await.unwrap();
    assert_eq!((&answer["drift"], &answer["mailboxes"]), (&json!(0), &json!(2)), "{answer}");

    // The second time only what is new is copied.
    live.clock.advance(DAY);
    let again = live.job(&live.system, "backup.create", json!({ "dir": target })).await.unwrap();
    let packs = |report: &Value, name: &str| report[name].as_u64().unwrap();
    assert!(packs(&again, "new_packs") < packs(&again, "packs"), "{again}");
    let listed = live.run(&live.system, "backup.list", json!({ "limit": 1 })).await.unwrap();
    assert_eq!(listed["items"][0]["id"], again["id"]);
    let next = json!({ "limit": 1, "cursor": listed["cursor"] });
    let listed = live.run(&live.system, "backup.list", next).await.unwrap();
    assert_eq!((&listed["items"][0]["id"], listed.get("cursor")), (&taken["id"], None));

    let pack =
        files(&target).into_iter().find(|file| file.extension().is_some_and(|end| end == "pack")).unwrap();
    let mut content = std::fs::read(&pack).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(&pack, content).unwrap();
    let bad = live.job(&live.system, "backup.verify", json!({ "dir": target })).await.unwrap();
    let below = pack.strip_prefix(&target).unwrap().display().to_string();
    assert_eq!(bad["damaged"], json!([below]));
    let shown = live.run(&live.system, "backup.show", json!({ "id": again["id"] })).await.unwrap();
    assert_eq!(shown["state"], "damaged", "{shown}");
    let full = json!({ "dir": restored });
    let refused = live.job(&live.system, "backup.create", full).await.unwrap_err();
    assert!(refused.contains("holds no backups"), "{refused}");
    let relative = live.run(&live.system, "backup.create", json!({ "dir": "x" })).await.unwrap_err();
    assert!(matches!(relative, ServiceError::Invalid { field: "dir", .. }));
    let nowhere = live.run(&live.system, "backup.create", json!({})).await.unwrap_err();
    assert!(nowhere.to_string().contains("[backup]"), "{nowhere}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_stay_while_a_pin_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("metadata.db").display());
    let world = World::new(&url, dir.path()).await;
    world.deliver(1, &original(0)).await;
    world.execute("UPDATE pack SET dead_bodies = bodies").await;
    world.execute("INSERT INTO pin VALUES ('p', 'node', 0, 1000000600000000)").await;
    let settings = PackerSettings {
        packing: Some(PackingSettings { grace_minutes: 0, ..StoreSettings::default().packing }),
    };
    let packer = Packer::new(world.bodies.clone(), settings);
    let packs =
        || files(dir.path()).into_iter().filter(|file| file.extension().is_some_and(|end| end == "pack"));
    assert_eq!(packer.remove_dead(NOW).await.unwrap(), 0);
    assert_eq!(packs().count(), 1);
    assert_eq!(packer.remove_dead(NOW.plus(Duration::from_secs(601))).await.unwrap(), 1);
    assert_eq!(packs().count(), 0);
}

impl World {
    /// The world in a restored directory.
    async fn reopen(folder: &Path) -> Self {
        let url = format!("sqlite:{}", folder.join("metadata.db").display());
        let database = Database::open(&url).await.unwrap();
        let clock = Clock::manual(NOW);
        let node = Node { id: "other".to_owned(), epoch: 1 };
        let bodies = Bodies::new(
            Volumes::new(database.clone(), folder.to_owned(), Metrics::new()),
            Codec::default(),
            node,
        );
        let login = Login::new(database.clone(), clock.clone());
        let options = ManagementOptions { system_uids: vec![0], ..ManagementOptions::default() };
        let management = Management::open(database.clone(), clock.clone(), options).await.unwrap();
        management.attach_login(login.clone());
        management.attach_bodies(bodies.clone());
        let system = management.authenticate_peer(0).await.unwrap().unwrap();
        let (a, b) = (system.clone(), system.clone());
        let sealer = sealer(&database, &clock, folder);
        Self { database, management, login, bodies, sealer, clock, system, a, b }
    }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}
