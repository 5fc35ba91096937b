//! Many objects at once: customers, domains, mailboxes, aliases and administrators as rows, each brought to what its
//! row says.
//!
//! A row is carried out by the very operations that a person would use for it (`mailbox.create`, `mailbox.quota`…),
//! run as parts of this one, with their targets, authority and audit records. So a batch may what its caller may, and
//! the trail tells of each change.
//!
//! # Consistency
//! A batch is one transaction, a row a savepoint of it: a row that fails is undone alone. A row that finds
//! everything as it says changes nothing, so a batch whose answer was lost can be run again.

mod administrators;
mod aliases;
mod compare;
mod customers;
mod domains;
mod mailboxes;

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use compare::Difference;

use crate::base::clock::Timestamp;
use crate::service::directory::passwords::{characters, hash};
use crate::service::directory::scope::Place;
use crate::service::directory::targets::OneCustomer;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Inner, Operate, Tx, declare};
use crate::storage::metadata::lane::Priority;

/// Most rows of a batch.
const ROWS_MAX: usize = 500;
/// Most rows that are only carried out so that others can be tried.
const CONTEXT_ROWS_MAX: usize = 2_000;
/// Most passwords of a batch that are to be hashed: two cores take 4 s for them.
const PASSWORDS_MAX: usize = 100;

/// One object.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(in crate::service) enum BulkEntry {
    Customer(customers::CustomerEntry),
    Domain(domains::DomainEntry),
    Mailbox(mailboxes::MailboxEntry),
    Alias(aliases::AliasEntry),
    Administrator(administrators::AdministratorEntry),
}

/// What becomes of passwords.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::service) enum Passwords {
    /// They are for mailboxes that are created; others keep theirs.
    #[default]
    New,
    /// Mailboxes that are there get them too.
    Set,
}

/// What a row comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::service) enum RowOutcome {
    /// The object was made.
    Created,
    /// It was there and was changed.
    Changed,
    /// It was there as the row says.
    Unchanged,
    /// Nothing was done.
    Failed,
}

/// What a row must come to, as told by a dry run; a row that would do anything else is refused.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct ExpectedRow {
    outcome: RowOutcome,
    /// The differences, in the same order.
    #[serde(default)]
    changes: Vec<Difference>,
}

/// Objects to bring to what is said of them.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct ImportBatchRequest {
    /// Paths in the rows begin below this customer; default: where the caller's paths begin.
    customer: Option<String>,
    /// At most 500 objects. Whatever is left out of one stays as it is, or gets its default.
    rows: Vec<BulkEntry>,
    /// In a dry run: at most 2,000 objects that are taken for granted, such as those of rows that came before.
    #[serde(default)]
    context: Vec<BulkEntry>,
    /// What becomes of passwords.
    #[serde(default)]
    passwords: Passwords,
    /// Make a one-time code for the owner of each new mailbox that gets no password.
    #[serde(default)]
    codes: bool,
    /// In a dry run: check the form of passwords, do not hash them.
    #[serde(default)]
    without_hashing: bool,
    /// For each row, what it must come to.
    expected: Option<Vec<ExpectedRow>>,
}

/// What became of a row.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct RowResult {
    outcome: RowOutcome,
    /// What was changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<Difference>,
    /// The one-time code with which the owner of a new mailbox sets its password; shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// When that ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
    /// Why it failed: the stable word for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// The field at fault, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
    /// Why it failed, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// What became of a batch.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct ImportBatchAnswer {
    #[serde(flatten)]
    counts: RowCounts,
    /// For each row.
    results: Vec<RowResult>,
}

/// Rows by what they came to.
#[derive(Clone, Copy, Default, Serialize, ToSchema)]
pub(in crate::service) struct RowCounts {
    created: i64,
    changed: i64,
    unchanged: i64,
    failed: i64,
}

impl RowCounts {
    fn count(&mut self, outcome: RowOutcome) {
        match outcome {
            RowOutcome::Created => self.created += 1,
            RowOutcome::Changed => self.changed += 1,
            RowOutcome::Unchanged => self.unchanged += 1,
            RowOutcome::Failed => self.failed += 1,
        }
    }
}

/// What a row was found to be, and done about it.
pub(in crate::service) struct Done {
    outcome: RowOutcome,
    changes: Vec<Difference>,
    /// A one-time code, and when it ends.
    code: Option<(String, Timestamp)>,
}

/// What counts for all rows of a batch.
#[derive(Clone)]
pub(in crate::service) struct Options {
    /// Where paths begin.
    below: Option<String>,
    passwords: Passwords,
    /// Whether new mailboxes without a password get a one-time code.
    codes: bool,
}

impl Options {
    /// The path of a row's customer for the caller.
    fn path(&self, path: &str) -> String {
        let path = path.trim_matches('/');
        match self.below.as_deref().map(|below| below.trim_matches('/')) {
            None => if path.is_empty() { "/" } else { path }.to_owned(),
            Some(below) if path.is_empty() => if below.is_empty() { "/" } else { below }.to_owned(),
            Some("") => path.to_owned(),
            Some(below) => format!("{below}/{path}"),
        }
    }
}

/// `import.batch`.
pub(in crate::service) struct ImportBatch;

impl Operate for ImportBatch {
    declare! { "import.batch", Post, "/v1/imports", Own, changes,
    "Bring up to 500 customers, domains, mailboxes, aliases and administrators to what is said of them" }
    const PRIORITY: Priority = Priority::Bulk;
    type Request = ImportBatchRequest;
    type Response = ImportBatchAnswer;
    type Target = Place;

    async fn prepare(_: &Inner, mut request: ImportBatchRequest) -> Result<ImportBatchRequest> {
        let bounded = |field, count: usize, max: usize| match count <= max {
            true => Ok(()),
            false => {
                Err(ServiceError::Invalid { field, message: format!("expected at most {max}, got {count}") })
            }
        };
        bounded("rows", request.rows.len(), ROWS_MAX)?;
        bounded("context", request.context.len(), CONTEXT_ROWS_MAX)?;
        if request.expected.as_ref().is_some_and(|expected| expected.len() != request.rows.len()) {
            let message = "expected as many as there are rows".to_owned();
            return Err(ServiceError::Invalid { field: "expected", message });
        }
        let plain = request.rows.iter().filter(|row| row.plain_password().is_some()).count();
        bounded("passwords", if request.without_hashing { 0 } else { plain }, PASSWORDS_MAX)?;
        request.rows = hashed(request.rows, request.without_hashing).await?;
        Ok(request)
    }

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a ImportBatchRequest) -> Result<Place> {
        match &request.customer {
            // One that is deleted is not there.
            Some(path) => Place::find(tx, Some(&OneCustomer::find(tx, path)?.path), Self::PERMISSION),
            None => Place::home(tx),
        }
    }

    async fn run(tx: &mut Tx<'_>, _: Place, request: ImportBatchRequest) -> Result<ImportBatchAnswer> {
        if !tx.dry_run && (request.without_hashing || !request.context.is_empty()) {
            let field = if request.without_hashing { "without_hashing" } else { "context" };
            return Err(ServiceError::Invalid { field, message: "only in a dry run".to_owned() });
        }
        let ImportBatchRequest { customer: below, passwords, codes, .. } = request;
        let options = Options { below, passwords, codes };
        for entry in &request.context {
            // Why one cannot be is told where it is a row itself.
            let refused = tx.refused.len();
            row(tx, entry, &options, None).await?;
            tx.refused.truncate(refused);
        }
        let mut answer = ImportBatchAnswer { counts: RowCounts::default(), results: Vec::new() };
        let mut expected = request.expected.unwrap_or_default().into_iter();
        for entry in &request.rows {
            let result = row(tx, entry, &options, expected.next()).await?;
            answer.counts.count(result.outcome);
            answer.results.push(result);
        }
        tx.after = serde_json::to_value(answer.counts).ok();
        Ok(answer)
    }
}

impl BulkEntry {
    /// The mailbox that has a password which can be hashed; others are refused with their row.
    fn plain_password(&self) -> Option<(&mailboxes::MailboxEntry, usize)> {
        let Self::Mailbox(entry) = self else { return None };
        let password = entry.password.as_ref().filter(|_| entry.password_hash.is_none())?;
        characters(password).ok().map(|characters| (entry, characters))
    }

    /// With its password hashed, or only looked at.
    async fn hashed(self, only_checked: bool) -> Result<Self> {
        let Some((entry, characters)) = self.plain_password() else { return Ok(self) };
        let mut entry = entry.clone();
        let password = entry.password.take();
        let hash = if only_checked { String::new() } else { hash(password, None).await?.0 };
        entry.hashed = Some(mailboxes::Hashed { hash, characters });
        Ok(Self::Mailbox(entry))
    }
}

/// Hashes passwords, as many at a time as there are cores.
async fn hashed(rows: Vec<BulkEntry>, only_checked: bool) -> Result<Vec<BulkEntry>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let hashing = stream::iter(rows.into_iter().map(|row| row.hashed(only_checked)));
    let done: Vec<Result<BulkEntry>> = hashing.buffered(cores).collect().await;
    done.into_iter().collect()
}

/// Carries out a row, or undoes what it has begun.
async fn row(
    tx: &mut Tx<'_>,
    entry: &BulkEntry,
    options: &Options,
    expected: Option<ExpectedRow>,
) -> Result<RowResult> {
    let savepoint = tx.conn.savepoint().await?;
    let caller = tx.caller_now().await?;
    let mut part = tx.part(&caller);
    let outcome = match entry {
        BulkEntry::Customer(entry) => entry.carry_out(&mut part, options).await,
        BulkEntry::Domain(entry) => entry.carry_out(&mut part, options).await,
        BulkEntry::Mailbox(entry) => entry.carry_out(&mut part, options).await,
        BulkEntry::Alias(entry) => entry.carry_out(&mut part, options).await,
        BulkEntry::Administrator(entry) => entry.carry_out(&mut part, options).await,
    };
    let refused = part.refused;
    tx.refused.extend(refused);
    match outcome.and_then(|done| as_expected(done, expected)) {
        Ok(Done { outcome, changes, code }) => {
            tx.conn.keep(savepoint).await?;
            let (secret, expires_at) = code.unzip();
            Ok(RowResult { outcome, changes, secret, expires_at, code: None, field: None, message: None })
        }
        Err(error) => {
            tx.conn.undo(savepoint).await?;
            failed(error)
        }
    }
}

fn as_expected(done: Done, expected: Option<ExpectedRow>) -> Result<Done> {
    match expected {
        Some(expected) if expected.outcome != done.outcome || expected.changes != done.changes => {
            Err(ServiceError::Changed { what: "this".to_owned() })
        }
        _ => Ok(done),
    }
}

/// What is told of a row that failed; what makes all rows fail is an error of the batch.
fn failed(error: ServiceError) -> Result<RowResult> {
    let field = match &error {
        ServiceError::Unavailable(_) => return Err(error),
        ServiceError::Internal(text) => {
            tracing::error!(text, "a row of an import failed");
            None
        }
        ServiceError::Invalid { field, .. } => Some(*field),
        _ => None,
    };
    let message = match &error {
        ServiceError::Invalid { message, .. } => message.clone(),
        error => error.to_string(),
    };
    let (outcome, code) = (RowOutcome::Failed, Some(error.code()));
    let (secret, expires_at) = (None, None);
    Ok(RowResult { outcome, changes: Vec::new(), secret, expires_at, code, field, message: Some(message) })
}
