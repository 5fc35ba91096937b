//! Fuzz targets of catalogs: a file of any bytes, and sections of any bytes whose checksums are right.

use super::current::Current;
use super::format::{Header, Kind, SectionReader, SectionWriter};
use super::record::{
    AliasRecord, CatalogRecord, CurrentRecord, CustomerRecord, DomainRecord, FolderRecord, HoldRecord,
    MailboxRecord, PackRecord, Present, Rows, from_json, present, rows, section,
};
use crate::base::clock::Timestamp;
use crate::storage::StorageError;
use crate::storage::pack::PackName;

/// The name whose checksums all these files have.
const NAME: PackName = PackName(*b"posthouse-fuzzed");
/// Most sections of one file.
const SECTIONS_MAX: usize = 16;

fn check(error: &StorageError) {
    assert!(matches!(error, StorageError::Corrupt(_)), "{error}");
}

/// Understands a section as what it says it is. What can be read comes back from what is written of it.
fn understand(kind: u8, plain: &[u8]) {
    let read = match kind {
        section::CUSTOMERS => from_json::<Vec<CustomerRecord>>(plain).map(drop),
        section::DOMAINS => from_json::<Vec<DomainRecord>>(plain).map(drop),
        section::ALIASES => from_json::<Vec<AliasRecord>>(plain).map(drop),
        section::HOLDS => from_json::<Vec<HoldRecord>>(plain).map(drop),
        section::MAILBOX => from_json::<MailboxRecord>(plain).map(drop),
        section::FOLDERS => from_json::<Vec<FolderRecord>>(plain).map(drop),
        section::SUBSCRIPTIONS => from_json::<Vec<String>>(plain).map(drop),
        section::MESSAGES | section::TOMBSTONES => rows(plain).map(|(folder, read)| {
            let mut written = Rows::of(folder);
            read.iter().cloned().for_each(|row| written.push(row));
            let again = rows(&written.into_bytes());
            assert!(again.is_ok_and(|again| again == (folder, read)), "rows do not come back");
        }),
        section::PRESENT => present(plain).map(|(folder, ranges)| {
            let mut written = Present::of(folder);
            // Long ranges are not walked.
            let short = ranges.iter().filter(|(first, last)| last - first < 1_000);
            let short: Vec<(i64, i64)> = short.copied().collect();
            short.iter().flat_map(|&(first, last)| first..=last).for_each(|uid| written.push(uid));
            let again = present(&written.into_bytes());
            assert!(again.is_ok_and(|(_, again)| again.len() <= short.len()), "UIDs do not come back");
        }),
        section::CURRENT => from_json::<CurrentRecord>(plain).map(drop),
        section::PACKS => from_json::<Vec<PackRecord>>(plain).map(drop),
        section::CATALOG => from_json::<CatalogRecord>(plain).map(drop),
        _ => Ok(()),
    };
    if let Err(error) = read {
        check(&error);
    }
}

fn read(bytes: &[u8]) {
    if let Err(error) = Current::read(bytes) {
        check(&error);
    }
    let mut reader = match SectionReader::new(bytes) {
        Ok(reader) => reader,
        Err(error) => return check(&error),
    };
    loop {
        match reader.next_section() {
            Ok(Some((kind, plain))) => understand(kind, &plain),
            Ok(None) => return,
            Err(error) => return check(&error),
        }
    }
}

/// A file of any bytes.
pub fn bytes(input: &[u8]) {
    read(input);
}

/// Sections whose types and contents come from the input, in a file that is right.
#[allow(clippy::expect_used, reason = "a target that cannot run must not pass for one that found nothing")]
pub fn sections(input: &[u8]) {
    let kinds = [Kind::Directory, Kind::Mailboxes, Kind::Current, Kind::Dictionary];
    let (&first, mut rest) = input.split_first().unwrap_or((&0, &[]));
    let kind = kinds.get(usize::from(first) % kinds.len()).copied().unwrap_or(Kind::Current);
    let header = Header { kind, name: NAME, store: 1, at: Timestamp(0) };
    let mut writer = SectionWriter::new(Vec::new(), header).expect("write to memory");
    let mut count = 0;
    while let Some(([kind, high, low], after)) = rest.split_first_chunk::<3>()
        && count < SECTIONS_MAX
    {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (plain, after) = after.split_at_checked(length).unwrap_or((after, &[]));
        rest = after;
        writer.append((*kind).max(1), plain).expect("write to memory");
        count += 1;
    }
    let (bytes, octets) = writer.finish().expect("write to memory");
    assert_eq!(octets, bytes.len() as u64);
    let mut reader = SectionReader::new(bytes.as_slice()).expect("it was written so");
    let mut found = 0;
    while reader.next_section().expect("it was written so").is_some() {
        found += 1;
    }
    assert_eq!(found, count);
    read(&bytes);
}
