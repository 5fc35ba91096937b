//! Questions and answers on the wire (RFC 1035 section 4).

/// Longest name on the wire, in octets (RFC 1035 section 3.1).
const NAME_OCTETS_MAX: usize = 255;
/// Longest label, in octets.
const LABEL_OCTETS_MAX: usize = 63;
/// Pointers followed within one name; each must lead backwards.
const POINTERS_MAX: usize = 64;
/// Most records of an answer that are looked at.
const RECORDS_MAX: u16 = 256;
/// Most aliases followed within one answer.
const ALIASES_MAX: usize = 8;

/// Record types and the class.
const TYPE_CNAME: u16 = 5;
const TYPE_TXT: u16 = 16;
const CLASS_IN: u16 = 1;

/// Bits of the second word of the header.
const IS_RESPONSE: u16 = 0x8000;
const IS_TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const OPCODE: u16 = 0x7800;
const RCODE: u16 = 0x000f;

/// Response codes that are understood.
const NO_ERROR: u16 = 0;
const NAME_ERROR: u16 = 3;

/// Why octets are no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MessageError {
    /// It is an answer to something else, or none.
    #[error("not the answer to this question")]
    Other,
    /// It is cut off or contradicts itself.
    #[error("a malformed answer")]
    Malformed,
}

/// What an answer says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The texts at the name, the strings of each record joined; none if there are none.
    Texts(Vec<Vec<u8>>),
    /// It goes on at another name.
    Alias(String),
    /// It did not fit; ask over TCP.
    Truncated,
    /// The server could not answer: the response code (RFC 1035 section 4.1.1).
    Failed(u16),
}

/// The question for the TXT records of `name`; nothing when that can be no name in the DNS.
pub fn query(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(12 + NAME_OCTETS_MAX + 4);
    for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    let head = message.len();
    for label in name.trim_end_matches('.').split('.') {
        let octets = u8::try_from(label.len()).ok().filter(|&octets| octets > 0)?;
        if usize::from(octets) > LABEL_OCTETS_MAX {
            return None;
        }
        message.push(octets);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    if message.len() - head > NAME_OCTETS_MAX {
        return None;
    }
    message.extend_from_slice(&TYPE_TXT.to_be_bytes());
    message.extend_from_slice(&CLASS_IN.to_be_bytes());
    Some(message)
}

/// Understands the answer to [`query`] with the same `id` and `name`.
///
/// # Errors
/// See [`MessageError`].
pub fn parse(message: &[u8], id: u16, name: &str) -> Result<Answer, MessageError> {
    let mut reader = Reader { message, at: 0 };
    let header = [reader.word(), reader.word(), reader.word(), reader.word(), reader.word(), reader.word()];
    let [Ok(answered), Ok(flags), Ok(questions), Ok(answers), Ok(_), Ok(_)] = header else {
        return Err(MessageError::Other);
    };
    if answered != id || flags & IS_RESPONSE == 0 || flags & OPCODE != 0 {
        return Err(MessageError::Other);
    }
    let asked = name.trim_end_matches('.').to_ascii_lowercase();
    let code = flags & RCODE;
    if questions == 0 && code != NO_ERROR {
        // Some servers leave the question out when they refuse.
        return Ok(Answer::Failed(code));
    }
    if questions != 1 || reader.name()? != asked || reader.word()? != TYPE_TXT || reader.word()? != CLASS_IN {
        return Err(MessageError::Other);
    }
    if flags & IS_TRUNCATED != 0 {
        return Ok(Answer::Truncated);
    }
    if code != NO_ERROR && code != NAME_ERROR {
        return Ok(Answer::Failed(code));
    }
    let (mut aliases, mut texts) = (Vec::new(), Vec::new());
    for _ in 0..answers.min(RECORDS_MAX) {
        let owner = reader.name()?;
        let (kind, class) = (reader.word()?, reader.word()?);
        reader.skip(4)?;
        let length = usize::from(reader.word()?);
        let end = reader.at + length;
        if end > message.len() {
            return Err(MessageError::Malformed);
        }
        match (class, kind) {
            (CLASS_IN, TYPE_CNAME) => aliases.push((owner, reader.name()?)),
            (CLASS_IN, TYPE_TXT) => texts.push((owner, reader.text(end)?)),
            _ => reader.at = end,
        }
        if reader.at != end {
            return Err(MessageError::Malformed);
        }
    }
    Ok(follow(asked, &aliases, texts))
}

/// What stands at the end of the aliases.
fn follow(asked: String, aliases: &[(String, String)], texts: Vec<(String, Vec<u8>)>) -> Answer {
    let mut name = asked.clone();
    for _ in 0..ALIASES_MAX {
        match aliases.iter().find(|(owner, _)| *owner == name) {
            Some((_, to)) => name.clone_from(to),
            None => break,
        }
    }
    let found: Vec<Vec<u8>> =
        texts.into_iter().filter(|(owner, _)| *owner == name).map(|(_, text)| text).collect();
    if found.is_empty() && name != asked { Answer::Alias(name) } else { Answer::Texts(found) }
}

struct Reader<'m> {
    message: &'m [u8],
    at: usize,
}

impl Reader<'_> {
    fn octet(&mut self) -> Result<u8, MessageError> {
        let octet = self.message.get(self.at).copied().ok_or(MessageError::Malformed)?;
        self.at += 1;
        Ok(octet)
    }

    fn word(&mut self) -> Result<u16, MessageError> {
        Ok(u16::from_be_bytes([self.octet()?, self.octet()?]))
    }

    fn skip(&mut self, octets: usize) -> Result<(), MessageError> {
        self.at += octets;
        if self.at > self.message.len() { Err(MessageError::Malformed) } else { Ok(()) }
    }

    /// A name in lower case, its labels joined by dots. Labels that are no plain text make it one that nothing is
    /// called.
    fn name(&mut self) -> Result<String, MessageError> {
        let (mut name, mut octets, mut pointers) = (String::new(), 0, 0);
        let (mut at, mut end) = (self.at, None);
        loop {
            let length = self.message.get(at).copied().ok_or(MessageError::Malformed)?;
            match length >> 6 {
                0 if length == 0 => {
                    self.at = end.unwrap_or(at + 1);
                    return Ok(name);
                }
                0 => {
                    let from = at + 1;
                    let label = self.message.get(from..from + usize::from(length));
                    let label = label.ok_or(MessageError::Malformed)?;
                    octets += label.len() + 1;
                    if octets > NAME_OCTETS_MAX {
                        return Err(MessageError::Malformed);
                    }
                    if !name.is_empty() {
                        name.push('.');
                    }
                    for &octet in label {
                        let plain = octet.is_ascii_graphic() && octet != b'.';
                        name.push(if plain { char::from(octet.to_ascii_lowercase()) } else { ' ' });
                    }
                    at = from + label.len();
                }
                3 => {
                    let low = self.message.get(at + 1).copied().ok_or(MessageError::Malformed)?;
                    let to = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                    pointers += 1;
                    if to >= at || pointers > POINTERS_MAX {
                        return Err(MessageError::Malformed);
                    }
                    end = end.or(Some(at + 2));
                    at = to;
                }
                _ => return Err(MessageError::Malformed),
            }
        }
    }

    /// The strings of a TXT record that ends at `end`, joined.
    fn text(&mut self, end: usize) -> Result<Vec<u8>, MessageError> {
        let mut text = Vec::new();
        while self.at < end {
            let from = self.at + 1;
            let to = from + usize::from(self.octet()?);
            if to > end {
                return Err(MessageError::Malformed);
            }
            text.extend_from_slice(self.message.get(from..to).ok_or(MessageError::Malformed)?);
            self.at = to;
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "_posthouse.a.example";

    /// An answer to the question for [`NAME`] with these records: name, type and data.
    fn answer(flags: u16, records: &[(&[u8], u16, Vec<u8>)]) -> Vec<u8> {
        let mut message = query(7, NAME).unwrap();
        message[2..4].copy_from_slice(&(IS_RESPONSE | flags).to_be_bytes());
        message[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        for (name, kind, data) in records {
            message.extend_from_slice(name);
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
            message.extend_from_slice(&(data.len() as u16).to_be_bytes());
            message.extend_from_slice(data);
        }
        message
    }

    /// A pointer to the name in the question.
    const ASKED: &[u8] = &[0xc0, 12];
    const OTHER: &[u8] = b"\x05other\x07example\x00";

    fn strings(texts: &[&str]) -> Vec<u8> {
        texts.iter().flat_map(|text| [&[text.len() as u8], text.as_bytes()].concat()).collect()
    }

    #[test]
    fn strings_of_a_record_are_joined_and_records_are_not() {
        let message = answer(
            0,
            &[
                (ASKED, 16, strings(&["one", "two"])),
                (ASKED, 1, vec![127, 0, 0, 1]),
                (ASKED, 16, strings(&[""])),
            ],
        );
        let expected = Answer::Texts(vec![b"onetwo".to_vec(), Vec::new()]);
        assert_eq!(parse(&message, 7, "_POSTHOUSE.a.example."), Ok(expected));
    }

    #[test]
    fn aliases_are_followed_to_what_stands_there() {
        let inside = answer(0, &[(ASKED, 5, OTHER.to_vec()), (OTHER, 16, strings(&["x"]))]);
        assert_eq!(parse(&inside, 7, NAME), Ok(Answer::Texts(vec![b"x".to_vec()])));
        let outside = answer(0, &[(ASKED, 5, OTHER.to_vec())]);
        assert_eq!(parse(&outside, 7, NAME), Ok(Answer::Alias("other.example".to_owned())));
        // What stands at a name that nobody asked for counts for nothing.
        let stray = answer(0, &[(OTHER, 16, strings(&["x"]))]);
        assert_eq!(parse(&stray, 7, NAME), Ok(Answer::Texts(Vec::new())));
        let mut to_itself = ASKED.to_vec();
        to_itself.truncate(2);
        let circle = answer(0, &[(ASKED, 5, to_itself)]);
        assert_eq!(parse(&circle, 7, NAME), Ok(Answer::Texts(Vec::new())));
    }

    #[test]
    fn refusals_and_truncation_are_told_apart() {
        assert_eq!(parse(&answer(3, &[]), 7, NAME), Ok(Answer::Texts(Vec::new())));
        assert_eq!(parse(&answer(2, &[]), 7, NAME), Ok(Answer::Failed(2)));
        assert_eq!(parse(&answer(IS_TRUNCATED, &[]), 7, NAME), Ok(Answer::Truncated));
        assert_eq!(parse(&answer(0, &[]), 8, NAME), Err(MessageError::Other));
        assert_eq!(parse(&answer(0, &[]), 7, "b.example"), Err(MessageError::Other));
        assert_eq!(parse(&query(7, NAME).unwrap(), 7, NAME), Err(MessageError::Other));
    }

    #[test]
    fn damage_is_told() {
        let whole = answer(0, &[(ASKED, 16, strings(&["one", "two"]))]);
        for length in 0..whole.len() {
            assert!(parse(&whole[..length], 7, NAME).is_err(), "cut to {length}");
        }
        // A string beyond its record, a pointer forwards, one to itself.
        assert_eq!(parse(&answer(0, &[(ASKED, 16, vec![9, b'x'])]), 7, NAME), Err(MessageError::Malformed));
        assert_eq!(parse(&answer(0, &[(&[0xc0, 200], 16, vec![])]), 7, NAME), Err(MessageError::Malformed));
        assert_eq!(parse(&answer(0, &[(&[0xc0, 38], 16, vec![])]), 7, NAME), Err(MessageError::Malformed));
        assert_eq!(parse(&answer(0, &[(&[0x80, 1], 16, vec![])]), 7, NAME), Err(MessageError::Malformed));
    }

    #[test]
    fn names_beyond_the_bounds_cannot_be_asked_for() {
        assert!(query(1, &format!("{}.example", "x".repeat(63))).is_some());
        assert!(query(1, &format!("{}.example", "x".repeat(64))).is_none());
        assert!(query(1, &vec!["x".repeat(63); 4].join(".")).is_none());
        assert!(query(1, "a..b").is_none());
    }
}
