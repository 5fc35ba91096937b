//! From packs into the database: where bodies are, summaries, parts, and mail that no catalog knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::report::LostReport;
use super::{Found, Rebuild, write};
use crate::base::id::{BodyId, PackId};
use crate::service::error::Result;
use crate::service::mailstore::summary::summarize;
use crate::storage::StorageError;
use crate::storage::catalogs::restore::Fetched;
use crate::storage::metadata::body::{self, Location};
use crate::storage::metadata::delivery::Packed;
use crate::storage::metadata::dictionary;
use crate::storage::metadata::pack::Framed;
use crate::storage::metadata::rebuild;
use crate::storage::metadata::rebuild_bodies::{self, FoundFrame, FoundPack, Lost};
use crate::storage::pack::{PackName, Recovered, recover};

/// The provider's mailbox with mail of unknown mailboxes.
pub(super) const RECOVERED: &str = "recovered@recovered.invalid";
/// Rows of one transaction.
const SLICE_ROWS: usize = 256;
/// Octets of bodies that are read at once.
const READ_OCTETS_MAX: u64 = 8 << 20;
/// Most mailboxes in the list of what is lost.
const LOST_MAX: usize = 1_000;

/// What is known of a pack before it is read.
#[derive(Clone, Copy, Default)]
struct Known {
    octets: u64,
    is_local: bool,
    is_remote: bool,
    is_covered: bool,
}

fn stored(frame: &Recovered) -> u64 {
    u64::from(frame.header.stored_len)
}

impl Rebuild<'_> {
    /// Gives everything that messages refer to its place; what has none is lost.
    pub(super) async fn place(&mut self, found: &mut [Found]) -> Result<()> {
        write(self.database(), |conn| Box::pin(rebuild_bodies::bodies(conn))).await?;
        let mut living: Vec<(PackId, Vec<i64>)> = Vec::new();
        for store in found.iter_mut() {
            self.dictionaries(store).await?;
            let packs = known_packs(store)?;
            let count = packs.len();
            for (number, (name, known)) in packs.into_iter().enumerate() {
                match self.pack(store, name, known).await? {
                    Ok(placed) => living.push(placed),
                    Err(error) => {
                        let what = format!("pack {name}: {error}");
                        // One that is gone since is no damage: its bodies moved.
                        if known.is_local || known.is_remote {
                            store.report.damaged.push(what.clone());
                        }
                        self.say(&what);
                    }
                }
                self.say(&format!("store {}: pack {} of {count}", store.volume.name, number + 1));
            }
        }
        let lost = write(self.database(), |conn| Box::pin(rebuild_bodies::lose(conn, &[]))).await?;
        self.lost(lost);
        self.recover_unknown().await?;
        write(self.database(), |conn| Box::pin(rebuild_bodies::settle_bodies(conn))).await?;
        let damaged = Arc::new(self.summaries(&living).await?);
        if !damaged.is_empty() {
            let lost = write(self.database(), move |conn| {
                let damaged = Arc::clone(&damaged);
                Box::pin(async move { rebuild_bodies::lose(conn, &damaged).await })
            });
            let lost = lost.await?;
            self.lost(lost);
            write(self.database(), |conn| Box::pin(rebuild_bodies::settle_bodies(conn))).await?;
        }
        self.parts().await
    }

    fn lost(&mut self, lost: Vec<Lost>) {
        for Lost { address, messages } in lost {
            self.say(&format!("{address}: {messages} messages are lost"));
            self.report.lost_messages += messages.max(0).cast_unsigned();
            if self.report.lost.len() < LOST_MAX {
                self.report.lost.push(LostReport { address, messages });
            }
        }
    }

    /// Dictionaries, which packs need to be read.
    async fn dictionaries(&self, store: &mut Found) -> Result<()> {
        let mut numbers: BTreeSet<u32> = store.current.record.dictionaries.iter().copied().collect();
        numbers.extend(store.remains.dictionaries()?);
        let (id, has_remote) = (store.volume.store.store, store.remains.remote.is_some());
        for number in numbers {
            let Some(key) = dictionary::key(number) else { continue };
            let (owner, bytes) = match store.remains.dictionary(number).await {
                Ok(read) => read,
                Err(error) => {
                    let what = format!("dictionary {number}: {error}");
                    self.say(&what);
                    store.report.damaged.push(what);
                    continue;
                }
            };
            let bytes = Arc::new(bytes);
            write(self.database(), move |conn| {
                let bytes = Arc::clone(&bytes);
                Box::pin(async move {
                    rebuild::dictionary(conn, key, owner.customer, &bytes, owner.created_at).await?;
                    rebuild::dictionary_placed(conn, key, id, has_remote).await
                })
            })
            .await?;
            self.bodies.learn([number].into()).await?;
        }
        Ok(())
    }

    /// One pack. The inner error is about its file, the outer about the database.
    async fn pack(
        &self,
        store: &mut Found,
        name: PackName,
        known: Known,
    ) -> Result<std::result::Result<(PackId, Vec<i64>), StorageError>> {
        let (path, copy) = match store.remains.pack(name, known.octets).await {
            Ok(Fetched { path, is_copy }) => (path.clone(), is_copy.then_some(path)),
            Err(error) => return Ok(Err(error)),
        };
        let codec = self.bodies.codec().clone();
        let read = tokio::task::spawn_blocking(move || {
            let octets = std::fs::metadata(&path).map_or(0, |found| found.len());
            recover(&codec, &path).map(|frames| (octets, frames))
        });
        let read = read.await.unwrap_or(Err(StorageError::Busy("reading a pack was interrupted")));
        if let Some(copy) = copy {
            // It is in the scratch folder, which goes at the end.
            let _ = std::fs::remove_file(copy);
        }
        let (octets, frames) = match read {
            Ok(read) => read,
            Err(error) => return Ok(Err(error)),
        };
        let dictionaries = frames.iter().filter_map(|frame| dictionary::key(frame.header.dictionary_id));
        let pack = FoundPack {
            name,
            store: store.volume.store.store,
            octets,
            frames: frames.len(),
            stored_octets: frames.iter().map(stored).sum(),
            original_octets: frames.iter().map(|frame| u64::from(frame.header.original_len)).sum(),
            is_local: known.is_local,
            is_remote: known.is_remote,
            is_covered: known.is_covered,
            dictionaries: dictionaries.collect(),
        };
        store.report.packs += 1;
        store.report.younger_packs += u64::from(!known.is_covered);
        let (id, now) = (pack.store, self.wanted.now);
        let pack = Arc::new(pack);
        let key = write(self.database(), move |conn| {
            let pack = Arc::clone(&pack);
            Box::pin(async move { rebuild_bodies::pack(conn, &pack, now).await })
        })
        .await?;
        let found = |frame: &Recovered| FoundFrame {
            frame: Framed {
                body: frame.header.body,
                offset: frame.location.offset,
                stored_octets: frame.header.stored_len,
            },
            octets: frame.header.original_len,
            parts: frame.parts.clone(),
        };
        let frames: Vec<FoundFrame> = frames.iter().map(found).collect();
        let mut here = Vec::with_capacity(frames.len());
        for slice in frames.chunks(SLICE_ROWS) {
            let slice = Arc::new(slice.to_vec());
            let placed = write(self.database(), move |conn| {
                let slice = Arc::clone(&slice);
                Box::pin(async move { rebuild_bodies::place(conn, key, id, &slice).await })
            });
            here.extend(placed.await?.into_iter().map(|body| body.0));
        }
        Ok(Ok((key, here)))
    }

    /// Mail that no catalog knows goes to a mailbox that only the provider has.
    async fn recover_unknown(&mut self) -> Result<()> {
        let now = self.wanted.now;
        let (mut after, mut home) = (0, None);
        loop {
            let read = self.database().read(|conn| Box::pin(rebuild_bodies::unknown(conn, after)));
            let unknown: Vec<(i64, i64)> = read.await?;
            let Some((last, _)) = unknown.last() else { return Ok(()) };
            after = *last;
            let home = match home {
                Some(home) => home,
                None => {
                    let made =
                        write(self.database(), move |conn| Box::pin(rebuild_bodies::recovered(conn, now)));
                    *home.insert(made.await?)
                }
            };
            self.report.recovered += unknown.len() as u64;
            self.report.recovered_in = Some(RECOVERED.to_owned());
            let unknown = Arc::new(unknown);
            write(self.database(), move |conn| {
                let unknown = Arc::clone(&unknown);
                Box::pin(async move { rebuild_bodies::adopt(conn, &unknown, home, now).await })
            })
            .await?;
        }
    }

    /// Makes the summaries of all messages' bodies; answers those that cannot be read.
    async fn summaries(&self, living: &[(PackId, Vec<i64>)]) -> Result<Vec<i64>> {
        let mut damaged = Vec::new();
        for (number, (_, bodies)) in living.iter().enumerate() {
            for slice in bodies.chunks(SLICE_ROWS) {
                let slice = slice.to_vec();
                let read = self.database().read(|conn| {
                    Box::pin(async move {
                        let wanted = rebuild_bodies::without_summary(conn, &slice).await?;
                        body::locate_all(conn, &wanted).await
                    })
                });
                let located: Vec<(BodyId, Location)> = read.await?;
                self.summarize(located, &mut damaged).await?;
            }
            self.say(&format!("reading messages: pack {} of {}", number + 1, living.len()));
        }
        Ok(damaged)
    }

    async fn summarize(&self, mut located: Vec<(BodyId, Location)>, damaged: &mut Vec<i64>) -> Result<()> {
        located.sort_unstable_by_key(|(_, location)| match location {
            Location::Pack(place) => place.frame.offset,
            Location::Fresh { .. } => 0,
        });
        while !located.is_empty() {
            let mut octets = 0_u64;
            let fits = |(_, location): &&(BodyId, Location)| {
                let is_first = octets == 0;
                if let Location::Pack(place) = location {
                    // Compressed text grows to a few times its size.
                    octets = octets.saturating_add(u64::from(place.frame.length).saturating_mul(4).max(1));
                }
                is_first || octets <= READ_OCTETS_MAX
            };
            let count = located.iter().take_while(fits).count().max(1);
            let some: Vec<(BodyId, Location)> = located.drain(..count.min(located.len())).collect();
            let keys: Vec<BodyId> = some.iter().map(|(body, _)| *body).collect();
            let read = self.bodies.read_located(some).await;
            let mut summaries: Vec<(BodyId, Packed)> = Vec::with_capacity(keys.len());
            for (key, read) in keys.into_iter().zip(read) {
                match read {
                    Ok(original) => {
                        let bodies = self.bodies.clone();
                        let made = tokio::task::spawn_blocking(move || {
                            bodies.compress(&summarize(&original).encode())
                        });
                        let made = made.await;
                        summaries.push((key, made.map_err(|_| StorageError::Busy("summarizing a message"))?));
                    }
                    Err(StorageError::Corrupt(what)) => {
                        self.say(&format!("body {key}: {what}"));
                        damaged.push(key.0);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            let summaries = Arc::new(summaries);
            write(self.database(), move |conn| {
                let summaries = Arc::clone(&summaries);
                Box::pin(async move { rebuild_bodies::summaries(conn, &summaries).await })
            })
            .await?;
        }
        Ok(())
    }

    /// Enters what parts are found by, so that new mail shares them.
    async fn parts(&self) -> Result<()> {
        let mut after = 0;
        loop {
            let read = self.database().read(|conn| Box::pin(rebuild_bodies::parts(conn, after)));
            let parts: Vec<BodyId> = read.await?;
            let Some(last) = parts.last() else { return Ok(()) };
            after = last.0;
            let mut hashes = Vec::with_capacity(parts.len());
            for part in parts {
                let original = self.bodies.read(part).await?;
                hashes.push((part, *blake3::hash(&original).as_bytes()));
            }
            let hashes = Arc::new(hashes);
            write(self.database(), move |conn| {
                let hashes = Arc::clone(&hashes);
                Box::pin(async move { rebuild_bodies::part_hashes(conn, &hashes).await })
            })
            .await?;
        }
    }

    /// What is left to do at the end.
    pub(super) async fn finish(&self, found: &[Found]) -> Result<()> {
        let now = self.wanted.now;
        let last = found.iter().map(|store| store.current.record.object_last).max().unwrap_or(0);
        write(self.database(), move |conn| Box::pin(rebuild::settle(conn, last, now))).await?;
        for store in found {
            let (id, node) = (store.volume.store.store, self.bodies.node().clone());
            let number = store.current.record.number.cast_signed();
            let names: Vec<String> =
                store.current.catalogs.iter().map(|catalog| catalog.name.clone()).collect();
            let names = Arc::new(names);
            write(self.database(), move |conn| {
                let (names, node) = (Arc::clone(&names), node.clone());
                Box::pin(async move {
                    for name in names.iter() {
                        rebuild::old_catalog(conn, &node, id, name, now).await?;
                    }
                    crate::storage::metadata::catalog::ensure_state(conn, id, number).await
                })
            })
            .await?;
        }
        write(self.database(), |conn| Box::pin(rebuild::finish(conn))).await
    }
}

/// The packs that CURRENT names, and those on the volume.
fn known_packs(store: &Found) -> std::result::Result<BTreeMap<PackName, Known>, StorageError> {
    let mut packs = BTreeMap::new();
    for (name, octets) in store.remains.packs()? {
        packs.insert(name, Known { octets, is_local: true, ..Known::default() });
    }
    for record in &store.current.packs {
        let Some(name) = PackName::parse(&record.name) else { continue };
        let is_there = record.is_remote && store.remains.remote.is_some();
        let known = packs.entry(name).or_insert(Known { octets: record.octets, ..Known::default() });
        (known.is_remote, known.is_covered) = (is_there, record.is_covered);
    }
    Ok(packs)
}
