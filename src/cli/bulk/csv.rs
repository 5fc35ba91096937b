//! CSV (RFC 4180) with a bounded record, and the guard against fields that spreadsheets take for formulas.
//!
//! A field that begins with `=`, `+`, `-`, `@`, a tab or a carriage return, after any number of apostrophes, is
//! written with an apostrophe before it; reading takes exactly that one away.

use std::io::{BufRead, Write};

use csv_core::{ReadRecordResult, ReaderBuilder};

/// Longest record in octets: an alias with its 1,000 targets has room.
pub(super) const RECORD_OCTETS_MAX: usize = 512 * 1024;
/// Most fields of a record.
const FIELDS_MAX: usize = 256;

/// What stands before a formula.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// A record: the line where it begins, and its fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub line: u64,
    pub fields: Vec<Vec<u8>>,
}

/// A place in a file and what is wrong there; reading cannot go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Broken {
    pub line: u64,
    pub message: String,
}

/// Reads records.
pub(super) struct CsvReader<R> {
    source: R,
    core: csv_core::Reader,
    output: Vec<u8>,
    ends: Vec<usize>,
    is_begun: bool,
}

impl<R: BufRead> CsvReader<R> {
    pub(super) fn new(source: R) -> Self {
        let core = ReaderBuilder::new().build();
        Self { source, core, output: vec![0; RECORD_OCTETS_MAX], ends: vec![0; FIELDS_MAX], is_begun: false }
    }

    /// The next record, empty lines left out; nothing at the end.
    pub(super) fn record(&mut self) -> Result<Option<Record>, Broken> {
        self.skip_empty_lines()?;
        let line = self.core.line();
        let broken = |message: String| Broken { line, message };
        let (mut octets, mut fields) = (0, 0);
        // Whether the end of the file has been told as the end of a line.
        let mut is_closed = false;
        loop {
            let input = self.source.fill_buf().map_err(|error| broken(error.to_string()))?;
            let is_end = input.is_empty();
            if is_end && octets == 0 && fields == 0 && !is_closed && !self.is_begun {
                return Ok(None);
            }
            let input = if is_end && !is_closed { b"\n" } else { input };
            is_closed |= is_end;
            let output = self.output.get_mut(octets..).unwrap_or_default();
            let ends = self.ends.get_mut(fields..).unwrap_or_default();
            let (result, read, written, ended) = self.core.read_record(input, output, ends);
            if !is_end {
                self.source.consume(read);
            }
            self.is_begun |= read > 0;
            octets += written;
            fields += ended;
            match result {
                ReadRecordResult::Record => {
                    self.is_begun = false;
                    return Ok(Some(Record { line, fields: self.cut(octets, fields) }));
                }
                ReadRecordResult::InputEmpty if is_end => {
                    return Err(broken("a quoted field begins here and never ends".to_owned()));
                }
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => {
                    return Err(broken(format!("longer than {RECORD_OCTETS_MAX} octets")));
                }
                ReadRecordResult::OutputEndsFull => {
                    return Err(broken(format!("more than {FIELDS_MAX} fields")));
                }
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    /// Goes to the first octet of the next record, so that its line is known.
    fn skip_empty_lines(&mut self) -> Result<(), Broken> {
        loop {
            let line = self.core.line();
            let broken = |error: std::io::Error| Broken { line, message: error.to_string() };
            let input = self.source.fill_buf().map_err(broken)?;
            let empty = input.iter().take_while(|octet| matches!(octet, b'\r' | b'\n')).count();
            let lines = input.iter().take(empty).filter(|octet| **octet == b'\n').count() as u64;
            let is_over = empty < input.len() || input.is_empty();
            self.source.consume(empty);
            self.core.set_line(line + lines);
            if is_over {
                return Ok(());
            }
        }
    }

    fn cut(&self, octets: usize, fields: usize) -> Vec<Vec<u8>> {
        let mut begin = 0;
        let ends = self.ends.iter().take(fields);
        let cut = ends.map(|&end| {
            let field = self.output.get(begin..end.min(octets)).unwrap_or_default().to_vec();
            begin = end;
            field
        });
        cut.collect()
    }
}

/// Whether reading takes an apostrophe away, or writing puts one before it.
fn is_formula(text: &str) -> bool {
    text.trim_start_matches('\'').starts_with(FORMULA)
}

/// A field as it was before it was guarded.
pub(super) fn unguarded(text: &str) -> &str {
    match text.strip_prefix('\'') {
        Some(rest) if is_formula(rest) => rest,
        _ => text,
    }
}

/// Writes a record.
pub(super) fn write_record<'f>(
    out: &mut impl Write,
    fields: impl Iterator<Item = &'f str>,
) -> std::io::Result<()> {
    for (index, field) in fields.enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        let guarded = if is_formula(field) { format!("'{field}") } else { field.to_owned() };
        out.write_all(crate::cli::output::csv_quoted(&guarded).as_bytes())?;
    }
    out.write_all(b"\r\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8]) -> Result<Vec<(u64, Vec<String>)>, Broken> {
        // A small buffer, so that records lie across its ends.
        let mut reader = CsvReader::new(std::io::BufReader::with_capacity(3, text));
        let mut records = Vec::new();
        while let Some(Record { line, fields }) = reader.record()? {
            let texts = fields.iter().map(|field| String::from_utf8_lossy(field).into_owned());
            records.push((line, texts.collect()));
        }
        Ok(records)
    }

    fn strings(fields: &[&str]) -> Vec<String> {
        fields.iter().map(|field| (*field).to_owned()).collect()
    }

    #[test]
    fn records_are_read_with_their_lines() {
        let text = b"a,b\r\n\r\n1,\"x\ny\"\r\n\n\"say \"\"hi\"\"\",\n,last";
        let records = read(text).unwrap();
        let expected = [
            (1, strings(&["a", "b"])),
            (3, strings(&["1", "x\ny"])),
            (6, strings(&["say \"hi\"", ""])),
            (7, strings(&["", "last"])),
        ];
        assert_eq!(records, expected);
        assert!(read(b"").unwrap().is_empty() && read(b"\r\n\n").unwrap().is_empty());
        assert_eq!(read(b"a\n\"\"").unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_read_names_its_line() {
        assert_eq!(read(b"a,b\n1,\"open\n2,3\n").unwrap_err().line, 2);
        let long = [b"a,b\n".to_vec(), vec![b'x'; 10 << 20]].concat();
        let broken = read(&long).unwrap_err();
        assert_eq!((broken.line, broken.message.contains("longer than")), (2, true), "{broken:?}");
        let wide = [b"a\n".to_vec(), vec![b','; 300]].concat();
        assert!(read(&wide).unwrap_err().message.contains("fields"));
    }

    #[test]
    fn formulas_are_guarded_and_come_back() {
        let mut out = Vec::new();
        let fields = ["=1+1", "+1", "-1", "@x", "\tx", "'=1", "''+", "'quoted'", "a=b", "'"];
        write_record(&mut out, fields.iter().copied()).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "'=1+1,'+1,'-1,'@x,'\tx,''=1,'''+,'quoted',a=b,'\r\n");
    }

    proptest! {
        #[test]
        fn every_record_comes_back(fields in prop::collection::vec("['=+@\\-\",;a-c \t\r\né]{0,6}", 1..5)) {
            let mut out = Vec::new();
            write_record(&mut out, fields.iter().map(String::as_str)).unwrap();
            let records = read(&out).unwrap();
            prop_assert!(records.iter().flat_map(|(_, fields)| fields).all(|text| !text.starts_with(FORMULA)));
            // A record of one empty field is an empty line.
            if fields.iter().all(String::is_empty) && fields.len() == 1 {
                prop_assert!(records.is_empty());
            } else {
                let back: Vec<String> =
                    records.iter().flat_map(|(_, fields)| fields).map(|text| unguarded(text).to_owned()).collect();
                prop_assert_eq!((records.len(), back), (1, fields));
            }
        }
    }
}
