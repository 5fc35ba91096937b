//! A directory with the contract of a bucket: for backups, and for tests.
//!
//! # Crash Consistency
//! An object is complete under its name or not there: it is written under a temporary name, synced, renamed, and its
//! folder synced before the answer. What a crash leaves ends in `.tmp` and is never taken for an object.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::stream::StreamExt;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::error::{RemoteError, Result};
use super::key::ObjectKey;
use super::store::{Answer, Attempt, Content, ObjectHead, ObjectStore, PartSizes, Progress, Range, pieces};
use super::transfer::Temporary;

/// A directory.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// What a failed operation on an object means. A missing root is a volume that is not mounted, and says nothing
    /// about the object.
    async fn failed(&self, what: &str, key: &ObjectKey, error: std::io::Error) -> RemoteError {
        let path = self.path(key);
        let shown = path.display();
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => match self.require_root().await {
                Ok(()) => RemoteError::NotFound(shown.to_string()),
                Err(error) => error,
            },
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                RemoteError::Denied(format!("{what} {shown}: {error}"))
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => RemoteError::local(what, &path, error),
            _ => RemoteError::Unavailable(format!("{what} {shown}: {error}")),
        }
    }

    async fn require_root(&self) -> Result<()> {
        let found = tokio::fs::metadata(&self.root).await;
        if found.is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        Err(RemoteError::Unavailable(format!(
            "there is no directory {}: is it mounted?",
            self.root.display()
        )))
    }

    /// Makes the folders above an object, each durable in the one above it.
    async fn make_folders(&self, key: &ObjectKey) -> Result<()> {
        self.require_root().await?;
        let path = self.path(key);
        let missing: Vec<&Path> =
            path.ancestors().skip(1).take_while(|folder| *folder != self.root && !folder.is_dir()).collect();
        for folder in missing.into_iter().rev() {
            match tokio::fs::create_dir(folder).await {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(self.failed("make the folder of", key, error).await);
                }
                _ => sync_parent(folder).await?,
            }
        }
        Ok(())
    }

    async fn write(&self, key: &ObjectKey, content: &Content) -> Result<()> {
        self.make_folders(key).await?;
        let (temporary, mut file) = Temporary::create(&self.path(key)).await?;
        let mut pieces = content.stream(Arc::new(Progress::default()));
        let mut octets = 0;
        while let Some(piece) = pieces.next().await {
            let what = "read what is to be stored as";
            let piece = piece.map_err(|error| RemoteError::local(what, &self.path(key), error))?;
            octets += piece.len() as u64;
            if let Err(error) = file.write_all(&piece).await {
                return Err(self.failed("write", key, error).await);
            }
        }
        if octets != content.octets {
            return Err(RemoteError::Corrupt(format!("{octets} of {} octets of {key}", content.octets)));
        }
        temporary.finish(file).await
    }

    async fn open(&self, key: &ObjectKey, range: Option<Range>) -> Result<Answer> {
        let opened = async {
            let file = tokio::fs::File::open(self.path(key)).await?;
            let octets = file.metadata().await?.len();
            Ok::<_, std::io::Error>((file, octets))
        };
        let (mut file, object_octets) = match opened.await {
            Ok(opened) => opened,
            Err(error) => return Err(self.failed("open", key, error).await),
        };
        let range = range.unwrap_or(Range { offset: 0, length: object_octets });
        if range.end() > object_octets {
            let message = format!("{key} has {object_octets} octets, not {}", range.end());
            return Err(RemoteError::Corrupt(message));
        }
        if let Err(error) = file.seek(std::io::SeekFrom::Start(range.offset)).await {
            return Err(self.failed("read", key, error).await);
        }
        let shown = self.path(key).display().to_string();
        let content = pieces(file.take(range.length)).map(move |piece| {
            piece.map_err(|error| RemoteError::Unavailable(format!("read {shown}: {error}")))
        });
        Ok(Answer { octets: range.length, object_octets: Some(object_octets), content: content.boxed() })
    }

    async fn look(&self, key: &ObjectKey) -> Result<ObjectHead> {
        match tokio::fs::metadata(self.path(key)).await {
            Ok(found) if found.is_file() => Ok(ObjectHead { octets: found.len(), entity_tag: None }),
            Ok(_) => Err(RemoteError::NotFound(self.path(key).display().to_string())),
            Err(error) => Err(self.failed("look at", key, error).await),
        }
    }

    async fn remove(&self, key: &ObjectKey) -> Result<()> {
        let path = self.path(key);
        match tokio::fs::remove_file(&path).await {
            Ok(()) => sync_parent(&path).await,
            Err(error) => match self.failed("remove", key, error).await {
                RemoteError::NotFound(_) => Ok(()),
                error => Err(error),
            },
        }
    }
}

/// Makes a new or removed name survive power loss.
pub(super) async fn sync_parent(path: &Path) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    let synced = async { tokio::fs::File::open(folder).await?.sync_all().await };
    synced.await.map_err(|error| RemoteError::local("sync", folder, error))
}

/// A directory has no parts, so nobody asks for them.
fn no_parts<T: Send + 'static>() -> Attempt<'static, T> {
    Box::pin(async { Err(RemoteError::Invalid("a directory takes no parts of objects".to_owned())) })
}

impl ObjectStore for Directory {
    fn place(&self) -> String {
        format!("directory {}", self.root.display())
    }

    fn parts(&self) -> Option<PartSizes> {
        None
    }

    fn put<'a>(&'a self, key: &'a ObjectKey, content: &'a Content) -> Attempt<'a, Option<String>> {
        Box::pin(async move { self.write(key, content).await.map(|()| None) })
    }

    fn begin<'a>(&'a self, _: &'a ObjectKey) -> Attempt<'a, String> {
        no_parts()
    }

    fn put_part<'a>(&'a self, _: &'a ObjectKey, _: &'a str, _: i32, _: &'a Content) -> Attempt<'a, String> {
        no_parts()
    }

    fn complete<'a>(&'a self, _: &'a ObjectKey, _: &'a str, _: &'a [String]) -> Attempt<'a, Option<String>> {
        no_parts()
    }

    fn abort<'a>(&'a self, _: &'a ObjectKey, _: &'a str) -> Attempt<'a, ()> {
        no_parts()
    }

    fn get<'a>(&'a self, key: &'a ObjectKey, range: Option<Range>) -> Attempt<'a, Answer> {
        Box::pin(self.open(key, range))
    }

    fn head<'a>(&'a self, key: &'a ObjectKey) -> Attempt<'a, ObjectHead> {
        Box::pin(self.look(key))
    }

    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Attempt<'a, ()> {
        Box::pin(self.remove(key))
    }
}
