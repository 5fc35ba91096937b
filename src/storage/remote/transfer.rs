//! Reading from a place for objects, into memory and into files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::calls::Kind;
use super::directory::sync_parent;
use super::error::{RemoteError, Result};
use super::key::ObjectKey;
use super::store::{Answer, Attempt, ObjectHead, Range};
use super::{Inner, Remote};
use crate::base::id::{random_bytes, random_text};
use crate::storage::pack::SYNC_OCTETS;

/// Largest piece read into memory at once; a single body with its frame is smaller.
const RANGE_OCTETS_MAX: u64 = (1 << 30) + (1 << 20);
/// Size of the object that a probe writes.
const PROBE_OCTETS: usize = 64;

impl Remote {
    /// Exactly `length` octets of an object, from `offset` on.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` when the object is shorter or the answer is not what was asked for; `Denied`, `Invalid`,
    /// `Throttled`, `Unavailable` as they say. Nothing is ever cut short silently.
    pub async fn get_range(&self, key: &ObjectKey, offset: u64, length: u64) -> Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        if length > RANGE_OCTETS_MAX {
            return Err(RemoteError::Invalid(format!("{length} octets are too many for one read of {key}")));
        }
        if offset.checked_add(length).is_none() {
            return Err(RemoteError::Corrupt(format!(
                "no object is as long as {length} octets from {offset} on"
            )));
        }
        let range = Range { offset, length };
        let inner = &self.inner;
        let read = || -> Attempt<'_, Bytes> {
            Box::pin(async move {
                let answer = inner.store.get(key, Some(range)).await?;
                inner.collect(key, answer, length).await
            })
        };
        inner.calls.call(Kind::Get, length, read).await
    }

    /// A whole small object, such as a manifest, of at most `octets_max`.
    ///
    /// # Errors
    /// As [`Self::get_range`]; `Corrupt` when it is larger.
    pub async fn get_bytes(&self, key: &ObjectKey, octets_max: u64) -> Result<Bytes> {
        let inner = &self.inner;
        let read = || -> Attempt<'_, Bytes> {
            Box::pin(async move {
                let answer = inner.store.get(key, None).await?;
                let octets = answer.octets;
                if octets > octets_max.min(RANGE_OCTETS_MAX) {
                    let message = format!("{key} has {octets} octets, more than {octets_max}");
                    return Err(RemoteError::Corrupt(message));
                }
                inner.collect(key, answer, octets).await
            })
        };
        inner.calls.call(Kind::Get, octets_max.min(RANGE_OCTETS_MAX), read).await
    }

    /// A whole object of `octets` into the file `path`, which appears complete and durable or not at all. An
    /// interrupted read goes on where it stopped.
    ///
    /// # Errors
    /// As [`Self::get_range`]; `Local` when the file cannot be written.
    pub async fn get_to_file(&self, key: &ObjectKey, octets: u64, path: &Path) -> Result<()> {
        let (temporary, file) = Temporary::create(path).await?;
        let receiving = Mutex::new(Receiving { file, octets: 0, synced_octets: 0 });
        let (inner, shared) = (&self.inner, &receiving);
        let read = || -> Attempt<'_, ()> {
            Box::pin(async move {
                let mut receiving = shared.lock().await;
                let received = inner.receive(key, octets, path, &mut receiving).await;
                if matches!(received, Err(RemoteError::Corrupt(_))) {
                    (receiving.octets, receiving.synced_octets) = (0, 0);
                }
                received
            })
        };
        inner.calls.call(Kind::Get, octets, read).await?;
        temporary.finish(receiving.into_inner().file).await
    }

    /// What is known of an object.
    ///
    /// # Errors
    /// As [`Self::get_range`].
    pub async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        self.inner.calls.call(Kind::Head, 0, || self.inner.store.head(key)).await
    }

    /// Removes an object. That there is none is as well.
    ///
    /// # Errors
    /// When it may still be there.
    pub async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let deleted = self.inner.calls.call(Kind::Delete, 0, || self.inner.store.delete(key)).await;
        if matches!(deleted, Err(RemoteError::NotFound(_))) { Ok(()) } else { deleted }
    }

    /// Writes a small object, reads it back and deletes it: whether everything that is needed is allowed and works.
    /// Gives how long that took.
    ///
    /// # Errors
    /// The first that came up.
    pub async fn probe(&self) -> Result<Duration> {
        let start = Instant::now();
        let Some(key) = ObjectKey::parse(&format!("probe-{}", random_text(16))) else {
            return Err(RemoteError::Invalid("a probe's key".to_owned()));
        };
        let content = Bytes::from(random_bytes(PROBE_OCTETS));
        let put = self.put_bytes(&key, content.clone()).await;
        let read = match &put {
            Ok(_) => Some(self.get_bytes(&key, PROBE_OCTETS as u64).await),
            Err(_) => None,
        };
        // Also what may have arrived although nobody said so.
        let deleted = self.delete(&key).await;
        put?;
        if read.transpose()?.is_none_or(|read| read != content) {
            return Err(RemoteError::Corrupt(format!("{key} is not what was written")));
        }
        deleted.map(|()| start.elapsed())
    }
}

/// A file that is being filled.
struct Receiving {
    file: File,
    /// Octets that are certainly in it.
    octets: u64,
    /// Of them those on the disk.
    synced_octets: u64,
}

impl Inner {
    /// The content of an answer, which must have `length` octets.
    async fn collect(&self, key: &ObjectKey, mut answer: Answer, length: u64) -> Result<Bytes> {
        check_length(key, answer.octets, length)?;
        let capacity = usize::try_from(length).unwrap_or(usize::MAX);
        let mut content = Vec::new();
        content
            .try_reserve_exact(capacity)
            .map_err(|_| RemoteError::Unavailable(format!("no memory for {length} octets of {key}")))?;
        while let Some(piece) = self.calls.next_piece(&mut answer).await? {
            if piece.len() > capacity - content.len() {
                return Err(RemoteError::Corrupt(format!("more than {length} octets of {key}")));
            }
            content.extend_from_slice(&piece);
        }
        check_length(key, content.len() as u64, length)?;
        self.calls.count(Kind::Get, length);
        Ok(Bytes::from(content))
    }

    /// Goes on filling a file up to `octets`.
    async fn receive(&self, key: &ObjectKey, octets: u64, path: &Path, to: &mut Receiving) -> Result<()> {
        let failed = |error| RemoteError::local("write", path, error);
        let rest = octets.saturating_sub(to.octets);
        // A write that was interrupted may have gone further than is known.
        to.file.flush().await.map_err(failed)?;
        to.file.set_len(to.octets).await.map_err(failed)?;
        to.file.seek(std::io::SeekFrom::Start(to.octets)).await.map_err(failed)?;
        let range = (to.octets > 0).then_some(Range { offset: to.octets, length: rest });
        if range.is_some() && rest == 0 {
            return Ok(());
        }
        let mut answer = self.store.get(key, range).await?;
        check_length(key, answer.object_octets.unwrap_or(octets), octets)?;
        check_length(key, answer.octets, rest)?;
        while let Some(piece) = self.calls.next_piece(&mut answer).await? {
            let length = piece.len() as u64;
            if length > octets - to.octets {
                return Err(RemoteError::Corrupt(format!("more than {octets} octets of {key}")));
            }
            to.file.write_all(&piece).await.map_err(failed)?;
            to.octets += length;
            if to.octets - to.synced_octets >= SYNC_OCTETS {
                to.file.sync_data().await.map_err(failed)?;
                to.synced_octets = to.octets;
            }
            self.calls.count(Kind::Get, length);
        }
        to.file.flush().await.map_err(failed)?;
        check_length(key, to.octets, octets)
    }
}

fn check_length(key: &ObjectKey, found: u64, expected: u64) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(RemoteError::Corrupt(format!("{found} octets of {key} instead of {expected}")))
}

/// A file that is not complete. Dropped before [`finish`](Self::finish), it is removed.
pub(super) struct Temporary {
    path: PathBuf,
    target: PathBuf,
    is_finished: bool,
}

impl Temporary {
    /// A new file beside `target`; two that write the same do not disturb each other.
    pub(super) async fn create(target: &Path) -> Result<(Self, File)> {
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".{}.tmp", random_text(8)));
        let path = PathBuf::from(name);
        let created = File::options().write(true).create_new(true).open(&path).await;
        let file = created.map_err(|error| RemoteError::local("create", &path, error))?;
        Ok((Self { path, target: target.to_owned(), is_finished: false }, file))
    }

    /// Gives it its name. When this returns it survives power loss.
    pub(super) async fn finish(mut self, mut file: File) -> Result<()> {
        let synced = async {
            file.flush().await?;
            file.sync_all().await?;
            drop(file);
            tokio::fs::rename(&self.path, &self.target).await
        };
        synced.await.map_err(|error| RemoteError::local("write", &self.target, error))?;
        self.is_finished = true;
        sync_parent(&self.target).await
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_finished {
            // What is left is harmless and told apart by its name.
            std::fs::remove_file(&self.path).ok();
        }
    }
}
