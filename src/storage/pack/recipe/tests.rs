//! Taking messages apart and putting them together, with good and bad input.

use proptest::prelude::*;

use super::*;
use crate::base::id::random_bytes;

fn text(form: Base64Form, decoded: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    form.encode(decoded, &mut text);
    assert_eq!(form.encoded_len(decoded.len()), Some(text.len()));
    text
}

const MIME: Base64Form = Base64Form { width: 76, has_cr: true, is_ended: true };

/// Takes a message apart and puts it together again; answers its runs.
fn there_and_back(original: &[u8]) -> Vec<Run> {
    let found = runs(original);
    let Some(inline) = encode(original, found.iter().map(|run| (run, None))) else { return found };
    let recipe = Recipe::decode(inline, original.len()).unwrap();
    assert!(recipe.parts().is_empty());
    assert_eq!(recipe.assemble(&BTreeMap::new()).unwrap(), original);
    // The same with every run as a part.
    let id = |run: &Run| Some(BodyId(run.place.start as i64 * 7_000_000_000));
    let parts: BTreeMap<BodyId, Bytes> =
        found.iter().map(|run| (id(run).unwrap(), run.decoded.clone().into())).collect();
    let recipe =
        Recipe::decode(encode(original, found.iter().map(|run| (run, id(run)))).unwrap(), original.len())
            .unwrap();
    assert_eq!(recipe.parts().len(), parts.len().min(PARTS_MAX));
    assert_eq!(recipe.assemble(&parts).unwrap(), original);
    found
}

fn message(attachment: &[u8]) -> Vec<u8> {
    let head = b"Content-Transfer-Encoding: base64\r\n\r\n";
    [head, attachment, b"\r\n--boundary--\r\n"].concat()
}

#[test]
fn base64_of_every_layout_is_decoded() {
    for octets in [96, 97, 98, 57 * 20, 57 * 20 + 1, 20_000] {
        let decoded = random_bytes(octets);
        for (width, has_cr, is_ended) in
            [(76, true, true), (76, false, true), (72, true, true), (60, false, true), (996, true, false)]
        {
            let form = Base64Form { width, has_cr, is_ended };
            let found = there_and_back(&message(&text(form, &decoded)));
            assert_eq!(found.len(), 1, "{octets} in {form:?}");
            assert_eq!(found[0].decoded, decoded);
        }
        let unended = text(Base64Form { is_ended: false, ..MIME }, &decoded);
        assert_eq!(there_and_back(&unended)[0].decoded, decoded, "at the end of the message");
    }
}

#[test]
fn two_attachments_with_text_around_are_two_runs() {
    let (one, other) = (random_bytes(300), random_bytes(400));
    let original = [message(&text(MIME, &one)), message(&text(MIME, &other))].concat();
    let found = there_and_back(&original);
    assert_eq!(found.iter().map(|run| &run.decoded).collect::<Vec<_>>(), [&one, &other]);
}

#[test]
fn base64_that_would_not_come_back_stays_text() {
    let decoded = random_bytes(1_000);
    let good = String::from_utf8(text(MIME, &decoded)).unwrap();
    let unpadded = good.trim_end().trim_end_matches('=').to_owned();
    let changed = [
        ("spaces at the ends", good.replace("\r\n", " \r\n")),
        ("odd width", text_of_width(&decoded, 75)),
        ("one long line", good.replace("\r\n", "")),
        ("no padding", text_of_width(&decoded, 1_400).trim_end_matches('=').to_owned()),
    ];
    for (what, changed) in &changed {
        assert!(there_and_back(&message(changed.as_bytes())).is_empty(), "{what}");
    }
    // Here only the last line can't be decoded, or what follows a line that differs.
    there_and_back(&message(unpadded.as_bytes()));
    let mixed = good.replacen("\r\n", "\n", 3);
    there_and_back(&message(mixed.as_bytes()));
    // Bits behind the end that encoding would not set (RFC 4648 section 3.5).
    let loose = good.replace("==", "").trim_end().to_owned() + "B==";
    there_and_back(&message(loose.as_bytes()));
    assert!(there_and_back(b"").is_empty());
    assert!(there_and_back(b"word\r\nword\r\nword\r\n").is_empty());
}

fn text_of_width(decoded: &[u8], width: usize) -> String {
    let all = STANDARD.encode(decoded);
    all.as_bytes().chunks(width).map(|line| String::from_utf8_lossy(line) + "\r\n").collect()
}

#[test]
fn many_runs_are_bounded() {
    let one = [text(MIME, &random_bytes(100)), b"\r\n".to_vec()].concat();
    let original = one.repeat(RUNS_MAX + 100);
    assert_eq!(there_and_back(&original).len(), RUNS_MAX);
}

#[test]
fn missing_and_wrong_parts_are_damage() {
    let original = message(&text(MIME, &random_bytes(500)));
    let found = runs(&original);
    let bytes = encode(&original, found.iter().map(|run| (run, Some(BodyId(9))))).unwrap();
    let recipe = Recipe::decode(bytes.clone(), original.len()).unwrap();
    assert_eq!(recipe.parts(), BTreeMap::from([(BodyId(9), 500)]));
    for parts in [BTreeMap::new(), BTreeMap::from([(BodyId(9), Bytes::from_static(b"short"))])] {
        assert!(matches!(recipe.assemble(&parts), Err(StorageError::Corrupt(_))));
    }
    assert!(Recipe::decode(bytes.clone(), original.len() + 1).is_err());
    assert!(Recipe::decode(bytes[..bytes.len() - 1].to_vec(), original.len()).is_err());
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let form = (1_usize..=249, any::<bool>(), any::<bool>())
        .prop_map(|(groups, has_cr, is_ended)| Base64Form { width: groups * 4, has_cr, is_ended });
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec(prop::sample::select(b"AZaz09+/= \r\n".to_vec()), 0..400),
        (form, prop::collection::vec(any::<u8>(), 1..900)).prop_map(|(form, bytes)| text(form, &bytes)),
    ]
}

proptest! {
    #[test]
    fn any_bytes_come_back(pieces in prop::collection::vec(piece(), 0..8)) {
        there_and_back(&pieces.concat());
    }

    #[test]
    fn numbers_come_back(number in any::<u64>()) {
        let mut bytes = Vec::new();
        put(&mut bytes, number);
        prop_assert_eq!(take(&mut bytes.as_slice()), Some(number));
    }

    /// Garbage is refused or gives what its lengths say; nothing panics.
    #[test]
    fn garbage_is_no_recipe(
        tail in prop::collection::vec(any::<u8>(), 0..60),
        small in prop::collection::vec(0_u8..20, 0..60),
        original_len in 0_usize..3_000,
    ) {
        for bytes in [tail.clone(), [&[VERSION][..], &small, &tail].concat(), [&[VERSION][..], &small].concat()] {
            if let Ok(recipe) = Recipe::decode(bytes, original_len)
                && let Ok(assembled) = recipe.assemble(&BTreeMap::new())
            {
                prop_assert_eq!(assembled.len(), original_len);
            }
        }
    }

    /// A recipe with a changed byte is refused, or what it gives has the right length.
    #[test]
    fn changed_recipe_takes_no_more_memory(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let original = message(&text(MIME, &[7; 600]));
        let mut bytes = encode(&original, runs(&original).iter().map(|run| (run, None))).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(recipe) = Recipe::decode(bytes, original.len())
            && let Ok(assembled) = recipe.assemble(&BTreeMap::new())
        {
            prop_assert_eq!(assembled.len(), original.len());
        }
    }
}
