//! Sizes and spans of time as people write them: `500MiB`, `2GiB`, `1GB`, `90d`, `6h`.

use std::time::Duration;

/// Units of size, the longest spelling of each first; the binary ones are also what is shown.
const SIZE_UNITS: [(&str, u64); 12] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
    ("T", 1 << 40),
    ("G", 1 << 30),
    ("M", 1 << 20),
];

/// Units of time, in seconds.
const TIME_UNITS: [(&str, u64); 5] = [("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// A text that is no size or no span of time.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MeasureError {
    /// No size.
    #[error("{0:?} is no size: expected a number of bytes or one with a unit, such as 500MiB, 2GiB or 1GB")]
    Size(String),
    /// No span of time.
    #[error("{0:?} is no span of time: expected a number with a unit, such as 30s, 15m, 6h, 2d or 1w")]
    Time(String),
}

/// Reads a size in octets: plain bytes, or a number with up to three decimals and a unit. `KiB` to `TiB` are powers
/// of 1,024 (as are `M`, `G` and `T`), `KB` to `TB` powers of 1,000.
///
/// # Errors
/// When the text is no size, or one above 2^63 - 1 octets.
pub fn parse_size(text: &str) -> Result<u64, MeasureError> {
    let error = || MeasureError::Size(text.to_owned());
    let (number, unit) = split(text).ok_or_else(error)?;
    let factor = match unit {
        "" => 1,
        unit => SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(error)?.1,
    };
    let octets = multiply(number, factor).ok_or_else(error)?;
    // The databases count in signed integers.
    if i64::try_from(octets).is_err() { Err(error()) } else { Ok(octets) }
}

/// Reads a limit in octets: a size, or `none` for no limit.
///
/// # Errors
/// As [`parse_size`].
pub fn parse_size_limit(text: &str) -> Result<Option<u64>, MeasureError> {
    if text.eq_ignore_ascii_case("none") { Ok(None) } else { parse_size(text).map(Some) }
}

/// Reads a span of time: a whole number with `s`, `m`, `h`, `d` or `w`.
///
/// # Errors
/// When the text is no span of time.
pub fn parse_duration(text: &str) -> Result<Duration, MeasureError> {
    let error = || MeasureError::Time(text.to_owned());
    let (number, unit) = split(text).ok_or_else(error)?;
    let factor = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?.1;
    let number: u64 = number.parse().map_err(|_| error())?;
    Ok(Duration::from_secs(number.checked_mul(factor).ok_or_else(error)?))
}

/// A size for people: the largest binary unit of which there is at least one, with one decimal where it tells
/// something.
pub fn format_size(octets: u64) -> String {
    let unit = SIZE_UNITS.iter().take(4).find(|(_, factor)| octets >= *factor);
    let Some((name, factor)) = unit else { return format!("{octets} B") };
    let tenths = u128::from(octets) * 10 / u128::from(*factor);
    let (whole, tenth) = (tenths / 10, tenths % 10);
    if tenth == 0 || whole >= 100 { format!("{whole} {name}") } else { format!("{whole}.{tenth} {name}") }
}

/// The number and the unit behind it, which may be empty.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    (!number.is_empty()).then_some((number, unit.trim_start()))
}

/// `number` with up to three decimals, times `factor`, rounded down; none when it does not fit.
fn multiply(number: &str, factor: u64) -> Option<u64> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if decimals.is_empty() || decimals.len() > 3 || (factor == 1 && number.contains('.')) {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let scale = 10_u128.pow(u32::try_from(decimals.len()).ok()?);
    let decimals: u128 = decimals.parse().ok()?;
    let factor = u128::from(factor);
    let octets = whole.checked_mul(factor)?.checked_add(decimals * factor / scale)?;
    u64::try_from(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        for (text, octets) in [
            ("0", 0),
            ("1024", 1024),
            ("500MiB", 500 << 20),
            ("2GiB", 2 << 30),
            ("2 GiB", 2 << 30),
            ("1GB", 1_000_000_000),
            ("1.5g", 3 << 29),
            ("7B", 7),
            ("1kib", 1024),
            ("9223372036854775807", 9_223_372_036_854_775_807),
        ] {
            assert_eq!(parse_size(text), Ok(octets), "{text}");
        }
        let wrong = [
            "",
            "-1",
            "MiB",
            "1.5",
            "1.GiB",
            "1.2345GiB",
            "5 apples",
            "1e6",
            "9223372036854775808",
            "8388608TiB",
        ];
        for wrong in wrong {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_size_limit("none"), Ok(None));
        assert_eq!(parse_size_limit("0"), Ok(Some(0)), "nothing is not the same as no limit");
    }

    #[test]
    fn sizes_are_shown_short() {
        for (octets, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023 KiB"),
            (500 << 20, "500 MiB"),
            (2 << 30, "2 GiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(format_size(octets), text);
        }
    }

    #[test]
    fn spans_of_time_need_a_unit() {
        assert_eq!(parse_duration("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "2", "d", "2 years", "1.5h", "-1d", "99999999999999999999w", "9999999999999999w"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }
}
