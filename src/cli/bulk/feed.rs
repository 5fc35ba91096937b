//! The rows of a file, one after the other: never the whole file in memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Seek, SeekFrom};
use std::path::Path;

use super::columns::Type;
use super::csv::{Broken, CsvReader, RECORD_OCTETS_MAX};
use super::rows::{Header, Mistake, Read, identity, json_row, label};
use crate::cli::failure::{Exit, Failure};

/// Forms of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Format {
    /// Comma-separated values with a header (RFC 4180)
    Csv,
    /// A JSON object on each line
    Jsonl,
}

/// A line of the file.
pub(super) struct Line {
    pub number: u64,
    pub read: Read,
}

enum Reader {
    Csv { reader: Box<CsvReader<Box<dyn BufRead>>>, header: Header },
    Jsonl { source: Box<dyn BufRead>, number: u64 },
}

/// Rows as they are read.
pub(super) struct Feed {
    reader: Reader,
    only: Option<Type>,
    /// The line on which an object was named first, by a hash of what tells it from others.
    seen: HashMap<[u8; 16], u64>,
}

/// Opens the file; nothing for standard input.
pub(super) fn open(path: &Path) -> Result<Option<File>, Failure> {
    if path == Path::new("-") {
        return Ok(None);
    }
    let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(Failure::usage(format!("{} is a directory", path.display())));
    }
    Ok(Some(file))
}

/// The form that the file's name tells; CSV unless it ends in `.jsonl`, `.ndjson` or `.json`.
pub(super) fn format_of(path: &Path) -> Format {
    let extension = path.extension().and_then(|one| one.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "jsonl" | "ndjson" | "json" => Format::Jsonl,
        _ => Format::Csv,
    }
}

/// Goes back to the beginning; false for what has none, such as a pipe.
pub(super) fn rewind(file: &mut File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file()) && file.seek(SeekFrom::Start(0)).is_ok()
}

impl Feed {
    /// Begins to read; a header that cannot be understood is an error.
    pub(super) fn new(
        source: Box<dyn std::io::Read>,
        format: Format,
        only: Option<Type>,
    ) -> Result<Self, (u64, Vec<Mistake>)> {
        let mut source = BufReader::with_capacity(256 * 1024, source);
        skip_mark(&mut source).map_err(|error| (1, vec![Mistake::new(error.to_string())]))?;
        let source: Box<dyn BufRead> = Box::new(source);
        let reader = match format {
            Format::Jsonl => Reader::Jsonl { source, number: 0 },
            Format::Csv => {
                let mut reader = CsvReader::new(source);
                let first =
                    reader.record().map_err(|broken| (broken.line, vec![Mistake::new(broken.message)]))?;
                let Some(first) = first else {
                    return Err((
                        1,
                        vec![Mistake::new("empty; expected a header with the names of columns")],
                    ));
                };
                let header = Header::new(&first, only).map_err(|mistakes| (first.line, mistakes))?;
                Reader::Csv { reader: Box::new(reader), header }
            }
        };
        Ok(Self { reader, only, seen: HashMap::new() })
    }

    /// The next line that is not empty; an error ends the file.
    pub(super) fn next(&mut self) -> Result<Option<Line>, Broken> {
        let line = match &mut self.reader {
            Reader::Csv { reader, header } => {
                let Some(record) = reader.record()? else { return Ok(None) };
                Line { number: record.line, read: header.row(&record) }
            }
            Reader::Jsonl { source, number } => {
                let Some(octets) = text_line(source, number)? else { return Ok(None) };
                Line { number: *number, read: json_row(&octets, self.only) }
            }
        };
        Ok(Some(self.once(line)))
    }

    /// Refuses what was there before.
    fn once(&mut self, mut line: Line) -> Line {
        let Ok((kind, row)) = &line.read else { return line };
        let hash = blake3::hash(identity(*kind, row).as_bytes());
        let mut key = [0; 16];
        key.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        let first = *self.seen.entry(key).or_insert(line.number);
        if first != line.number {
            let message = format!("{} was on line {first} already", label(*kind, row));
            line.read = Err(vec![Mistake::new(message)]);
        }
        line
    }
}

/// Skips a byte order mark.
fn skip_mark(source: &mut impl BufRead) -> std::io::Result<()> {
    if source.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        source.consume(3);
    }
    Ok(())
}

/// The next line with something in it.
fn text_line(source: &mut Box<dyn BufRead>, number: &mut u64) -> Result<Option<Vec<u8>>, Broken> {
    loop {
        *number += 1;
        let broken = |message: String| Broken { line: *number, message };
        let mut octets = Vec::new();
        let room = RECORD_OCTETS_MAX as u64 + 1;
        let read = source.by_ref().take(room).read_until(b'\n', &mut octets);
        if read.map_err(|error| broken(error.to_string()))? == 0 {
            return Ok(None);
        }
        if octets.len() > RECORD_OCTETS_MAX {
            return Err(broken(format!("longer than {RECORD_OCTETS_MAX} octets")));
        }
        if !octets.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some(octets));
        }
    }
}

/// A file that cannot be read to its end.
impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        Self::new(Exit::Usage, format!("line {}: {}", broken.line, broken.message))
    }
}
