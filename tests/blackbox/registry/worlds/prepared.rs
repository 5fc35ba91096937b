//! Databases with the same customer in them, and with the same things imposed on it, but with different things
//! everywhere else: above it, beside it, before it and after it.

use std::path::{Path, PathBuf};

use posthouse::base::clock::Timestamp;
use posthouse::params;
use posthouse::service::authority::Role;
use posthouse::service::context::Authentication;
use posthouse::storage::StorageError;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::lane::Priority;
use serde_json::{Value, json};

use super::super::World;
use super::super::matrix::Names;

/// What every name outside has in it, so that it is recognised wherever it appears.
pub const OUTSIDE: &str = "outsider";

/// Who does what is done from above.
#[derive(Clone, Copy)]
enum Hand {
    System,
    /// An administrator who is at home at the root.
    Root,
    /// An administrator who is at home right above.
    Near,
}

/// What differs.
struct Variant {
    /// Slugs of the customers above; the last one imposes.
    above: &'static [&'static str],
    /// Customers outside that are there before, between and after what is inside.
    outside: [usize; 3],
    hand: Hand,
}

const VARIANTS: [Variant; 4] = [
    Variant { above: &["top"], outside: [0, 0, 0], hand: Hand::System },
    Variant { above: &["outsider-crown", "upper"], outside: [1, 1, 0], hand: Hand::Root },
    Variant { above: &["outsider"], outside: [0, 1, 1], hand: Hand::Near },
    Variant { above: &["one", "outsider-two", "three", "four"], outside: [1, 0, 1], hand: Hand::Near },
];

/// Somebody inside.
pub struct Person {
    pub authentication: Authentication,
    pub token: String,
}

/// The zone, the mail store and the server that are somebody's inside to look after.
pub const ZONED: [&str; 3] = ["inside-zone", "inside-store", "inside-server"];

/// A database, and the names in it.
pub struct Prepared {
    dir: tempfile::TempDir,
    /// Names of what is inside, as those inside say them.
    pub inside: Vec<Names>,
    /// Names of what is outside, as the system says them.
    pub outside: Vec<Names>,
    /// The same roles in each.
    pub people: Vec<Person>,
    /// The code of the customer right above.
    pub above: String,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// A folder in memory, where there is such.
pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

impl Prepared {
    /// One of each kind; the clock stands still at `now` while they are made.
    pub async fn all(now: Timestamp) -> Vec<Self> {
        let mut all = Vec::new();
        for variant in &VARIANTS {
            all.push(Self::make(variant, now).await);
        }
        all
    }

    async fn make(variant: &Variant, now: Timestamp) -> Self {
        let world = World::sqlite_in(folder()).await;
        world.clock.set(now);
        let mut outside = Vec::new();
        let mut path = String::new();
        for slug in variant.above {
            path = if path.is_empty() { (*slug).to_owned() } else { format!("{path}/{slug}") };
            world.must("customer.create", json!({ "path": path })).await;
        }
        Self::add_outside(&world, &path, variant.outside[0], &mut outside).await;
        let hand = hand(&world, variant.hand, &path).await;
        impose_above(&world, &path).await;
        let first = Names::make_called(&world, &format!("{path}/a"), "a").await;
        Self::add_outside(&world, &path, variant.outside[1], &mut outside).await;
        impose(&world, &hand, &path).await;
        let second = Names::make_called(&world, &format!("{path}/a/x"), "x").await;
        zones(&world, variant.outside).await;
        let people = people(&world, &path).await;
        Self::add_outside(&world, &path, variant.outside[2], &mut outside).await;
        touch(&world, &hand, [&first, &second]).await;
        let above = text(&world.must("customer.show", json!({ "path": path })).await["code"]);
        let seen = |names: Names| {
            let from = format!("{path}/");
            let cut = |path: &str| path.strip_prefix(&from).unwrap_or_else(|| panic!("{path}")).to_owned();
            Names { path: cut(&names.path), deleted_path: cut(&names.deleted_path), ..names }
        };
        let inside = vec![seen(first), seen(second)];
        let World { management, database, webhooks, .. } = world;
        drop(webhooks);
        management.close().await;
        let dir = folder();
        database.copy_to(&dir.path().join("metadata.db")).await.unwrap();
        Self { dir, inside, outside, people, above }
    }

    /// Customers beside, and far away.
    async fn add_outside(world: &World, above: &str, count: usize, outside: &mut Vec<Names>) {
        for _ in 0..count {
            let word = format!("{OUTSIDE}-{}", outside.len());
            let path = if outside.len().is_multiple_of(2) { format!("{above}/{word}") } else { word.clone() };
            outside.push(Names::make_called(world, &path, &word).await);
        }
    }

    /// The database's file, which nobody has open.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("metadata.db")
    }

    /// Management on a copy.
    pub async fn open(&self, now: Timestamp) -> World {
        let dir = folder();
        let file = dir.path().join("metadata.db");
        std::fs::copy(self.file(), &file).unwrap();
        let database = Database::open(&format!("sqlite:{}", file.display())).await.unwrap();
        let world = World::on(database, dir).await;
        world.clock.set(now);
        world
    }
}

impl World {
    /// On SQLite, in this folder.
    async fn sqlite_in(dir: tempfile::TempDir) -> Self {
        let url = format!("sqlite:{}", dir.path().join("metadata.db").display());
        Self::open(&url, dir).await
    }
}

/// Who acts from above.
async fn hand(world: &World, hand: Hand, above: &str) -> Authentication {
    let customer = match hand {
        Hand::System => return world.system.clone(),
        Hand::Root => "/",
        Hand::Near => above,
    };
    let name = format!("{OUTSIDE}-hand");
    let asked = json!({ "name": name, "customer": customer, "role": "admin", "delegable": true });
    let made = world.must("administrator.create", asked).await;
    world.login(&made["token"]).await
}

/// What the customer above has that reaches those below it.
async fn impose_above(world: &World, path: &str) {
    let month = world.clock.now().to_string()[..7].to_owned();
    world.must("customer.store", json!({ "path": path, "allowed": ["main"] })).await;
    let asked = json!({ "path": path, "key": "time_zone", "value": "Europe/Vienna" });
    world.must("setting.set", asked).await;
    let asked = json!({ "path": path, "key": "service.pop3", "value": "on" });
    world.must("setting.lock", asked).await;
    let permissions = ["mailbox.read", "mailbox.create", "customer.read"];
    let asked = json!({ "name": "given", "customer": path, "base": "admin", "permissions": permissions });
    world.must("role.create", asked).await;
    let asked = json!({ "name": "class", "customer": path, "kind": "mailbox" });
    world.must("template.create", asked).await;
    let asked = json!({ "path": path, "from": month, "currency": "EUR", "gib_month": 10,
                        "mailbox_month": 100, "messages_1000": 1 });
    world.must("price.set", asked).await;
    let steps = json!([{ "role": "manager" }]);
    world.must("process.set", json!({ "customer": path, "steps": steps })).await;
}

/// The zone inside, and others with mail stores and servers of their own, as many as there are customers outside.
async fn zones(world: &World, outside: [usize; 3]) {
    let elsewhere: usize = outside.iter().sum();
    let write = world.database.write(Priority::Interactive, move |conn| {
        Box::pin(async move {
            let names = (0..elsewhere).map(|number| format!("{OUTSIDE}-place-{number}"));
            // Keys before and after differ.
            for (number, name) in names.chain([ZONED[1].to_owned()]).enumerate() {
                let text = "INSERT INTO store (name, path, created_at) VALUES ($1, $2, 0)";
                let path = if number == elsewhere {
                    "/nowhere/inside".to_owned()
                } else {
                    format!("/nowhere/{name}")
                };
                conn.execute(text, params![&name, &path]).await?;
                let node = if number == elsewhere { ZONED[2].to_owned() } else { name };
                let text = "INSERT INTO node (id, epoch, started_at, seen_at, state)
                            VALUES ($1, 1, 0, 1800000000000000, 'serving')";
                conn.execute(text, params![&node]).await?;
            }
            Ok::<_, StorageError>(())
        })
    });
    write.await.unwrap();
    for number in 0..elsewhere {
        let name = format!("{OUTSIDE}-place-{number}");
        let asked = json!({ "name": name, "stores": [name, "main"], "servers": [name] });
        world.must("zone.create", asked).await;
    }
    let [zone, store, server] = ZONED;
    let asked = json!({ "name": zone, "stores": [store], "servers": [server] });
    world.must("zone.create", asked).await;
}

/// What constrains the customer inside, by whoever does that here.
async fn impose(world: &World, hand: &Authentication, above: &str) {
    // By its code: paths begin at the topmost customer that the hand sees.
    let shown = world.must("customer.show", json!({ "path": format!("{above}/a") })).await;
    let own = text(&shown["code"]);
    for (operation, asked) in [
        ("hold.add", json!({ "path": own, "switch": "send", "reason": "unpaid" })),
        ("customer.limit", json!({ "path": own, "bytes": 1_000_000_000, "mailboxes": 60, "customers": 20 })),
        ("customer.expire", json!({ "path": own, "expires_at": "300d" })),
        ("ceiling.set", json!({ "path": own, "role": "admin" })),
        ("setting.lock", json!({ "path": own, "key": "delivery.overquota_defer_hours", "value": "5" })),
    ] {
        let done = world.run(hand, operation, asked.clone()).await;
        done.unwrap_or_else(|error| panic!("{operation} {asked}: {error}"));
    }
}

/// Somebody of each role inside, one further below, and one who may more than what the ceiling leaves.
async fn people(world: &World, above: &str) -> Vec<Person> {
    let roles = Role::ALL.iter().filter(|&&role| role != Role::SystemAdmin).map(|role| role.name());
    let wanted = roles.map(|role| (role, "a", false)).chain([
        ("admin", "a", true),
        ("admin", "a", true),
        ("admin", "a/x", true),
        ("manager", "a/x", false),
    ]);
    let mut people = Vec::new();
    for (index, (role, at, delegable)) in wanted.enumerate() {
        let asked = json!({ "name": format!("person-{index}"), "customer": format!("{above}/{at}"),
            "role": role, "delegable": delegable });
        let made = world.must("administrator.create", asked).await;
        let authentication = world.login(&made["token"]).await;
        // Two look after the zone: who administers the customer, and who only reads there.
        if index == 0 || index == 2 {
            let asked = json!({ "name": made["name"], "role": "system-admin", "zone": ZONED[0],
                "delegable": index == 0 });
            world.must("administrator.grant", asked).await;
        }
        people.push(Person { authentication, token: text(&made["token"]) });
    }
    people
}

/// What those above do with what is inside, which shows in its trail.
async fn touch(world: &World, hand: &Authentication, inside: [&Names; 2]) {
    let [first, second] = inside;
    for (operation, asked) in [
        ("mailbox.suspend", json!({ "address": second.address, "switches": ["login"], "reason": "theft" })),
        ("mailbox.rename", json!({ "address": first.address, "name": "Box" })),
        ("mailbox.quota", json!({ "address": first.address, "quota": 5_000_000 })),
        ("administrator.create", json!({ "name": "made", "customer": second.code, "role": "manager" })),
        (
            "administrator.grant",
            json!({ "name": first.administrator, "role": "auditor", "customer": first.code }),
        ),
        ("domain.limit", json!({ "domain": first.domain, "bytes": 900_000_000 })),
    ] {
        let done = world.run(hand, operation, asked.clone()).await;
        done.unwrap_or_else(|error| panic!("{operation} {asked}: {error}"));
    }
}
