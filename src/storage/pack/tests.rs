//! The format and the codec under good and bad input.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::base::id::{BodyId, StoreId};
use crate::storage::StorageError;

/// Bodies of all kinds: empty, text, random bytes, and longer than the dictionary is used for.
fn bodies() -> Vec<Vec<u8>> {
    let text =
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGood morning.\r\n";
    vec![
        Vec::new(),
        text.as_bytes().to_vec(),
        crate::base::id::random_bytes(5_000),
        text.repeat(1_000).into_bytes(),
        text.repeat(20).into_bytes(),
    ]
}

/// Writes a pack of `bodies`, numbered from 101 downwards, and returns its file and what is where.
fn write(folder: &Path, bodies: &[Vec<u8>]) -> (PathBuf, Vec<(BodyId, FrameLocation)>) {
    let (codec, name) = (Codec::default(), PackName::random());
    let mut writer = PackWriter::create(folder, name, StoreId(7)).unwrap();
    let mut places = Vec::new();
    for (body, id) in bodies.iter().zip((0..=101).rev()) {
        let compressed = codec.compress(body);
        let header = FrameHeader::new(BodyId(id), body, &compressed).unwrap();
        places.push((BodyId(id), writer.append(&header, &compressed.data).unwrap()));
    }
    let summary = writer.finish().unwrap();
    let path = name.path(folder);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), summary.octets);
    assert_eq!(summary.frames as usize, bodies.len());
    (path, places)
}

#[test]
fn pack_read_back_equals_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let (codec, bodies) = (Codec::default(), bodies());
    let (path, places) = write(folder.path(), &bodies);
    let pack = PackReader::open(&path).unwrap();
    assert_eq!(pack.store(), StoreId(7));
    for ((id, location), body) in places.iter().zip(&bodies) {
        assert_eq!(&pack.read(&codec, *location, *id).unwrap(), body);
    }
    let mut expected: Vec<IndexEntry> =
        places.iter().map(|(body, at)| IndexEntry { body: *body, offset: at.offset }).collect();
    expected.sort_unstable();
    assert_eq!(pack.index().unwrap(), expected);
    let verified = verify(&codec, &path).unwrap();
    assert_eq!((verified.intact, verified.is_intact()), (bodies.len() as u64, true));
}

#[test]
fn overhead_of_a_frame_is_71_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let one = write(folder.path(), &[vec![1; 50], Vec::new()]).0.metadata().unwrap().len();
    let two = write(folder.path(), &[vec![1; 50], Vec::new(), Vec::new()]).0.metadata().unwrap().len();
    assert_eq!(two - one, 71);
}

#[test]
fn body_at_a_wrong_place_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (path, places) = write(folder.path(), &bodies());
    let pack = PackReader::open(&path).unwrap();
    let codec = Codec::default();
    let [(first, _), (second, at), ..] = places.as_slice() else { panic!("no bodies") };
    let wrong = [
        (*first, *at),
        (*second, FrameLocation { offset: at.offset + 1, ..*at }),
        (*second, FrameLocation { length: at.length - 1, ..*at }),
        (*second, FrameLocation { length: at.length + 1, ..*at }),
        (*second, FrameLocation { offset: at.offset, length: u32::MAX }),
        (*second, FrameLocation { offset: u32::MAX, length: at.length }),
        (*second, FrameLocation { offset: at.offset, length: 0 }),
    ];
    for (body, location) in wrong {
        let error = pack.read(&codec, location, body).unwrap_err();
        assert!(matches!(error, StorageError::Corrupt(_)), "{error}");
    }
}

#[test]
fn dropped_writer_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let name = PackName::random();
    let writer = PackWriter::create(folder.path(), name, StoreId(1)).unwrap();
    assert!(name.temporary_path(folder.path()).exists());
    drop(writer);
    assert!(!name.temporary_path(folder.path()).exists());
    assert!(!name.path(folder.path()).exists());
}

#[test]
fn same_body_twice_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let name = PackName::random();
    let mut writer = PackWriter::create(folder.path(), name, StoreId(1)).unwrap();
    let compressed = Codec::default().compress(b"twice");
    let header = FrameHeader::new(BodyId(1), b"twice", &compressed).unwrap();
    writer.append(&header, &compressed.data).unwrap();
    writer.append(&header, &compressed.data).unwrap();
    assert!(matches!(writer.finish(), Err(StorageError::Corrupt(_))));
    assert!(!name.path(folder.path()).exists());
}

#[test]
fn frame_of_another_pack_is_no_frame() {
    let folder = tempfile::tempdir().unwrap();
    let (inner, places) = write(folder.path(), &[crate::base::id::random_bytes(900)]);
    // A message that is itself a pack, behind a frame that gets damaged.
    let (path, outer) = write(folder.path(), &[vec![7; 99], std::fs::read(&inner).unwrap(), vec![9; 99]]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[outer[1].1.offset as usize] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let found = recover(&Codec::default(), &path).unwrap();
    assert_eq!(found.iter().map(|frame| frame.location).collect::<Vec<_>>(), [outer[0].1, outer[2].1]);
    assert_eq!(places.len(), 1);
}

#[test]
fn damaged_index_loses_no_frame() {
    let folder = tempfile::tempdir().unwrap();
    let (path, places) = write(folder.path(), &bodies());
    let bytes = std::fs::read(&path).unwrap();
    let codec = Codec::default();
    for cut in [1, 28, 29, 28 + 5 * 12] {
        std::fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
        assert!(!verify(&codec, &path).unwrap().is_intact());
        let found = recover(&codec, &path).unwrap();
        let found: Vec<_> = found.into_iter().map(|frame| (frame.header.body, frame.location)).collect();
        assert_eq!(found, places);
    }
}

#[test]
fn damaged_frame_is_an_error_for_its_body_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, places) = write(folder.path(), &bodies());
    let mut bytes = std::fs::read(&path).unwrap();
    let (damaged, at) = places[2];
    bytes[(at.offset + at.length / 2) as usize] ^= 0x10;
    std::fs::write(&path, &bytes).unwrap();
    let codec = Codec::default();
    let pack = PackReader::open(&path).unwrap();
    for (id, location) in &places {
        assert_eq!(pack.read(&codec, *location, *id).is_err(), *id == damaged);
    }
    let verified = verify(&codec, &path).unwrap();
    assert_eq!(verified.intact, places.len() as u64 - 1);
    assert_eq!(verified.damages.len(), 1);
    assert_eq!(verified.damages[0].body, Some(damaged));
}

#[test]
fn pack_names_are_read_as_written() {
    let name = PackName::random();
    assert_eq!(PackName::parse(&name.to_string()), Some(name));
    for bad in ["", "12", "+0000000000000000000000000000001", &"A".repeat(32), &"0".repeat(33)] {
        assert_eq!(PackName::parse(bad), None, "{bad}");
    }
}

#[test]
fn codec_gives_back_what_it_took_at_every_level() {
    for level in [-5, 1, 3, 9, 19, 99] {
        let codec = Codec::new(level);
        for body in bodies() {
            let small = codec.compress(&body);
            assert!(small.data.len() <= body.len());
            let back = Codec::default().decompress(small.codec, small.dictionary_id, &small.data, body.len());
            assert_eq!(back.unwrap(), body);
        }
    }
}

#[test]
fn only_short_text_uses_the_dictionary() {
    let codec = Codec::default();
    assert_eq!(codec.compress(&[b'a'; 64 * 1024]).dictionary_id, DICTIONARY_SHIPPED);
    assert_eq!(codec.compress(&[b'a'; 64 * 1024 + 1]).dictionary_id, DICTIONARY_NONE);
    assert_eq!(codec.compress(b"").codec, CodecKind::Raw);
    let without = codec.with_dictionary(false).compress(&[b'a'; 64 * 1024]);
    assert_eq!((without.codec, without.dictionary_id), (CodecKind::Zstd, DICTIONARY_NONE));
}

#[test]
fn wrong_lengths_dictionaries_and_huge_promises_are_refused() {
    let codec = Codec::default();
    let body = vec![b'x'; 10_000];
    let small = codec.compress(&body);
    let try_with = |dictionary, length| codec.decompress(small.codec, dictionary, &small.data, length);
    assert!(try_with(DICTIONARY_SHIPPED, body.len()).is_ok());
    for (dictionary, length) in [
        (DICTIONARY_SHIPPED, body.len() - 1),
        (DICTIONARY_SHIPPED, body.len() + 1),
        (DICTIONARY_SHIPPED, 0),
        (DICTIONARY_SHIPPED, usize::MAX),
        (DICTIONARY_SHIPPED, ORIGINAL_OCTETS_MAX),
        (DICTIONARY_NONE, body.len()),
        (9, body.len()),
    ] {
        assert!(
            matches!(try_with(dictionary, length), Err(StorageError::Corrupt(_))),
            "{dictionary} {length}"
        );
    }
    assert!(codec.decompress(CodecKind::Raw, 0, b"four", 5).is_err());
}

#[test]
fn contexts_serve_many_threads() {
    let codec = Codec::default();
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let codec = codec.clone();
            scope.spawn(move || {
                for length in (0..3_000).step_by(97) {
                    let body = vec![thread; length];
                    let small = codec.compress(&body);
                    let back = codec.decompress(small.codec, small.dictionary_id, &small.data, length);
                    assert_eq!(back.unwrap(), body);
                }
            });
        }
    });
}

/// Content that compresses, content that doesn't, and mixtures.
fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..600),
        "(Received: from |MIME-Version: 1\\.0\r\n|[a-z ]{1,20}){0,40}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn truncation_and_bit_flips_anywhere_are_detected(
        contents in proptest::collection::vec(content(), 1..6),
        places in proptest::collection::vec((any::<prop::sample::Index>(), 0..8u8), 24),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (path, bodies) = write(folder.path(), &contents);
        let codec = Codec::default();
        let original = std::fs::read(&path).unwrap();
        for (place, bit) in places {
            let place = place.index(original.len());
            let mut flipped = original.clone();
            flipped[place] ^= 1 << bit;
            std::fs::write(&path, &flipped).unwrap();
            let verified = verify(&codec, &path);
            prop_assert!(!matches!(&verified, Ok(verified) if verified.is_intact()), "bit {bit} of {place}");
            if let Ok(pack) = PackReader::open(&path) {
                for ((id, location), content) in bodies.iter().zip(&contents) {
                    let frame = location.offset as usize..(location.offset + location.length) as usize;
                    match pack.read(&codec, *location, *id) {
                        Ok(body) => prop_assert!(&body == content && !frame.contains(&place)),
                        Err(_) => prop_assert!(frame.contains(&place)),
                    }
                }
            }
            std::fs::write(&path, &original[..place]).unwrap();
            let verified = verify(&codec, &path);
            prop_assert!(!matches!(&verified, Ok(verified) if verified.is_intact()), "cut at {place}");
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        with_header in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let codec = Codec::default();
        let path = folder.path().join("any");
        if with_header {
            let (pack, _) = write(folder.path(), &[]);
            let mut whole = std::fs::read(pack).unwrap();
            whole.truncate(40);
            whole.append(&mut bytes);
            bytes = whole;
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(verified) = verify(&codec, &path) {
            prop_assert!(!verified.is_intact());
        }
        let _ = recover(&codec, &path);
        for kind in [CodecKind::Raw, CodecKind::Zstd] {
            for dictionary in [DICTIONARY_NONE, DICTIONARY_SHIPPED, 5] {
                let _ = codec.decompress(kind, dictionary, &bytes, 1_000);
            }
        }
    }
}
