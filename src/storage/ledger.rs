//! A file of lines to which is only ever appended.
//!
//! # Crash Consistency
//! Lines are synced before they count as written. One that was cut off by a crash ends where the next begins.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::bodies::blocking;
use super::{Result, StorageError};

/// Longest line that is read, in octets; a longer one is passed over.
const LINE_OCTETS_MAX: u64 = 256 << 10;
/// Lines of one [`Reader::page`].
const PAGE_LINES: usize = 64;

fn io(what: &'static str, path: &Path, error: std::io::Error) -> StorageError {
    StorageError::Io { what: format!("{what} {}", path.display()), error }
}

/// Appends lines, which must not hold line ends.
///
/// # Errors
/// `Io`; then some of the lines may be there.
pub async fn append(path: &Path, lines: Vec<String>) -> Result<()> {
    let path = path.to_owned();
    blocking(move || {
        let failed = |error| io("append to", &path, error);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&path)
            .map_err(failed)?;
        let mut text = String::new();
        let end = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if end > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(end - 1)).and_then(|_| file.read_exact(&mut last)).map_err(failed)?;
            if last != *b"\n" {
                text.push('\n');
            }
        }
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    })
    .await
}

/// The last whole lines of the file, as many as 512 KiB hold; none when there is no file.
///
/// # Errors
/// `Io`.
pub async fn tail(path: &Path) -> Result<Vec<String>> {
    let path = path.to_owned();
    blocking(move || {
        let failed = |error| io("read", &path, error);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened.map_err(failed)?,
        };
        let end = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let start = end.saturating_sub(2 * LINE_OCTETS_MAX);
        let mut octets = Vec::new();
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        file.take(2 * LINE_OCTETS_MAX).read_to_end(&mut octets).map_err(failed)?;
        let text = String::from_utf8_lossy(&octets);
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.split('\n').skip(usize::from(start > 0)).map(str::to_owned);
        Ok(lines.collect())
    })
    .await
}

/// Reads the lines from the first on.
pub struct Reader {
    path: PathBuf,
    file: Option<BufReader<File>>,
}

impl Reader {
    /// Begins; a file that is not there is empty.
    ///
    /// # Errors
    /// `Io`.
    pub async fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        blocking(move || match File::open(&path) {
            Ok(file) => Ok(Self { path, file: Some(BufReader::new(file)) }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self { path, file: None }),
            Err(error) => Err(io("open", &path, error)),
        })
        .await
    }

    /// The next lines, at most 64; none at the end.
    ///
    /// # Errors
    /// `Io`.
    pub async fn page(self) -> Result<(Self, Vec<String>)> {
        blocking(move || {
            let Self { path, file } = self;
            let Some(mut file) = file else { return Ok((Self { path, file: None }, Vec::new())) };
            let mut lines = Vec::new();
            while lines.len() < PAGE_LINES {
                let mut line = Vec::new();
                let read = file.by_ref().take(LINE_OCTETS_MAX).read_until(b'\n', &mut line);
                if read.map_err(|error| io("read", &path, error))? == 0 {
                    break;
                }
                lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            Ok((Self { path, file: Some(file) }, lines))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(path: &Path) -> Vec<String> {
        let (mut reader, mut all) = (Reader::open(path).await.unwrap(), Vec::new());
        loop {
            let (next, lines) = reader.page().await.unwrap();
            if lines.is_empty() {
                return all;
            }
            all.extend(lines);
            reader = next;
        }
    }

    #[tokio::test]
    async fn lines_are_read_as_they_were_appended_also_behind_one_that_was_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        assert_eq!((tail(&path).await.unwrap(), all(&path).await), (vec![], vec![]));
        let many: Vec<String> = (0..100).map(|number| format!("line {number}")).collect();
        append(&path, many.clone()).await.unwrap();
        assert_eq!(all(&path).await, many);
        assert_eq!(tail(&path).await.unwrap(), many);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"cut o").unwrap();
        assert_eq!(tail(&path).await.unwrap(), many);
        append(&path, vec!["next".to_owned()]).await.unwrap();
        assert_eq!(all(&path).await[99..], ["line 99", "cut o", "next"]);
        // Longer than anything that is written: read in pieces, none of which is a line of ours.
        append(&path, vec!["x".repeat(1 << 20), "last".to_owned()]).await.unwrap();
        assert_eq!(tail(&path).await.unwrap(), ["last"]);
        assert!(all(&path).await.iter().all(|line| line.len() <= 256 << 10));
    }
}
