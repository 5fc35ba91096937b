//! What a message can be searched by: every key of RFC 3501 section 6.4.4, MODSEQ of RFC 7162, and dates.

use super::mime;
use super::mime::charset::{header_text, html_text, part_text};
use super::mime::field::{Field, Fields};
use super::summary::Summary;
use super::types::{FlagBits, KEYWORDS_MAX, MessageState};
use crate::base::clock::Timestamp;
use crate::base::id::{ModSeq, Uid};

/// A calendar day as days since 1970-01-01, without time zone (RFC 3501 ignores it in searches).
pub type Day = i32;

/// A search expression. Texts are UTF-8; the protocol room has decoded the client's charset.
#[derive(Clone, PartialEq, Debug)]
pub enum SearchKey {
    /// All of these (an empty list matches everything).
    And(Vec<SearchKey>),
    /// Either.
    Or(Box<SearchKey>, Box<SearchKey>),
    /// Not this.
    Not(Box<SearchKey>),
    /// Every message.
    All,
    /// UIDs in one of these inclusive ranges; the protocol room has resolved sequence numbers and `*`.
    Uids(Vec<(Uid, Uid)>),
    /// All of these system flags are set.
    Flags(FlagBits),
    /// This keyword is set.
    Keyword(String),
    /// Recent in the view.
    Recent,
    /// INTERNALDATE before, on, since a day.
    InternalBefore(Day),
    /// On.
    InternalOn(Day),
    /// Since.
    InternalSince(Day),
    /// Date header before, on, since a day.
    SentBefore(Day),
    /// On.
    SentOn(Day),
    /// Since.
    SentSince(Day),
    /// RFC822.SIZE larger than.
    Larger(u64),
    /// RFC822.SIZE smaller than.
    Smaller(u64),
    /// A header field contains the text (decoded, without case); an empty text asks for the field's presence.
    Header(String, String),
    /// The text part of the body contains the text (decoded, without case).
    Body(String),
    /// Header or body contains the text.
    Text(String),
    /// MODSEQ at least this.
    ModSeq(ModSeq),
}

/// What is known of a message so far. The caller starts with the folder table alone and adds what
/// [`matches`](fn@matches) asks for, so that most searches read neither summaries nor bodies.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    /// The message in the folder table.
    pub state: MessageState,
    /// Whether it is recent in the view.
    pub recent: bool,
    /// The folder's keywords.
    pub keywords: &'a [String],
    /// The summary row, once read.
    pub details: Option<Details<'a>>,
    /// The decoded body, once read.
    pub text: Option<&'a SearchText>,
}

/// What the summary row of a message says.
#[derive(Clone, Copy)]
pub struct Details<'a> {
    /// INTERNALDATE.
    pub internal_date: Timestamp,
    /// Trace lines before the body: part of its header.
    pub prefix: &'a [u8],
    /// The summary of the body.
    pub summary: &'a Summary,
}

/// Whether a message matches, or what must be known to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It matches.
    Yes,
    /// It does not.
    No,
    /// The summary row must be read.
    NeedsSummary,
    /// The body must be read.
    NeedsBody,
}

impl From<bool> for Verdict {
    fn from(matches: bool) -> Self {
        if matches { Self::Yes } else { Self::No }
    }
}

impl Verdict {
    /// Both must hold; of two open verdicts the one that is cheaper to settle.
    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, verdict) | (verdict, Self::Yes) => verdict,
            (Self::NeedsSummary, _) | (_, Self::NeedsSummary) => Self::NeedsSummary,
            (Self::NeedsBody, Self::NeedsBody) => Self::NeedsBody,
        }
    }

    const fn not(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
            open => open,
        }
    }
}

/// Decides whether a message matches `key`. Recursion is as deep as the key, which the protocol room bounds.
pub fn matches(key: &SearchKey, candidate: &Candidate<'_>) -> Verdict {
    match key {
        SearchKey::All => Verdict::Yes,
        SearchKey::And(keys) => all(keys.iter(), candidate),
        SearchKey::Or(one, other) => {
            let neither = matches(one, candidate).not().and(matches(other, candidate).not());
            neither.not()
        }
        SearchKey::Not(key) => matches(key, candidate).not(),
        SearchKey::Uids(ranges) => {
            let uid = candidate.state.uid;
            ranges.iter().any(|(first, last)| (*first..=*last).contains(&uid)).into()
        }
        SearchKey::Flags(flags) => candidate.state.flags.contains(*flags).into(),
        SearchKey::Keyword(keyword) => {
            let index = candidate
                .keywords
                .iter()
                .take(KEYWORDS_MAX)
                .position(|known| known.eq_ignore_ascii_case(keyword));
            index.is_some_and(|index| candidate.state.flags.contains(FlagBits::keyword(index))).into()
        }
        SearchKey::Recent => candidate.recent.into(),
        SearchKey::Larger(octets) => (u64::from(candidate.state.octets) > *octets).into(),
        SearchKey::Smaller(octets) => (u64::from(candidate.state.octets) < *octets).into(),
        SearchKey::ModSeq(mod_seq) => (candidate.state.mod_seq >= *mod_seq).into(),
        SearchKey::InternalBefore(_)
        | SearchKey::InternalOn(_)
        | SearchKey::InternalSince(_)
        | SearchKey::SentBefore(_)
        | SearchKey::SentOn(_)
        | SearchKey::SentSince(_)
        | SearchKey::Header(..)
        | SearchKey::Body(_)
        | SearchKey::Text(_) => match &candidate.details {
            Some(details) => matches_details(key, details, candidate.text),
            None => Verdict::NeedsSummary,
        },
    }
}

/// Stops at the first key that does not match.
fn all<'k>(keys: impl Iterator<Item = &'k SearchKey>, candidate: &Candidate<'_>) -> Verdict {
    let mut verdict = Verdict::Yes;
    for key in keys {
        verdict = verdict.and(matches(key, candidate));
        if verdict == Verdict::No {
            break;
        }
    }
    verdict
}

/// The keys that the folder table cannot decide.
fn matches_details(key: &SearchKey, details: &Details<'_>, text: Option<&SearchText>) -> Verdict {
    let internal = || Day::try_from(details.internal_date.secs().div_euclid(86_400)).unwrap_or_default();
    // A message without a usable Date was sent on no day.
    let sent = |wanted: &dyn Fn(Day) -> bool| details.summary.sent.is_some_and(|(_, day)| wanted(day)).into();
    match key {
        SearchKey::InternalBefore(day) => (internal() < *day).into(),
        SearchKey::InternalOn(day) => (internal() == *day).into(),
        SearchKey::InternalSince(day) => (internal() >= *day).into(),
        SearchKey::SentBefore(day) => sent(&|sent| sent < *day),
        SearchKey::SentOn(day) => sent(&|sent| sent == *day),
        SearchKey::SentSince(day) => sent(&|sent| sent >= *day),
        SearchKey::Header(name, wanted) => {
            let folded = fold(wanted);
            in_header(details, text, |field| {
                field.name.eq_ignore_ascii_case(name.as_bytes())
                    && (folded.is_empty() || fold(&header_text(field.value)).contains(&folded))
            })
        }
        SearchKey::Body(wanted) => match text {
            Some(text) => text.body.contains(&fold(wanted)).into(),
            None => Verdict::NeedsBody,
        },
        SearchKey::Text(wanted) => {
            let folded = fold(wanted);
            let header = in_header(details, text, |field| field_text(field).contains(&folded));
            match (header, text) {
                (Verdict::No, Some(text)) => text.body.contains(&folded).into(),
                (Verdict::No, None) => Verdict::NeedsBody,
                (verdict, _) => verdict,
            }
        }
        _ => Verdict::No,
    }
}

/// Whether a field of the trace lines or the header is wanted. Only a header too long for the summary needs the body.
fn in_header(
    details: &Details<'_>,
    text: Option<&SearchText>,
    wanted: impl Fn(&Field<'_>) -> bool,
) -> Verdict {
    let found = |header: &[u8]| Fields::new(header).any(|field| wanted(&field));
    if found(details.prefix) {
        return Verdict::Yes;
    }
    match (&details.summary.header, text) {
        (Some(header), _) => found(header).into(),
        (None, Some(text)) => found(&text.long_header).into(),
        (None, None) => Verdict::NeedsBody,
    }
}

/// The searchable text of one message's body, decoded once for all keys.
#[derive(Clone, Default, Debug)]
pub struct SearchText {
    /// Text parts and the headers of all parts but the root, folded.
    body: String,
    /// The root's raw header, if the summary does not have it.
    long_header: Vec<u8>,
}

impl SearchText {
    /// Decodes `body`, the message without trace lines, that `summary` describes. Parts that are no text are left
    /// out; of HTML both the source and the words are searched.
    pub fn new(summary: &Summary, body: &[u8]) -> Self {
        let mut text = String::new();
        for part in summary.root.walk() {
            if part.header_start > 0 {
                for field in Fields::new(mime::cut(body, part.header_start, part.body_start)) {
                    text.push_str(&field_text(&field));
                    text.push('\n');
                }
            }
            if part.is_type("text", "") {
                let decoded = part_text(part, part.content(body));
                text.push_str(&fold(&decoded));
                text.push('\n');
                if part.is_type("text", "html") {
                    text.push_str(&fold(&html_text(&decoded)));
                    text.push('\n');
                }
            }
        }
        let long_header = match summary.header {
            Some(_) => Vec::new(),
            None => mime::cut(body, 0, summary.header_octets).to_vec(),
        };
        Self { body: text, long_header }
    }
}

/// A field as one line, folded.
fn field_text(field: &Field<'_>) -> String {
    fold(&format!("{}: {}", String::from_utf8_lossy(field.name), header_text(field.value)))
}

/// The form in which texts are compared: lower case (RFC 3501 section 6.4.4 asks for no case).
fn fold(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::super::summary::summarize;
    use super::*;

    const MESSAGE: &str = "Date: Fri, 21 Nov 1997 23:55:06 -0600\r\nFrom: =?utf-8?q?J=C3=B6rg?= <joerg@x.example>\r\n\
        Subject: Hello\r\n World\r\nX-Empty:\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        Gr=FC=DFe aus K=\r\n=F6ln\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>one <b>tw</b>o</p>\r\n\
        --b\r\nContent-Type: application/pdf; name=Rechnung.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n\
        c2VjcmV0\r\n--b--\r\n";

    fn state() -> MessageState {
        let flags = FlagBits(FlagBits::SEEN.0 | FlagBits::keyword(1).0);
        MessageState { uid: Uid(7), flags, mod_seq: ModSeq(5), octets: 1_000 }
    }

    /// Verdicts with the table alone, with the summary, and with the body.
    fn verdicts(message: &str, key: &SearchKey) -> [Verdict; 3] {
        let summary = summarize(message.as_bytes());
        let text = SearchText::new(&summary, message.as_bytes());
        let keywords = ["$Junk".to_owned(), "$Important".to_owned()];
        let internal_date = Timestamp::from_secs(880_200_000);
        let details =
            Details { internal_date, prefix: b"Delivered-To: me@here.example\r\n", summary: &summary };
        let table =
            Candidate { state: state(), recent: true, keywords: &keywords, details: None, text: None };
        let with_summary = Candidate { details: Some(details), ..table };
        [table, with_summary, Candidate { text: Some(&text), ..with_summary }]
            .map(|known| matches(key, &known))
    }

    fn header(name: &str, text: &str) -> SearchKey {
        SearchKey::Header(name.to_owned(), text.to_owned())
    }

    #[test]
    fn table_decides_without_reading() {
        let yes = [
            SearchKey::All,
            SearchKey::And(vec![]),
            SearchKey::Uids(vec![(Uid(1), Uid(3)), (Uid(7), Uid(7))]),
            SearchKey::Flags(FlagBits::SEEN),
            SearchKey::Keyword("$important".to_owned()),
            SearchKey::Not(Box::new(SearchKey::Keyword("$Junk".to_owned()))),
            SearchKey::Not(Box::new(SearchKey::Keyword("unknown".to_owned()))),
            SearchKey::Recent,
            SearchKey::Larger(999),
            SearchKey::Smaller(1_001),
            SearchKey::ModSeq(ModSeq(5)),
            SearchKey::Or(Box::new(SearchKey::Body("x".to_owned())), Box::new(SearchKey::All)),
        ];
        let no = [
            SearchKey::Uids(vec![]),
            SearchKey::Flags(FlagBits::DELETED),
            SearchKey::Larger(1_000),
            SearchKey::Smaller(1_000),
            SearchKey::ModSeq(ModSeq(6)),
            SearchKey::And(vec![SearchKey::Body("x".to_owned()), SearchKey::Larger(1_000)]),
        ];
        for key in yes {
            assert_eq!(verdicts(MESSAGE, &key), [Verdict::Yes; 3], "{key:?}");
        }
        for key in no {
            assert_eq!(verdicts(MESSAGE, &key), [Verdict::No; 3], "{key:?}");
        }
    }

    #[test]
    fn summary_decides_header_and_dates() {
        let day = 10_186;
        let cases = [
            (header("from", "JÖRG"), true),
            (header("FROM", "joerg@x"), true),
            (header("Subject", "hello world"), true),
            (header("Subject", "hello  world"), false),
            (header("X-Empty", ""), true),
            (header("X-Missing", ""), false),
            (header("Delivered-To", "ME@here"), true),
            (SearchKey::SentOn(day), true),
            (SearchKey::SentBefore(day), false),
            (SearchKey::SentSince(day), true),
            (SearchKey::InternalOn(day + 1), true),
            (SearchKey::InternalBefore(day + 1), false),
            (SearchKey::InternalSince(day + 2), false),
            (SearchKey::Text("boundary=b".to_owned()), true),
        ];
        for (key, want) in cases {
            let want = Verdict::from(want);
            assert_eq!(verdicts(MESSAGE, &key), [Verdict::NeedsSummary, want, want], "{key:?}");
        }
    }

    #[test]
    fn body_is_decoded_and_compared_without_case() {
        let cases = [
            ("grüße aus KÖLN", true),
            ("one two", true),
            ("<b>TW</b>", true),
            ("rechnung.pdf", true),
            ("secret", false),
            ("Hello World", false),
        ];
        for (text, want) in cases {
            let open = [Verdict::NeedsSummary, Verdict::NeedsBody, Verdict::from(want)];
            assert_eq!(verdicts(MESSAGE, &SearchKey::Body(text.to_owned())), open, "{text}");
        }
        let both = SearchKey::And(vec![SearchKey::Body("köln".to_owned()), header("subject", "hello")]);
        assert_eq!(verdicts(MESSAGE, &both), [Verdict::NeedsSummary, Verdict::NeedsBody, Verdict::Yes]);
        let neither = SearchKey::Not(Box::new(SearchKey::Text("hello".to_owned())));
        assert_eq!(verdicts(MESSAGE, &neither), [Verdict::NeedsSummary, Verdict::No, Verdict::No]);
    }

    #[test]
    fn a_header_too_long_for_the_summary_is_searched_in_the_body() {
        let long = format!("X-Long: {}\r\n{MESSAGE}", "x".repeat(70_000));
        let want = [Verdict::NeedsSummary, Verdict::NeedsBody, Verdict::Yes];
        assert_eq!(verdicts(&long, &header("subject", "hello")), want);
        assert_eq!(verdicts(&long, &SearchKey::Text("jörg".to_owned())), want);
    }

    #[test]
    fn a_message_without_a_date_was_sent_on_no_day() {
        for key in [SearchKey::SentBefore(99_999), SearchKey::SentOn(0), SearchKey::SentSince(0)] {
            assert_eq!(verdicts("Subject: x\r\n\r\n", &key)[1], Verdict::No);
        }
    }
}
