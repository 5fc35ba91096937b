//! Sending to a place for objects, whole or in parts, and looking at what arrived.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use md5::{Digest, Md5};

use super::calls::Kind;
use super::error::{RemoteError, Result};
use super::key::ObjectKey;
use super::store::{Content, PartSizes, Range};
use super::{Inner, Remote, Uploaded, Verified};
use crate::storage::background;

/// Read back from each end where no digest can be compared.
const SAMPLE_OCTETS: u64 = 64 * 1024;
/// How often an object is sent that turns out not to have arrived as it was sent.
const ROUNDS_MAX: u32 = 2;
/// Files are read in pieces of this size to compute their digests.
const BUFFER_OCTETS: usize = 256 * 1024;

impl Remote {
    /// Stores a file of `octets` under a key that was never used before, and looks at what arrived.
    ///
    /// # Errors
    /// `Local` when the file cannot be read or has another size; `Corrupt` when what arrives is never what was sent;
    /// `Denied`, `Invalid`, `Throttled`, `Unavailable` as they say. After an error the object may be there or not:
    /// delete the key, or leave it to whoever cleans up after the intent.
    pub async fn put_file(&self, key: &ObjectKey, path: &Path, octets: u64) -> Result<Uploaded> {
        let sizes = self.inner.store.parts();
        let (file, parts) = (path.to_owned(), split(octets, sizes));
        let plan = reading(path, move || Plan::of_file(&file, parts)).await?;
        self.upload(key, &Object { source: Source::File(path.to_owned()), plan }).await
    }

    /// Stores a small object, such as a manifest, under a key that was never used before.
    ///
    /// # Errors
    /// As [`Self::put_file`].
    pub async fn put_bytes(&self, key: &ObjectKey, content: Bytes) -> Result<Uploaded> {
        let part = Part { range: Range { offset: 0, length: content.len() as u64 }, md5: md5_of(&content) };
        let plan = Plan { blake3: blake3::hash(&content).into(), parts: vec![part] };
        self.upload(key, &Object { source: Source::Bytes(content), plan }).await
    }

    async fn upload(&self, key: &ObjectKey, object: &Object) -> Result<Uploaded> {
        let octets = object.plan.octets();
        let mut round = 1;
        loop {
            self.inner.send(key, object).await?;
            match self.verify(key, object).await {
                Ok(verified) => return Ok(Uploaded { octets, blake3: object.plan.blake3, verified }),
                Err(error) if round < ROUNDS_MAX && error.is_worth_retrying() => {
                    tracing::warn!(%key, %error, "an object is sent again");
                }
                Err(error) => return Err(error),
            }
            round += 1;
        }
    }

    async fn verify(&self, key: &ObjectKey, object: &Object) -> Result<Verified> {
        let octets = object.plan.octets();
        let head = self.head(key).await.map_err(|error| match error {
            RemoteError::NotFound(key) => {
                RemoteError::Unavailable(format!("{key} was taken, but is not there"))
            }
            error => error,
        })?;
        if head.octets != octets {
            return Err(RemoteError::Corrupt(format!("{} of {octets} octets of {key} arrived", head.octets)));
        }
        if head.entity_tag.is_some_and(|tag| tag.eq_ignore_ascii_case(&object.plan.entity_tag())) {
            return Ok(Verified::Digest);
        }
        // Encrypted objects have other tags, and some servers make up their own.
        let length = octets.min(SAMPLE_OCTETS);
        for offset in [0, octets - length] {
            let range = Range { offset, length };
            if self.get_range(key, offset, length).await? != object.source.sample(range).await? {
                return Err(RemoteError::Corrupt(format!("{key} is not what was sent")));
            }
        }
        Ok(Verified::Sample)
    }
}

impl Inner {
    fn content(&self, object: &Object, part: &Part) -> Content {
        let throttle = self.throttle.clone();
        match &object.source {
            Source::Bytes(bytes) => Content::of_bytes(bytes.clone(), part.md5, throttle),
            Source::File(path) => Content::of_file(path, part.range, part.md5, throttle),
        }
    }

    async fn send(self: &Arc<Self>, key: &ObjectKey, object: &Object) -> Result<()> {
        let octets = object.plan.octets();
        if let [part] = object.plan.parts.as_slice() {
            let content = self.content(object, part);
            self.calls.call(Kind::Put, octets, || self.store.put(key, &content)).await?;
            self.calls.count(Kind::Put, octets);
            return Ok(());
        }
        let upload = self.calls.call(Kind::Post, 0, || self.store.begin(key)).await?;
        let mut begun = Begun { inner: Arc::clone(self), key: key.clone(), upload: Some(upload.clone()) };
        let mut tags = Vec::with_capacity(object.plan.parts.len());
        for (number, part) in (1..).zip(&object.plan.parts) {
            let content = self.content(object, part);
            let put = || self.store.put_part(key, &upload, number, &content);
            tags.push(self.calls.call(Kind::Put, content.octets, put).await?);
            self.calls.count(Kind::Put, content.octets);
        }
        let complete = || self.store.complete(key, &upload, &tags);
        match self.calls.call(Kind::Post, octets, complete).await {
            // An attempt whose answer was lost completed it, or something aborted it: looking at the object tells.
            Ok(_) | Err(RemoteError::NotFound(_)) => {
                begun.upload = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// An upload in parts that is not complete. Dropped, its parts are dropped too, in the background.
struct Begun {
    inner: Arc<Inner>,
    key: ObjectKey,
    upload: Option<String>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let (Some(upload), Ok(runtime)) = (self.upload.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (inner, key) = (Arc::clone(&self.inner), self.key.clone());
        runtime.spawn(async move {
            let abort = || inner.store.abort(&key, &upload);
            if let Err(error) = inner.calls.call(Kind::Delete, 0, abort).await {
                tracing::warn!(%key, %error, "parts of an object remain until the bucket's life-cycle rule");
            }
        });
    }
}

/// What is sent.
struct Object {
    source: Source,
    plan: Plan,
}

enum Source {
    Bytes(Bytes),
    File(PathBuf),
}

impl Source {
    async fn sample(&self, range: Range) -> Result<Bytes> {
        match self {
            Self::Bytes(bytes) => {
                let at = |octet: u64| usize::try_from(octet).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(at(range.offset)..at(range.end())))
            }
            Self::File(path) => {
                let file = path.clone();
                let read = move || {
                    let mut file = std::fs::File::open(file)?;
                    file.seek(SeekFrom::Start(range.offset))?;
                    let mut sample = Vec::new();
                    file.take(range.length).read_to_end(&mut sample)?;
                    Ok(Bytes::from(sample))
                };
                reading(path, read).await
            }
        }
    }
}

/// How it is sent; at least one part.
#[derive(Debug)]
struct Plan {
    blake3: [u8; 32],
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    range: Range,
    md5: [u8; 16],
}

impl Plan {
    /// Reads the file once.
    fn of_file(path: &Path, ranges: Vec<Range>) -> std::io::Result<Self> {
        let mut file = std::fs::File::open(path)?;
        let mut whole = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_OCTETS];
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let mut md5 = Md5::new();
            let mut rest = (&mut file).take(range.length);
            loop {
                let length = rest.read(&mut buffer)?;
                let Some(read) = buffer.get(..length).filter(|read| !read.is_empty()) else { break };
                whole.update(read);
                md5.update(read);
            }
            if rest.limit() > 0 {
                return Err(std::io::Error::other("the file is shorter than expected"));
            }
            parts.push(Part { range, md5: md5.finalize().into() });
        }
        if file.read(&mut buffer)? > 0 {
            return Err(std::io::Error::other("the file is longer than expected"));
        }
        Ok(Self { blake3: whole.finalize().into(), parts })
    }

    fn octets(&self) -> u64 {
        self.parts.iter().map(|part| part.range.length).sum()
    }

    /// What S3 answers for an object that is not encrypted with a key of its own: the MD5 of the content, or that of
    /// the MD5s of the parts, and their number.
    fn entity_tag(&self) -> String {
        match self.parts.as_slice() {
            [part] => hex(&part.md5),
            parts => {
                let sums: Vec<u8> = parts.iter().flat_map(|part| part.md5).collect();
                format!("{}-{}", hex(&md5_of(&sums)), parts.len())
            }
        }
    }
}

/// The parts of an object; never none.
fn split(octets: u64, sizes: Option<PartSizes>) -> Vec<Range> {
    let whole = vec![Range { offset: 0, length: octets }];
    let Some(sizes) = sizes.filter(|sizes| octets > sizes.whole_octets_max) else { return whole };
    let part_octets = sizes.part_octets_min.max(octets.div_ceil(sizes.parts_max.max(1))).max(1);
    let part = |number: u64| {
        let offset = number * part_octets;
        Range { offset, length: part_octets.min(octets - offset) }
    };
    (0..octets.div_ceil(part_octets)).map(part).collect()
}

fn md5_of(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs `work` on the file `path` in the background.
async fn reading<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = background::spawn(work).await;
    done.unwrap_or_else(|_| Err(std::io::Error::other("interrupted")))
        .map_err(|error| RemoteError::local("read", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: PartSizes = PartSizes { whole_octets_max: 100, part_octets_min: 30, parts_max: 10 };

    #[test]
    fn parts_cover_an_object_without_gap() {
        for octets in [0, 1, 99, 100, 101, 120, 121, 299, 300, 301, 1_000, 12_345] {
            let ranges = split(octets, Some(SIZES));
            let mut end = 0;
            for range in &ranges {
                assert_eq!(range.offset, end, "{octets}");
                end = range.end();
            }
            assert_eq!(end, octets);
            assert!(!ranges.is_empty() && ranges.len() <= 10, "{octets}: {}", ranges.len());
            assert_eq!(ranges.len() == 1, octets <= 100, "{octets}");
            assert_eq!(split(octets, None).len(), 1);
        }
    }

    #[test]
    fn files_are_read_as_they_are_sent_and_must_have_the_expected_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..255).collect();
        std::fs::write(&path, &content).unwrap();
        let plan = Plan::of_file(&path, split(255, Some(SIZES))).unwrap();
        assert_eq!(plan.blake3, *blake3::hash(&content).as_bytes());
        assert_eq!(plan.parts[1].md5, md5_of(&content[30..60]));
        assert!(plan.entity_tag().ends_with("-9"), "{}", plan.entity_tag());
        for wrong in [254, 256] {
            Plan::of_file(&path, split(wrong, Some(SIZES))).unwrap_err();
        }
        // RFC 1321, appendix A.5.
        assert_eq!(hex(&md5_of(b"abc")), "900150983cd24fb0d6963f7d28e17f72");
    }
}
