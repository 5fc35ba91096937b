//! The bytes of a catalog file: a header, numbered sections, an end. What sections hold is in `record.rs`.
//!
//! ```text
//! header   magic 8 · version 4 · kind 1 · name 16 · store 8 · time 8 · CRC-32C 4
//! section  type 1 · number 4 · length 4 · stored length 4 · CRC-32C 4 · zstd data               (any number)
//! end      type 0 · number 4 · 32 · 32 · CRC-32C 4 · BLAKE3 of everything before it
//! ```
//!
//! Numbers are little-endian. Every CRC-32C starts with the file's name, and sections are numbered from 0, so a section
//! is valid only in its place of its file. A file without its end, or with anything behind it, is damaged.

use std::io::{Read, Write};

use crate::base::clock::Timestamp;
use crate::storage::pack::PackName;
use crate::storage::{Result, StorageError};

/// First bytes of a catalog. CR, LF and 0x1a reveal transfers in text mode, as in PNG.
const MAGIC: [u8; 8] = *b"PHCT\r\n\x1a\n";
/// Version of the format.
const VERSION: u32 = 1;
/// Length of the header.
pub(super) const HEADER_OCTETS: usize = 49;
/// Length of a section without its data.
pub(super) const SECTION_OCTETS: usize = 17;
/// The end has this type.
const END: u8 = 0;
/// Length of the hash in the end.
const HASH_OCTETS: usize = 32;
/// Longest section before compression: whoever reads a file takes no more memory at once.
pub(super) const PLAIN_OCTETS_MAX: usize = 4 << 20;
/// Longest section after compression.
const STORED_OCTETS_MAX: usize = PLAIN_OCTETS_MAX + (64 << 10);
/// zstd level: catalogs are written often, and read when all else is lost.
const LEVEL: i32 = 3;

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Customers, domains, aliases, holds.
    Directory,
    /// Mailboxes.
    Mailboxes,
    /// The names of all files of a store that belong to its present state.
    Current,
    /// A dictionary.
    Dictionary,
}

impl Kind {
    const ALL: [(Self, u8); 4] =
        [(Self::Directory, 1), (Self::Mailboxes, 2), (Self::Current, 3), (Self::Dictionary, 4)];

    fn number(self) -> u8 {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, number)| *number)
    }

    fn of_number(number: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, of)| *of == number).map(|(kind, _)| *kind)
    }
}

/// What stands at the beginning of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Its name, which keys the checksums.
    pub name: PackName,
    /// Number of the mail store in the database that it was written from.
    pub store: i64,
    /// When it was begun.
    pub at: Timestamp,
}

fn checksum(name: PackName, bytes: &[&[u8]]) -> u32 {
    bytes.iter().fold(crc32c::crc32c(&name.0), |sum, bytes| crc32c::crc32c_append(sum, bytes))
}

pub(super) fn corrupt(what: impl Into<String>) -> StorageError {
    StorageError::Corrupt(what.into())
}

fn failed(what: &str) -> impl Fn(std::io::Error) -> StorageError + '_ {
    move |error| match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StorageError::Full,
        _ => StorageError::Io { what: what.to_owned(), error },
    }
}

/// Writes one file's bytes.
pub struct SectionWriter<W> {
    out: W,
    name: PackName,
    number: u32,
    hash: blake3::Hasher,
    octets: u64,
}

impl<W: Write> SectionWriter<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// `Io` or `Full`.
    pub fn new(mut out: W, header: Header) -> Result<Self> {
        let mut bytes = Vec::with_capacity(HEADER_OCTETS);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.push(header.kind.number());
        bytes.extend_from_slice(&header.name.0);
        bytes.extend_from_slice(&header.store.to_le_bytes());
        bytes.extend_from_slice(&header.at.0.to_le_bytes());
        bytes.extend_from_slice(&checksum(header.name, &[&bytes]).to_le_bytes());
        out.write_all(&bytes).map_err(failed("write a catalog"))?;
        let mut hash = blake3::Hasher::new();
        hash.update(&bytes);
        Ok(Self { out, name: header.name, number: 0, hash, octets: bytes.len() as u64 })
    }

    /// Appends a section; its type is not 0. Answers how many octets it takes.
    ///
    /// # Errors
    /// `Corrupt` when it is longer than a section may be; `Io` or `Full`.
    pub fn append(&mut self, kind: u8, plain: &[u8]) -> Result<u64> {
        if plain.len() > PLAIN_OCTETS_MAX || kind == END {
            return Err(corrupt(format!("{} octets are no section of a catalog", plain.len())));
        }
        let data = zstd::bulk::compress(plain, LEVEL).map_err(failed("compress a catalog"))?;
        self.write(kind, plain.len(), &data)
    }

    fn write(&mut self, kind: u8, plain_octets: usize, data: &[u8]) -> Result<u64> {
        let short = |length: usize| u32::try_from(length).map_err(|_| corrupt("a section is too long"));
        let mut head = Vec::with_capacity(SECTION_OCTETS);
        head.push(kind);
        head.extend_from_slice(&self.number.to_le_bytes());
        head.extend_from_slice(&short(plain_octets)?.to_le_bytes());
        head.extend_from_slice(&short(data.len())?.to_le_bytes());
        head.extend_from_slice(&checksum(self.name, &[&head, data]).to_le_bytes());
        self.number = self.number.checked_add(1).ok_or_else(|| corrupt("a catalog has too many sections"))?;
        for bytes in [head.as_slice(), data] {
            self.hash.update(bytes);
            self.out.write_all(bytes).map_err(failed("write a catalog"))?;
        }
        let octets = (head.len() + data.len()) as u64;
        self.octets += octets;
        Ok(octets)
    }

    /// Octets so far.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Writes the end. Answers the length of the file.
    ///
    /// # Errors
    /// `Io` or `Full`.
    pub fn finish(mut self) -> Result<(W, u64)> {
        let hash = self.hash.finalize();
        self.write(END, HASH_OCTETS, hash.as_bytes())?;
        Ok((self.out, self.octets))
    }
}

/// Reads one file's bytes from front to back.
pub struct SectionReader<R> {
    input: R,
    header: Header,
    number: u32,
    hash: blake3::Hasher,
}

/// Fills `buffer`; a file that ends before is damaged.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    input.read_exact(buffer).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => corrupt("the file is cut off"),
        _ => failed("read a catalog")(error),
    })
}

/// Takes fields off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| corrupt("a header is cut off"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn take_u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes)
    }
}

impl<R: Read> SectionReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// `Corrupt` when this is no catalog, one of a newer version, or damaged; `Io`.
    pub fn new(mut input: R) -> Result<Self> {
        let mut bytes = [0; HEADER_OCTETS];
        fill(&mut input, &mut bytes)?;
        let mut fields = Fields(&bytes);
        let (magic, version) = (fields.take::<8>()?, fields.take_u32()?);
        let [kind] = fields.take()?;
        let name = PackName(fields.take()?);
        let (store, at) = (i64::from_le_bytes(fields.take()?), i64::from_le_bytes(fields.take()?));
        let (covered, _) = bytes.split_last_chunk::<4>().ok_or_else(|| corrupt("a header is cut off"))?;
        if magic != MAGIC {
            return Err(corrupt("this is not a catalog"));
        }
        if fields.take_u32()? != checksum(name, &[covered]) {
            return Err(corrupt("the header's checksum is wrong"));
        }
        if version != VERSION {
            return Err(corrupt(format!("version {version} of the format is not known")));
        }
        let kind = Kind::of_number(kind).ok_or_else(|| corrupt(format!("kind {kind} is not known")))?;
        let mut hash = blake3::Hasher::new();
        hash.update(&bytes);
        Ok(Self { input, header: Header { kind, name, store, at: Timestamp(at) }, number: 0, hash })
    }

    /// What stands at the beginning.
    pub fn header(&self) -> Header {
        self.header
    }

    /// The next section, type and content; nothing behind the last, when the whole file was found intact.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged; then nothing behind it can be read. `Io`.
    pub fn next_section(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let mut head = [0; SECTION_OCTETS];
        fill(&mut self.input, &mut head)?;
        let mut fields = Fields(&head);
        let [kind] = fields.take()?;
        let (number, plain_octets, octets) = (fields.take_u32()?, fields.take_u32()?, fields.take_u32()?);
        let (plain_octets, octets) = (plain_octets as usize, octets as usize);
        if plain_octets > PLAIN_OCTETS_MAX || octets > STORED_OCTETS_MAX {
            return Err(corrupt("a section is longer than it may be"));
        }
        let mut data = vec![0; octets];
        fill(&mut self.input, &mut data)?;
        let (covered, _) = head.split_last_chunk::<4>().ok_or_else(|| corrupt("a section is cut off"))?;
        if fields.take_u32()? != checksum(self.header.name, &[covered, &data]) {
            return Err(corrupt(format!("section {} is damaged", self.number)));
        }
        if number != self.number {
            return Err(corrupt(format!("section {number} stands in the place of {}", self.number)));
        }
        self.number = self.number.saturating_add(1);
        if kind == END {
            return self.end(&data);
        }
        self.hash.update(&head);
        self.hash.update(&data);
        let plain = zstd::bulk::decompress(&data, plain_octets)
            .map_err(|_| corrupt(format!("section {number} cannot be decompressed")))?;
        if plain.len() != plain_octets {
            return Err(corrupt(format!("section {number} has another length than it says")));
        }
        Ok(Some((kind, plain)))
    }

    fn end(&mut self, hash: &[u8]) -> Result<Option<(u8, Vec<u8>)>> {
        if hash != self.hash.finalize().as_bytes() {
            return Err(corrupt("the hash of the file is wrong"));
        }
        let mut more = [0; 1];
        match self.input.read(&mut more).map_err(failed("read a catalog"))? {
            0 => Ok(None),
            _ => Err(corrupt("there is something behind the end")),
        }
    }
}
