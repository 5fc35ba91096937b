//! Counters of octets and messages with their limits: asking, charging, releasing, following what limits are set.
//!
//! # Consistency
//! The order of locks is that of `delivery.rs`: mailbox, domain counter, customer counters by id. A counter row of a
//! domain exists exactly while it has a limit on octets or messages, that of a customer also while octets are
//! guaranteed to it.
//!
//! A customer's counter says what it uses, which is the sum of its mailboxes and of those below it, and what is
//! committed, in which guarantees below count in full (`pool.rs`); limits on octets are on the latter.

use std::collections::BTreeMap;

use super::pool::{self, Pool, Pooled};
use super::sql::{Conn, Row, Value, ids};
use crate::base::id::{CustomerId, DomainId, MailboxId};
use crate::params;
use crate::storage::{Result, StorageError};

/// Whose limit refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QuotaOwner {
    /// The mailbox.
    Mailbox(MailboxId),
    /// The domain.
    Domain(DomainId),
    /// A customer on the way up.
    Customer(CustomerId),
}

/// A limit that refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverLimit {
    /// Whose it is.
    pub owner: QuotaOwner,
    /// Whether it is that on the number of messages; else that on octets.
    pub on_messages: bool,
}

/// A counter with its limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Meter {
    /// The limit on octets, and what of it is committed.
    pub(super) bytes: Pool,
    pub(super) messages_max: Option<i64>,
    pub(super) bytes_used: i64,
    pub(super) messages_used: i64,
}

impl Meter {
    /// Reads limits on octets and messages, then what is used of them, from column `first` on.
    pub(super) fn read(row: &Row, first: usize) -> Result<Self> {
        let bytes_used = row.int(first + 2)?;
        Ok(Self {
            bytes: Pool { max: row.int_opt(first)?, guarantee: None, committed: bytes_used },
            messages_max: row.int_opt(first + 1)?,
            bytes_used,
            messages_used: row.int(first + 3)?,
        })
    }

    /// As [`Self::read`], with a customer's guarantee and what is committed behind.
    fn read_customer(row: &Row, first: usize) -> Result<Self> {
        let mut meter = Self::read(row, first)?;
        meter.bytes.guarantee = row.int_opt(first + 4)?;
        meter.bytes.committed = row.int(first + 5)?;
        Ok(meter)
    }

    /// The limit that so much more would exceed, if any. What does not grow always passes, even above a limit that
    /// was lowered.
    pub(super) fn refusal(&self, owner: QuotaOwner, octets: i64, messages: i64) -> Option<OverLimit> {
        if self.bytes.refuses(octets) {
            return Some(OverLimit { owner, on_messages: false });
        }
        let sum = self.messages_used.checked_add(messages);
        let over = messages > 0 && self.messages_max.is_some_and(|max| sum.is_none_or(|sum| sum > max));
        over.then_some(OverLimit { owner, on_messages: true })
    }

    /// Adds to what is used, and `climbing` to what is committed; answers what of that goes on to what is above. A sum
    /// below zero means that a counter had drifted: it is reported and stops at zero, so that mail goes on.
    pub(super) fn add(&mut self, owner: QuotaOwner, used: Used, climbing: i64) -> Result<i64> {
        let sum = |before: i64, delta: i64| {
            let sum = before.checked_add(delta).ok_or_else(overflow)?;
            if sum < 0 {
                tracing::error!(
                    ?owner,
                    before,
                    delta,
                    "a quota counter would go below zero; run quota verify"
                );
            }
            Ok::<_, StorageError>(sum.max(0))
        };
        let (bytes_used, messages_used) =
            (sum(self.bytes_used, used.bytes)?, sum(self.messages_used, used.messages)?);
        let on = self.bytes.add(climbing).ok_or_else(overflow)?;
        (self.bytes_used, self.messages_used) = (bytes_used, messages_used);
        Ok(on)
    }
}

fn overflow() -> StorageError {
    StorageError::Corrupt("a quota counter overflows".to_owned())
}

/// Counters of customers by key.
pub(super) type Customers = BTreeMap<i64, Meter>;

/// The first limit, from below up along `chain`, that so much more would exceed.
pub(super) fn chain_refusal(
    chain: &[i64],
    customers: &Customers,
    octets: i64,
    messages: i64,
) -> Option<OverLimit> {
    let mut climbing = octets;
    for id in chain {
        let Some(meter) = customers.get(id) else { continue };
        let owner = QuotaOwner::Customer(CustomerId(*id));
        if let Some(over) = meter.refusal(owner, climbing, messages) {
            return Some(over);
        }
        let Some(on) = meter.bytes.passes_of(climbing) else {
            return Some(OverLimit { owner, on_messages: false });
        };
        climbing = on;
    }
    None
}

/// Adds to what the customers of a chain, from below up, use and have committed.
pub(super) fn chain_add(
    chain: &[i64],
    customers: &mut Customers,
    used: Used,
    mut climbing: i64,
) -> Result<()> {
    for id in chain {
        if let Some(meter) = customers.get_mut(id) {
            climbing = meter.add(QuotaOwner::Customer(CustomerId(*id)), used, climbing)?;
        }
    }
    Ok(())
}

/// Writes what counters of customers say now.
pub(super) async fn write_customers(conn: &mut Conn, customers: &Customers) -> Result<()> {
    let row =
        |(id, meter): (&i64, &Meter)| vec![*id, meter.bytes_used, meter.messages_used, meter.bytes.committed];
    let rows = customers.iter().map(row).collect();
    let text = "UPDATE customer_usage SET bytes_used = v.column2, messages_used = v.column3,
                                          bytes_committed = v.column4";
    conn.update_from_values(text, "customer_usage.customer_id", 4, rows).await
}

/// Adds to what a mailbox and everything with a limit above it use, or takes away (negative deltas, which always
/// pass). When a limit refuses, nothing is changed and which it is comes back as the inner error.
///
/// # Errors
/// When the mailbox is gone, or the database fails.
pub async fn charge(
    conn: &mut Conn,
    mailbox: MailboxId,
    bytes_delta: i64,
    messages_delta: i64,
) -> Result<std::result::Result<(), OverLimit>> {
    let mut counters = lock_counters(conn, mailbox).await?;
    if let Some(over) = counters.refusal(mailbox, bytes_delta, messages_delta) {
        return Ok(Err(over));
    }
    let used = Used { bytes: bytes_delta, messages: messages_delta };
    let meter = &mut counters.mailbox;
    meter.add(QuotaOwner::Mailbox(mailbox), used, bytes_delta)?;
    let text = "UPDATE mailbox SET bytes_used = $2, messages_used = $3 WHERE id = $1";
    conn.execute(text, params![mailbox, meter.bytes_used, meter.messages_used]).await?;
    if let Some((domain, meter)) = &mut counters.domain {
        meter.add(QuotaOwner::Domain(*domain), used, bytes_delta)?;
        write_domain(conn, *domain, meter).await?;
    }
    chain_add(&counters.chain, &mut counters.customers, used, bytes_delta)?;
    write_customers(conn, &counters.customers).await?;
    Ok(Ok(()))
}

/// Whether so much more would fit now; nothing is charged.
///
/// # Errors
/// As [`charge`].
pub async fn admits(
    conn: &mut Conn,
    mailbox: MailboxId,
    bytes_delta: i64,
    messages_delta: i64,
) -> Result<std::result::Result<(), OverLimit>> {
    let counters = lock_counters(conn, mailbox).await?;
    Ok(counters.refusal(mailbox, bytes_delta, messages_delta).map_or(Ok(()), Err))
}

/// Writes what the counter of a domain says now.
async fn write_domain(conn: &mut Conn, domain: DomainId, meter: &Meter) -> Result<()> {
    let text = "UPDATE domain_usage SET bytes_used = $2, messages_used = $3 WHERE domain_id = $1";
    conn.execute(text, params![domain, meter.bytes_used, meter.messages_used]).await.map(drop)
}

/// Counters of a mailbox and above it.
struct Counters {
    mailbox: Meter,
    /// The domain's, if it has one.
    domain: Option<(DomainId, Meter)>,
    /// The customers above that have a counter, from below up.
    chain: Vec<i64>,
    customers: Customers,
}

impl Counters {
    /// The first limit that so much more in this mailbox would exceed.
    fn refusal(&self, mailbox: MailboxId, octets: i64, messages: i64) -> Option<OverLimit> {
        let of_mailbox = self.mailbox.refusal(QuotaOwner::Mailbox(mailbox), octets, messages);
        let of_domain = || {
            let (domain, meter) = self.domain.as_ref()?;
            meter.refusal(QuotaOwner::Domain(*domain), octets, messages)
        };
        let of_customers = || chain_refusal(&self.chain, &self.customers, octets, messages);
        of_mailbox.or_else(of_domain).or_else(of_customers)
    }
}

/// Locks and reads the mailbox and the counters above it, in the order of locks.
async fn lock_counters(conn: &mut Conn, mailbox: MailboxId) -> Result<Counters> {
    let text = format!(
        "SELECT domain_id, bytes_max, messages_max, bytes_used, messages_used FROM mailbox WHERE id = $1{}",
        conn.for_update()
    );
    let row = conn.row(text, params![mailbox]).await?.ok_or(StorageError::Gone("mailbox"))?;
    let (domain, mailbox) = (row.int(0)?, Meter::read(&row, 1)?);
    let domains = domain_meters(conn, ids([domain])).await?;
    let chain = chains(conn, ids([domain])).await?.remove(&domain).unwrap_or_default();
    let customers = customer_meters(conn, chain.clone()).await?;
    let domain = domains.into_iter().next().map(|(id, meter)| (DomainId(id), meter));
    Ok(Counters { mailbox, domain, chain, customers })
}

/// The customers with a counter above domains `IDS`, from below up, by domain. Whose mailboxes are locked there cannot
/// get others: whoever moves customers or domains, or makes or drops counters, locks the mailboxes too.
pub(super) async fn chains(conn: &mut Conn, domains: Value) -> Result<BTreeMap<i64, Vec<i64>>> {
    let text = "WITH RECURSIVE up (domain_id, id, parent_id, height) AS (
                    SELECT d.id, c.id, c.parent_id, CAST(0 AS BIGINT)
                    FROM domain d JOIN customer c ON c.id = d.customer_id WHERE d.id IN IDS($1)
                    UNION ALL
                    SELECT up.domain_id, c.id, c.parent_id, up.height + 1
                    FROM up JOIN customer c ON c.id = up.parent_id)
                SELECT up.domain_id, up.id FROM up JOIN customer_usage u ON u.customer_id = up.id
                ORDER BY up.domain_id, up.height";
    let mut chains: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for row in conn.rows(text, vec![domains]).await? {
        chains.entry(row.int(0)?).or_default().push(row.int(1)?);
    }
    Ok(chains)
}

/// Locks and reads, by id, the counters of those domains `IDS` that have one.
pub(super) async fn domain_meters(conn: &mut Conn, domains: Value) -> Result<BTreeMap<i64, Meter>> {
    let lock = if conn.is_postgres() { " FOR UPDATE OF u" } else { "" };
    let text = format!(
        "SELECT o.id, o.bytes_max, o.messages_max, u.bytes_used, u.messages_used
         FROM domain_usage u JOIN domain o ON o.id = u.domain_id
         WHERE u.domain_id IN IDS($1) ORDER BY u.domain_id{lock}"
    );
    let rows = conn.rows(text, vec![domains]).await?;
    rows.iter().map(|row| Ok((row.int(0)?, Meter::read(row, 1)?))).collect()
}

/// Locks and reads, by id, the counters of those customers that have one.
pub(super) async fn customer_meters(conn: &mut Conn, customers: Vec<i64>) -> Result<Customers> {
    if customers.is_empty() {
        return Ok(Customers::new());
    }
    let lock = if conn.is_postgres() { " FOR UPDATE OF u" } else { "" };
    let text = format!(
        "SELECT o.id, o.bytes_max, o.messages_max, u.bytes_used, u.messages_used, o.bytes_guarantee,
                u.bytes_committed
         FROM customer_usage u JOIN customer o ON o.id = u.customer_id
         WHERE u.customer_id IN IDS($1) ORDER BY u.customer_id{lock}"
    );
    let rows = conn.rows(text, vec![ids(customers)]).await?;
    rows.iter().map(|row| Ok((row.int(0)?, Meter::read_customer(row, 1)?))).collect()
}

/// The limit that refuses one more message of `octets` in the mailbox now, if any. An estimate without locks: the
/// transaction that adds it decides. None for a mailbox that is gone.
///
/// # Errors
/// When the database fails.
pub async fn refusing_limit(conn: &mut Conn, mailbox: MailboxId, octets: i64) -> Result<Option<OverLimit>> {
    let text = "WITH RECURSIVE box
                    (id, domain_id, customer_id, bytes_max, messages_max, bytes_used, messages_used) AS (
                    SELECT m.id, d.id, d.customer_id, m.bytes_max, m.messages_max, m.bytes_used, m.messages_used
                    FROM mailbox m JOIN domain d ON d.id = m.domain_id WHERE m.id = $1),
                up (id, parent_id, height) AS (
                    SELECT c.id, c.parent_id, CAST(3 AS BIGINT)
                    FROM customer c JOIN box ON box.customer_id = c.id
                    UNION ALL
                    SELECT c.id, c.parent_id, up.height + 1 FROM up JOIN customer c ON c.id = up.parent_id)
                SELECT CAST(1 AS BIGINT) AS height, id, bytes_max, messages_max, bytes_used, messages_used,
                       CAST(NULL AS BIGINT), bytes_used
                FROM box
                UNION ALL
                SELECT CAST(2 AS BIGINT), d.id, d.bytes_max, d.messages_max, u.bytes_used, u.messages_used,
                       CAST(NULL AS BIGINT), u.bytes_used
                FROM domain_usage u JOIN domain d ON d.id = u.domain_id WHERE d.id IN (SELECT domain_id FROM box)
                UNION ALL
                SELECT up.height, c.id, c.bytes_max, c.messages_max, u.bytes_used, u.messages_used,
                       c.bytes_guarantee, u.bytes_committed
                FROM up JOIN customer_usage u ON u.customer_id = up.id JOIN customer c ON c.id = up.id
                ORDER BY 1";
    let octets = octets.max(1);
    let (mut chain, mut customers) = (Vec::new(), Customers::new());
    for row in conn.rows(text, params![mailbox]).await? {
        let owner = match row.int(0)? {
            1 => QuotaOwner::Mailbox(MailboxId(row.int(1)?)),
            2 => QuotaOwner::Domain(DomainId(row.int(1)?)),
            _ => {
                chain.push(row.int(1)?);
                customers.insert(row.int(1)?, Meter::read_customer(&row, 2)?);
                continue;
            }
        };
        if let Some(over) = Meter::read(&row, 2)?.refusal(owner, octets, 1) {
            return Ok(Some(over));
        }
    }
    Ok(chain_refusal(&chain, &customers, octets, 1))
}

/// What some mailboxes use together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Used {
    /// Octets.
    pub bytes: i64,
    /// Messages.
    pub messages: i64,
}

/// Locks the mailboxes of a domain or of customers, deleted ones too since they keep their charge, and sums them up.
/// Deliveries that come later wait and then see the counter that the caller makes.
async fn lock_and_sum(conn: &mut Conn, condition: &str, wanted: Value) -> Result<Used> {
    if conn.is_postgres() {
        let text = format!(
            "SELECT count(*) FROM (SELECT m.id FROM mailbox m JOIN domain d ON d.id = m.domain_id
             WHERE {condition} ORDER BY m.id FOR UPDATE OF m) AS locked"
        );
        conn.execute(text, vec![wanted.clone()]).await?;
    }
    let text = format!(
        "SELECT CAST(coalesce(sum(m.bytes_used), 0) AS BIGINT), CAST(coalesce(sum(m.messages_used), 0) AS BIGINT)
         FROM mailbox m JOIN domain d ON d.id = m.domain_id WHERE {condition}"
    );
    let row = conn.row(text, vec![wanted]).await?.ok_or(StorageError::Gone("the sum"))?;
    Ok(Used { bytes: row.int(0)?, messages: row.int(1)? })
}

/// Locks and sums the mailboxes of these customers.
///
/// # Errors
/// When the database fails.
pub async fn lock_customers(conn: &mut Conn, subtree: &[i64]) -> Result<Used> {
    lock_and_sum(conn, "d.customer_id IN IDS($1)", ids(subtree.iter().copied())).await
}

/// Locks and sums the mailboxes of these domains.
///
/// # Errors
/// When the database fails.
pub async fn lock_domains(conn: &mut Conn, domains: &[DomainId]) -> Result<Used> {
    lock_and_sum(conn, "d.id IN IDS($1)", ids(domains.iter().map(|domain| domain.0))).await
}

/// A customer whose limits change, as far as octets and messages are concerned.
#[derive(Clone, Debug)]
pub struct Limited {
    /// The customer.
    pub id: CustomerId,
    /// The keys of the customer and all below.
    pub subtree: Vec<i64>,
    /// Those above, from below up.
    pub above: Vec<i64>,
    /// Whether it has a limit on octets or messages, or a guarantee, from now on.
    pub limited: bool,
    /// The guarantee of octets that it had, and that it has from now on.
    pub guarantee: (Option<i64>, Option<i64>),
}

/// Makes the counter of a customer follow its limits: there while it has one on octets or messages, or a guarantee.
/// What the guarantee reserves more is charged to the customers above; the limit that refuses comes back as the inner
/// error, and then the transaction must not be committed.
///
/// # Errors
/// When the database fails.
pub async fn follow_customer_limits(
    conn: &mut Conn,
    change: &Limited,
) -> Result<std::result::Result<(), OverLimit>> {
    let used = lock_customers(conn, &change.subtree).await?;
    let sums = pool::committed(&pool::groups(conn, change.id, &[], Pooled::Octets).await?)?;
    let committed = sums.get(&change.id.0).copied().unwrap_or_default();
    conn.execute("DELETE FROM customer_usage WHERE customer_id = $1", params![change.id]).await?;
    if change.limited {
        let text = "INSERT INTO customer_usage (customer_id, bytes_used, messages_used, bytes_committed)
                    VALUES ($1, $2, $3, $4)";
        conn.execute(text, params![change.id, used.bytes, used.messages, committed]).await?;
    }
    let passes = |guarantee| Pool { max: None, guarantee, committed }.passes();
    let more = passes(change.guarantee.1) - passes(change.guarantee.0);
    climb(conn, &change.above, more).await
}

/// Charges so much more octets, which nobody uses, to the customers of a chain from below up, or takes it off; the
/// limit that refuses comes back as the inner error, and then nothing was changed.
///
/// # Errors
/// When the database fails.
pub async fn climb(conn: &mut Conn, chain: &[i64], more: i64) -> Result<std::result::Result<(), OverLimit>> {
    if more == 0 {
        return Ok(Ok(()));
    }
    let mut customers = customer_meters(conn, chain.to_vec()).await?;
    if let Some(over) = chain_refusal(chain, &customers, more, 0) {
        return Ok(Err(over));
    }
    chain_add(chain, &mut customers, Used::default(), more)?;
    write_customers(conn, &customers).await?;
    Ok(Ok(()))
}

/// Makes the counter of a domain follow its limits.
///
/// # Errors
/// When the database fails.
pub async fn follow_domain_limits(conn: &mut Conn, id: DomainId, limited: bool) -> Result<()> {
    let used = lock_domains(conn, &[id]).await?;
    conn.execute("DELETE FROM domain_usage WHERE domain_id = $1", params![id]).await?;
    if limited {
        let text = "INSERT INTO domain_usage (domain_id, bytes_used, messages_used) VALUES ($1, $2, $3)";
        conn.execute(text, params![id, used.bytes, used.messages]).await?;
    }
    Ok(())
}

/// What is on its way to other customers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MovedUse {
    /// What is used there.
    pub used: Used,
    /// What it passes on, in octets: `used`, or more where guarantees are.
    pub passed: i64,
}

/// Takes the use of what moves from the counters of the customers on the path `old`, from below up, and adds it to
/// those on the path `new`; the refusing one comes back as the inner error, and then nothing was changed. What
/// guarantees on both paths keep back may make more, or less, arrive at the customers that are on both.
///
/// # Errors
/// When the database fails.
pub async fn move_use(
    conn: &mut Conn,
    moved: MovedUse,
    old: &[i64],
    new: &[i64],
) -> Result<std::result::Result<(), OverLimit>> {
    let before = customer_meters(conn, [old, new].concat()).await?;
    let mut after = before.clone();
    let less = Used { bytes: -moved.used.bytes, messages: -moved.used.messages };
    chain_add(old, &mut after, less, -moved.passed)?;
    for id in new {
        let Some(meter) = after.get_mut(id) else { continue };
        if meter.bytes.committed.checked_add(moved.passed).is_none() {
            let owner = QuotaOwner::Customer(CustomerId(*id));
            return Ok(Err(OverLimit { owner, on_messages: false }));
        }
    }
    chain_add(new, &mut after, moved.used, moved.passed)?;
    for id in new {
        let (Some(before), Some(after)) = (before.get(id), after.get(id)) else { continue };
        let on_messages = after.messages_used > before.messages_used
            && after.messages_max.is_some_and(|max| after.messages_used > max);
        if on_messages || after.bytes.has_burst(&before.bytes) {
            let owner = QuotaOwner::Customer(CustomerId(*id));
            let on_messages = !after.bytes.has_burst(&before.bytes);
            return Ok(Err(OverLimit { owner, on_messages }));
        }
    }
    after.retain(|id, meter| before.get(id) != Some(meter));
    write_customers(conn, &after).await?;
    Ok(Ok(()))
}

/// As [`move_use`], for a mailbox that comes to another domain of its customer. Locks the mailbox.
///
/// # Errors
/// When the database fails.
pub async fn move_domain_use(
    conn: &mut Conn,
    mailbox: MailboxId,
    from: DomainId,
    to: DomainId,
) -> Result<std::result::Result<(), OverLimit>> {
    let used = lock_and_sum(conn, "m.id IN IDS($1)", ids([mailbox.0])).await?;
    let mut meters = domain_meters(conn, ids([from.0, to.0])).await?;
    for (id, meter) in &mut meters {
        let owner = QuotaOwner::Domain(DomainId(*id));
        let sign = if *id == to.0 { 1 } else { -1 };
        let used = Used { bytes: used.bytes * sign, messages: used.messages * sign };
        if let Some(over) = meter.refusal(owner, used.bytes, used.messages) {
            return Ok(Err(over));
        }
        meter.add(owner, used, used.bytes)?;
    }
    for (id, meter) in meters {
        write_domain(conn, DomainId(id), &meter).await?;
    }
    Ok(Ok(()))
}
