//! The Date field (RFC 5322 section 3.3), read with the tolerance that real mail needs.

use time::{Date, Month};

/// Days from the first day of the proleptic Julian period to 1970-01-01.
const JULIAN_DAY_1970: i32 = 2_440_588;

/// Reads a date: seconds since 1970 and the day it names in its own time zone, in days since 1970. Accepts the
/// order of `asctime` too, two-digit years (RFC 5322 section 4.3), and a missing time or zone.
pub fn parse(value: &[u8]) -> Option<(i64, i32)> {
    let mut fields = DateFields::default();
    // A date has fewer words than this, the rest can only be comments.
    for word in value
        .split(|octet| matches!(octet, b' ' | b'\t' | b'\r' | b'\n' | b',' | b'(' | b')'))
        .filter(|word| !word.is_empty())
        .take(12)
    {
        let Ok(word) = std::str::from_utf8(word) else { continue };
        fields.take(word);
    }
    fields.moment()
}

#[derive(Default)]
struct DateFields {
    day: Option<u8>,
    month: Option<Month>,
    year: Option<i32>,
    time: Option<(i64, i64, i64)>,
    zone_secs: Option<i64>,
}

impl DateFields {
    fn take(&mut self, word: &str) {
        if self.time.is_none() && word.contains(':') {
            self.time = clock_time(word);
        } else if self.time.is_some() && self.zone_secs.is_none() && zone_secs(word).is_some() {
            self.zone_secs = zone_secs(word);
        } else {
            for piece in word.split('-').filter(|piece| !piece.is_empty()) {
                self.take_day_part(piece);
            }
        }
    }

    fn take_day_part(&mut self, piece: &str) {
        if let Ok(number) = piece.parse::<u16>() {
            match (self.day, self.year) {
                (None, _) if (1..=31).contains(&number) && piece.len() <= 2 => {
                    self.day = u8::try_from(number).ok()
                }
                (_, None) => self.year = Some(full_year(number, piece.len())),
                _ => {}
            }
        } else if self.month.is_none() {
            self.month = month(piece);
        }
    }

    fn moment(&self) -> Option<(i64, i32)> {
        let date = Date::from_calendar_date(self.year?, self.month?, self.day?).ok()?;
        let day = date.to_julian_day() - JULIAN_DAY_1970;
        let (hour, minute, second) = self.time.unwrap_or_default();
        let secs = i64::from(day) * 86_400 + hour * 3_600 + minute * 60 + second;
        Some((secs - self.zone_secs.unwrap_or_default(), day))
    }
}

fn full_year(number: u16, digits: usize) -> i32 {
    match (digits, number) {
        (..=2, ..50) => i32::from(number) + 2_000,
        (..=3, _) => i32::from(number) + 1_900,
        _ => i32::from(number),
    }
}

fn clock_time(word: &str) -> Option<(i64, i64, i64)> {
    let mut numbers = word.split(':').map(|number| number.parse::<i64>().ok());
    let (hour, minute) = (numbers.next()??, numbers.next()??);
    let second = numbers.next().flatten().unwrap_or_default();
    ((0..24).contains(&hour) && (0..60).contains(&minute) && (0..=60).contains(&second))
        .then_some((hour, minute, second))
}

/// Seconds that a zone is ahead of UTC; the letters of RFC 822 section 5 mean what they were meant to.
fn zone_secs(word: &str) -> Option<i64> {
    let hours = match word.to_ascii_uppercase().as_str() {
        "GMT" | "UT" | "UTC" | "Z" => 0,
        "EDT" => -4,
        "EST" | "CDT" => -5,
        "CST" | "MDT" => -6,
        "MST" | "PDT" => -7,
        "PST" => -8,
        _ => {
            let (sign, digits) = match (word.strip_prefix('+'), word.strip_prefix('-')) {
                (Some(digits), _) => (1, digits),
                (_, Some(digits)) => (-1, digits),
                _ => return None,
            };
            let number: i64 = (digits.len() == 4).then(|| digits.parse().ok())??;
            return Some(sign * (number / 100 * 3_600 + number % 100 * 60));
        }
    };
    Some(hours * 3_600)
}

fn month(word: &str) -> Option<Month> {
    const NAMES: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let prefix = word.get(..3)?;
    let index = NAMES.iter().position(|name| prefix.eq_ignore_ascii_case(name))?;
    Month::try_from(u8::try_from(index + 1).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_real_mail() {
        let cases: [(&str, Option<(i64, i32)>); 12] = [
            ("Fri, 21 Nov 1997 09:55:06 -0600", Some((880_127_706, 10_186))),
            ("21 Nov 97 15:55:06 GMT", Some((880_127_706, 10_186))),
            ("Fri Nov 21 09:55:06 CST 1997", Some((880_127_706, 10_186))),
            ("Fri Nov 21 15:55:06 1997", Some((880_127_706, 10_186))),
            ("Fri, 21-Nov-1997 15:55 +0000 (UTC)", Some((880_127_700, 10_186))),
            ("1 Jan 1970 00:30:00 +0100", Some((-1_800, 0))),
            ("31 Dec 1969 23:30:00 -0100", Some((1_800, -1))),
            ("Thu, 1 Jan 1970", Some((0, 0))),
            ("Sat, 29 Feb 2001 00:00:00 +0000", None),
            ("Tue, 1 Jan 104 00:00:00 +0000", Some((1_072_915_200, 12_418))),
            ("", None),
            ("yesterday", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text.as_bytes()), want, "{text}");
        }
    }
}
