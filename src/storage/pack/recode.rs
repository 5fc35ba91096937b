//! Compressing a frame in another way.

use super::codec::Codec;
use super::dictionary::DICTIONARY_TRAINED;
use super::format::FrameHeader;
use super::reader::{Content, Frame};
use super::recipe;
use crate::storage::Result;

/// The frame as `codec` makes it with this dictionary; nothing if it isn't smaller. A frame with a trained
/// dictionary that is no longer wanted is made anew in any case, so that the dictionary can go. With `decode`
/// base64 is decoded; parts stay parts.
///
/// # Errors
/// `Corrupt` when the frame is damaged, `Busy` when there is no memory or its dictionary is not loaded.
pub fn recode(
    codec: &Codec,
    frame: &Frame,
    dictionary_id: u32,
    decode: bool,
) -> Result<Option<(FrameHeader, Vec<u8>)>> {
    let compressed = match frame.content(codec)? {
        Content::Parts(recipe) => codec.compress_recipe(recipe.bytes(), dictionary_id),
        Content::Whole(original) => {
            let plain = codec.compress_with(&original, dictionary_id);
            let runs = if decode { recipe::runs(&original) } else { Vec::new() };
            let apart = recipe::encode(&original, runs.iter().map(|run| (run, None)))
                .and_then(|recipe| codec.compress_recipe(&recipe, dictionary_id))
                .filter(|apart| apart.data.len() < plain.data.len());
            Some(apart.unwrap_or(plain))
        }
    };
    let present = frame.header().dictionary_id;
    let is_unwanted = present >= DICTIONARY_TRAINED && present != dictionary_id;
    let better = compressed.filter(|made| is_unwanted || made.data.len() < frame.data().len());
    Ok(better.map(|made| (frame.header().recoded(&made), made.data)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{BodyId, StoreId, random_bytes};
    use crate::storage::pack::{
        CodecKind, Compressed, DICTIONARY_SHIPPED, DICTIONARY_TRAINED, PackName, PackReader, PackWriter,
    };

    /// The frame of one body as it is read back from a pack.
    fn frame(original: &[u8], compressed: &Compressed) -> Frame {
        let folder = tempfile::tempdir().unwrap();
        let name = PackName::random();
        let mut writer = PackWriter::create(folder.path(), name, StoreId(1)).unwrap();
        let header = FrameHeader::new(BodyId(7), original, compressed).unwrap();
        let location = writer.append(&header, &compressed.data).unwrap();
        writer.finish().unwrap();
        PackReader::open(&name.path(folder.path())).unwrap().frame(location, BodyId(7)).unwrap()
    }

    fn message() -> Vec<u8> {
        use base64::Engine as _;
        let page = "<td class=\"price\">always the same</td>".repeat(100);
        let text = base64::engine::general_purpose::STANDARD.encode(page);
        let lines: Vec<&[u8]> = text.as_bytes().chunks(76).collect();
        [b"Subject: page\r\n\r\n", lines.join(&b"\r\n"[..]).as_slice(), b"\r\n"].concat()
    }

    #[test]
    fn frame_is_made_anew_only_if_it_gets_smaller() {
        let (fast, original) = (Codec::new(1), message());
        let before = frame(&original, &fast.compress(&original));
        let (header, data) = recode(&fast.at_level(19), &before, DICTIONARY_SHIPPED, true).unwrap().unwrap();
        assert_eq!((header.codec, header.hash), (CodecKind::Recipe, before.header().hash));
        assert!(data.len() < before.data().len() / 2);
        let made = Compressed { codec: header.codec, dictionary_id: header.dictionary_id, data };
        let after = frame(&original, &made);
        assert_eq!(after.content(&fast).unwrap(), Content::Whole(original.clone()));
        assert_eq!(recode(&fast.at_level(19), &after, DICTIONARY_SHIPPED, true).unwrap(), None);
        let random = random_bytes(500);
        let raw = frame(&random, &fast.compress(&random));
        assert_eq!(recode(&fast.at_level(19), &raw, DICTIONARY_SHIPPED, true).unwrap(), None);
    }

    #[test]
    fn parts_stay_parts_when_their_body_is_made_anew() {
        let (fast, original) = (Codec::new(1), message());
        let runs = recipe::runs(&original);
        let apart = recipe::encode(&original, runs.iter().map(|run| (run, Some(BodyId(3))))).unwrap();
        let padded = [&original[..], b"text ".repeat(500).as_slice()].concat();
        let recipe =
            recipe::encode(&padded, recipe::runs(&padded).iter().map(|run| (run, Some(BodyId(3))))).unwrap();
        assert!(recipe.len() > apart.len());
        let before = frame(&padded, &fast.with_dictionary(false).compress_recipe(&recipe, 0).unwrap());
        let (header, data) = recode(&Codec::new(9), &before, DICTIONARY_SHIPPED, true).unwrap().unwrap();
        let after =
            frame(&padded, &Compressed { codec: header.codec, dictionary_id: header.dictionary_id, data });
        let Content::Parts(recipe) = after.content(&Codec::default()).unwrap() else { panic!("no parts") };
        assert_eq!(recipe.parts().into_keys().collect::<Vec<_>>(), [BodyId(3)]);
    }

    #[test]
    fn dictionary_that_is_not_wanted_any_more_is_left_even_if_the_frame_grows() {
        let number = DICTIONARY_TRAINED + 5;
        let samples: Vec<Vec<u8>> = (0..200_usize)
            .map(|n| {
                format!("Subject: {n}\r\n\r\nthe very same words in all of them, and {}", n * n).into_bytes()
            })
            .collect();
        let codec = Codec::new(9);
        codec.learn(number, zstd::dict::from_samples(&samples, 4_096).unwrap()).unwrap();
        let original = samples.last().unwrap();
        let before = frame(original, &codec.compress_with(original, number));
        assert_eq!(before.header().dictionary_id, number);
        assert_eq!(recode(&codec, &before, number, true).unwrap(), None);
        let (header, data) = recode(&codec, &before, DICTIONARY_SHIPPED, true).unwrap().unwrap();
        assert!(header.dictionary_id < DICTIONARY_TRAINED);
        let made = Compressed { codec: header.codec, dictionary_id: header.dictionary_id, data };
        assert_eq!(
            frame(original, &made).content(&Codec::default()).unwrap(),
            Content::Whole(original.clone())
        );
    }
}
