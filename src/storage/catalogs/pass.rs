//! Bringing a store's catalogs up to date.

use std::collections::{BTreeMap, BTreeSet};

use super::entry;
use super::file::{self, FileWriter};
use super::format::{Header, Kind};
use super::record::{AliasRecord, CustomerRecord, DomainRecord, HoldRecord, section, to_json};
use super::{Catalogs, Written, current, dictionaries, merge};
use crate::base::clock::Timestamp;
use crate::base::id::MailboxId;
use crate::storage::bodies::{Bodies, blocking};
use crate::storage::metadata::catalog::{self, CatalogFile, NewEntry};
use crate::storage::metadata::catalog_content::{self as content, MailboxContent};
use crate::storage::metadata::customer::{self, NodeRow};
use crate::storage::metadata::dictionary;
use crate::storage::metadata::lane::Priority;
use crate::storage::pack::PackName;
use crate::storage::volumes::Volume;
use crate::storage::{Result, StorageError};

/// A file is closed when it has so many octets, so that little is written again when few of its entries are left.
pub(super) const TARGET_OCTETS: u64 = 8 << 20;
/// Deepest hierarchy that is followed upwards.
const DEPTH_MAX: usize = 256;
/// How often a mailbox that gets folders while it is read is begun anew.
const TRIES_MAX: usize = 3;

/// A file being written, with its row.
pub(super) struct Open {
    pub(super) id: i64,
    pub(super) name: PackName,
    pub(super) writer: FileWriter,
}

/// Begins a file.
///
/// # Errors
/// What the database says; `Io` or `Full`.
pub(super) async fn begin(bodies: &Bodies, volume: &Volume, kind: Kind, now: Timestamp) -> Result<Open> {
    let (name, store, node) = (PackName::random(), volume.store.store, bodies.node().clone());
    let is_directory = kind == Kind::Directory;
    let begin = bodies.database().write(Priority::Background, move |conn| {
        let node = node.clone();
        Box::pin(async move { catalog::begin(conn, &node, store, name, is_directory, now).await })
    });
    let id: i64 = begin.await?;
    let path = file::path(&bodies.volumes().folder().join(&volume.store.path), name);
    let writer = FileWriter::create(path, Header { kind, name, store: store.0, at: now }).await?;
    Ok(Open { id, name, writer })
}

/// Sends a file to object storage, if the store has one. That it cannot be had at present is told and left for later.
pub(super) async fn upload(bodies: &Bodies, volume: &Volume, id: i64, name: PackName, octets: u64) {
    if !volume.has_remote() {
        return;
    }
    let sent = async {
        let path = file::path(&bodies.volumes().folder().join(&volume.store.path), name);
        volume.remote()?.put_file(&file::key(name), &path, octets).await?;
        let note = bodies
            .database()
            .write(Priority::Background, move |conn| Box::pin(catalog::goes_remote(conn, id)));
        note.await
    };
    let sent: Result<()> = sent.await;
    if let Err(error) = sent {
        tracing::warn!(store = volume.name, %error, "a catalog is sent to object storage later");
    }
}

struct Pass<'a> {
    bodies: &'a Bodies,
    volume: &'a Volume,
    now: Timestamp,
    nodes: BTreeMap<i64, NodeRow>,
    open: Option<Open>,
    entries: Vec<NewEntry>,
    done: Written,
    /// Whether every mailbox was read.
    is_complete: bool,
}

impl Catalogs {
    /// Brings the catalogs of a store up to date: what has changed since the last time is written, then CURRENT, then
    /// what it does not name any more is removed.
    ///
    /// # Errors
    /// What the database says; `Io`, `Full`, or what object storage says. What was written before stays.
    pub async fn write(&self, volume: &Volume, now: Timestamp) -> Result<Written> {
        let _turn = self.turn.lock().await;
        volume.admit_writes()?;
        let (bodies, store, node) = (&self.bodies, volume.store.store, self.bodies.node().clone());
        let give_up = bodies.database().write(Priority::Background, move |conn| {
            let node = node.clone();
            Box::pin(async move { catalog::give_up(conn, &node, store).await })
        });
        let given_up: Result<()> = give_up.await;
        given_up?;
        self.heal(volume).await?;
        self.bodies.prune_dictionaries(now).await?;
        self.place_all_dictionaries(volume).await?;
        // Whatever a pack holds now was in some mailbox before, so what is read from here on knows it, or it is gone.
        let packs = current::packs(bodies, volume).await?;
        let read = bodies.database().read(|conn| Box::pin(customer::nodes(conn)));
        let nodes: Vec<NodeRow> = read.await?;
        let nodes = nodes.into_iter().map(|node| (node.id.0, node)).collect();
        let (open, entries, done) = (None, Vec::new(), Written::default());
        let mut pass = Pass { bodies, volume, now, nodes, open, entries, done, is_complete: true };
        pass.directory().await?;
        self.reach(1).await;
        pass.mailboxes().await?;
        self.reach(2).await;
        pass.retire().await?;
        let (mut done, is_complete) = (pass.done, pass.is_complete);
        done.files += merge::merge(bodies, volume, now).await?;
        self.upload_missing(volume).await?;
        self.reach(3).await;
        let covered: BTreeSet<i64> =
            if is_complete { packs.iter().map(|pack| pack.id).collect() } else { BTreeSet::new() };
        let complete = is_complete.then_some((now, &covered));
        let unchanged = done == Written::default() && self.is_current(volume, &packs);
        if !unchanged {
            self.forget_current(volume);
            current::write(bodies, volume, now, complete).await?;
            self.note_current(volume, &packs, is_complete);
        }
        self.reach(4).await;
        self.remove_dropped(volume).await?;
        Ok(done)
    }

    /// Files that are not where they were written, after a restore for instance, are written anew.
    async fn heal(&self, volume: &Volume) -> Result<()> {
        let (bodies, store) = (&self.bodies, volume.store.store);
        let folder = bodies.volumes().folder().join(&volume.store.path);
        let files = current::present_files(bodies, volume).await?;
        let placed = dictionaries::placed(bodies, store).await?;
        let volume_there = bodies.volumes().get(store).await?;
        let missing = blocking(move || {
            // Or what is not mounted would be taken for gone.
            volume_there.confirm_folder()?;
            let files = files.into_iter().filter(|file| !file::path(&folder, file.name).exists());
            let placed =
                placed.into_iter().filter(|number| !file::dictionary_path(&folder, *number).exists());
            Ok((files.collect::<Vec<CatalogFile>>(), placed.collect::<Vec<u32>>()))
        });
        let (files, placed) = missing.await?;
        for file in files {
            tracing::warn!(store = volume.name, catalog = %file.name, "a catalog is gone and is written anew");
            let id = file.id;
            while merge::give_up(bodies, id).await? > 0 {}
            if file.is_directory {
                let forget = bodies.database().write(Priority::Background, move |conn| {
                    Box::pin(catalog::forget_directory(conn, store, id))
                });
                let forgotten: Result<()> = forget.await;
                forgotten?;
            }
        }
        if !placed.is_empty() {
            let forget = bodies.database().write(Priority::Background, move |conn| {
                let placed = placed.clone();
                Box::pin(async move { dictionary::unplace(conn, store, &placed).await })
            });
            let forgotten: Result<()> = forget.await;
            forgotten?;
        }
        Ok(())
    }

    /// Files that could not be sent to object storage before.
    async fn upload_missing(&self, volume: &Volume) -> Result<()> {
        if !volume.has_remote() {
            return Ok(());
        }
        let files = current::present_files(&self.bodies, volume).await?;
        for file in files.into_iter().filter(|file| !file.is_remote) {
            let path = file::path(&self.bodies.volumes().folder().join(&volume.store.path), file.name);
            volume.remote()?.put_file(&file::key(file.name), &path, file.octets).await?;
            let note = self
                .bodies
                .database()
                .write(Priority::Background, move |conn| Box::pin(catalog::goes_remote(conn, file.id)));
            let noted: Result<()> = note.await;
            noted?;
        }
        Ok(())
    }

    /// Removes files that CURRENT does not name any more.
    async fn remove_dropped(&self, volume: &Volume) -> Result<()> {
        let folder = self.bodies.volumes().folder().join(&volume.store.path);
        let files: Vec<CatalogFile> = current::dropped_files(&self.bodies, volume).await?;
        for file in files {
            if volume.has_remote() {
                // There may be an object that is not noted: its upload was cut off.
                volume.remote()?.delete(&file::key(file.name)).await?;
            }
            let path = file::path(&folder, file.name);
            blocking(move || file::remove(&path)).await?;
            let forget = self
                .bodies
                .database()
                .write(Priority::Background, move |conn| Box::pin(catalog::forget(conn, file.id)));
            let forgotten: Result<()> = forget.await;
            forgotten?;
        }
        Ok(())
    }
}

/// Pages of one table of the directory, into a hash or into a file.
macro_rules! pages {
    ($bodies:expr, $read:path, $record:ty, |$page:ident| $each:block) => {{
        let mut after = 0;
        loop {
            let read = $bodies.database().read(|conn| Box::pin($read(conn, after)));
            let $page: Vec<$record> = read.await?;
            let Some(last) = $page.last() else { break };
            after = last.id;
            $each
        }
    }};
}

impl Pass<'_> {
    /// Writes the directory if it has changed.
    async fn directory(&mut self) -> Result<()> {
        let mut hash = blake3::Hasher::new();
        pages!(self.bodies, content::customers, CustomerRecord, |page| {
            hash.update(&to_json(&page)?);
        });
        pages!(self.bodies, content::domains, DomainRecord, |page| {
            hash.update(&to_json(&page)?);
        });
        pages!(self.bodies, content::aliases, AliasRecord, |page| {
            hash.update(&to_json(&page)?);
        });
        pages!(self.bodies, content::holds, HoldRecord, |page| {
            hash.update(&to_json(&page)?);
        });
        let (fingerprint, store) = (hash.finalize().to_hex().to_string(), self.volume.store.store);
        let read = self.bodies.database().read(|conn| Box::pin(catalog::store_state(conn, store)));
        let state: catalog::StoreState = read.await?;
        if state.directory == fingerprint {
            return Ok(());
        }
        let mut open = begin(self.bodies, self.volume, Kind::Directory, self.now).await?;
        let file = &mut open.writer;
        pages!(self.bodies, content::customers, CustomerRecord, |page| {
            file.append(section::CUSTOMERS, to_json(&page)?).await?;
        });
        pages!(self.bodies, content::domains, DomainRecord, |page| {
            file.append(section::DOMAINS, to_json(&page)?).await?;
        });
        pages!(self.bodies, content::aliases, AliasRecord, |page| {
            file.append(section::ALIASES, to_json(&page)?).await?;
        });
        pages!(self.bodies, content::holds, HoldRecord, |page| {
            file.append(section::HOLDS, to_json(&page)?).await?;
        });
        let (id, name) = (open.id, open.name);
        let octets = open.writer.finish().await?;
        upload(self.bodies, self.volume, id, name, octets).await;
        let publish = self.bodies.database().write(Priority::Background, move |conn| {
            let fingerprint = fingerprint.clone();
            Box::pin(async move { catalog::publish_directory(conn, store, id, octets, &fingerprint).await })
        });
        let published: Result<()> = publish.await;
        self.done.files += 1;
        published
    }

    /// Keys and slugs of the customers from the root down to this one.
    fn path(&self, customer: i64) -> Vec<(i64, String)> {
        let mut path = Vec::new();
        let mut at = self.nodes.get(&customer);
        while let Some(node) = at
            && path.len() < DEPTH_MAX
        {
            path.push((node.id.0, node.slug.clone()));
            at = node.parent.and_then(|parent| self.nodes.get(&parent.0));
        }
        path.reverse();
        path
    }

    async fn mailboxes(&mut self) -> Result<()> {
        let (store, mut after) = (self.volume.store.store, MailboxId(0));
        loop {
            let read = self.bodies.database().read(|conn| Box::pin(content::mailboxes(conn, store, after)));
            let page: Vec<MailboxContent> = read.await?;
            let Some(last) = page.last() else { break };
            after = MailboxId(last.record.id);
            for content in page {
                let path = self.path(content.customer);
                let known = content.state.as_ref().map_or("", |state| state.fingerprint.as_str());
                if known != entry::fingerprint(&content, &path)? {
                    self.mailbox(content, path).await?;
                }
            }
        }
        self.close().await
    }

    async fn mailbox(&mut self, mut content: MailboxContent, path: Vec<(i64, String)>) -> Result<()> {
        let id = MailboxId(content.record.id);
        for _ in 0..TRIES_MAX {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => begin(self.bodies, self.volume, Kind::Mailboxes, self.now).await?,
            };
            let written =
                entry::write(self.bodies, &mut open.writer, content, path.clone(), self.now).await?;
            let is_full = open.writer.octets() >= TARGET_OCTETS;
            self.open = Some(open);
            if let Some(entry) = written {
                self.entries.push(entry);
                self.done.mailboxes += 1;
                return if is_full { self.close().await } else { Ok(()) };
            }
            let (store, before) = (self.volume.store.store, MailboxId(id.0 - 1));
            let read = self.bodies.database().read(|conn| Box::pin(content::mailboxes(conn, store, before)));
            let page: Vec<MailboxContent> = read.await?;
            let Some(again) = page.into_iter().find(|content| content.record.id == id.0) else {
                return Ok(());
            };
            content = again;
        }
        // What the catalogs say of it stays as it was, and they are not complete this time.
        tracing::info!(mailbox = %id, "a mailbox changes too fast for its catalog; it is tried again");
        self.is_complete = false;
        Ok(())
    }

    /// Ends the file being written and makes its entries known.
    async fn close(&mut self) -> Result<()> {
        let Some(Open { id, name, writer }) = self.open.take() else { return Ok(()) };
        let entries = std::mem::take(&mut self.entries);
        let (bodies, store) = (self.bodies, self.volume.store.store);
        let octets = writer.finish().await?;
        upload(bodies, self.volume, id, name, octets).await;
        let complete = bodies
            .database()
            .write(Priority::Background, move |conn| Box::pin(catalog::complete(conn, id, octets)));
        let completed: Result<()> = complete.await;
        completed?;
        for slice in entries.chunks(catalog::SLICE_ROWS) {
            let slice = slice.to_vec();
            let publish = bodies.database().write(Priority::Background, move |conn| {
                let slice = slice.clone();
                Box::pin(async move { catalog::publish(conn, store, id, &slice).await })
            });
            let published: Result<()> = publish.await;
            published?;
        }
        self.done.files += 1;
        self.done.octets += octets;
        Ok(())
    }

    /// Takes what is gone out of the present state.
    async fn retire(&mut self) -> Result<()> {
        let store = self.volume.store.store;
        loop {
            let forget = self
                .bodies
                .database()
                .write(Priority::Background, move |conn| Box::pin(catalog::forget_gone(conn, store)));
            let gone: u64 = forget.await.map_err(|error: StorageError| error)?;
            if gone == 0 {
                break;
            }
            self.done.gone += gone;
        }
        let drop_dead = self
            .bodies
            .database()
            .write(Priority::Background, move |conn| Box::pin(catalog::drop_dead(conn, store)));
        let _: u64 = drop_dead.await?;
        Ok(())
    }
}
