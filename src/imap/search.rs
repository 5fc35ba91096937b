//! SEARCH (RFC 3501 section 6.4.4), ESEARCH (RFC 4731) and MODSEQ (RFC 7162 section 3.1.5), selected state.

use bytes::Bytes;
use mail_parser::decoders::charsets::map::charset_decoder;

use super::client::Client;
use super::command::{DateComparison, Key, SearchProgram, SearchReturn};
use super::folder::STATES_CHUNK;
use super::outcome::{Done, Failure, Outcome};
use super::respond;
use super::selected::Selected;
use super::sequence::write_set;
use crate::base::id::{ModSeq, Uid};
use crate::service::mailstore::search::SearchKey;

/// Charsets named when another one is refused; more are taken.
const BAD_CHARSET: &str =
    "BADCHARSET (US-ASCII UTF-8 ISO-8859-1 ISO-8859-15 WINDOWS-1252 KOI8-R ISO-2022-JP GB18030 BIG5 EUC-KR)";

/// Finds messages and tells their numbers.
pub async fn search(
    client: &mut Client,
    selected: &mut Selected,
    tag: &Bytes,
    program: &SearchProgram,
    by_uid: bool,
) -> Outcome {
    let decoder = Decoder::of(program.charset.as_deref())?;
    let mod_seq = program.keys.iter().any(Key::asks_for_mod_seq);
    let keys = program
        .keys
        .iter()
        .map(|key| resolve(key, selected.view.uids(), &decoder))
        .collect::<Result<_, _>>()?;
    let found = Box::pin(selected.view.search(&SearchKey::And(keys))).await?;
    let numbers = if by_uid { found.iter().map(|uid| uid.0).collect() } else { sequences(selected, &found) };
    match program.options {
        Some(options) => {
            let highest = if mod_seq { extended_mod_seq(selected, &found, options) } else { None };
            extended(&mut client.out, tag, &numbers, options, by_uid, highest);
        }
        None => {
            client.out.extend_from_slice(b"* SEARCH");
            for number in numbers {
                client.out.push(b' ');
                respond::number(&mut client.out, u64::from(number));
                client.flush_if_large().await?;
            }
            if let Some(highest) = mod_seq.then(|| highest_mod_seq(selected, &found)).flatten() {
                client.out.extend_from_slice(b" (MODSEQ ");
                respond::number(&mut client.out, highest.0);
                client.out.push(b')');
            }
            client.out.extend_from_slice(b"\r\n");
        }
    }
    Ok(Done::new("SEARCH completed"))
}

/// Sequence numbers of `found`; both lists ascend.
fn sequences(selected: &Selected, found: &[Uid]) -> Vec<u32> {
    let mut wanted = found.iter().peekable();
    let mut numbers = Vec::with_capacity(found.len());
    for (number, uid) in (1_u32..).zip(selected.view.uids()) {
        while wanted.next_if(|wanted| **wanted < *uid).is_some() {}
        match wanted.peek() {
            None => break,
            Some(wanted) if **wanted == *uid => numbers.push(number),
            Some(_) => {}
        }
    }
    numbers
}

/// The ESEARCH response (RFC 4731 section 3.1): always sent, without the items that nothing was found for.
fn extended(
    out: &mut Vec<u8>,
    tag: &[u8],
    numbers: &[u32],
    options: SearchReturn,
    by_uid: bool,
    highest: Option<ModSeq>,
) {
    let item = |out: &mut Vec<u8>, name: &str, number: u64| {
        out.extend_from_slice(name.as_bytes());
        respond::number(out, number);
    };
    out.extend_from_slice(b"* ESEARCH (TAG ");
    respond::string(out, tag);
    out.push(b')');
    if by_uid {
        out.extend_from_slice(b" UID");
    }
    if let (Some(first), Some(last)) = (numbers.first(), numbers.last()) {
        if options.min {
            item(out, " MIN ", u64::from(*first));
        }
        if options.max {
            item(out, " MAX ", u64::from(*last));
        }
        if options.all {
            out.extend_from_slice(b" ALL ");
            write_set(out, numbers.iter().copied());
        }
    }
    if options.count {
        item(out, " COUNT ", numbers.len() as u64);
    }
    if let Some(highest) = highest {
        item(out, " MODSEQ ", highest.0);
    }
    out.extend_from_slice(b"\r\n");
}

/// RFC 7162 section 3.1.6 (RFC 4731 section 3.2): with MIN or MAX alone only those messages count.
fn extended_mod_seq(selected: &Selected, found: &[Uid], options: SearchReturn) -> Option<ModSeq> {
    if options.all || options.count {
        return highest_mod_seq(selected, found);
    }
    let ends = [options.min.then(|| found.first()), options.max.then(|| found.last())];
    let mut ends: Vec<Uid> = ends.into_iter().flatten().flatten().copied().collect();
    ends.dedup();
    highest_mod_seq(selected, &ends)
}

fn highest_mod_seq(selected: &Selected, uids: &[Uid]) -> Option<ModSeq> {
    let highest = |uids| selected.view.states(uids).into_iter().map(|state| state.mod_seq).max();
    uids.chunks(STATES_CHUNK).filter_map(highest).max()
}

/// Turns texts in the client's charset into UTF-8.
pub(super) enum Decoder {
    Utf8,
    Other(fn(&[u8]) -> String),
}

impl Decoder {
    pub(super) fn of(charset: Option<&[u8]>) -> Result<Self, Failure> {
        let Some(charset) = charset else { return Ok(Self::Utf8) };
        // US-ASCII is a part of UTF-8; 8-bit octets under its name are what clients mean as UTF-8.
        if [&b"US-ASCII"[..], b"ASCII", b"UTF-8", b"UTF8"]
            .iter()
            .any(|name| charset.eq_ignore_ascii_case(name))
        {
            return Ok(Self::Utf8);
        }
        match charset_decoder(charset) {
            Some(decoder) => Ok(Self::Other(decoder)),
            None => Err(Failure::refused(BAD_CHARSET, "the charset is unknown")),
        }
    }

    pub(super) fn decode(&self, text: &[u8]) -> String {
        match self {
            Self::Utf8 => String::from_utf8_lossy(text).into_owned(),
            Self::Other(decoder) => decoder(text),
        }
    }
}

/// The service's key for a client's: sequence numbers become UIDs of the view, texts UTF-8. Depth is bounded
/// by the parser.
pub(super) fn resolve(key: &Key, uids: &[Uid], decoder: &Decoder) -> Result<SearchKey, Failure> {
    Ok(match key {
        Key::All => SearchKey::All,
        Key::And(keys) => {
            SearchKey::And(keys.iter().map(|key| resolve(key, uids, decoder)).collect::<Result<_, _>>()?)
        }
        Key::Or(left, right) => {
            SearchKey::Or(Box::new(resolve(left, uids, decoder)?), Box::new(resolve(right, uids, decoder)?))
        }
        Key::Not(key) => SearchKey::Not(Box::new(resolve(key, uids, decoder)?)),
        Key::Sequence(set) => {
            let ranges = set.indexes_by_sequence(uids)?;
            SearchKey::Uids(
                ranges
                    .into_iter()
                    .filter_map(|range| uids.get(range))
                    .filter_map(|uids| Some((*uids.first()?, *uids.last()?)))
                    .collect(),
            )
        }
        Key::Uid(set) => SearchKey::Uids(set.uid_ranges(uids)),
        Key::Flag(flag) => SearchKey::Flags(*flag),
        Key::Keyword(name) => SearchKey::Keyword(String::from_utf8_lossy(name).into_owned()),
        Key::Recent => SearchKey::Recent,
        Key::Date { sent: false, comparison, day } => match comparison {
            DateComparison::Before => SearchKey::InternalBefore(*day),
            DateComparison::On => SearchKey::InternalOn(*day),
            DateComparison::Since => SearchKey::InternalSince(*day),
        },
        Key::Date { sent: true, comparison, day } => match comparison {
            DateComparison::Before => SearchKey::SentBefore(*day),
            DateComparison::On => SearchKey::SentOn(*day),
            DateComparison::Since => SearchKey::SentSince(*day),
        },
        Key::Larger(octets) => SearchKey::Larger(*octets),
        Key::Smaller(octets) => SearchKey::Smaller(*octets),
        Key::Header(field, text) => {
            SearchKey::Header(String::from_utf8_lossy(field).into_owned(), decoder.decode(text))
        }
        Key::Body(text) => SearchKey::Body(decoder.decode(text)),
        Key::Text(text) => SearchKey::Text(decoder.decode(text)),
        Key::ModSeq(mod_seq) => SearchKey::ModSeq(*mod_seq),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(numbers: &[u32], options: SearchReturn, by_uid: bool, highest: Option<ModSeq>) -> String {
        let mut out = Vec::new();
        extended(&mut out, b"a1", numbers, options, by_uid, highest);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn extended_answers_hold_what_was_asked() {
        let all = SearchReturn { min: true, max: true, all: true, count: true };
        assert_eq!(
            written(&[2, 3, 9], all, true, Some(ModSeq(77))),
            "* ESEARCH (TAG \"a1\") UID MIN 2 MAX 9 ALL 2:3,9 COUNT 3 MODSEQ 77\r\n"
        );
        assert_eq!(written(&[], all, false, None), "* ESEARCH (TAG \"a1\") COUNT 0\r\n");
        let min = SearchReturn { min: true, ..SearchReturn::default() };
        assert_eq!(written(&[4], min, false, None), "* ESEARCH (TAG \"a1\") MIN 4\r\n");
    }

    #[test]
    fn charsets_are_decoded_or_refused() {
        let decoded = |charset: Option<&str>, text: &[u8]| {
            Decoder::of(charset.map(str::as_bytes)).map(|decoder| decoder.decode(text)).ok()
        };
        assert_eq!(decoded(None, "grün".as_bytes()).as_deref(), Some("grün"));
        assert_eq!(decoded(Some("utf-8"), "grün".as_bytes()).as_deref(), Some("grün"));
        assert_eq!(decoded(Some("ISO-8859-1"), b"gr\xfcn").as_deref(), Some("grün"));
        assert_eq!(decoded(Some("iso-8859-15"), b"\xa4").as_deref(), Some("€"));
        for unknown in
            ["x-unknown", "", "a very long name that no charset has, longer than any buffer for it"]
        {
            assert_eq!(decoded(Some(unknown), b"x"), None, "{unknown}");
        }
    }

    #[test]
    fn numbers_and_texts_are_resolved() {
        let uids = [Uid(3), Uid(5), Uid(9)];
        let mut lexer = crate::imap::lexer::Lexer::new(Bytes::from_static(b"2:*"));
        let set = crate::imap::sequence::SequenceSet::parse(&mut lexer).unwrap();
        let key = Key::Not(Box::new(Key::Sequence(set)));
        assert_eq!(
            resolve(&key, &uids, &Decoder::Utf8).unwrap(),
            SearchKey::Not(Box::new(SearchKey::Uids(vec![(Uid(5), Uid(9))])))
        );
    }
}
