//! Messages to send: the real mail of the folder that `POSTHOUSE_TEST_CORPUS` names, or, without it, messages made
//! here that vary as much.

use std::path::{Path, PathBuf};

use super::Random;

/// A message as it is on the wire.
#[derive(Clone)]
pub struct Sample {
    /// Where it comes from, for the message of a failing test.
    pub name: String,
    /// Its octets; not all are fit for SMTP, see [`Sample::is_clean`].
    pub octets: Vec<u8>,
}

impl Sample {
    /// Whether it has no NUL and every CR and LF stands in a CRLF: what SMTP and LMTP must take.
    pub fn is_clean(&self) -> bool {
        let mut previous = 0;
        for &octet in &self.octets {
            if octet == 0 || (octet == b'\n') != (previous == b'\r') {
                return false;
            }
            previous = octet;
        }
        previous != b'\r'
    }

    /// Whether it has a NUL, which only BINARY (RFC 3516) could carry.
    pub fn has_nul(&self) -> bool {
        self.octets.contains(&0)
    }

    /// How many Received lines its header has.
    pub fn received_lines(&self) -> usize {
        let header = self.octets.split_inclusive(|&octet| octet == b'\n');
        let header = header.take_while(|line| !matches!(line, [b'\r', b'\n'] | [b'\n']));
        header.filter(|line| line.len() > 9 && line[..9].eq_ignore_ascii_case(b"received:")).count()
    }
}

/// Every message there is.
#[track_caller]
pub fn all() -> Vec<Sample> {
    let Some(folder) = folder() else { return generated() };
    let mut samples = Vec::new();
    for file in files(&folder) {
        let name = file.file_name().and_then(|name| name.to_str()).expect("file name").to_owned();
        let take: fn(&str, &[u8]) -> Vec<Sample> = match &name {
            name if name.ends_with(".mbox.zst") => mbox,
            name if name.ends_with(".tar.zst") => |_, content| tar(content),
            _ => continue,
        };
        let packed = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let content = zstd::decode_all(packed.as_slice()).unwrap_or_else(|error| panic!("{name}: {error}"));
        samples.extend(take(&name, &content));
    }
    assert!(!samples.is_empty(), "no .mbox.zst and no .tar.zst in {}", folder.display());
    samples
}

/// The messages that SMTP must take.
#[track_caller]
pub fn clean() -> Vec<Sample> {
    all().into_iter().filter(Sample::is_clean).collect()
}

fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("POSTHOUSE_TEST_CORPUS")?;
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(named))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("directory entry").path()).collect();
    files.sort();
    files
}

/// Takes an mboxrd mailbox with LF line ends apart.
fn mbox(name: &str, content: &[u8]) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    for line in content.split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b"From ") {
            let name = format!("{name}#{}", samples.len());
            samples.push(Sample { name, octets: Vec::new() });
            continue;
        }
        let Some(sample) = samples.last_mut() else { panic!("{name} does not start with a From line") };
        let unquoted = line.iter().position(|&octet| octet != b'>').unwrap_or(0);
        let is_quoted = unquoted > 0 && line[unquoted..].starts_with(b"From ");
        let line = if is_quoted { &line[1..] } else { line };
        let (line, has_end) = line.strip_suffix(b"\n").map_or((line, false), |line| (line, true));
        sample.octets.extend_from_slice(line);
        if has_end {
            sample.octets.extend_from_slice(b"\r\n");
        }
    }
    for sample in &mut samples {
        // The blank line that stands between two messages belongs to neither.
        assert!(sample.octets.ends_with(b"\r\n"), "{} has no end", sample.name);
        sample.octets.truncate(sample.octets.len() - 2);
    }
    samples
}

/// The regular files of a tar archive (POSIX ustar, names up to 255 octets).
fn tar(content: &[u8]) -> Vec<Sample> {
    const BLOCK: usize = 512;
    let text = |field: &[u8]| {
        let end = field.iter().position(|&octet| octet == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).trim().to_owned()
    };
    let mut samples = Vec::new();
    let mut rest = content;
    while rest.len() >= BLOCK && rest[0] != 0 {
        let (header, behind) = rest.split_at(BLOCK);
        let octets = usize::from_str_radix(&text(&header[124..136]), 8).expect("size in tar header");
        let is_file = matches!(header[156], b'0' | 0);
        assert!(matches!(header[156], b'0' | 0 | b'5'), "unexpected kind of entry in the archive");
        if is_file {
            let (prefix, name) = (text(&header[345..500]), text(&header[..100]));
            let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            samples.push(Sample { name, octets: behind[..octets].to_vec() });
        }
        rest = &behind[octets.next_multiple_of(BLOCK).min(behind.len())..];
    }
    samples
}

/// A message of about `octets` octets that compresses like mail does.
pub fn message(octets: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut text = format!(
        "From: Sender {seed} <sender{seed}@example.test>\r\nTo: Reader <reader@example.test>\r\n\
         Subject: Message number {seed}\r\nDate: Tue, 3 Nov 2026 10:20:30 +0000\r\n\
         Message-ID: <{seed}.{:x}@example.test>\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\r\n",
        random.next()
    )
    .into_bytes();
    const WORDS: [&str; 24] = [
        "meeting", "the", "of", "budget", "and", "report", "please", "Thursday", "review", "attached", "we",
        "will", "customer", "delivery", "to", "in", "question", "answer", "schedule", "for", "project",
        "regards", "draft", "number",
    ];
    let mut column = 0;
    while text.len() + 2 < octets {
        let word = if random.below(12) == 0 {
            format!("{:08x}", random.next() as u32)
        } else {
            WORDS[random.below(WORDS.len())].to_owned()
        };
        text.extend_from_slice(word.as_bytes());
        column += word.len() + 1;
        if column > 70 {
            text.extend_from_slice(b"\r\n");
            column = 0;
        } else {
            text.push(b' ');
        }
    }
    text.truncate(octets.saturating_sub(2));
    // A cut through a line end must not leave a bare CR.
    while text.ends_with(b"\r") {
        text.pop();
        text.push(b'.');
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// As [`message`], but its text cannot be compressed by more than a quarter.
pub fn dense_message(octets: usize, seed: u64) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut random = Random::new(seed);
    let mut text = message(600, seed);
    while text.len() + 78 < octets {
        for _ in 0..4 {
            let bits = random.next();
            text.extend((0..10).map(|digit| DIGITS[(bits >> (6 * digit)) as usize % 64]));
        }
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// Messages of every shape that matters to framing and parsing, when no corpus is there.
fn generated() -> Vec<Sample> {
    let mut samples = shapes();
    for seed in 0..200 {
        let octets = 400 + Random::new(seed).below(24_000);
        samples.push(Sample { name: format!("generated-{seed}"), octets: message(octets, seed) });
    }
    samples.push(Sample { name: "generated-large".into(), octets: message(3_000_000, 1_000) });
    samples
}

fn shapes() -> Vec<Sample> {
    let header = "From: a@example.test\r\nSubject: shape\r\n";
    let long = "x".repeat(20_000);
    let nested: String = (0..60)
        .map(|depth| format!("Content-Type: multipart/mixed; boundary=b{depth}\r\n\r\n--b{depth}\r\n"))
        .collect();
    let alternative = "MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=\"=_x\"\r\n\r\n\
        --=_x\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        Gr=FC=DFe\r\n--=_x\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Gr\u{fc}\u{df}e</p>\r\n--=_x--\r\n";
    let list = [
        ("dots", format!("{header}\r\n.\r\n..\r\n.hidden\r\n. \r\n")),
        ("empty-body", format!("{header}\r\n")),
        ("header-only", header.to_owned()),
        ("body-only", "\r\nno header at all\r\n".to_owned()),
        ("one-line", "hello\r\n".to_owned()),
        ("no-final-line-end", format!("{header}\r\nthe end")),
        ("long-line", format!("{header}\r\n{long}\r\n")),
        ("long-header", format!("{header}X-Long: {long}\r\n\r\nbody\r\n")),
        ("folded", "Subject: a\r\n folded\r\n\tsubject\r\n\r\nbody\r\n".to_owned()),
        ("eight-bit", format!("{header}\r\n\u{fc}\u{4e2d}\u{1f600}\r\n")),
        ("nested", format!("{header}{nested}\r\n")),
        ("alternative", format!("{header}{alternative}")),
        ("from-line", format!("{header}\r\nFrom here on\r\n>From there\r\n")),
        ("blank-lines", format!("{header}\r\n\r\n\r\n\r\n")),
        ("bare-lf", format!("{header}\r\nbare\nline feed\r\n")),
        ("bare-cr", format!("{header}\r\nbare\rreturn\r\n")),
        ("nul", format!("{header}\r\na\0b\r\n")),
        ("unix-lines", "Subject: unix\n\nline feeds only\n".to_owned()),
    ];
    let mut samples: Vec<Sample> = list
        .into_iter()
        .map(|(name, text)| Sample { name: name.to_owned(), octets: text.into_bytes() })
        .collect();
    let invalid = [header.as_bytes(), b"\r\n\xff\xfe\x80 not UTF-8\r\n"].concat();
    samples.push(Sample { name: "invalid-utf8".into(), octets: invalid });
    samples
}
