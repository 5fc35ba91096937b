//! The contract of jobs, on SQLite and on PostgreSQL, with work that does nothing but what is looked at.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{JobContext, Kind, Outcome, Runner, Stop, Work};
use crate::base::clock::{Clock, Timestamp};
use crate::base::id::CustomerId;
use crate::service::authority::Permission;
use crate::service::context::{Authentication, KeptContext};
use crate::service::error::ServiceError;
use crate::service::mailstore::tests::postgres::Postgres;
use crate::service::registry::{Management, ManagementOptions, RunOptions, operation};
use crate::storage::StorageError;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::instance::{node_seen, node_start};
use crate::storage::metadata::job::{self, Claimant, Ending, JobRow, NewJob};
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::pack::Node;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const PATIENCE: Duration = Duration::from_secs(30);

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let url = format!("sqlite:{}", dir.path().join("metadata.db").display());
                super::$name(super::World::open(&url).await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let Some(postgres) = super::Postgres::start() else { return };
                super::$name(super::World::open(&postgres.url()).await).await;
            })+
        }
    };
}

on_both!(
    jobs_run_and_report,
    job_of_a_dead_start_goes_on_from_its_position,
    node_that_was_taken_for_dead_writes_nothing_more,
    waiting_and_running_jobs_are_cancelled,
    work_that_panics_is_tried_five_times,
    stopping_gives_jobs_back,
    work_is_done_with_the_authority_of_its_moment,
    jobs_are_seen_and_cancelled_within_scope,
    jobs_bound_to_a_node_wait_for_it,
    ended_jobs_are_pruned_after_their_time,
);

/// What the test's work does.
#[derive(Clone, Serialize, Deserialize)]
enum Doing {
    /// Three steps.
    Steps,
    /// One step, then waits for its end.
    Wait,
    /// Breaks off.
    Panic,
}

struct Steps;

impl Work for Steps {
    const KIND: &'static str = "test.steps";
    const PERMISSION: Permission = Permission::QuotaVerify;
    type Request = Doing;
    type Report = Value;

    async fn run(context: JobContext, doing: Doing, position: String) -> Outcome<Value> {
        let begun_at = position.clone();
        match doing {
            Doing::Steps => {
                for step in 1..=3_u64 {
                    context.advance(step, Some(3), "steps");
                }
            }
            Doing::Wait if position.is_empty() => {
                let own = context.clone();
                let write = context.inner.database.write(Priority::Interactive, move |conn| {
                    let own = own.clone();
                    Box::pin(async move { own.save_position_in(conn, "one").await })
                });
                write.await?;
                context.advance(1, Some(2), "steps");
                context.cancelled().await;
                return Err(Stop::Interrupted);
            }
            Doing::Wait => {}
            Doing::Panic => panic!("a defect"),
        }
        Ok(json!({ "begun_at": begun_at }))
    }
}

static TEST_KINDS: &[Kind] = &[Kind::of::<Steps>()];

struct World {
    database: Database,
    management: Management,
    clock: Clock,
    system: Authentication,
}

impl World {
    async fn open(url: &str) -> Self {
        let database = Database::open(url).await.unwrap();
        let clock = Clock::manual(NOW);
        let options = ManagementOptions { system_uids: vec![0], ..ManagementOptions::default() };
        let management = Management::open(database.clone(), clock.clone(), options).await.unwrap();
        let system = management.authenticate_peer(0).await.unwrap().unwrap();
        Self { database, management, clock, system }
    }

    async fn run(
        &self,
        who: &Authentication,
        name: &str,
        fields: Value,
    ) -> std::result::Result<Value, ServiceError> {
        let context = who.context(None, "request".to_owned(), None);
        (operation(name).unwrap().run)(&self.management, context, fields, RunOptions::default()).await
    }

    /// A new start of a node, and its runner.
    async fn start(&self, node: &'static str) -> Runner {
        let now = self.clock.now();
        let write = self.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move { node_start(conn, node, now).await })
        });
        let epoch: std::result::Result<i64, StorageError> = write.await;
        let node = Node { id: node.to_owned(), epoch: epoch.unwrap() };
        Runner::with_kinds(&self.management, node, TEST_KINDS)
    }

    async fn insert(&self, who: &Authentication, at: CustomerId, doing: Doing) -> JobRow {
        self.insert_bound(who, at, doing, None).await
    }

    async fn insert_bound(
        &self,
        who: &Authentication,
        at: CustomerId,
        doing: Doing,
        bound_node: Option<&str>,
    ) -> JobRow {
        let context = who.context(None, "request".to_owned(), None);
        let new = Arc::new(NewJob {
            kind: Steps::KIND,
            customer: at,
            is_system: false,
            target: "target".to_owned(),
            request: serde_json::to_string(&doing).unwrap(),
            asker: serde_json::to_string(&KeptContext::from(&context)).unwrap(),
            actor: "somebody".to_owned(),
            bound_node: bound_node.map(str::to_owned),
            store: None,
        });
        let now = self.clock.now();
        let write = self.database.write(Priority::Interactive, move |conn| {
            let new = Arc::clone(&new);
            Box::pin(async move { job::insert(conn, &new, now).await })
        });
        let row: std::result::Result<JobRow, StorageError> = write.await;
        row.unwrap()
    }

    async fn row(&self, id: &str) -> JobRow {
        let id = id.to_owned();
        let read = self.database.read(|conn| Box::pin(async move { job::by_public_id(conn, &id).await }));
        let row: std::result::Result<Option<JobRow>, StorageError> = read.await;
        row.unwrap().unwrap()
    }

    /// Looks with `runner` until the job is as wanted.
    async fn until(&self, runner: &mut Runner, id: &str, wanted: impl Fn(&JobRow) -> bool) -> JobRow {
        let waiting = async {
            loop {
                runner.look().await.unwrap();
                let row = self.row(id).await;
                if wanted(&row) {
                    return row;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the job comes to that state")
    }

    async fn customer(&self, path: &str) -> CustomerId {
        let made = self.run(&self.system, "customer.create", json!({ "path": path })).await.unwrap();
        let id = made["id"].as_str().unwrap().to_owned();
        let read = self.database.read(|conn| {
            Box::pin(async move {
                let text = "SELECT id FROM customer WHERE public_id = $1";
                conn.row(text, crate::params![id]).await?.unwrap().int(0)
            })
        });
        let id: std::result::Result<i64, StorageError> = read.await;
        CustomerId(id.unwrap())
    }

    async fn administrator(&self, name: &str, customer: &str, role: &str) -> Authentication {
        let asked = json!({ "name": name, "customer": customer, "role": role });
        let made = self.run(&self.system, "administrator.create", asked).await.unwrap();
        self.management.authenticate_token(made["token"].as_str().unwrap(), None).await.unwrap().unwrap()
    }
}

async fn jobs_run_and_report(world: World) {
    let at = world.customer("a").await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(world.insert(&world.system, at, Doing::Steps).await.public_id);
    }
    world.start("one").await.run_all().await.unwrap();
    for id in ids {
        let job = world.run(&world.system, "job.show", json!({ "id": id })).await.unwrap();
        assert_eq!((&job["state"], &job["done"], &job["total"]), (&json!("done"), &json!(3), &json!(3)));
        assert_eq!((&job["report"], &job["unit"]), (&json!({ "begun_at": "" }), &json!("steps")));
        assert!(job["finished_at"].is_string());
    }
}

async fn job_of_a_dead_start_goes_on_from_its_position(world: World) {
    let at = world.customer("a").await;
    let id = world.insert(&world.system, at, Doing::Wait).await.public_id;
    let mut first = world.start("one").await;
    world.until(&mut first, &id, |row| row.position == "one").await;
    // As after kill -9: nothing is written any more.
    drop(first);
    assert_eq!(world.row(&id).await.state, "running");
    world.start("one").await.run_all().await.unwrap();
    let row = world.row(&id).await;
    assert_eq!((row.state.as_str(), row.attempts), ("done", 2));
    assert_eq!(row.report, json!({ "begun_at": "one" }).to_string());
}

async fn node_that_was_taken_for_dead_writes_nothing_more(world: World) {
    let at = world.customer("a").await;
    let id = world.insert(&world.system, at, Doing::Wait).await.public_id;
    let mut first = world.start("one").await;
    world.until(&mut first, &id, |row| row.position == "one").await;
    let mut second = world.start("two").await;
    second.look().await.unwrap();
    assert_eq!(world.row(&id).await.node.as_deref(), Some("one"), "a living node keeps its jobs");
    world.clock.advance(Duration::from_secs(91));
    let now = world.clock.now();
    let seen = world.database.write(Priority::Interactive, move |conn| Box::pin(node_seen(conn, "two", now)));
    let seen: std::result::Result<(), StorageError> = seen.await;
    seen.unwrap();
    second.run_all().await.unwrap();
    let row = world.row(&id).await;
    assert_eq!((row.state.as_str(), row.node.as_deref()), ("done", Some("two")));
    // What the first still has to say counts for nothing.
    first.run(std::future::ready(())).await;
    assert_eq!(world.row(&id).await, row);
}

async fn waiting_and_running_jobs_are_cancelled(world: World) {
    let at = world.customer("a").await;
    let waits = world.insert(&world.system, at, Doing::Steps).await.public_id;
    let cancel = |id: String| world.run(&world.system, "job.cancel", json!({ "id": id }));
    let job = cancel(waits.clone()).await.unwrap();
    assert_eq!((&job["state"], &job["cancelled_by"]), (&json!("cancelled"), &json!("system")));
    let id = world.insert(&world.system, at, Doing::Wait).await.public_id;
    let mut runner = world.start("one").await;
    world.until(&mut runner, &id, |row| row.position == "one").await;
    assert_eq!(cancel(id.clone()).await.unwrap()["state"], "running");
    let row = world.until(&mut runner, &id, |row| row.state != "running").await;
    assert_eq!((row.state.as_str(), row.done, row.position.as_str()), ("cancelled", 1, "one"));
    for ended in [waits, id] {
        assert!(matches!(cancel(ended).await, Err(ServiceError::Conflict { .. })));
    }
}

async fn work_that_panics_is_tried_five_times(world: World) {
    let at = world.customer("a").await;
    let id = world.insert(&world.system, at, Doing::Panic).await.public_id;
    world.start("one").await.run_all().await.unwrap();
    let row = world.row(&id).await;
    assert_eq!((row.state.as_str(), row.attempts), ("failed", 5));
    let job = world.run(&world.system, "job.show", json!({ "id": id })).await.unwrap();
    assert_eq!(job["error"]["code"], "internal");
    assert!(!job.to_string().contains("a defect"), "{job}");
}

async fn stopping_gives_jobs_back(world: World) {
    let at = world.customer("a").await;
    let id = world.insert(&world.system, at, Doing::Wait).await.public_id;
    let mut runner = world.start("one").await;
    world.until(&mut runner, &id, |row| row.position == "one").await;
    runner.run(std::future::ready(())).await;
    let row = world.row(&id).await;
    assert_eq!((row.state.as_str(), row.attempts, row.node), ("waiting", 0, None));
    assert_eq!((row.position.as_str(), row.done), ("one", 1));
}

async fn work_is_done_with_the_authority_of_its_moment(world: World) {
    let at = world.customer("a").await;
    let who = world.administrator("chief", "a", "admin").await;
    let name = world.run(&who, "whoami", json!({})).await.unwrap()["name"].clone();
    let id = world.insert(&who, at, Doing::Steps).await.public_id;
    let asked = json!({ "name": name, "customer": "a", "role": "admin" });
    world.run(&world.system, "administrator.revoke", asked).await.unwrap();
    world.start("one").await.run_all().await.unwrap();
    let job = world.run(&world.system, "job.show", json!({ "id": id })).await.unwrap();
    assert_eq!((&job["state"], &job["error"]["code"]), (&json!("failed"), &json!("forbidden")));
}

async fn jobs_are_seen_and_cancelled_within_scope(world: World) {
    let a = world.customer("a").await;
    let below = world.customer("a/below").await;
    let b = world.customer("b").await;
    let chief = world.administrator("chief", "a", "admin").await;
    let lower = world.administrator("lower", "a/below", "admin").await;
    let other = world.administrator("other", "b", "admin").await;
    let viewer = world.administrator("viewer", "a", "viewer").await;
    let ids = [
        world.insert(&world.system, a, Doing::Steps).await.public_id,
        world.insert(&chief, below, Doing::Steps).await.public_id,
        world.insert(&other, b, Doing::Steps).await.public_id,
    ];
    let seen = async |who: &Authentication| {
        let list = world.run(who, "job.list", json!({})).await.unwrap();
        let items = list["items"].as_array().unwrap().clone();
        let position = |item: &Value| ids.iter().position(|id| item["id"] == *id).unwrap();
        items.iter().map(position).collect::<Vec<_>>()
    };
    assert_eq!(seen(&world.system).await, [2, 1, 0]);
    assert_eq!(seen(&chief).await, [1, 0]);
    assert_eq!(seen(&viewer).await, [1, 0]);
    assert_eq!(seen(&lower).await, [1]);
    assert_eq!(seen(&other).await, [2]);
    let show = |who, id: &str| world.run(who, "job.show", json!({ "id": id }));
    let missing = show(&other, &ids[0]).await.unwrap_err().to_string();
    assert_eq!(missing.replace(&ids[0], "ID"), "job ID does not exist");
    // Of what somebody above has asked for only that it runs is seen.
    let job = show(&lower, &ids[1]).await.unwrap();
    assert_eq!((&job["actor"], job.get("target"), job.get("report")), (&json!("provider"), None, None));
    assert_eq!(show(&chief, &ids[1]).await.unwrap()["target"], "target");
    for (who, id, is_allowed) in [
        (&lower, &ids[1], false),
        (&viewer, &ids[1], false),
        (&chief, &ids[0], false),
        (&chief, &ids[1], true),
    ] {
        let outcome = world.run(who, "job.cancel", json!({ "id": id })).await;
        assert_eq!(outcome.is_ok(), is_allowed, "{outcome:?}");
        assert!(is_allowed || matches!(outcome, Err(ServiceError::Forbidden { .. })));
    }
    assert!(matches!(
        world.run(&other, "job.cancel", json!({ "id": ids[0] })).await,
        Err(ServiceError::NotFound { .. })
    ));
}

async fn jobs_bound_to_a_node_wait_for_it(world: World) {
    let at = world.customer("a").await;
    let id = world.insert_bound(&world.system, at, Doing::Steps, Some("two")).await.public_id;
    world.start("one").await.run_all().await.unwrap();
    assert_eq!(world.row(&id).await.state, "waiting");
    world.start("two").await.run_all().await.unwrap();
    assert_eq!(world.row(&id).await.state, "done");
}

async fn ended_jobs_are_pruned_after_their_time(world: World) {
    let at = world.customer("a").await;
    world.insert(&world.system, at, Doing::Steps).await;
    world.start("one").await.run_all().await.unwrap();
    let open = world.insert(&world.system, at, Doing::Steps).await.public_id;
    let prune = async |before: Timestamp| {
        let write = world
            .database
            .write(Priority::Background, move |conn| Box::pin(async move { job::prune(conn, before).await }));
        let pruned: std::result::Result<u64, StorageError> = write.await;
        pruned.unwrap()
    };
    assert_eq!(prune(NOW.minus(DAY)).await, 0);
    assert_eq!(prune(NOW.plus(DAY)).await, 1);
    assert_eq!(world.row(&open).await.state, "waiting");
}

/// The storage room's side of the hold: each of its writes fails once another attempt has begun.
#[tokio::test]
async fn every_write_of_a_lost_job_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::open(&format!("sqlite:{}", dir.path().join("metadata.db").display())).await;
    let at = world.customer("a").await;
    world.insert(&world.system, at, Doing::Steps).await;
    let write = world.database.write(Priority::Interactive, |conn| {
        Box::pin(async move {
            let claimant = |node: &str| Claimant { node: node.to_owned(), epoch: 1, alive_since: NOW };
            let (_, lost) = job::claim(conn, &claimant("one"), &[Steps::KIND], NOW).await?.unwrap();
            let (_, held) = job::claim(conn, &claimant("two"), &[Steps::KIND], NOW).await?.unwrap();
            let standing = Default::default();
            let refused = [
                job::save(conn, &lost, &standing, NOW).await?,
                job::save_position(conn, &lost, "x", NOW).await?,
                job::release(conn, &lost, &standing, true, NOW).await?,
                job::finish(conn, &lost, Ending::Done, &standing, None, NOW).await?,
            ];
            let done = job::finish(conn, &held, Ending::Done, &standing, None, NOW).await?;
            Ok::<_, StorageError>((refused, done))
        })
    });
    assert_eq!(write.await.unwrap(), ([false; 4], true));
}
