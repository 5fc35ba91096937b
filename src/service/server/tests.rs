//! What nodes tell of themselves, on SQLite and on PostgreSQL.

use std::time::Duration;

use serde_json::{Value, json};

use crate::base::clock::{Clock, Timestamp};
use crate::service::mailstore::tests::postgres::Postgres;
use crate::service::registry::{Management, ManagementOptions, RunOptions, operation};
use crate::service::server::orders::{Order, Orders};
use crate::storage::StorageError;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::instance::{node_seen, node_start};
use crate::storage::metadata::lane::{Priority, Work};
use crate::storage::metadata::node::{self, Disk, Sample};
use crate::storage::metadata::pack::Node;
use crate::storage::metadata::sql::Conn;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const MINUTE: Duration = Duration::from_secs(60);

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let url = format!("sqlite:{}", dir.path().join("metadata.db").display());
                super::$name(super::World::open(&url).await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let Some(postgres) = super::Postgres::start() else { return };
                super::$name(super::World::open(&postgres.url()).await).await;
            })+
        }
    };
}

on_both!(
    history_is_told_in_pages_and_kept_for_a_day,
    nodes_are_serving_draining_stopped_or_gone,
    orders_reach_their_node_once,
    backlog_counts_bodies_and_packs,
);

struct World {
    database: Database,
    clock: Clock,
    management: Management,
}

impl World {
    async fn open(url: &str) -> Self {
        let database = Database::open(url).await.unwrap();
        let clock = Clock::manual(NOW);
        let options = ManagementOptions { system_uids: vec![0], ..ManagementOptions::default() };
        let management = Management::open(database.clone(), clock.clone(), options).await.unwrap();
        Self { database, clock, management }
    }

    async fn write<T, F>(&self, work: F) -> T
    where
        F: for<'c> Fn(&'c mut Conn) -> Work<'c, T, StorageError> + Send + Sync + 'static,
        T: Send + 'static,
    {
        self.database.write(Priority::Interactive, work).await.unwrap()
    }

    async fn start(&self, node: &'static str) -> i64 {
        let now = self.clock.now();
        self.write(move |conn| Box::pin(node_start(conn, node, now))).await
    }

    async fn run(&self, name: &str, request: Value) -> Result<Value, &'static str> {
        let system = self.management.authenticate_peer(0).await.unwrap().unwrap();
        let context = system.context(None, "request".to_owned(), None);
        let run = operation(name).unwrap().run;
        let outcome = run(&self.management, context, request, RunOptions::default()).await;
        outcome.map_err(|error| error.code())
    }

    async fn state(&self, node: &str) -> Value {
        self.run("server.show", json!({ "node": node })).await.unwrap()["state"].clone()
    }
}

fn sample(minute: u32) -> Sample {
    let number = i64::from(minute);
    let disk = Disk { octets: 1_000, free_octets: 1_000 - number, used_octets: number };
    Sample {
        at: NOW.plus(MINUTE * minute).0,
        epoch: 1,
        cpu_permille: number * 10,
        connections: [number, 0, 2, 0, 0, 0, 1, 0],
        waiting: [3, 2, 1, 0],
        disks: [(0, disk)].into(),
        ..Sample::default()
    }
}

async fn history_is_told_in_pages_and_kept_for_a_day(world: World) {
    world.start("one").await;
    world.start("two").await;
    for minute in 0..150 {
        world
            .write(move |conn| {
                Box::pin(async move {
                    node::keep(conn, "one", &sample(minute)).await?;
                    // The first of a minute counts.
                    node::keep(conn, "one", &Sample { cpu_permille: 7, ..sample(minute) }).await
                })
            })
            .await;
    }
    world.clock.advance(MINUTE * 150);
    let mut told = Vec::new();
    let mut asked = json!({ "node": "one", "since": "1d", "limit": 60 });
    loop {
        let page = world.run("server.history", asked.clone()).await.unwrap();
        told.extend(page["items"].as_array().unwrap().clone());
        match page.get("cursor") {
            Some(cursor) => asked["cursor"] = cursor.clone(),
            None => break,
        }
    }
    assert_eq!(told.len(), 150);
    assert_eq!(told[149]["cpu_percent"], 149.0);
    assert_eq!(told[149]["connections"]["lmtp"], 149);
    assert_eq!(told[149]["connections"]["imap"], 2);
    assert_eq!(told[149]["waiting"]["deliveries"], 3);
    assert_eq!(told[149]["disks"], json!([{ "octets": 1_000, "free_octets": 851, "used_octets": 149 }]));
    let recent = world.run("server.history", json!({ "node": "one", "since": "10m" })).await.unwrap();
    assert_eq!(recent["items"].as_array().unwrap().len(), 10);
    let other = world.run("server.history", json!({ "node": "two" })).await.unwrap();
    assert_eq!(other["items"], json!([]));
    let shown = world.run("server.list", json!({})).await.unwrap();
    assert_eq!(shown["items"][0]["used"]["cpu_percent"], 149.0);
    assert!(shown["items"][1].get("used").is_none());

    let before = NOW.plus(MINUTE * 140);
    let prune = || world.write(move |conn| Box::pin(node::prune(conn, before)));
    let mut removed = 0;
    loop {
        match prune().await {
            0 => break,
            count => {
                assert!(count <= 256, "a slice is short");
                removed += count;
            }
        }
    }
    assert_eq!(removed, 280);
    let left = world.run("server.history", json!({ "node": "one", "since": "1d" })).await.unwrap();
    assert_eq!(left["items"].as_array().unwrap().len(), 10);
}

async fn nodes_are_serving_draining_stopped_or_gone(world: World) {
    let epoch = world.start("one").await;
    world.start("two").await;
    assert_eq!(world.state("one").await, "serving");
    world.clock.advance(MINUTE);
    let now = world.clock.now();
    world.write(move |conn| Box::pin(node::set_state(conn, "one", epoch, "draining", now))).await;
    world.write(move |conn| Box::pin(node_seen(conn, "two", now))).await;
    assert_eq!(world.state("one").await, "draining");
    world.clock.advance(MINUTE + MINUTE / 2);
    assert_eq!(world.state("one").await, "draining");
    world.clock.advance(Duration::from_secs(1));
    assert_eq!((world.state("one").await, world.state("two").await), (json!("gone"), json!("gone")));
    // What an ended start still writes counts for nothing.
    let again = world.start("one").await;
    world.write(move |conn| Box::pin(node::set_state(conn, "one", epoch, "stopped", now))).await;
    assert_eq!(world.state("one").await, "serving");
    let now = world.clock.now();
    world.write(move |conn| Box::pin(node::set_state(conn, "one", again, "stopped", now))).await;
    world.clock.advance(MINUTE * 60);
    let shown = world.run("server.show", json!({ "node": "one" })).await.unwrap();
    assert_eq!((&shown["state"], &shown["since"]), (&json!("stopped"), &json!(now.to_string())));
    assert!(shown.get("uptime_secs").is_none());
    assert_eq!(world.run("server.show", json!({ "node": "three" })).await, Err("not_found"));
}

async fn orders_reach_their_node_once(world: World) {
    let epoch = world.start("one").await;
    world.start("two").await;
    let node = Node { id: "one".to_owned(), epoch };
    let orders = Orders::new(world.database.clone(), world.clock.clone(), node);
    let asked = world.run("server.restart", json!({ "node": "one" })).await.unwrap();
    assert_eq!((&asked["epoch"], &asked["wanted"]), (&json!(epoch), &json!("restart")));
    assert_eq!(orders.next().await, Order::Restart);
    orders.failed("no such program").await;
    let shown = world.run("server.show", json!({ "node": "one" })).await.unwrap();
    assert_eq!(shown["restart_error"], "no such program");
    assert!(shown.get("wanted").is_none() && shown["state"] == "serving", "{shown}");
    // The next order forgets it.
    world.run("server.stop", json!({ "node": "one" })).await.unwrap();
    assert_eq!(orders.next().await, Order::Stop);
    orders.entered("draining").await;
    let shown = world.run("server.show", json!({ "node": "one" })).await.unwrap();
    assert!(shown.get("wanted").is_none() && shown.get("restart_error").is_none(), "{shown}");
    assert_eq!(world.run("server.restart", json!({ "node": "one" })).await, Err("conflict"));
    world.clock.advance(MINUTE * 2);
    assert_eq!(world.run("server.stop", json!({ "node": "two" })).await, Err("conflict"), "it is gone");
    // A start answers what was asked of the one before.
    world.start("one").await;
    let none = world.write(|conn| Box::pin(node::wanted(conn, "one"))).await;
    assert_eq!(none, None);
}

async fn backlog_counts_bodies_and_packs(world: World) {
    let backlog = world.write(|conn| {
        Box::pin(async move {
            let text = "INSERT INTO store (id, name, path, created_at) VALUES (7, 'main', 's', 0)";
            conn.execute(text, Vec::new()).await?;
            for id in 1..=2_500_i64 {
                let text =
                    "INSERT INTO fresh_body (body_id, codec, dictionary_id, data) VALUES ($1, 0, 0, $2)";
                conn.execute(text, crate::params![id, vec![0_u8; 3]]).await?;
            }
            for (name, remote) in [("a", "absent"), ("b", "uploading"), ("c", "present")] {
                let text = "INSERT INTO pack (public_id, store_id, octets, bodies, created_at, remote_state)
                            VALUES ($1, 7, 10, 1, 0, $2)";
                conn.execute(text, crate::params![name, remote]).await?;
            }
            let without = node::backlog(conn, "one", &[]).await?;
            let with = node::backlog(conn, "one", &[7]).await?;
            let used = node::stores_used(conn).await?;
            Ok((without, with, used))
        })
    });
    let (without, with, used) = backlog.await;
    assert_eq!((without.fresh_bodies, without.fresh_octets, without.offload_packs), (2_500, 7_500, 0));
    assert_eq!((with.offload_packs, with.offload_octets), (2, 20));
    assert_eq!(used, [(7, "s".to_owned(), 30)]);
}
