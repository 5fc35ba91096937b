use proptest::prelude::*;

use super::file::{FileWriter, open};
use super::record::{CatalogRecord, CurrentRecord, MessageRecord, PackRecord, Present, Rows, present, rows};
use super::{Current, Header, Kind, SectionReader, SectionWriter};
use crate::base::clock::Timestamp;
use crate::storage::StorageError;
use crate::storage::pack::PackName;

fn header(kind: Kind) -> Header {
    Header { kind, name: PackName::random(), store: 7, at: Timestamp(5) }
}

fn written(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut writer = SectionWriter::new(Vec::new(), header(Kind::Mailboxes)).unwrap();
    for (kind, plain) in sections {
        writer.append(*kind, plain).unwrap();
    }
    writer.finish().unwrap().0
}

fn read(bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, StorageError> {
    let mut reader = SectionReader::new(bytes)?;
    let mut sections = Vec::new();
    while let Some(section) = reader.next_section()? {
        sections.push(section);
    }
    Ok(sections)
}

#[test]
fn any_changed_bit_and_any_missing_octet_is_found() {
    let sections =
        vec![(10, b"{}".to_vec()), (13, b"some messages, some messages".to_vec()), (13, Vec::new())];
    let bytes = written(&sections);
    assert_eq!(read(&bytes).unwrap(), sections);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let found = read(&damaged);
            assert!(matches!(found, Err(StorageError::Corrupt(_))), "octet {at}, bit {bit}: {found:?}");
        }
        let found = read(&bytes[..at]);
        assert!(matches!(found, Err(StorageError::Corrupt(_))), "cut at {at}: {found:?}");
    }
    let longer = [bytes.as_slice(), b"x"].concat();
    assert!(read(&longer).is_err());
}

#[test]
fn sections_of_another_file_or_in_another_order_are_refused() {
    let two = |kind| written(&[(kind, b"aaaa".to_vec()), (kind, b"bbbb".to_vec())]);
    let (one, other) = (two(10), two(10));
    let length = (one.len() - super::format::HEADER_OCTETS - super::format::SECTION_OCTETS - 32) / 2;
    let at = super::format::HEADER_OCTETS;
    let foreign = [&one[..at], &other[at..at + length], &one[at + length..]].concat();
    assert!(matches!(read(&foreign), Err(StorageError::Corrupt(_))));
    let swapped =
        [&one[..at], &one[at + length..at + 2 * length], &one[at..at + length], &one[at + 2 * length..]]
            .concat();
    assert!(matches!(read(&swapped), Err(StorageError::Corrupt(_))));
}

#[test]
fn current_comes_back_as_it_was_written() {
    let catalog = |name: &str, entries| CatalogRecord {
        name: name.to_owned(),
        is_directory: false,
        octets: 9,
        entries,
    };
    let pack = |name: &str| PackRecord {
        name: name.to_owned(),
        octets: 1,
        is_local: true,
        is_remote: false,
        is_covered: true,
    };
    let current = Current {
        record: CurrentRecord {
            number: 3,
            store: "main".to_owned(),
            at: 1,
            object_last: 2,
            dictionaries: vec![1_001],
        },
        catalogs: vec![catalog("a", vec![(1, 2), (1, 3)]), catalog("b", Vec::new())],
        packs: (0..2_500).map(|number| pack(&number.to_string())).collect(),
    };
    let bytes = current.write(1, Timestamp(0)).unwrap();
    assert_eq!(Current::read(bytes.as_slice()).unwrap(), current);
    assert!(Current::read(written(&[]).as_slice()).is_err(), "another kind of file");
}

#[tokio::test]
async fn file_that_is_not_finished_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("catalogs/x.catalog");
    let mut writer = FileWriter::create(target.clone(), header(Kind::Mailboxes)).await.unwrap();
    writer.append(13, vec![1; 100_000]).await.unwrap();
    drop(writer);
    assert_eq!(std::fs::read_dir(folder.path().join("catalogs")).unwrap().count(), 0);
    let mut writer = FileWriter::create(target.clone(), header(Kind::Mailboxes)).await.unwrap();
    writer.append(13, vec![1; 100_000]).await.unwrap();
    let octets = writer.finish().await.unwrap();
    assert_eq!(std::fs::metadata(&target).unwrap().len(), octets);
    let mut reader = open(&target).unwrap();
    assert_eq!(reader.next_section().unwrap().unwrap(), (13, vec![1; 100_000]));
    assert!(reader.next_section().unwrap().is_none());
}

fn message() -> impl Strategy<Value = MessageRecord> {
    let numbers = (any::<i64>(), any::<u64>(), any::<i64>(), any::<i64>(), any::<i64>(), any::<i64>());
    (numbers, any::<(i64, i64)>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(
        |((uid, flags, internal_date, body, prefix_id, octets), grave, prefix)| MessageRecord {
            uid,
            flags,
            internal_date,
            body,
            prefix_id,
            octets,
            prefix,
            grave,
        },
    )
}

proptest! {
    #[test]
    fn messages_come_back_as_they_were_written(
        folder in any::<i64>(),
        messages in prop::collection::vec(message(), 0..20),
    ) {
        let mut section = Rows::of(folder);
        messages.iter().cloned().for_each(|message| section.push(message));
        prop_assert_eq!(section.is_empty(), messages.is_empty());
        prop_assert_eq!(rows(&section.into_bytes()).unwrap(), (folder, messages));
    }

    #[test]
    fn uids_come_back_as_they_were_written(
        folder in any::<i64>(),
        uids in prop::collection::btree_set(1_i64..200, 0..90),
    ) {
        let mut section = Present::of(folder);
        uids.iter().for_each(|uid| section.push(*uid));
        let (read, ranges) = present(&section.into_bytes()).unwrap();
        prop_assert_eq!(read, folder);
        prop_assert_eq!(ranges.iter().flat_map(|(first, last)| *first..=*last).collect::<Vec<_>>(),
                        uids.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn any_octets_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        super::fuzz::bytes(&bytes);
        super::fuzz::sections(&bytes);
    }
}
