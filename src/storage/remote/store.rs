//! What a place for objects has to be able to do: single attempts, without retries, counting or verification, which
//! stand above it and are the same for all.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::Instant;

use super::error::{RemoteError, Result};
use super::key::ObjectKey;
use super::throttle::Throttle;

/// Files are read and sent in pieces of this size.
const PIECE_OCTETS: usize = 128 * 1024;

/// One attempt.
pub(super) type Attempt<'a, T> = BoxFuture<'a, Result<T>>;

/// A place for objects.
pub(super) trait ObjectStore: Send + Sync + fmt::Debug {
    /// Where it is, for messages.
    fn place(&self) -> String;

    /// The largest object that is sent in one piece, and the least size of parts above it; nothing if there are no
    /// parts.
    fn parts(&self) -> Option<PartSizes>;

    /// Stores a new object. Gives its entity tag.
    fn put<'a>(&'a self, key: &'a ObjectKey, content: &'a Content) -> Attempt<'a, Option<String>>;

    /// Begins an object that is sent in parts. Gives the upload's name.
    fn begin<'a>(&'a self, key: &'a ObjectKey) -> Attempt<'a, String>;

    /// Sends part `number`, counted from 1. Gives its entity tag.
    fn put_part<'a>(
        &'a self,
        key: &'a ObjectKey,
        upload: &'a str,
        number: i32,
        content: &'a Content,
    ) -> Attempt<'a, String>;

    /// Makes an object of the parts with these entity tags. Gives its entity tag.
    fn complete<'a>(
        &'a self,
        key: &'a ObjectKey,
        upload: &'a str,
        parts: &'a [String],
    ) -> Attempt<'a, Option<String>>;

    /// Drops the parts sent so far.
    fn abort<'a>(&'a self, key: &'a ObjectKey, upload: &'a str) -> Attempt<'a, ()>;

    /// Begins to read an object, or `range` of it. The answer is exactly what was asked for, if its octets come.
    fn get<'a>(&'a self, key: &'a ObjectKey, range: Option<Range>) -> Attempt<'a, Answer>;

    /// What is known of an object.
    fn head<'a>(&'a self, key: &'a ObjectKey) -> Attempt<'a, ObjectHead>;

    /// Removes an object; there may be none.
    fn delete<'a>(&'a self, key: &'a ObjectKey) -> Attempt<'a, ()>;
}

/// How an object is split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PartSizes {
    /// Up to this size it is sent in one piece.
    pub whole_octets_max: u64,
    /// The least size of a part.
    pub part_octets_min: u64,
    /// Most parts.
    pub parts_max: u64,
}

/// Octets of an object; `length` is at least 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub offset: u64,
    pub length: u64,
}

impl Range {
    /// The octet behind it.
    pub(super) const fn end(self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// What is known of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectHead {
    /// Its size.
    pub octets: u64,
    /// Its entity tag without quotes; for plain uploads often the MD5 of its content.
    pub entity_tag: Option<String>,
}

/// The beginning of an answer with content.
pub(super) struct Answer {
    /// How many octets follow.
    pub octets: u64,
    /// How large the whole object is, where that is told.
    pub object_octets: Option<u64>,
    /// They.
    pub content: BoxStream<'static, Result<Bytes>>,
}

/// What is to be stored, as often as attempts need it.
#[derive(Clone, Debug)]
pub(super) struct Content {
    source: Source,
    /// Its length.
    pub octets: u64,
    /// Its MD5 (RFC 1864): the one checksum that every S3 server checks.
    pub md5: [u8; 16],
    throttle: Option<Arc<Throttle>>,
}

#[derive(Clone, Debug)]
enum Source {
    Bytes(Bytes),
    File { path: PathBuf, offset: u64 },
}

impl Content {
    /// `octets` of a file from `offset` on.
    pub(super) fn of_file(path: &Path, range: Range, md5: [u8; 16], throttle: Option<Arc<Throttle>>) -> Self {
        let source = Source::File { path: path.to_owned(), offset: range.offset };
        Self { source, octets: range.length, md5, throttle }
    }

    /// Bytes in memory.
    pub(super) fn of_bytes(bytes: Bytes, md5: [u8; 16], throttle: Option<Arc<Throttle>>) -> Self {
        Self { octets: bytes.len() as u64, source: Source::Bytes(bytes), md5, throttle }
    }

    /// Its octets, at the speed that is allowed; `progress` is told of each piece.
    ///
    /// Ends early where the file does; whoever sends it notices by the length.
    pub(super) fn stream(&self, progress: Arc<Progress>) -> BoxStream<'static, std::io::Result<Bytes>> {
        let throttle = self.throttle.clone();
        let pieces = match self.source.clone() {
            Source::Bytes(bytes) => stream::iter(split(bytes).map(Ok)).boxed(),
            Source::File { path, offset } => file_pieces(path, offset, self.octets),
        };
        let sent = pieces.then(move |piece| {
            let (throttle, progress) = (throttle.clone(), Arc::clone(&progress));
            async move {
                let piece: Bytes = piece?;
                if let Some(throttle) = throttle {
                    let pause = throttle.reserve(piece.len() as u64, Instant::now());
                    progress.pause(pause).await;
                }
                progress.octets.fetch_add(piece.len() as u64, Ordering::Relaxed);
                Ok(piece)
            }
        });
        sent.boxed()
    }
}

fn split(mut bytes: Bytes) -> impl Iterator<Item = Bytes> + Send {
    std::iter::from_fn(move || {
        let length = bytes.len().min(PIECE_OCTETS);
        (length > 0).then(|| bytes.split_to(length))
    })
}

fn file_pieces(path: PathBuf, offset: u64, octets: u64) -> BoxStream<'static, std::io::Result<Bytes>> {
    let opened = async move {
        let mut file = tokio::fs::File::open(path).await?;
        file.set_max_buf_size(PIECE_OCTETS);
        file.seek(std::io::SeekFrom::Start(offset)).await?;
        Ok::<_, std::io::Error>(pieces(file.take(octets)))
    };
    stream::once(opened)
        .flat_map(|opened| match opened {
            Ok(pieces) => pieces,
            Err(error) => stream::iter([Err(error)]).boxed(),
        })
        .boxed()
}

/// Reads to the end, piece by piece.
pub(super) fn pieces<R>(reader: R) -> BoxStream<'static, std::io::Result<Bytes>>
where
    R: tokio::io::AsyncRead + Send + Unpin + 'static,
{
    stream::try_unfold(reader, |mut reader| async move {
        let mut piece = bytes::BytesMut::with_capacity(PIECE_OCTETS);
        let length = reader.read_buf(&mut piece).await?;
        Ok((length > 0).then(|| (piece.freeze(), reader)))
    })
    .boxed()
}

/// How far a request's content was taken.
#[derive(Debug, Default)]
pub(super) struct Progress {
    octets: AtomicU64,
    is_paused: AtomicBool,
}

impl Progress {
    async fn pause(&self, pause: Duration) {
        if !pause.is_zero() {
            self.is_paused.store(true, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
            self.is_paused.store(false, Ordering::Relaxed);
        }
    }

    /// Waits for `request` as long as its content moves, or waits for the throttle, at least once in `idle`.
    ///
    /// # Errors
    /// `Unavailable` when it stands still.
    pub(super) async fn watch<T>(
        &self,
        what: &str,
        idle: Duration,
        request: impl Future<Output = T>,
    ) -> Result<T> {
        let mut request = std::pin::pin!(request);
        let mut before = None;
        loop {
            if let Ok(done) = tokio::time::timeout(idle, &mut request).await {
                return Ok(done);
            }
            let now = Some(self.octets.load(Ordering::Relaxed));
            if now == before && !self.is_paused.load(Ordering::Relaxed) {
                return Err(RemoteError::timeout(what, idle));
            }
            before = now;
        }
    }
}
