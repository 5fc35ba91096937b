//! The registry of operations, run in process on SQLite and on PostgreSQL: what every operation must do alike.

use std::sync::Arc;

use posthouse::base::clock::{Clock, Timestamp};
use posthouse::base::post::Poster;
use posthouse::params;
use posthouse::service::context::Authentication;
use posthouse::service::error::ServiceError;
use posthouse::service::jobs::Runner;
use posthouse::service::login::Login;
use posthouse::service::registry::{Management, ManagementOptions, RunOptions, operation};
use posthouse::service::webhooks::Webhooks;
use posthouse::storage::StorageError;
use posthouse::storage::metadata::database::Database;
use posthouse::storage::metadata::lane::Priority;
use posthouse::storage::metadata::pack::Node;
use serde_json::{Value, json};

#[path = "registry/attacks.rs"]
mod attacks;
#[path = "registry/audit.rs"]
mod audit;
#[path = "registry/audit_search.rs"]
mod audit_search;
#[path = "registry/bad_values.rs"]
mod bad_values;
#[path = "registry/bulk.rs"]
mod bulk;
#[path = "registry/content.rs"]
mod content;
#[path = "registry/credentials.rs"]
mod credentials;
#[path = "registry/directory.rs"]
mod directory;
#[path = "registry/domain_proof.rs"]
mod domain_proof;
#[path = "registry/domains.rs"]
mod domains;
#[path = "registry/dump.rs"]
mod dump;
#[path = "registry/expiry.rs"]
mod expiry;
#[path = "registry/holds.rs"]
mod holds;
#[path = "registry/identities.rs"]
mod identities;
#[path = "registry/invitations.rs"]
mod invitations;
#[path = "registry/isolation.rs"]
mod isolation;
#[path = "registry/large.rs"]
mod large;
#[path = "registry/lists.rs"]
mod lists;
#[path = "registry/matrix.rs"]
mod matrix;
#[path = "registry/moves.rs"]
mod moves;
#[path = "registry/password_codes.rs"]
mod password_codes;
#[path = "registry/random_moves.rs"]
mod random_moves;
#[path = "registry/requests.rs"]
mod requests;
#[path = "registry/roles.rs"]
mod roles;
#[path = "registry/roles_moves.rs"]
mod roles_moves;
#[path = "registry/second_factor.rs"]
mod second_factor;
#[path = "registry/settings.rs"]
mod settings;
#[path = "registry/spending.rs"]
mod spending;
#[path = "registry/submission_tls.rs"]
mod submission_tls;
#[path = "registry/switches.rs"]
mod switches;
#[path = "registry/templates.rs"]
mod templates;
#[path = "registry/undelete.rs"]
mod undelete;
#[path = "registry/webhooks.rs"]
mod webhooks;
#[path = "registry/windows.rs"]
mod windows;
#[path = "registry/worlds.rs"]
mod worlds;
#[path = "registry/zones.rs"]
mod zones;

/// A hash of the password `secret` (SSHA), so that tests do not wait for argon2.
pub const PASSWORD_HASH: &str = "{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0";

/// Management on a fresh database, its clock standing still.
pub struct World {
    pub management: Management,
    pub database: Database,
    pub clock: Clock,
    pub webhooks: Arc<Webhooks>,
    /// The sessions that management knows; nobody runs it unless a test does.
    pub logins: Login,
    pub system: Authentication,
    _dir: tempfile::TempDir,
}

impl World {
    /// On SQLite.
    pub async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("metadata.db").display());
        Self::open(&url, dir).await
    }

    /// On this database, which must be fresh.
    pub async fn open(url: &str, dir: tempfile::TempDir) -> Self {
        let database = Database::open(url).await.unwrap();
        database
            .write(Priority::Interactive, |conn| {
                Box::pin(async move {
                    let text = "INSERT INTO store (name, path, created_at) VALUES ('main', '/nowhere', 0)";
                    conn.execute(text, params![]).await.map(|_| ())
                })
            })
            .await
            .map_err(|error: StorageError| error)
            .unwrap();
        Self::on(database, dir).await
    }

    /// On a database that has a mail store.
    pub async fn on(database: Database, dir: tempfile::TempDir) -> Self {
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        // Nobody answers there: no test asks the DNS of the machine.
        let resolver = Some("127.0.0.1:9".parse().unwrap());
        let options = ManagementOptions { system_uids: vec![0], resolver, ..ManagementOptions::default() };
        let management = Management::open(database.clone(), clock.clone(), options).await.unwrap();
        let logins = Login::new(database.clone(), clock.clone());
        management.attach_login(logins.clone());
        let local = vec!["127.0.0.0/8".parse().unwrap()];
        let webhooks = Arc::new(Webhooks::new(Poster::new(local), "node".to_owned()));
        management.attach_webhooks(Arc::clone(&webhooks));
        let system = management.authenticate_peer(0).await.unwrap().unwrap();
        Self { management, database, clock, webhooks, logins, system, _dir: dir }
    }

    /// Runs an operation.
    pub async fn run_with(
        &self,
        who: &Authentication,
        name: &str,
        request: Value,
        options: RunOptions,
        key: Option<&str>,
    ) -> Result<Value, ServiceError> {
        let operation = operation(name).unwrap_or_else(|| panic!("no operation {name}"));
        let context = who.context(None, "request".to_owned(), key.map(str::to_owned));
        (operation.run)(&self.management, context, request, options).await
    }

    /// Runs an operation.
    pub async fn run(&self, who: &Authentication, name: &str, request: Value) -> Result<Value, ServiceError> {
        self.run_with(who, name, request, RunOptions::default(), None).await
    }

    /// Runs an operation as the system, which must succeed.
    #[track_caller]
    pub fn must(&self, name: &'static str, request: Value) -> impl Future<Output = Value> {
        let place = std::panic::Location::caller();
        async move {
            let shown = request.to_string();
            let outcome = self.run(&self.system, name, request).await;
            outcome.unwrap_or_else(|error| panic!("{place}: {name} {shown}: {error:?}"))
        }
    }

    /// Runs an operation that starts a job as the system, and the job, which must succeed; answers its report.
    pub async fn job(&self, name: &'static str, request: Value) -> Value {
        let job = self.must(name, request).await;
        let node = Node { id: "node".to_owned(), epoch: 1 };
        Runner::new(&self.management, node).run_all().await.unwrap();
        let ended = self.must("job.show", json!({ "id": job["id"] })).await;
        assert_eq!(ended["state"], "done", "{ended}");
        ended["report"].clone()
    }

    /// Whose token it is.
    pub async fn login(&self, token: &Value) -> Authentication {
        let token = token.as_str().expect("a token");
        self.management.authenticate_token(token, None).await.unwrap().expect("a valid token")
    }

    /// A customer with a domain and an administrator; answers the latter.
    pub async fn aboard(&self, path: &str, domain: &str) -> Authentication {
        let asked = json!({ "path": path, "domain": domain, "admin": "chief" });
        let made = self.must("customer.create", asked).await;
        self.login(&made["token"]).await
    }

    /// A mailbox.
    pub async fn mailbox(&self, address: &str) -> Value {
        self.must("mailbox.create", json!({ "address": address, "password_hash": PASSWORD_HASH })).await
    }

    /// Gives every mailbox a deleted folder called `Gone`, unless it has one.
    pub async fn deleted_folders(&self) {
        let text = "INSERT INTO deleted_folder (folder_id, mailbox_id, name, uid_validity, deleted_at)
                    SELECT 1000000 + id, id, 'Gone', 1, 0 FROM mailbox
                    WHERE id NOT IN (SELECT mailbox_id FROM deleted_folder)";
        let write = self.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move { conn.execute(text, params![]).await })
        });
        write.await.map_err(|error: StorageError| error).unwrap();
    }

    /// Makes a mailbox and everything with a counter above it use so many octets more.
    pub async fn use_octets(&self, address: &str, octets: i64) {
        let address = address.to_owned();
        let done: Result<(), StorageError> = self
            .database
            .write(Priority::Interactive, move |conn| {
                let address = address.clone();
                Box::pin(async move {
                    let (local, domain) = address.split_once('@').expect("an address");
                    let text = "UPDATE mailbox SET bytes_used = bytes_used + $3 WHERE local_part = $1
                                AND domain_id = (SELECT id FROM domain WHERE name = $2)";
                    conn.execute(text, params![local, domain, octets]).await?;
                    let text = "UPDATE domain_usage SET bytes_used = bytes_used + $2
                                WHERE domain_id = (SELECT id FROM domain WHERE name = $1)";
                    conn.execute(text, params![domain, octets]).await?;
                    let text = "WITH RECURSIVE up (id, parent_id) AS (
                                    SELECT c.id, c.parent_id FROM customer c JOIN domain d ON d.customer_id = c.id
                                    WHERE d.name = $1
                                    UNION ALL
                                    SELECT c.id, c.parent_id FROM up JOIN customer c ON c.id = up.parent_id)
                                UPDATE customer_usage SET bytes_used = bytes_used + $2,
                                       bytes_committed = bytes_committed + $2
                                WHERE customer_id IN (SELECT id FROM up)";
                    conn.execute(text, params![domain, octets]).await?;
                    Ok(())
                })
            })
            .await;
        done.unwrap();
    }

    /// One integer from the database.
    pub async fn integer(&self, text: &'static str) -> i64 {
        let row = self
            .database
            .read(|conn| Box::pin(async move { conn.row(text, params![]).await?.unwrap().int(0) }));
        row.await.map_err(|error: StorageError| error).unwrap()
    }
}

/// The word for a refusal.
pub fn refusal(outcome: Result<Value, ServiceError>) -> &'static str {
    match outcome {
        Ok(value) => panic!("not refused: {value}"),
        Err(error) => error.refusal().unwrap_or_else(|| panic!("failed: {error:?}")),
    }
}

/// Runs one contract test on each database that is there.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::registry::World::sqlite().await).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let Some(postgres) = crate::support::postgres::Postgres::start() else { return };
                let dir = tempfile::tempdir().unwrap();
                super::$name(crate::registry::World::open(&postgres.url(), dir).await).await;
            })+
        }
    };
}
pub(crate) use on_both;
