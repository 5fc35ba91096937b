//! Fuzz targets of this room: messages of any octets, and stored summaries of any octets.

use super::search::SearchText;
use super::summary::{PREVIEW_CHARACTERS_MAX, Part, Summary, summarize};

/// Any octets are a message. Its summary is always the same one, keeps within the message, and survives storage.
pub fn message(input: &[u8]) {
    let summary = summarize(input);
    assert_eq!(summary, summarize(input), "the same message has two summaries");
    assert!(summary.header_octets as usize <= input.len());
    assert!(summary.preview.chars().count() <= PREVIEW_CHARACTERS_MAX);
    for part in summary.root.walk() {
        within(part, input);
    }
    assert_eq!(Summary::decode(&summary.encode()).as_ref(), Ok(&summary));
    let _ = SearchText::new(&summary, input);
}

/// Offsets ascend, stay inside of the message and of the part around, and lines are counted.
fn within(part: &Part, message: &[u8]) {
    assert!(part.header_start <= part.body_start && part.body_start <= part.body_end);
    assert!(part.body_end as usize <= message.len());
    let lines = part.content(message).iter().filter(|octet| **octet == b'\n').count();
    assert_eq!(part.lines as usize, lines);
    for below in &part.parts {
        assert!(part.body_start <= below.header_start && below.body_end <= part.body_end);
    }
}

/// Octets that a damaged database may give for a summary: an error, or something that can be told to a client without
/// reading outside of the body.
pub fn summary(input: &[u8]) {
    let with_version = [&[1], input].concat();
    for octets in [input, &with_version] {
        let Ok(summary) = Summary::decode(octets) else { continue };
        for part in summary.root.walk() {
            let _ = part.content(input);
        }
        let _ = SearchText::new(&summary, input);
        // What was read can be written again, and means the same from then on.
        let stored = summary.encode();
        let again = Summary::decode(&stored);
        assert!(again.as_ref().is_ok_and(|again| again.encode() == stored), "{summary:?} {again:?}");
    }
}
