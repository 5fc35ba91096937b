//! Values that several commands share: flags, dates, lists.

use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset};

use crate::base::clock::Timestamp;
use crate::imap::lexer::{Lexer, Result, SyntaxError, is_atom_char};
use crate::service::mailstore::search::Day;
use crate::service::mailstore::types::{FlagBits, FlagSet};

/// Most flags named in one command.
const FLAGS_MAX: usize = 100;
/// Longest keyword in octets.
pub const KEYWORD_OCTETS_MAX: usize = 100;

/// Reads `(item item …)`, possibly empty, at most `items_max` items.
pub fn list<T>(
    lexer: &mut Lexer,
    items_max: usize,
    mut item: impl FnMut(&mut Lexer) -> Result<T>,
) -> Result<Vec<T>> {
    lexer.expect(b'(')?;
    let mut items = Vec::new();
    while !lexer.accept(b')') {
        if items.len() == items_max {
            return Err(SyntaxError(format!("expected at most {items_max} items in a list")));
        }
        if !items.is_empty() {
            lexer.space()?;
        }
        items.push(item(lexer)?);
    }
    Ok(items)
}

/// Flags for STORE: a parenthesized list, or bare flags.
pub fn flags(lexer: &mut Lexer) -> Result<FlagSet> {
    if lexer.peek() == Some(b'(') {
        return flag_list(lexer);
    }
    let mut set = FlagSet::default();
    for _ in 0..FLAGS_MAX {
        flag(lexer, &mut set)?;
        if !lexer.accept(b' ') {
            return Ok(set);
        }
    }
    Err(SyntaxError("too many flags".to_owned()))
}

/// A parenthesized list of flags.
pub fn flag_list(lexer: &mut Lexer) -> Result<FlagSet> {
    let mut set = FlagSet::default();
    list(lexer, FLAGS_MAX, |lexer| flag(lexer, &mut set))?;
    Ok(set)
}

fn flag(lexer: &mut Lexer, set: &mut FlagSet) -> Result<()> {
    if lexer.accept(b'\\') {
        let bit = match lexer.keyword("a flag")?.as_str() {
            "SEEN" => FlagBits::SEEN,
            "ANSWERED" => FlagBits::ANSWERED,
            "FLAGGED" => FlagBits::FLAGGED,
            "DELETED" => FlagBits::DELETED,
            "DRAFT" => FlagBits::DRAFT,
            "RECENT" => return Err(SyntaxError("\\Recent cannot be changed".to_owned())),
            _ => return Err(SyntaxError("unknown system flag".to_owned())),
        };
        set.system = FlagBits(set.system.0 | bit.0);
        return Ok(());
    }
    let name = keyword(lexer)?;
    if !set.keywords.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
        set.keywords.push(name);
    }
    Ok(())
}

/// A keyword: an atom.
pub fn keyword(lexer: &mut Lexer) -> Result<String> {
    let name = lexer.take_while(is_atom_char);
    if name.is_empty() || name.len() > KEYWORD_OCTETS_MAX {
        return Err(SyntaxError::expected("a flag or keyword"));
    }
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// `date`: `1-Feb-1994`, quoted or not.
pub fn date(lexer: &mut Lexer) -> Result<Day> {
    let quoted = lexer.accept(b'"');
    let (day, month, year) = day_month_year(lexer)?;
    if quoted {
        lexer.expect(b'"')?;
    }
    let date =
        Date::from_calendar_date(year, month, day).map_err(|_| SyntaxError::expected("a real date"))?;
    Ok(date.to_julian_day() - OffsetDateTime::UNIX_EPOCH.to_julian_day())
}

fn day_month_year(lexer: &mut Lexer) -> Result<(u8, Month, i32)> {
    let day = u8::try_from(lexer.number()?).map_err(|_| SyntaxError::expected("a day"))?;
    lexer.expect(b'-')?;
    let name = lexer.take_while(|octet| octet.is_ascii_alphabetic());
    let month = match name.to_ascii_lowercase().as_slice() {
        b"jan" => Month::January,
        b"feb" => Month::February,
        b"mar" => Month::March,
        b"apr" => Month::April,
        b"may" => Month::May,
        b"jun" => Month::June,
        b"jul" => Month::July,
        b"aug" => Month::August,
        b"sep" => Month::September,
        b"oct" => Month::October,
        b"nov" => Month::November,
        b"dec" => Month::December,
        _ => return Err(SyntaxError::expected("a month such as Feb")),
    };
    lexer.expect(b'-')?;
    let year = digits(lexer, 4)?;
    Ok((day, month, i32::try_from(year).unwrap_or_default()))
}

fn digits(lexer: &mut Lexer, count: usize) -> Result<u32> {
    let before = lexer.rest().len();
    let number = lexer.number()?;
    if before - lexer.rest().len() == count {
        Ok(number)
    } else {
        Err(SyntaxError(format!("expected {count} digits")))
    }
}

/// `date-time`: `"17-Jul-1996 02:44:25 -0700"`, the day with a leading space or zero.
pub fn date_time(lexer: &mut Lexer) -> Result<Timestamp> {
    let error = |_| SyntaxError::expected("a real date and time");
    lexer.expect(b'"')?;
    lexer.accept(b' ');
    let (day, month, year) = day_month_year(lexer)?;
    lexer.space()?;
    let hour = digits(lexer, 2)?;
    lexer.expect(b':')?;
    let minute = digits(lexer, 2)?;
    lexer.expect(b':')?;
    let second = digits(lexer, 2)?;
    lexer.space()?;
    let negative = lexer.accept(b'-');
    if !negative {
        lexer.expect(b'+')?;
    }
    let zone = digits(lexer, 4)?;
    lexer.expect(b'"')?;
    let octet = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    let date = Date::from_calendar_date(year, month, day).map_err(error)?;
    // A leap second is taken as the second before it.
    let time =
        Time::from_hms(octet(hour), octet(minute), octet(second.min(if second == 60 { 59 } else { second })))
            .map_err(error)?;
    let secs = i32::try_from(zone / 100 * 3600 + zone % 100 * 60).unwrap_or(i32::MAX);
    let offset = UtcOffset::from_whole_seconds(if negative { -secs } else { secs }).map_err(error)?;
    Ok(Timestamp::from_secs(PrimitiveDateTime::new(date, time).assume_offset(offset).unix_timestamp()))
}
