//! Taking a backup.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, try_join_all};

use super::index::{Entry, FORMAT, Index};
use super::manifest::{Content, LEVEL, Manifest, PackEntry, database_key, manifest_key, pack_key};
use super::target::{Target, interrupted, patiently};
use super::{BackupError, Result};
use crate::base::clock::{Clock, Timestamp};
use crate::base::id::random_text;
use crate::base::progress::Progress;
use crate::storage::StorageError;
use crate::storage::bodies::{Bodies, blocking};
use crate::storage::metadata::backup::{self, BackupRow, StagedObject};
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::snapshot::{NamedPack, Snapshot};
use crate::storage::metadata::{instance, pin};
use crate::storage::pack::PackReader;
use crate::storage::remote::{ObjectKey, RemoteError};

/// How long a pin lasts without being renewed: longer than any database takes to be copied.
const PIN_DURATION: Duration = Duration::from_secs(24 * 60 * 60);
/// Packs that are looked at, or sent, at a time.
const TOGETHER: usize = 4;
/// How long the lease of a target is waited for: others write for moments, or for as long as a backup takes.
const LEASE_PATIENCE: Duration = Duration::from_secs(10 * 60);
/// Pause before the lease is asked for again.
const LEASE_PAUSE: Duration = Duration::from_millis(300);
/// The name of the secret from which the installation's name is made.
const INSTALLATION: &str = "installation";

/// What backups are taken of, and who does it.
#[derive(Clone)]
pub struct Source {
    /// Packs and database.
    pub bodies: Bodies,
    /// The time.
    pub clock: Clock,
    /// Where progress is told and cancellation is asked.
    pub progress: Progress,
    /// Key of the job.
    pub job: i64,
    /// A folder for files that the job needs meanwhile; it is the job's alone.
    pub scratch: PathBuf,
    #[cfg(test)]
    pub(crate) fault: Option<std::sync::Arc<crate::storage::Fault>>,
}

/// A backup that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// What the index says of it.
    pub entry: Entry,
    /// Packs that the target did not have before.
    pub new_packs: u64,
    /// Packs that the database names and that are nowhere, or are cut off: their mail is not in the backup.
    pub missing: Vec<String>,
    /// Packs of which some frames are damaged; they are in the backup as they are.
    pub damaged: Vec<String>,
}

/// What is known of packs at the target.
type Known = BTreeMap<String, PackEntry>;

/// Takes a backup. `attempts` are the names of all attempts of the job, from [`new_id`], this one last: if the target
/// has one of them already, that is the backup.
///
/// # Errors
/// See [`BackupError`]; then the target has the backups that it had.
pub async fn take(source: &Source, target: &Target, attempts: &[String]) -> Result<Taken> {
    source.lease_write(target).await?;
    let outcome = pinned(source, target, attempts).await;
    source.lease_end().await;
    source.clear_scratch().await;
    outcome
}

/// A name for a backup that is taken now.
pub fn new_id(now: Timestamp) -> String {
    let text = now.to_string().replace(['-', ':'], "");
    format!("{text}-{}", random_text(6))
}

async fn pinned(source: &Source, target: &Target, attempts: &[String]) -> Result<Taken> {
    let index = source.own_index(target).await?;
    if let Some(entry) = attempts.iter().find_map(|id| index.find(id)) {
        source.write_down(target, &index).await?;
        return Ok(Taken { entry: entry.clone(), new_packs: 0, missing: Vec::new(), damaged: Vec::new() });
    }
    let (node, at) = (source.bodies.node().id.clone(), source.clock.now());
    let write = source.bodies.database().write(Priority::Interactive, move |conn| {
        let node = node.clone();
        Box::pin(async move { pin::insert(conn, &node, at, at.plus(PIN_DURATION)).await })
    });
    let pin: String = write.await.map_err(|error: StorageError| error)?;
    let id = attempts.last().map_or("backup", String::as_str);
    let taking = Taking { source, target, id, at, pin: &pin };
    let outcome = taking.run(index).await;
    let unpin = source.bodies.database().write(Priority::Interactive, move |conn| {
        let pin = pin.clone();
        Box::pin(async move { pin::remove(conn, &pin).await })
    });
    if let Err(error) = unpin.await {
        tracing::warn!(%error, "a backup's pin stays until it expires");
    }
    outcome
}

impl Source {
    /// For the job with this key, with a scratch folder of its own.
    pub fn new(bodies: Bodies, clock: Clock, progress: Progress, job: i64, scratch: PathBuf) -> Self {
        Self {
            bodies,
            clock,
            progress,
            job,
            scratch,
            #[cfg(test)]
            fault: None,
        }
    }

    /// A point where a crash is tried out.
    #[cfg(test)]
    pub(super) async fn reach(&self, point: u8) {
        if let Some(fault) = &self.fault {
            fault.reach(point).await;
        }
    }

    #[cfg(not(test))]
    pub(super) fn reach(&self, _: u8) -> std::future::Ready<()> {
        std::future::ready(())
    }

    /// Waits for the lease to write to a target.
    pub(super) async fn lease_write(&self, target: &Target) -> Result<()> {
        let until = tokio::time::Instant::now() + LEASE_PATIENCE;
        loop {
            self.progress.go_on()?;
            let (place, job) = (target.place(), self.job);
            let write = self.bodies.database().write(Priority::Interactive, move |conn| {
                let place = place.clone();
                Box::pin(async move { backup::lease_write(conn, &place, job).await })
            });
            let is_ours: bool = write.await.map_err(|error: StorageError| error)?;
            if is_ours {
                return Ok(());
            }
            if tokio::time::Instant::now() > until {
                return Err(BackupError::Busy(target.place()));
            }
            tokio::time::sleep(LEASE_PAUSE).await;
        }
    }

    /// Notes that this job reads a backup.
    pub(super) async fn lease_read(&self, target: &Target, id: &str) -> Result<()> {
        let (place, id, job) = (target.place(), id.to_owned(), self.job);
        let write = self.bodies.database().write(Priority::Interactive, move |conn| {
            let (place, id) = (place.clone(), id.clone());
            Box::pin(async move { backup::lease_read(conn, &place, &id, job).await })
        });
        Ok(write.await.map_err(|error: StorageError| error)?)
    }

    /// Gives the leases back. When that fails, the end of the job does it.
    pub(super) async fn lease_end(&self) {
        let job = self.job;
        let end = self
            .bodies
            .database()
            .write(Priority::Interactive, move |conn| Box::pin(backup::lease_end(conn, job)));
        if let Err(error) = end.await {
            tracing::warn!(%error, "leases of a backup job stay until the job has ended");
        }
    }

    /// The name of this installation.
    async fn installation(&self) -> Result<String> {
        let write = self
            .bodies
            .database()
            .write(Priority::Interactive, |conn| Box::pin(instance::secret(conn, INSTALLATION)));
        let secret: [u8; 32] = write.await.map_err(|error: StorageError| error)?;
        Ok(blake3::hash(&secret).to_hex().chars().take(20).collect())
    }

    /// The target's index, which must be this installation's.
    pub(super) async fn own_index(&self, target: &Target) -> Result<Index> {
        let mut index = target.index(&self.progress).await?;
        let installation = self.installation().await?;
        if index.installation.is_empty() {
            index.installation = installation;
        } else if index.installation != installation {
            return Err(BackupError::Foreign(target.place()));
        }
        Ok(index)
    }

    /// Writes the index to the target, then what it says into the database.
    pub(super) async fn publish(&self, target: &Target, index: &mut Index) -> Result<()> {
        target.write_index(index, &self.progress).await?;
        self.write_down(target, index).await
    }

    /// Repeats the index in the database.
    pub(super) async fn write_down(&self, target: &Target, index: &Index) -> Result<()> {
        let place = target.place();
        let row = |entry: &Entry| BackupRow {
            target: place.clone(),
            public_id: entry.id.clone(),
            at: entry.at,
            entry: serde_json::to_string(entry).unwrap_or_default(),
        };
        let rows: Vec<BackupRow> = index.backups.iter().map(row).collect();
        let write = self.bodies.database().write(Priority::Interactive, move |conn| {
            let (place, rows) = (place.clone(), rows.clone());
            Box::pin(async move { backup::replace(conn, &place, &rows).await })
        });
        Ok(write.await.map_err(|error: StorageError| error)?)
    }

    /// An empty scratch folder.
    pub(super) async fn make_scratch(&self) -> Result<()> {
        self.clear_scratch().await;
        let scratch = self.scratch.clone();
        let make = move || {
            std::fs::create_dir_all(&scratch)
                .map_err(|error| StorageError::Io { what: format!("create {}", scratch.display()), error })
        };
        Ok(blocking(make).await?)
    }

    /// Removes the scratch folder. What cannot be removed goes with the next start.
    pub(super) async fn clear_scratch(&self) {
        let scratch = self.scratch.clone();
        let _ = blocking(move || Ok(std::fs::remove_dir_all(scratch).ok())).await;
    }
}

/// One backup being taken.
struct Taking<'a> {
    source: &'a Source,
    target: &'a Target,
    id: &'a str,
    at: Timestamp,
    pin: &'a str,
}

/// What came of the packs.
#[derive(Default)]
struct Packs {
    entries: Vec<PackEntry>,
    missing: Vec<String>,
    damaged: Vec<String>,
    new: u64,
    new_octets: u64,
}

impl Taking<'_> {
    async fn run(&self, mut index: Index) -> Result<Taken> {
        let Self { source, target, .. } = *self;
        source.make_scratch().await?;
        let database = source.scratch.join("metadata.db");
        source.bodies.database().copy_to(&database).await?;
        let mut snapshot = Snapshot::open(&database).await?;
        let (counts, erased) = (snapshot.count().await?, snapshot.erased().await?);
        let known = self.known(&index).await?;
        let packs = self.packs(&mut snapshot, &known).await?;
        drop(snapshot);
        source.reach(3).await;
        let (stored, database_octets) = self.database(&database).await?;
        source.reach(4).await;
        let manifest = Manifest {
            format: FORMAT,
            id: self.id.to_owned(),
            at: self.at,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            installation: index.installation.clone(),
            database: stored,
            database_octets,
            counts,
            packs: packs.entries,
            missing: packs.missing.clone(),
            erased,
        };
        let object = Bytes::from(manifest.encode().map_err(|what| target.damaged(what))?);
        let key = manifest_key(self.id);
        self.intend(&[(key.to_string(), octets_of(object.len() as u64))]).await?;
        patiently(&source.progress, || target.remote.put_bytes(&key, object.clone())).await?;
        let entry = Entry {
            id: self.id.to_owned(),
            at: self.at,
            version: manifest.version.clone(),
            manifest_blake3: blake3::hash(&object).to_hex().to_string(),
            manifest_octets: object.len() as u64,
            packs: manifest.packs.len() as u64,
            octets: manifest.octets().saturating_add(object.len() as u64),
            new_octets: packs.new_octets.saturating_add(manifest.database.octets),
            counts,
            missing: packs.missing.len() as u64,
            verified: None,
            tested: None,
        };
        source.reach(5).await;
        // The pin has held until here, or what was copied is not whole.
        self.renew().await?;
        index.backups.push(entry.clone());
        index.backups.sort_by(|one, other| (one.at, &one.id).cmp(&(other.at, &other.id)));
        target.write_index(&mut index, &source.progress).await?;
        source.reach(6).await;
        source.write_down(target, &index).await?;
        source.tidy(target, &index, Some(&manifest)).await?;
        Ok(Taken { entry, new_packs: packs.new, missing: packs.missing, damaged: packs.damaged })
    }

    /// What the target has of packs: what its backups name, and what an interrupted run has left.
    async fn known(&self, index: &Index) -> Result<Known> {
        let mut known = Known::new();
        for entry in &index.backups {
            let manifest = match self.target.manifest(entry, &self.source.progress).await {
                Ok(manifest) => manifest,
                Err(error @ (BackupError::Damaged { .. } | BackupError::Unknown { .. })) => {
                    tracing::error!(%error, "what only this backup names is copied again");
                    continue;
                }
                Err(error) => return Err(error),
            };
            known.extend(manifest.packs.into_iter().map(|pack| (pack.name.clone(), pack)));
        }
        for object in self.source.staged(self.target).await? {
            let name = object.key.strip_prefix("packs/").and_then(|name| name.strip_suffix(".pack"));
            let (Some(name), Some(hash)) = (name, object.hash) else { continue };
            let Content { octets, blake3 } = Content::new(u64::try_from(object.octets).unwrap_or(0), &hash);
            let name = name.to_owned();
            let entry = PackEntry { name: name.clone(), store: String::new(), octets, blake3 };
            known.entry(name).or_insert(entry);
        }
        Ok(known)
    }

    /// Sends the packs that the target does not have.
    async fn packs(&self, snapshot: &mut Snapshot, known: &Known) -> Result<Packs> {
        let progress = &self.source.progress;
        let total = Some(snapshot.pack_octets().await?);
        progress.advance(0, total, "octets");
        let (mut after, mut done, mut all) = (0, 0_u64, Packs::default());
        loop {
            progress.go_on()?;
            let named = snapshot.packs(after).await?;
            let Some(last) = named.last() else { return Ok(all) };
            after = last.key;
            self.renew().await?;
            let mut new = Vec::new();
            for some in named.chunks(TOGETHER) {
                let mut looks: Vec<BoxFuture<'_, Result<Option<PackEntry>>>> = Vec::new();
                for pack in some {
                    looks.push(Box::pin(self.look(pack, known)));
                }
                for (pack, found) in some.iter().zip(try_join_all(looks).await?) {
                    match found {
                        Some(entry) => {
                            done = done.saturating_add(entry.octets);
                            all.entries.push(entry);
                        }
                        None => new.push(pack),
                    }
                }
            }
            progress.advance(done, total, "octets");
            for some in new.chunks(TOGETHER) {
                progress.go_on()?;
                self.send(some, &mut all).await?;
                done = some.iter().fold(done, |done, pack| done.saturating_add(pack.octets));
                progress.advance(done, total, "octets");
                self.renew().await?;
            }
        }
    }

    /// What the target has of a pack, if it is there.
    async fn look(&self, pack: &NamedPack, known: &Known) -> Result<Option<PackEntry>> {
        let name = pack.name.to_string();
        let Some(entry) = known.get(&name).filter(|entry| entry.octets == pack.octets) else {
            return Ok(None);
        };
        let key = pack_key(&name);
        match patiently(&self.source.progress, || self.target.remote.head(&key)).await {
            Ok(head) if head.octets == pack.octets => {
                Ok(Some(PackEntry { store: pack.store.clone(), ..entry.clone() }))
            }
            Ok(_) | Err(BackupError::Target(RemoteError::NotFound(_))) => {
                tracing::warn!(%key, "a pack is not at the target any more and is copied again");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a few packs, named by rows before and after.
    async fn send(&self, packs: &[&NamedPack], all: &mut Packs) -> Result<()> {
        let key = |pack: &NamedPack| pack_key(&pack.name.to_string()).to_string();
        let intended: Vec<_> = packs.iter().map(|pack| (key(pack), octets_of(pack.octets))).collect();
        self.intend(&intended).await?;
        self.source.reach(1).await;
        let mut sending: Vec<BoxFuture<'_, Result<Sent>>> = Vec::new();
        for pack in packs {
            sending.push(Box::pin(self.send_one(pack)));
        }
        let sent = try_join_all(sending).await?;
        self.source.reach(2).await;
        let mut stored = Vec::new();
        for (pack, sent) in packs.iter().zip(sent) {
            let name = pack.name.to_string();
            let Some(hash) = sent.hash else {
                tracing::error!(pack = name, "a pack is missing or cut off, and not in the backup");
                all.missing.push(name);
                continue;
            };
            stored.push(StagedObject { key: key(pack), octets: octets_of(pack.octets), hash: Some(hash) });
            let Content { octets, blake3 } = Content::new(pack.octets, &hash);
            if sent.is_damaged {
                tracing::error!(pack = name, "frames of a pack are damaged; it is in the backup as it is");
                all.damaged.push(name.clone());
            }
            all.entries.push(PackEntry { name, store: pack.store.clone(), octets, blake3 });
            all.new += 1;
            all.new_octets = all.new_octets.saturating_add(pack.octets);
        }
        let place = self.target.place();
        let write = self.source.bodies.database().write(Priority::Background, move |conn| {
            let (place, stored) = (place.clone(), stored.clone());
            Box::pin(async move { backup::stored(conn, &place, &stored).await })
        });
        Ok(write.await.map_err(|error: StorageError| error)?)
    }

    /// Sends a pack from the volume, or else from the object storage of its mail store.
    async fn send_one(&self, pack: &NamedPack) -> Result<Sent> {
        let bodies = &self.source.bodies;
        let local = pack.name.path(&bodies.pack_folder(&pack.store_path));
        if octets_at(&local).await == Some(pack.octets) {
            return self.send_file(pack, &local).await;
        }
        let volume = bodies.volumes().get(pack.store_id).await?;
        if !volume.has_remote() {
            return Ok(Sent::default());
        }
        let (remote, key) = (volume.remote()?, ObjectKey::of_pack(pack.name));
        let path = self.source.scratch.join(format!("{}.pack", pack.name));
        let fetched = patiently(&self.source.progress, || remote.get_to_file(&key, pack.octets, &path)).await;
        match fetched {
            Ok(()) => {}
            Err(BackupError::Target(RemoteError::NotFound(_) | RemoteError::Corrupt(_))) => {
                return Ok(Sent::default());
            }
            Err(error) => return Err(error),
        }
        let sent = self.send_file(pack, &path).await;
        let _ = blocking(move || Ok(std::fs::remove_file(path).ok())).await;
        sent
    }

    async fn send_file(&self, pack: &NamedPack, path: &Path) -> Result<Sent> {
        let own = path.to_owned();
        let checked = blocking(move || PackReader::open(&own)?.check()).await;
        let is_damaged = match checked {
            Ok(()) => false,
            Err(StorageError::Corrupt(what)) => {
                tracing::error!(path = %path.display(), what, "damage");
                true
            }
            Err(error) => return Err(error.into()),
        };
        let key = pack_key(&pack.name.to_string());
        let put = patiently(&self.source.progress, || self.target.remote.put_file(&key, path, pack.octets));
        Ok(Sent { hash: Some(put.await?.blake3), is_damaged })
    }

    /// Sends the database, compressed. Answers what was stored, and the length of the file.
    async fn database(&self, path: &Path) -> Result<(Content, u64)> {
        let compressed = path.with_extension("db.zst");
        let (from, to) = (path.to_owned(), compressed.clone());
        let lengths = blocking(move || {
            let io =
                |what: &str, error| StorageError::Io { what: format!("{what} {}", from.display()), error };
            let source = std::fs::File::open(&from).map_err(|error| io("open", error))?;
            let octets = source.metadata().map_err(|error| io("measure", error))?.len();
            let sink = std::fs::File::create(&to).map_err(|error| io("compress", error))?;
            zstd::stream::copy_encode(source, &sink, LEVEL).map_err(|error| io("compress", error))?;
            std::fs::remove_file(&from).map_err(|error| io("remove", error))?;
            Ok((octets, sink.metadata().map_err(|error| io("measure", error))?.len()))
        });
        let (octets, stored_octets) = lengths.await?;
        let key = database_key(self.id);
        self.intend(&[(key.to_string(), octets_of(stored_octets))]).await?;
        let put = || self.target.remote.put_file(&key, &compressed, stored_octets);
        let put = patiently(&self.source.progress, put).await?;
        Ok((Content::new(put.octets, &put.blake3), octets))
    }

    async fn intend(&self, objects: &[(String, i64)]) -> Result<()> {
        let (place, objects) = (self.target.place(), objects.to_vec());
        let write = self.source.bodies.database().write(Priority::Background, move |conn| {
            let (place, objects) = (place.clone(), objects.clone());
            Box::pin(async move { backup::intend(conn, &place, &objects).await })
        });
        Ok(write.await.map_err(|error: StorageError| error)?)
    }

    /// # Errors
    /// `Gone` when the pin expired: packs may have been removed.
    async fn renew(&self) -> Result<()> {
        let (pin, until) = (self.pin.to_owned(), self.source.clock.now().plus(PIN_DURATION));
        let write = self.source.bodies.database().write(Priority::Interactive, move |conn| {
            let pin = pin.clone();
            Box::pin(async move { pin::extend(conn, &pin, until).await })
        });
        let lasts: bool = write.await.map_err(|error: StorageError| error)?;
        if lasts { Ok(()) } else { Err(StorageError::Gone("the pin of the backup").into()) }
    }
}

/// A pack that was sent; without a hash it is nowhere.
#[derive(Default)]
struct Sent {
    hash: Option<[u8; 32]>,
    is_damaged: bool,
}

fn octets_of(octets: u64) -> i64 {
    i64::try_from(octets).unwrap_or(i64::MAX)
}

/// Length of a file, if it is there.
async fn octets_at(path: &Path) -> Option<u64> {
    let path = path.to_owned();
    let length = tokio::task::spawn_blocking(move || std::fs::metadata(path).ok().map(|file| file.len()));
    length.await.map_err(|_| interrupted()).ok().flatten()
}
