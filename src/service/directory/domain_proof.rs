//! Proof that a domain is its customer's: a TXT record with a text that only this domain of this customer has. What
//! stands in the DNS is asked for before the transaction, whoever asks and whatever the name.
//!
//! That another customer has the domain verified is told only to who has proven it. Then both stay as they are, and the
//! root's administrators decide (`domain.confirm` with `displace`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::domains::{Domain, DomainRequest, row, show};
use super::targets::OneDomain;
use crate::base::clock::Timestamp;
use crate::base::dns::Resolver;
use crate::base::id::{CustomerId, DomainId};
use crate::service::error::Result;
use crate::service::registry::{Inner, Operate, Tx, declare};
use crate::storage::metadata::domain::{self, DomainRow};
use crate::storage::metadata::domain_check::{self, Check};

/// Before the domain in the name of the record that proves it.
const RECORD: &str = "_posthouse";
/// Before the domain's own part in the text that proves it.
const TEXT: &str = "posthouse-verification=";
/// Random octets of that part.
const OWN_OCTETS: usize = 16;
/// Names asked for at the same time; more wait.
const LOOKUPS_MAX: usize = 16;
/// After the first look without success the next one is due after this time, then after twice as long, …
const RETRY_FIRST: Duration = Duration::from_secs(60);
/// … up to this.
const RETRY_MAX: Duration = Duration::from_secs(6 * 3_600);
/// Name of the server where nothing else is configured.
const HOST: &str = "localhost";

/// What the DNS said.
#[derive(Clone, Debug)]
pub(in crate::service) enum Found {
    /// These texts.
    Texts(Vec<Vec<u8>>),
    /// Nothing, for this reason.
    Failed(String),
}

/// Looks for proof; a bounded number of times at once.
pub(in crate::service) struct Lookups {
    resolver: Resolver,
    turns: Semaphore,
    key: [u8; 32],
}

impl Lookups {
    /// Asks `server`, or the system's resolvers. The texts that prove follow from `secret`, which all nodes share.
    pub fn new(server: Option<SocketAddr>, secret: &[u8; 32]) -> Self {
        let key = blake3::derive_key("posthouse domain proof 1", secret);
        Self { resolver: Resolver::new(server), turns: Semaphore::new(LOOKUPS_MAX), key }
    }

    /// What stands where the proof of the domain `name` would.
    pub async fn look(&self, name: &str) -> Found {
        let _turn = self.turns.acquire().await;
        match self.resolver.texts(&record_name(name)).await {
            Ok(texts) => Found::Texts(texts),
            Err(error) => Found::Failed(error.to_string()),
        }
    }

    /// The text that proves: of this domain as long as it is this customer's.
    pub fn text(&self, public_id: &str, customer: CustomerId) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&customer.0.to_be_bytes()).update(public_id.as_bytes());
        let own = hasher.finalize();
        let own = own.as_bytes().iter().take(OWN_OCTETS).map(|octet| format!("{octet:02x}"));
        format!("{TEXT}{}", own.collect::<String>())
    }
}

fn record_name(domain: &str) -> String {
    format!("{RECORD}.{domain}")
}

/// Whether the text is among those found.
pub(super) fn proves(texts: &[Vec<u8>], text: &str) -> bool {
    texts.iter().any(|found| found.trim_ascii() == text.as_bytes())
}

/// When to look again after so many looks without success.
pub(super) fn next_look(now: Timestamp, failures: i64) -> Timestamp {
    let doublings = u32::try_from(failures.saturating_sub(1).clamp(0, 16)).unwrap_or(0);
    now.plus(RETRY_FIRST.saturating_mul(1 << doublings).min(RETRY_MAX))
}

/// A record in the DNS.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct DomainRecord {
    /// What it is for: `proof`, `mail`, `sending`, `reports`, `reading`.
    purpose: String,
    /// Where it stands.
    name: String,
    /// `TXT`, `MX`, `SRV`.
    r#type: String,
    /// What it says.
    value: String,
}

/// The records that a domain should have.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct DomainRecords {
    domain: String,
    /// `verified` or `pending`.
    state: String,
    records: Vec<DomainRecord>,
    /// What came of the last look for the proof: `absent`, `unreachable`, `waiting`, `contested`, `verified`.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    checked_at: Option<Timestamp>,
}

/// `domain.dns`.
pub(in crate::service) struct DomainDns;

impl Operate for DomainDns {
    declare! { "domain.dns", Get, "/v1/domains/{domain}/dns", DomainRead, reads,
    "Show the DNS records that prove a domain and that lead its mail here" }
    type Request = DomainRequest;
    type Response = DomainRecords;
    type Target = OneDomain;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a DomainRequest) -> Result<OneDomain> {
        OneDomain::find_claimed(tx, &request.domain, request.customer.as_deref()).await
    }

    async fn run(tx: &mut Tx<'_>, OneDomain(row): OneDomain, _: DomainRequest) -> Result<DomainRecords> {
        let check = domain_check::of(tx.conn, row.id).await?;
        let (outcome, checked_at) = check.map(|check| (check.outcome, check.checked_at)).unzip();
        Ok(DomainRecords {
            records: records(tx.inner, &row),
            state: if row.pending { "pending" } else { "verified" }.to_owned(),
            domain: row.name,
            outcome,
            checked_at,
        })
    }
}

fn records(inner: &Inner, row: &DomainRow) -> Vec<DomainRecord> {
    let domain = &row.name;
    let host = if inner.options.host_name.is_empty() { HOST } else { &inner.options.host_name };
    let record = |purpose: &str, name: String, kind: &str, value: String| DomainRecord {
        purpose: purpose.to_owned(),
        name,
        r#type: kind.to_owned(),
        value,
    };
    let mut records = Vec::new();
    if row.pending {
        let text = inner.lookups.text(&row.public_id, row.customer);
        records.push(record("proof", record_name(domain), "TXT", text));
    }
    records.push(record("mail", domain.clone(), "MX", format!("10 {host}.")));
    // Who else sends for the domain is added to this by its owner.
    records.push(record("sending", domain.clone(), "TXT", "v=spf1 mx ~all".to_owned()));
    let reports = format!("v=DMARC1; p=none; rua=mailto:postmaster@{domain}");
    records.push(record("reports", format!("_dmarc.{domain}"), "TXT", reports));
    // RFC 6186: with these, clients find the server by the address alone.
    for (service, port) in [("_imaps", 993), ("_pop3s", 995)] {
        records.push(record(
            "reading",
            format!("{service}._tcp.{domain}"),
            "SRV",
            format!("0 1 {port} {host}."),
        ));
    }
    records
}

/// Which domain to verify.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct DomainVerifyRequest {
    /// Its name.
    domain: String,
    /// Its customer, where several have a pending domain of this name.
    customer: Option<String>,
    /// What the DNS says.
    #[serde(skip)]
    #[schema(ignore)]
    found: Option<Arc<Found>>,
}

/// What came of looking for the proof.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Verification {
    #[serde(flatten)]
    domain: Domain,
    /// `verified`; `absent`: the record is not there; `unreachable`: the DNS did not answer; `waiting`: proven, but the
    /// domain for which it stands is pending; `contested`: proven, but another customer has it verified, and the
    /// provider decides.
    outcome: String,
    /// The same in words.
    message: String,
    /// Where the proof must stand, as TXT.
    record: String,
    /// What it must say.
    text: String,
}

/// `domain.verify`.
pub(in crate::service) struct DomainVerify;

impl Operate for DomainVerify {
    declare! { "domain.verify", Post, "/v1/domains/{domain}/verify", DomainCreate, changes,
    "Look in the DNS for the proof that a pending domain is its customer's" }
    type Request = DomainVerifyRequest;
    type Response = Verification;
    type Target = OneDomain;

    async fn prepare(inner: &Inner, request: DomainVerifyRequest) -> Result<DomainVerifyRequest> {
        let found = match super::scope::domain_name("domain", &request.domain) {
            Ok(name) => Some(Arc::new(inner.lookups.look(name.as_str()).await)),
            // The target is refused for it.
            Err(_) => None,
        };
        Ok(DomainVerifyRequest { found, ..request })
    }

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a DomainVerifyRequest) -> Result<OneDomain> {
        OneDomain::find_claimed(tx, &request.domain, request.customer.as_deref()).await
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneDomain(pending): OneDomain,
        request: DomainVerifyRequest,
    ) -> Result<Verification> {
        let text = tx.inner.lookups.text(&pending.public_id, pending.customer);
        let record = record_name(&pending.name);
        let (outcome, message) = if pending.pending {
            let found = request.found.as_deref();
            let (outcome, message) = prove(tx, &pending, found, &text).await?;
            keep(tx, pending.id, outcome).await?;
            (outcome, message)
        } else {
            ("verified", format!("{} is verified", pending.name))
        };
        let now = row(tx, pending.id).await?;
        let domain = show(tx, now);
        let outcome = outcome.to_owned();
        tx.after = Some(serde_json::json!({ "domain": &domain, "outcome": &outcome }));
        Ok(Verification { domain, outcome, message, record, text })
    }
}

/// Verifies the domain if what was found proves it; answers what came of it.
async fn prove(
    tx: &mut Tx<'_>,
    pending: &DomainRow,
    found: Option<&Found>,
    text: &str,
) -> Result<(&'static str, String)> {
    let name = &pending.name;
    let texts = match found {
        Some(Found::Texts(texts)) => texts,
        Some(Found::Failed(why)) => return Ok(("unreachable", why.clone())),
        None => return Ok(("unreachable", "nobody looked".to_owned())),
    };
    if !proves(texts, text) {
        let message = match texts.len() {
            0 => format!("there is no TXT record {} yet", record_name(name)),
            1 => format!("the TXT record at {} is not the proof", record_name(name)),
            count => format!("none of the {count} TXT records at {} is the proof", record_name(name)),
        };
        return Ok(("absent", message));
    }
    if let Some(meant) = pending.alias_of {
        let meant = row(tx, meant).await?;
        if meant.pending {
            let message = format!("{name} is proven; it waits for {}, for which it stands", meant.name);
            return Ok(("waiting", message));
        }
    }
    if domain::confirm(tx.conn, pending).await? {
        return Ok(("verified", format!("{name} is verified")));
    }
    let message =
        format!("{name} is proven, but another customer has it verified; the provider decides whose it is");
    Ok(("contested", message))
}

async fn keep(tx: &mut Tx<'_>, domain: DomainId, outcome: &'static str) -> Result<()> {
    let before = domain_check::of(tx.conn, domain).await?;
    let failures = if outcome == "verified" { 0 } else { before.map_or(0, |check| check.failures) + 1 };
    let check = Check { checked_at: tx.now, outcome: outcome.to_owned(), failures };
    domain_check::keep(tx.conn, domain, &check, next_look(tx.now, failures)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_rarer_up_to_a_bound() {
        let after = |failures| next_look(Timestamp(0), failures).secs();
        assert_eq!([1, 2, 3, 4].map(after), [60, 120, 240, 480]);
        assert_eq!([9, 10, 100, i64::MAX].map(after), [15_360, 21_600, 21_600, 21_600]);
        assert_eq!(after(0), 60);
    }

    #[test]
    fn every_domain_of_every_customer_has_its_own_text() {
        let lookups = Lookups::new(None, &[1; 32]);
        let text = lookups.text("one", CustomerId(1));
        assert_eq!(text.len(), TEXT.len() + 2 * OWN_OCTETS);
        assert_ne!(text, lookups.text("one", CustomerId(2)));
        assert_ne!(text, lookups.text("two", CustomerId(1)));
        assert_ne!(text, Lookups::new(None, &[2; 32]).text("one", CustomerId(1)));
        let found = [b"v=spf1 -all".to_vec(), format!(" {text}\n").into_bytes()];
        assert!(proves(&found, &text) && !proves(&found[..1], &text));
    }
}
