//! Bodies: compressed on the way in, checked on the way out, wherever they are.
//!
//! # Consistency
//! The database says where a body is. Between the look-up and the read the packer may move it, or a pack
//! may go; a reader that meets "not found" looks once more before it calls the body missing. A missing or
//! damaged body is an error, never an empty message.
//!
//! # Crash Consistency
//! A large body is on disk (file, name, folder) before the transaction that refers to it. Its intent was
//! committed before the file, and is deleted by that transaction. Where it remains, it is first given up, so that
//! no transaction whose outcome is in doubt can refer to the file any more, then the file is removed, then the
//! intent. A crash in between leaves the intent, by which the next clean-up goes on.
//!
//! # Cancellation
//! What is dropped between [`Bodies::place`] and [`Bodies::settle`] leaves an intent, and perhaps a file, to the
//! packer's clean-up.

mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;

use super::metadata::database::Database;
use super::metadata::delivery::{BodyPlace, Packed};
use super::metadata::lane::Priority;
use super::metadata::pack::{self, Framed, Intended, Node, SinglePack, StoreVolume};
use super::metadata::store::{self, StoreState};
use super::pack::{Codec, CodecKind, Compressed, FrameHeader, PackName, PackReader, PackWriter, sync_folder};
use super::volumes::Volumes;
use super::{Result, StorageError};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, CustomerId, MailboxId, PackId, StoreId};

/// Compressed bodies above this size get a pack of their own: in the database they would be written three
/// times (log, table, pack).
pub const DATABASE_OCTETS_MAX: usize = 1 << 20;
/// From this size on, work on a body is done on a thread where blocking is allowed.
const INLINE_OCTETS_MAX: usize = 64 * 1024;
/// Open pack files.
const READERS_MAX: u64 = 256;
/// A pack file that nobody reads is closed after this time, so that dropped packs free their space.
const READER_IDLE: Duration = Duration::from_secs(60);

/// How often it is looked whether the folders of mail stores are there.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(5);

/// Reads and prepares bodies. Cheap to clone.
#[derive(Clone)]
pub struct Bodies {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    volumes: Volumes,
    codec: Codec,
    node: Node,
    readers: Cache<PackId, Arc<PackReader>>,
    /// Whoever writes the names of the present files of a store takes turns.
    current_turn: tokio::sync::Mutex<()>,
}

impl Bodies {
    /// Keeps packs in `packs` below the folders of the mail stores.
    pub fn new(volumes: Volumes, codec: Codec, node: Node) -> Self {
        let readers = Cache::builder().max_capacity(READERS_MAX).time_to_idle(READER_IDLE).build();
        let database = volumes.database().clone();
        let current_turn = tokio::sync::Mutex::default();
        Self { inner: Arc::new(Inner { database, volumes, codec, node, readers, current_turn }) }
    }

    /// The mail stores.
    pub fn volumes(&self) -> &Volumes {
        &self.inner.volumes
    }

    /// Follows the mail stores: looks whether their folders are there, and closes the files of those that are stopped.
    /// Never returns; may be dropped at any time.
    pub async fn attend(&self) {
        let mut changed = self.inner.volumes.watch();
        loop {
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(INSPECTION_INTERVAL) => {}
            }
            if let Err(error) = self.inner.volumes.inspect().await {
                tracing::warn!(%error, "the mail stores could not be looked at; it is tried again");
            }
            if let Err(error) = self.close_readers().await {
                tracing::warn!(%error, "the files of stopped mail stores are closed later");
            }
        }
    }

    /// Closes the files of stores that are not read now.
    async fn close_readers(&self) -> Result<()> {
        let all = self.inner.volumes.all().await?;
        let closed: BTreeSet<StoreId> = all
            .iter()
            .filter(|volume| volume.admit_reads().is_err())
            .map(|volume| volume.store.store)
            .collect();
        for (pack, reader) in &self.inner.readers {
            if closed.contains(&reader.store()) {
                self.inner.readers.invalidate(&*pack);
            }
        }
        Ok(())
    }

    /// Those of `mailboxes` whose mail store this node cannot use although it is not stopped.
    ///
    /// # Errors
    /// What the database says.
    pub async fn unmounted(&self, mailboxes: &[MailboxId]) -> Result<BTreeSet<MailboxId>> {
        let stores = self.inner.volumes.unmounted();
        if stores.is_empty() {
            return Ok(BTreeSet::new());
        }
        let wanted = mailboxes.to_vec();
        let read = self
            .inner
            .database
            .read(|conn| Box::pin(async move { store::of_mailboxes(conn, &wanted).await }));
        let homes: BTreeMap<MailboxId, (StoreId, StoreState)> = read.await?;
        let away = homes.into_iter().filter(|(_, (store, _))| stores.contains(store));
        Ok(away.map(|(mailbox, _)| mailbox).collect())
    }

    /// Begins a pack of a store.
    ///
    /// # Errors
    /// `Busy` when nothing can be written there now; `Io` or `Full`.
    pub(super) async fn begin_pack(&self, volume: &StoreVolume, name: PackName) -> Result<PackWriter> {
        let (folder, store) = (self.pack_folder(&volume.path), volume.store);
        let volume = self.inner.volumes.get(store).await?;
        volume.admit_writes()?;
        blocking(move || {
            volume.confirm_folder()?;
            PackWriter::create(&folder, name, store)
        })
        .await
    }

    /// Closes a pack's file: it is about to be removed.
    pub(super) fn forget_reader(&self, pack: PackId) {
        self.inner.readers.invalidate(&pack);
    }

    /// The codec that all bodies share.
    pub fn codec(&self) -> &Codec {
        &self.inner.codec
    }

    /// The database that says where bodies are.
    pub fn database(&self) -> &Database {
        &self.inner.database
    }

    /// Held while CURRENT is made and written: an older one never takes the place of a newer.
    pub(super) fn current_turn(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.current_turn
    }

    /// The running daemon.
    pub fn node(&self) -> &Node {
        &self.inner.node
    }

    /// Folder of a mail store's packs.
    pub fn pack_folder(&self, store_path: &str) -> PathBuf {
        self.inner.volumes.store_folder(store_path).join("packs")
    }

    /// Compresses something that goes into the database.
    pub fn compress(&self, bytes: &[u8]) -> Packed {
        packed(self.inner.codec.compress(bytes), bytes.len())
    }

    /// Gives back what [`Self::compress`] took.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged.
    pub fn decompress(&self, packed: &Packed) -> Result<Vec<u8>> {
        unpack(&self.inner.codec, packed)
    }

    /// Decides where the body of a new message goes, and compresses it: into the database, or, above
    /// [`DATABASE_OCTETS_MAX`], into a pack of its own for each customer and mail store of `mailboxes`,
    /// which is on disk when this returns. After the transaction, whatever came of it, call
    /// [`Self::settle`].
    ///
    /// # Errors
    /// `Full` or `Io` when a pack cannot be written; then nothing is left of it.
    pub async fn place(&self, original: Bytes, mailboxes: &[MailboxId], now: Timestamp) -> Result<BodyPlace> {
        if original.len() <= INLINE_OCTETS_MAX {
            return Ok(BodyPlace::Fresh(self.compress(&original)));
        }
        let (codec, bytes) = (self.inner.codec.clone(), original.clone());
        let compressed = blocking(move || Ok(codec.compress(&bytes))).await?;
        if compressed.data.len() <= DATABASE_OCTETS_MAX {
            return Ok(BodyPlace::Fresh(packed(compressed, original.len())));
        }
        let singles = self.intend_singles(mailboxes, now).await?;
        let compressed = Arc::new(compressed);
        let mut written = Vec::with_capacity(singles.len());
        for single in &singles {
            match self.write_single(single.clone(), original.clone(), Arc::clone(&compressed)).await {
                Ok(single) => written.push(single),
                Err(error) => {
                    if let Err(error) = self.settle(&BodyPlace::Packs(singles)).await {
                        tracing::warn!(%error, "a pack that could not be written is removed later");
                    }
                    return Err(error);
                }
            }
        }
        Ok(BodyPlace::Packs(written))
    }

    /// Names the packs of a large body, and gives the body an id in each.
    async fn intend_singles(&self, mailboxes: &[MailboxId], now: Timestamp) -> Result<Vec<SinglePack>> {
        let wanted = mailboxes.to_vec();
        let homes: Vec<(CustomerId, StoreId, String)> = self
            .inner
            .database
            .read(|conn| Box::pin(async move { pack::homes(conn, &wanted).await }))
            .await?;
        let mut named = Vec::with_capacity(homes.len());
        for home in homes {
            // Where nothing can be written, the transaction refuses the mailbox.
            if self.inner.volumes.get(home.1).await?.admit_writes().is_ok() {
                named.push((home, PackName::random()));
            }
        }
        let homes = named;
        let node = self.inner.node.clone();
        let write = self.inner.database.write(Priority::Interactive, move |conn| {
            let (homes, node) = (homes.clone(), node.clone());
            Box::pin(async move {
                let names: Vec<_> = homes.iter().map(|((_, store, _), name)| (*name, *store)).collect();
                pack::intend(conn, &node, now, &names).await?;
                let count = i64::try_from(homes.len()).unwrap_or(i64::MAX);
                let bodies = conn.object_ids(count).await?;
                let single = |(((scope, store, store_path), name), body)| SinglePack {
                    scope,
                    store,
                    store_path,
                    name,
                    octets: 0,
                    frame: Framed { body: BodyId(body), offset: 0, stored_octets: 0 },
                };
                Ok(homes.into_iter().zip(bodies).map(single).collect())
            })
        });
        write.await
    }

    async fn write_single(
        &self,
        single: SinglePack,
        original: Bytes,
        compressed: Arc<Compressed>,
    ) -> Result<SinglePack> {
        let folder = self.pack_folder(&single.store_path);
        let volume = self.inner.volumes.get(single.store).await?;
        volume.admit_writes()?;
        blocking(move || {
            volume.confirm_folder()?;
            let body = single.frame.body;
            let header = FrameHeader::new(body, &original, &compressed)?;
            let mut writer = PackWriter::create(&folder, single.name, single.store)?;
            let location = writer.append(&header, &compressed.data)?;
            let summary = writer.finish()?;
            let frame = Framed { body, offset: location.offset, stored_octets: header.stored_len };
            Ok(SinglePack { octets: summary.octets, frame, ..single })
        })
        .await
    }

    /// Removes the packs of a body that no transaction referred to: the message was refused, or its
    /// transaction failed. One whose outcome is in doubt is waited for.
    ///
    /// # Errors
    /// `Io` or `Database` when that isn't possible now; the packer's clean-up does it then.
    pub async fn settle(&self, place: &BodyPlace) -> Result<()> {
        let BodyPlace::Packs(packs) = place else { return Ok(()) };
        for single in packs {
            let (name, store) = (single.name, single.store);
            let intended = Intended { name, store, store_path: single.store_path.clone() };
            self.discard(&intended).await?;
        }
        Ok(())
    }

    /// Removes a file that only an intent names, then the intent. False when the pack is known by now, or
    /// was discarded before.
    ///
    /// # Errors
    /// `Io` or `Database`; then the intent remains.
    pub(super) async fn discard(&self, intended: &Intended) -> Result<bool> {
        let (name, database) = (intended.name, &self.inner.database);
        // Spares the usual case, a pack that was made known, a transaction.
        if !database.read(|conn| Box::pin(pack::is_intended(conn, name))).await? {
            return Ok(false);
        }
        let abandon = database.write(Priority::Interactive, move |conn| Box::pin(pack::abandon(conn, name)));
        if !abandon.await? {
            return Ok(false);
        }
        self.remove(intended).await?;
        database.write(Priority::Background, move |conn| Box::pin(pack::forget(conn, name))).await?;
        Ok(true)
    }

    /// Removes a pack's file, under either name.
    ///
    /// # Errors
    /// `Io` when it is still there; `Busy` when the store is stopped.
    pub(super) async fn remove(&self, intended: &Intended) -> Result<()> {
        let folder = self.pack_folder(&intended.store_path);
        let name = intended.name;
        let volume = self.inner.volumes.get(intended.store).await?;
        volume.admit_reads()?;
        blocking(move || {
            let mut removed = None;
            for path in [name.temporary_path(&folder), name.path(&folder)] {
                match std::fs::remove_file(&path) {
                    Ok(()) => removed = path.parent().map(Path::to_owned),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => {
                        return Err(StorageError::Io { what: format!("remove {}", path.display()), error });
                    }
                }
            }
            match removed {
                // Or a power loss brings the file back after its row was deleted.
                Some(folder) => sync_folder(&folder),
                // What an unmounted volume does not show is not removed.
                None => volume.confirm_folder(),
            }
        })
        .await
    }
}

/// Runs `work` where blocking is allowed.
///
/// # Errors
/// Those of `work`.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(StorageError::Busy("work on a body was interrupted")))
}

/// Compressed bytes as the database keeps them; `octets` is their length before.
pub(super) fn packed(compressed: Compressed, octets: usize) -> Packed {
    Packed {
        codec: compressed.codec.number(),
        dictionary_id: compressed.dictionary_id,
        octets: octets as u64,
        data: compressed.data.into(),
    }
}

/// Gives back the original bytes.
pub(super) fn unpack(codec: &Codec, packed: &Packed) -> Result<Vec<u8>> {
    let kind = CodecKind::from_number(packed.codec)
        .ok_or_else(|| StorageError::Corrupt(format!("codec {} is not known", packed.codec)))?;
    let octets = usize::try_from(packed.octets).unwrap_or(usize::MAX);
    codec.decompress(kind, packed.dictionary_id, &packed.data, octets)
}
