//! What catalogs are made of, read in short pages: the directory, mailboxes with their folders, messages.

use std::collections::BTreeMap;

use super::catalog::MailboxState;
use super::content::packed_opt;
use super::delivery::Packed;
use super::sql::{Conn, Row, Value, ids};
use crate::base::id::{MailboxId, StoreId};
use crate::params;
use crate::storage::catalogs::record::{
    AliasRecord, CustomerRecord, DomainRecord, FolderRecord, HoldRecord, MailboxRecord, MessageRecord,
};
use crate::storage::{Result, StorageError};

/// Most rows of one question.
pub const PAGE_ROWS: i64 = 1_000;
/// Most mailboxes of one question; each has some folders.
const PAGE_MAILBOXES: i64 = 64;
/// Most UIDs of one question: they are read fast.
const PAGE_UIDS: i64 = 10_000;

/// Customers behind `after`; at most 1,000.
///
/// # Errors
/// What the database says.
pub async fn customers(conn: &mut Conn, after: i64) -> Result<Vec<CustomerRecord>> {
    let text = "SELECT id, public_id, parent_id, slug, name, kind, code, contact, bytes_max, messages_max,
                       mailboxes_max, aliases_max, domains_max, customers_max, administrators_max, created_at,
                       deleted_at, deleted_by, bytes_guarantee, mailboxes_guarantee, bytes_overcommit_percent,
                       mailboxes_overcommit_percent
                FROM customer WHERE id > $1 ORDER BY id LIMIT $2";
    let record = |row: &Row| {
        let mut limits = [None; 7];
        for (limit, column) in limits.iter_mut().zip(8..) {
            *limit = row.int_opt(column)?;
        }
        let mut shares = [None; 4];
        for (share, column) in shares.iter_mut().zip(18..) {
            *share = row.int_opt(column)?;
        }
        Ok(CustomerRecord {
            id: row.int(0)?,
            public_id: row.text(1)?,
            parent: row.int_opt(2)?,
            slug: row.text(3)?,
            name: row.text(4)?,
            kind: row.text(5)?,
            code: row.text(6)?,
            contact: row.text_opt(7)?,
            limits,
            shares,
            created_at: row.int(15)?,
            deleted_at: row.int_opt(16)?,
            deleted_by: row.text_opt(17)?,
        })
    };
    conn.rows(text, params![after, PAGE_ROWS]).await?.iter().map(record).collect()
}

/// Domains behind `after`; at most 1,000.
///
/// # Errors
/// What the database says.
pub async fn domains(conn: &mut Conn, after: i64) -> Result<Vec<DomainRecord>> {
    let text = "SELECT id, public_id, customer_id, name, state, alias_of, catch_all, bytes_max, messages_max,
                       mailbox_bytes_max_default, created_at, deleted_at, deleted_by
                FROM domain WHERE id > $1 ORDER BY id LIMIT $2";
    let record = |row: &Row| {
        Ok(DomainRecord {
            id: row.int(0)?,
            public_id: row.text(1)?,
            customer: row.int(2)?,
            name: row.text(3)?,
            state: row.text(4)?,
            alias_of: row.int_opt(5)?,
            catch_all: row.text_opt(6)?,
            limits: [row.int_opt(7)?, row.int_opt(8)?, row.int_opt(9)?],
            created_at: row.int(10)?,
            deleted_at: row.int_opt(11)?,
            deleted_by: row.text_opt(12)?,
        })
    };
    conn.rows(text, params![after, PAGE_ROWS]).await?.iter().map(record).collect()
}

/// Aliases behind `after`, with their targets; at most 1,000.
///
/// # Errors
/// What the database says.
pub async fn aliases(conn: &mut Conn, after: i64) -> Result<Vec<AliasRecord>> {
    let text = "SELECT id, public_id, domain_id, local_part, created_at FROM alias WHERE id > $1 ORDER BY id LIMIT $2";
    let record = |row: &Row| {
        Ok(AliasRecord {
            id: row.int(0)?,
            public_id: row.text(1)?,
            domain: row.int(2)?,
            local_part: row.text(3)?,
            created_at: row.int(4)?,
            targets: Vec::new(),
        })
    };
    let mut aliases: Vec<AliasRecord> =
        conn.rows(text, params![after, PAGE_ROWS]).await?.iter().map(record).collect::<Result<_>>()?;
    let text =
        "SELECT alias_id, address FROM alias_target WHERE alias_id IN IDS($1) ORDER BY alias_id, address";
    let mut targets: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for row in conn.rows(text, vec![ids(aliases.iter().map(|alias| alias.id))]).await? {
        targets.entry(row.int(0)?).or_default().push(row.text(1)?);
    }
    for alias in &mut aliases {
        alias.targets = targets.remove(&alias.id).unwrap_or_default();
    }
    Ok(aliases)
}

/// Holds behind `after`; at most 1,000.
///
/// # Errors
/// What the database says.
pub async fn holds(conn: &mut Conn, after: i64) -> Result<Vec<HoldRecord>> {
    let text = "SELECT id, public_id, customer_id, domain_id, mailbox_id, switch, reason, actor,
                       authority_customer_id, created_at
                FROM hold WHERE id > $1 ORDER BY id LIMIT $2";
    let record = |row: &Row| {
        Ok(HoldRecord {
            id: row.int(0)?,
            public_id: row.text(1)?,
            customer: row.int_opt(2)?,
            domain: row.int_opt(3)?,
            mailbox: row.int_opt(4)?,
            switch: row.text(5)?,
            reason: row.text(6)?,
            actor: row.text(7)?,
            authority: row.int(8)?,
            created_at: row.int(9)?,
        })
    };
    conn.rows(text, params![after, PAGE_ROWS]).await?.iter().map(record).collect()
}

/// A mailbox with everything but its messages.
#[derive(Clone, Debug)]
pub struct MailboxContent {
    /// Its record; `sequence`, `is_whole`, `path` and `at` are for whoever writes it.
    pub record: MailboxRecord,
    /// The customer of its domain.
    pub customer: i64,
    /// Its folders by key, deleted ones too.
    pub folders: Vec<FolderRecord>,
    /// How many messages each folder has.
    pub messages: BTreeMap<i64, i64>,
    /// Names of subscribed folders, sorted.
    pub subscriptions: Vec<String>,
    /// What its tombstones count, and how many deleted folders are still being purged.
    pub going: (i64, i64),
    /// What the catalogs say of it.
    pub state: Option<MailboxState>,
}

/// Mailboxes of a store behind `after`, deleted ones too; some.
///
/// # Errors
/// What the database says.
pub async fn mailboxes(conn: &mut Conn, store: StoreId, after: MailboxId) -> Result<Vec<MailboxContent>> {
    let text =
        "SELECT m.id, m.public_id, m.local_part, m.domain_id, d.name, d.customer_id, m.name, m.bytes_max,
                       m.messages_max, m.uid_validity_next, m.created_at, m.deleted_at, m.deleted_by,
                       m.tombstone_octets,
                       (SELECT count(*) FROM folder_purge p WHERE p.mailbox_id = m.id),
                       c.fingerprint, c.sequence, c.whole_octets, c.more_octets, c.positions, c.tombstone
                FROM mailbox m JOIN domain d ON d.id = m.domain_id
                     LEFT JOIN catalog_mailbox c ON c.store_id = $1 AND c.mailbox_id = m.id
                WHERE m.store_id = $1 AND m.id > $2 ORDER BY m.id LIMIT $3";
    let rows = conn.rows(text, params![store, after, PAGE_MAILBOXES]).await?;
    let mut contents = rows.iter().map(content).collect::<Result<Vec<_>>>()?;
    let keys: Vec<i64> = contents.iter().map(|content| content.record.id).collect();
    let mut folders = folders(conn, &keys).await?;
    let mut subscriptions: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    let text =
        "SELECT mailbox_id, name FROM subscription WHERE mailbox_id IN IDS($1) ORDER BY mailbox_id, name";
    for row in conn.rows(text, vec![ids(keys)]).await? {
        subscriptions.entry(row.int(0)?).or_default().push(row.text(1)?);
    }
    for content in &mut contents {
        let (own, messages) = folders.remove(&content.record.id).unwrap_or_default();
        (content.folders, content.messages) = (own, messages);
        content.subscriptions = subscriptions.remove(&content.record.id).unwrap_or_default();
    }
    Ok(contents)
}

fn content(row: &Row) -> Result<MailboxContent> {
    let state = |fingerprint: String| {
        Ok::<_, StorageError>(MailboxState {
            fingerprint,
            sequence: row.int(16)?,
            whole_octets: row.int(17)?,
            more_octets: row.int(18)?,
            positions: row.text(19)?,
            tombstone: row.int(20)?,
        })
    };
    Ok(MailboxContent {
        record: MailboxRecord {
            id: row.int(0)?,
            sequence: 0,
            is_whole: true,
            public_id: row.text(1)?,
            local_part: row.text(2)?,
            domain: row.int(3)?,
            domain_name: row.text(4)?,
            path: Vec::new(),
            name: row.text(6)?,
            bytes_max: row.int_opt(7)?,
            messages_max: row.int_opt(8)?,
            uid_validity_next: row.int(9)?,
            created_at: row.int(10)?,
            deleted_at: row.int_opt(11)?,
            deleted_by: row.text_opt(12)?,
            at: 0,
        },
        customer: row.int(5)?,
        folders: Vec::new(),
        messages: BTreeMap::new(),
        subscriptions: Vec::new(),
        going: (row.int(13)?, row.int(14)?),
        state: row.text_opt(15)?.map(state).transpose()?,
    })
}

type Folders = (Vec<FolderRecord>, BTreeMap<i64, i64>);

/// Folders of mailboxes, those that were deleted and can come back too.
async fn folders(conn: &mut Conn, mailboxes: &[i64]) -> Result<BTreeMap<i64, Folders>> {
    let text =
        "SELECT id, name, special_use, selectable, uid_validity, uid_next, mod_seq, recent_uid, created_at,
                       mailbox_id, messages
                FROM folder WHERE mailbox_id IN IDS($1) ORDER BY id";
    let mut rows: Vec<(i64, i64, FolderRecord)> = Vec::new();
    for row in conn.rows(text, vec![ids(mailboxes.iter().copied())]).await? {
        rows.push((row.int(9)?, row.int(10)?, folder(&row, None)?));
    }
    let text = "SELECT folder_id, name, special_use, CAST(1 AS BIGINT), uid_validity, CAST(1 AS BIGINT),
                       CAST(1 AS BIGINT), CAST(1 AS BIGINT), deleted_at, mailbox_id, deleted_at
                FROM deleted_folder WHERE mailbox_id IN IDS($1) ORDER BY folder_id";
    for row in conn.rows(text, vec![ids(mailboxes.iter().copied())]).await? {
        rows.push((row.int(9)?, 0, folder(&row, Some(row.int(10)?))?));
    }
    let mut keywords: BTreeMap<i64, Vec<(i64, String)>> = BTreeMap::new();
    let text = "SELECT folder_id, keyword, name FROM folder_keyword WHERE folder_id IN IDS($1)
                ORDER BY folder_id, keyword";
    for row in conn.rows(text, vec![ids(rows.iter().map(|(_, _, folder)| folder.id))]).await? {
        keywords.entry(row.int(0)?).or_default().push((row.int(1)?, row.text(2)?));
    }
    let mut folders: BTreeMap<i64, Folders> = BTreeMap::new();
    for (mailbox, messages, mut folder) in rows {
        folder.keywords = keywords.remove(&folder.id).unwrap_or_default();
        let (own, counts) = folders.entry(mailbox).or_default();
        counts.insert(folder.id, messages);
        own.push(folder);
    }
    Ok(folders)
}

fn folder(row: &Row, deleted_at: Option<i64>) -> Result<FolderRecord> {
    Ok(FolderRecord {
        id: row.int(0)?,
        name: row.text(1)?,
        special_use: row.text_opt(2)?,
        is_selectable: row.int(3)? != 0,
        uid_validity: row.int(4)?,
        uid_next: row.int(5)?,
        mod_seq: row.int(6)?,
        recent_uid: row.int(7)?,
        created_at: row.int(8)?,
        keywords: Vec::new(),
        deleted_at,
    })
}

/// The highest mod-sequence of each folder of a mailbox.
///
/// # Errors
/// What the database says.
pub async fn mod_seqs(conn: &mut Conn, mailbox: MailboxId) -> Result<Vec<(i64, i64)>> {
    let text = "SELECT id, mod_seq FROM folder WHERE mailbox_id = $1 ORDER BY id";
    let rows = conn.rows(text, params![mailbox]).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?))).collect()
}

/// A message with its trace lines as they are stored, and its mod-sequence.
pub type Read = (MessageRecord, Option<Packed>, i64);

fn message(row: &Row) -> Result<Read> {
    let record = MessageRecord {
        uid: row.int(0)?,
        flags: row.int(1)?.cast_unsigned(),
        internal_date: row.int(2)?,
        body: row.int(3)?,
        prefix_id: row.int(4)?,
        octets: row.int(5)?,
        prefix: Vec::new(),
        grave: (row.int(7)?, row.int(8)?),
    };
    Ok((record, packed_opt(row, 9)?, row.int(6)?))
}

const COLUMNS: &str = "m.uid, m.flags, m.internal_date, m.body_id, m.prefix_id, m.octets";
const PREFIX: &str = "p.codec, p.dictionary_id, p.octets, p.data";

/// Messages of a folder with UIDs above `after`; at most 1,000.
///
/// # Errors
/// What the database says.
pub async fn messages(conn: &mut Conn, mailbox: MailboxId, folder: i64, after: i64) -> Result<Vec<Read>> {
    let text = format!(
        "SELECT {COLUMNS}, m.mod_seq, CAST(0 AS BIGINT), CAST(0 AS BIGINT), {PREFIX}
         FROM message m JOIN folder f ON f.id = m.folder_id AND m.uid < f.uid_next
              LEFT JOIN message_prefix p ON p.id = m.prefix_id
         WHERE m.mailbox_id = $1 AND m.folder_id = $2 AND m.uid > $3 ORDER BY m.uid LIMIT $4"
    );
    let params: Vec<Value> = params![mailbox, folder, after, PAGE_ROWS];
    conn.rows(text, params).await?.iter().map(message).collect()
}

/// Messages of a folder that have changed behind (mod-sequence, UID), in that order; at most 1,000.
///
/// # Errors
/// What the database says.
pub async fn changed(
    conn: &mut Conn,
    mailbox: MailboxId,
    folder: i64,
    after: (i64, i64),
) -> Result<Vec<Read>> {
    let text = format!(
        "SELECT {COLUMNS}, m.mod_seq, CAST(0 AS BIGINT), CAST(0 AS BIGINT), {PREFIX}
         FROM message m JOIN folder f ON f.id = m.folder_id AND m.uid < f.uid_next
              LEFT JOIN message_prefix p ON p.id = m.prefix_id
         WHERE m.mailbox_id = $1 AND m.folder_id = $2 AND m.mod_seq >= $3 AND (m.mod_seq > $3 OR m.uid > $4)
         ORDER BY m.mod_seq, m.uid LIMIT $5"
    );
    let params: Vec<Value> = params![mailbox, folder, after.0, after.1, PAGE_ROWS];
    conn.rows(text, params).await?.iter().map(message).collect()
}

/// UIDs of a folder above `after`, ascending; at most 10,000.
///
/// # Errors
/// What the database says.
pub async fn uids(conn: &mut Conn, mailbox: MailboxId, folder: i64, after: i64) -> Result<Vec<i64>> {
    let text = "SELECT m.uid FROM message m JOIN folder f ON f.id = m.folder_id AND m.uid < f.uid_next
                WHERE m.mailbox_id = $1 AND m.folder_id = $2 AND m.uid > $3 ORDER BY m.uid LIMIT $4";
    let rows = conn.rows(text, params![mailbox, folder, after, PAGE_UIDS]).await?;
    rows.iter().map(|row| row.int(0)).collect()
}

/// Tombstones of a mailbox behind `after`, with their keys in place of the mod-sequence; at most 1,000.
///
/// # Errors
/// What the database says.
pub async fn tombstones(conn: &mut Conn, mailbox: MailboxId, after: i64) -> Result<Vec<Read>> {
    let text = format!(
        "SELECT {COLUMNS}, m.id, m.folder_id, m.expunged_at, {PREFIX}
         FROM tombstone m LEFT JOIN message_prefix p ON p.id = m.prefix_id
         WHERE m.mailbox_id = $1 AND m.id > $2 ORDER BY m.id LIMIT $3"
    );
    conn.rows(text, params![mailbox, after, PAGE_ROWS]).await?.iter().map(message).collect()
}

/// Messages of deleted folders that are about to get tombstones, behind (folder, UID); at most 1,000.
///
/// # Errors
/// What the database says.
pub async fn buried(conn: &mut Conn, mailbox: MailboxId, after: (i64, i64)) -> Result<Vec<Read>> {
    let text = format!(
        "SELECT {COLUMNS}, CAST(0 AS BIGINT), m.folder_id, d.deleted_at, {PREFIX}
         FROM deleted_folder d JOIN folder_purge g ON g.folder_id = d.folder_id
              JOIN message m ON m.mailbox_id = d.mailbox_id AND m.folder_id = d.folder_id
              LEFT JOIN message_prefix p ON p.id = m.prefix_id
         WHERE d.mailbox_id = $1 AND (m.folder_id > $2 OR (m.folder_id = $2 AND m.uid > $3))
         ORDER BY m.folder_id, m.uid LIMIT $4"
    );
    let params: Vec<Value> = params![mailbox, after.0, after.1, PAGE_ROWS];
    conn.rows(text, params).await?.iter().map(message).collect()
}
