//! From catalogs into the database: the directory, mailboxes and their messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Found, Rebuild, write};
use crate::base::id::StoreId;
use crate::service::error::Result;
use crate::storage::StorageError;
use crate::storage::catalogs::record::{
    self, AliasRecord, CustomerRecord, DomainRecord, FolderRecord, HoldRecord, MailboxRecord, MessageRecord,
    section,
};
use crate::storage::metadata::delivery::Packed;
use crate::storage::metadata::rebuild;

/// Rows of one transaction.
const SLICE_ROWS: usize = 256;

/// What a directory has.
#[derive(Default)]
struct Directory {
    customers: Vec<CustomerRecord>,
    domains: Vec<DomainRecord>,
    aliases: Vec<AliasRecord>,
    holds: Vec<HoldRecord>,
}

/// Customers in an order in which those above come first; those whose customer above is not there are put below the
/// root.
fn sorted(customers: Vec<CustomerRecord>) -> Vec<CustomerRecord> {
    let root = customers.iter().find(|one| one.parent.is_none()).map(|one| one.id);
    let keys: BTreeSet<i64> = customers.iter().map(|one| one.id).collect();
    let (mut sorted, mut placed) = (Vec::with_capacity(customers.len()), BTreeSet::new());
    let mut rest = customers;
    while !rest.is_empty() {
        let before = rest.len();
        let is_next = |one: &CustomerRecord| {
            one.parent.is_none_or(|parent| placed.contains(&parent) || !keys.contains(&parent))
        };
        let (next, after): (Vec<_>, Vec<_>) = rest.into_iter().partition(is_next);
        placed.extend(next.iter().map(|one| one.id));
        sorted.extend(next.into_iter().map(|mut one| {
            if one.parent.is_some_and(|parent| !keys.contains(&parent)) {
                one.parent = root;
            }
            one
        }));
        rest = after;
        if rest.len() == before {
            // A circle, which no hierarchy has.
            sorted.extend(rest.drain(..).map(|one| CustomerRecord { parent: root, ..one }));
        }
    }
    sorted
}

/// An entry while it is read.
struct Entry {
    record: MailboxRecord,
    is_last: bool,
    folders: Vec<FolderRecord>,
    subscriptions: Vec<String>,
}

impl Rebuild<'_> {
    async fn read_directory(&self, store: &Found) -> std::result::Result<Directory, StorageError> {
        let mut directory = Directory::default();
        for catalog in store.current.catalogs.iter().filter(|catalog| catalog.is_directory) {
            let mut reader = store.remains.catalog(catalog).await?;
            let mut read = Directory::default();
            while let Some((kind, plain)) = reader.next_section()? {
                match kind {
                    section::CUSTOMERS => {
                        read.customers.extend(record::from_json::<Vec<CustomerRecord>>(&plain)?);
                    }
                    section::DOMAINS => read.domains.extend(record::from_json::<Vec<DomainRecord>>(&plain)?),
                    section::ALIASES => read.aliases.extend(record::from_json::<Vec<AliasRecord>>(&plain)?),
                    section::HOLDS => read.holds.extend(record::from_json::<Vec<HoldRecord>>(&plain)?),
                    _ => {}
                }
            }
            // Without CURRENT there may be several: the last is as good as any.
            directory = read;
        }
        Ok(directory)
    }

    /// The newest directory that can be read.
    async fn newest_directory(&self, found: &[Found]) -> Directory {
        let mut stores: Vec<&Found> = found.iter().collect();
        stores.sort_by_key(|store| std::cmp::Reverse(store.current.record.at));
        for store in stores {
            match self.read_directory(store).await {
                Ok(directory) if !directory.customers.is_empty() => return directory,
                Ok(_) => {}
                Err(error) => self.say(&format!("store {}: directory: {error}", store.volume.name)),
            }
        }
        self.say("no directory can be read: customers and domains are made of what mailboxes say");
        Directory::default()
    }

    /// Customers, domains and aliases.
    pub(super) async fn directory(&mut self, found: &[Found]) -> Result<()> {
        let Directory { customers, domains, aliases, .. } = self.newest_directory(found).await;
        let root = customers.iter().find(|one| one.parent.is_none()).map(|one| one.id);
        if let Some(root) = root {
            write(self.database(), move |conn| Box::pin(rebuild::root_is(conn, root))).await?;
        }
        self.report.customers = customers.len() as u64;
        self.report.domains = domains.len() as u64;
        for slice in sorted(customers).chunks(SLICE_ROWS) {
            let slice = Arc::new(slice.to_vec());
            write(self.database(), move |conn| {
                let slice = Arc::clone(&slice);
                Box::pin(async move {
                    for one in slice.iter() {
                        rebuild::customer(conn, one).await?;
                    }
                    Ok(())
                })
            })
            .await?;
        }
        // Alias domains refer to others.
        let (plain, alias): (Vec<_>, Vec<_>) = domains.into_iter().partition(|one| one.alias_of.is_none());
        for slice in plain.chunks(SLICE_ROWS).chain(alias.chunks(SLICE_ROWS)) {
            let slice = Arc::new(slice.to_vec());
            write(self.database(), move |conn| {
                let slice = Arc::clone(&slice);
                Box::pin(async move {
                    for one in slice.iter() {
                        rebuild::domain(conn, one).await?;
                    }
                    Ok(())
                })
            })
            .await?;
        }
        for slice in aliases.chunks(SLICE_ROWS) {
            let slice = Arc::new(slice.to_vec());
            let count = write(self.database(), move |conn| {
                let slice = Arc::clone(&slice);
                Box::pin(async move {
                    let mut count = 0;
                    for one in slice.iter() {
                        count += u64::from(rebuild::alias(conn, one).await?);
                    }
                    Ok(count)
                })
            });
            self.report.aliases += count.await?;
        }
        Ok(())
    }

    /// Holds, which may be on mailboxes.
    pub(super) async fn holds(&mut self, found: &[Found]) -> Result<()> {
        let Directory { holds, .. } = self.newest_directory(found).await;
        for slice in holds.chunks(SLICE_ROWS) {
            let slice = Arc::new(slice.to_vec());
            let count = write(self.database(), move |conn| {
                let slice = Arc::clone(&slice);
                Box::pin(async move {
                    let mut count = 0;
                    for one in slice.iter() {
                        count += u64::from(rebuild::hold(conn, one).await?);
                    }
                    Ok(count)
                })
            });
            self.report.holds += count.await?;
        }
        Ok(())
    }

    /// All mailboxes of a store: entry by entry of each, in their order.
    pub(super) async fn mailboxes(&mut self, store: &mut Found) -> Result<()> {
        let mut chains: BTreeMap<i64, Vec<(u64, usize)>> = BTreeMap::new();
        for (number, catalog) in store.current.catalogs.iter().enumerate() {
            for (mailbox, sequence) in &catalog.entries {
                chains.entry(*mailbox).or_default().push((*sequence, number));
            }
        }
        chains.values_mut().for_each(|chain| chain.sort_unstable());
        let longest = chains.values().map(Vec::len).max().unwrap_or(0);
        self.say(&format!("store {}: {} mailboxes", store.volume.name, chains.len()));
        for round in 0..longest {
            let mut wanted: BTreeMap<usize, BTreeMap<(i64, u64), bool>> = BTreeMap::new();
            for (mailbox, chain) in &chains {
                if let Some((sequence, number)) = chain.get(round) {
                    let is_last = chain.len() == round + 1;
                    wanted.entry(*number).or_default().insert((*mailbox, *sequence), is_last);
                }
            }
            for (number, entries) in wanted {
                let Some(catalog) = store.current.catalogs.get(number).cloned() else { continue };
                if let Err(error) = self.catalog(store, &catalog, &entries).await? {
                    let (name, place) = (&catalog.name, super::packs::RECOVERED);
                    let what = format!("catalog {name}: {error}; mail of its mailboxes may be in {place}");
                    self.say(&what);
                    store.report.damaged.push(what);
                    // What the catalog would have known is not dead.
                    store.current.packs.iter_mut().for_each(|pack| pack.is_covered = false);
                }
            }
        }
        self.report.mailboxes += store.report.mailboxes;
        Ok(())
    }

    /// Wanted entries of one file. The inner error is about the file, the outer about the database.
    async fn catalog(
        &self,
        store: &mut Found,
        catalog: &record::CatalogRecord,
        wanted: &BTreeMap<(i64, u64), bool>,
    ) -> Result<std::result::Result<(), StorageError>> {
        let mut reader = match store.remains.catalog(catalog).await {
            Ok(reader) => reader,
            Err(error) => return Ok(Err(error)),
        };
        let mut entry: Option<Entry> = None;
        loop {
            let section = match reader.next_section() {
                Ok(section) => section,
                Err(error) => return Ok(Err(error)),
            };
            let (kind, plain) = match section {
                Some(section) => section,
                None => {
                    store.report.mailboxes += self.end(store.volume.store.store, entry.take()).await?;
                    return Ok(Ok(()));
                }
            };
            if kind == section::MAILBOX {
                store.report.mailboxes += self.end(store.volume.store.store, entry.take()).await?;
                let record: MailboxRecord = match record::from_json(&plain) {
                    Ok(record) => record,
                    Err(error) => return Ok(Err(error)),
                };
                entry = wanted.get(&(record.id, record.sequence)).map(|is_last| Entry {
                    record,
                    is_last: *is_last,
                    folders: Vec::new(),
                    subscriptions: Vec::new(),
                });
                if let Some(entry) = entry.as_ref().filter(|entry| entry.record.is_whole) {
                    let id = entry.record.id;
                    write(self.database(), move |conn| Box::pin(rebuild::forget_mailbox(conn, id))).await?;
                }
            } else if let Some(entry) = &mut entry
                && let Err(error) = self.section(entry, kind, &plain).await?
            {
                return Ok(Err(error));
            }
        }
    }

    async fn section(
        &self,
        entry: &mut Entry,
        kind: u8,
        plain: &[u8],
    ) -> Result<std::result::Result<(), StorageError>> {
        let id = entry.record.id;
        let read = match kind {
            section::FOLDERS => record::from_json(plain).map(|mut more| entry.folders.append(&mut more)),
            section::SUBSCRIPTIONS => {
                record::from_json(plain).map(|mut more| entry.subscriptions.append(&mut more))
            }
            section::MESSAGES | section::TOMBSTONES => match record::rows(plain) {
                Ok((folder, rows)) => {
                    let folder = (kind == section::MESSAGES).then_some(folder);
                    return self.rows(id, folder, rows).await.map(Ok);
                }
                Err(error) => Err(error),
            },
            section::PRESENT => match record::present(plain) {
                Ok((folder, ranges)) => return self.present(id, folder, &ranges).await.map(Ok),
                Err(error) => Err(error),
            },
            _ => Ok(()),
        };
        Ok(read)
    }

    /// Messages of a folder, or tombstones.
    async fn rows(&self, mailbox: i64, folder: Option<i64>, rows: Vec<MessageRecord>) -> Result<()> {
        let packed = |row: MessageRecord| -> (MessageRecord, Option<Packed>) {
            let prefix = (!row.prefix.is_empty()).then(|| self.bodies.compress(&row.prefix));
            (row, prefix)
        };
        let rows: Vec<_> = rows.into_iter().map(packed).collect();
        for slice in rows.chunks(SLICE_ROWS) {
            let slice = Arc::new(slice.to_vec());
            write(self.database(), move |conn| {
                let slice = Arc::clone(&slice);
                Box::pin(async move {
                    match folder {
                        Some(folder) => rebuild::messages(conn, mailbox, folder, &slice).await,
                        None => rebuild::tombstones(conn, mailbox, &slice).await,
                    }
                })
            })
            .await?;
        }
        Ok(())
    }

    async fn present(&self, mailbox: i64, folder: i64, ranges: &[(i64, i64)]) -> Result<()> {
        let firsts = ranges.iter().map(|(first, _)| *first).chain([i64::MAX]);
        let gaps: Vec<(i64, i64)> =
            [0].into_iter().chain(ranges.iter().map(|(_, last)| *last)).zip(firsts).collect();
        for slice in gaps.chunks(SLICE_ROWS) {
            let slice = Arc::new(slice.to_vec());
            write(self.database(), move |conn| {
                let slice = Arc::clone(&slice);
                Box::pin(async move { rebuild::gaps(conn, mailbox, folder, &slice).await })
            })
            .await?;
        }
        Ok(())
    }

    /// The end of an entry: behind its last one the mailbox is put there. Answers how many mailboxes that makes.
    async fn end(&self, store: StoreId, entry: Option<Entry>) -> Result<u64> {
        let Some(entry) = entry.filter(|entry| entry.is_last) else { return Ok(0) };
        let (entry, now) = (Arc::new(entry), self.wanted.now);
        let address = format!("{}@{}", entry.record.local_part, entry.record.domain_name);
        let put = write(self.database(), move |conn| {
            let entry = Arc::clone(&entry);
            Box::pin(async move {
                rebuild::ensure_home(conn, &entry.record, now).await?;
                let Entry { record, folders, subscriptions, .. } = &*entry;
                let is_there = rebuild::mailbox(conn, store, record, folders, subscriptions, now).await?;
                if !is_there {
                    rebuild::forget_mailbox(conn, record.id).await?;
                }
                Ok(is_there)
            })
        });
        if !put.await? {
            self.say(&format!("{address} is there twice: the second is left out"));
            return Ok(0);
        }
        Ok(1)
    }
}
