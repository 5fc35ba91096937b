//! Reads a folder of `*.mbox.zst` files (mboxrd, LF line ends) into messages as they were on the wire.

use std::io::{self, Read};
use std::path::Path;

/// Largest mailbox file that is read, after decompression.
const MBOX_OCTETS_MAX: u64 = 1 << 30;

/// One message.
pub struct Mail {
    /// Address in the From field, in lower case; what stands there if it is no address.
    pub sender: String,
    /// The message with CRLF line ends.
    pub octets: Vec<u8>,
}

/// All messages of all `*.mbox.zst` files in `folder`, files in the order of their names.
///
/// # Errors
/// When the folder or a file cannot be read or decompressed.
pub fn read(folder: &Path) -> io::Result<Vec<Mail>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(".mbox.zst") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut mails = Vec::new();
    for path in paths {
        let mut mbox = Vec::new();
        zstd::Decoder::new(std::fs::File::open(path)?)?.take(MBOX_OCTETS_MAX).read_to_end(&mut mbox)?;
        split(&mbox, &mut mails);
    }
    Ok(mails)
}

/// Takes an mboxrd apart: a line that starts with `From ` begins a message, `>From ` is a quoted such line,
/// and one blank line ends each message.
fn split(mbox: &[u8], mails: &mut Vec<Mail>) {
    let mut octets: Vec<u8> = Vec::new();
    let mut inside = false;
    for line in mbox.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b"From ") {
            finish(&mut octets, inside, mails);
            inside = true;
            continue;
        }
        let quotes = line.iter().take_while(|byte| **byte == b'>').count();
        let quoted = quotes > 0 && line.get(quotes..).is_some_and(|rest| rest.starts_with(b"From "));
        let line = if quoted { line.get(1..).unwrap_or_default() } else { line };
        match line.strip_suffix(b"\n") {
            Some(text) => {
                octets.extend_from_slice(text);
                octets.extend_from_slice(b"\r\n");
            }
            None => octets.extend_from_slice(line),
        }
    }
    finish(&mut octets, inside, mails);
}

/// Ends the message that was being collected.
fn finish(octets: &mut Vec<u8>, inside: bool, mails: &mut Vec<Mail>) {
    let mut octets = std::mem::take(octets);
    if octets.ends_with(b"\r\n\r\n") {
        octets.truncate(octets.len() - 2);
    }
    if inside {
        mails.push(Mail { sender: sender(&octets), octets });
    }
}

/// The header fields of a message, unfolded: name in lower case, value.
pub fn fields(octets: &[u8]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in octets.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = String::from_utf8_lossy(line);
        match (line.first(), text.split_once(':')) {
            (None, _) => break,
            (Some(b' ' | b'\t'), _) => {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(' ');
                    value.push_str(text.trim());
                }
            }
            (_, Some((name, value))) => {
                fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
            _ => {}
        }
    }
    fields
}

/// Who wrote a message.
fn sender(octets: &[u8]) -> String {
    let from = fields(octets).into_iter().find(|(name, _)| name == "from").map(|(_, value)| value);
    let from = from.unwrap_or_default().to_lowercase();
    let address = from.split([' ', '<', '>', '"', '(', ')', ',']).rfind(|word| word.contains('@'));
    address.unwrap_or(&from).to_owned()
}
