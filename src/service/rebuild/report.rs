//! What a rebuild found and did.

use serde::Serialize;

/// Things that are only in the database, whatever catalogs there are.
const NOT_KEPT: [&str; 6] = [
    "passwords of mailboxes: nobody can log in until one is set",
    "administrators, their grants and tokens",
    "the audit trail, traces of deliveries, jobs",
    "last logins",
    "settings of mail stores that were made at run time",
    "UIDVALIDITY of folders: clients download their mail again",
];

/// What became of a store.
#[derive(Clone, Default, Debug, Serialize)]
pub struct StoreReport {
    /// Its name.
    pub name: String,
    /// Up to when the catalogs are complete (RFC 3339).
    pub complete_at: String,
    /// Catalogs that belong to the state.
    pub catalogs: u64,
    /// Mailboxes.
    pub mailboxes: u64,
    /// Packs that were read.
    pub packs: u64,
    /// Packs that are younger than the catalogs.
    pub younger_packs: u64,
    /// What could not be read.
    pub damaged: Vec<String>,
}

/// What is lost of a mailbox.
#[derive(Clone, Debug, Serialize)]
pub struct LostReport {
    /// Its address.
    pub address: String,
    /// Messages whose bodies are in no pack, or damaged.
    pub messages: i64,
}

/// What a rebuild found and did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether nothing was kept of it.
    pub dry_run: bool,
    /// The stores.
    pub stores: Vec<StoreReport>,
    /// Customers.
    pub customers: u64,
    /// Domains.
    pub domains: u64,
    /// Aliases.
    pub aliases: u64,
    /// Holds.
    pub holds: u64,
    /// Mailboxes, deleted ones that can come back too.
    pub mailboxes: u64,
    /// Messages.
    pub messages: u64,
    /// Their octets.
    pub octets: u64,
    /// Messages of unknown mailboxes, in `recovered_in`.
    pub recovered: u64,
    /// The provider's mailbox with these; nothing if there are none.
    pub recovered_in: Option<String>,
    /// Messages that catalogs name and that are in no pack, or damaged.
    pub lost_messages: u64,
    /// Of which mailboxes; the first 1,000.
    pub lost: Vec<LostReport>,
    /// What is not kept in catalogs.
    pub not_kept: Vec<&'static str>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            dry_run: false,
            stores: Vec::new(),
            customers: 0,
            domains: 0,
            aliases: 0,
            holds: 0,
            mailboxes: 0,
            messages: 0,
            octets: 0,
            recovered: 0,
            recovered_in: None,
            lost_messages: 0,
            lost: Vec::new(),
            not_kept: NOT_KEPT.to_vec(),
        }
    }
}
