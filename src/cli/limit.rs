//! Limits on the command line: a number or a size, or `none`.

use serde_json::Value;

use crate::base::size::{MeasureError, parse_size_limit};

/// A limit; nothing means no limit, which is not the same as 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limit(Option<u64>);

/// As the daemon takes it: null for no limit.
impl From<Limit> for Value {
    fn from(limit: Limit) -> Self {
        limit.0.map_or(Self::Null, Self::from)
    }
}

/// A size, or `none`.
pub(super) fn size_limit(text: &str) -> Result<Limit, MeasureError> {
    parse_size_limit(text).map(Limit)
}

/// A count, or `none`.
pub(super) fn count_limit(text: &str) -> Result<Limit, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Limit(None));
    }
    let count = text.parse::<u64>().ok().filter(|count| i64::try_from(*count).is_ok());
    count
        .map(|count| Limit(Some(count)))
        .ok_or_else(|| format!("{text:?} is no count: expected a number, or none"))
}

/// A factor with at most two decimals, such as 1.5, in percent; or `none`.
pub(super) fn factor_limit(text: &str) -> Result<Limit, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Limit(None));
    }
    let wrong = || format!("{text:?} is no factor: expected a number such as 1 or 1.25, or none");
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) || decimals.len() > 2 {
        return Err(wrong());
    }
    let hundredths = format!("{whole}{decimals:0<2}").parse::<u64>().ok();
    hundredths
        .filter(|percent| i64::try_from(*percent).is_ok())
        .map(|percent| Limit(Some(percent)))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_hundredths() {
        for (text, percent) in
            [("1", 100), ("1.0", 100), ("1.5", 150), ("0.05", 5), ("12.34", 1_234), ("0", 0)]
        {
            assert_eq!(factor_limit(text), Ok(Limit(Some(percent))), "{text}");
        }
        assert_eq!(factor_limit("none"), Ok(Limit(None)));
        for text in ["", "1.", ".5", "1.234", "-1", "1,5", "1e3", "99999999999999999999"] {
            assert!(factor_limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn limits_know_none_from_nothing() {
        assert_eq!(count_limit("none"), Ok(Limit(None)));
        assert_eq!(count_limit("0"), Ok(Limit(Some(0))));
        assert_eq!(size_limit("1KiB"), Ok(Limit(Some(1024))));
        assert!(count_limit("-1").is_err());
        assert!(count_limit("18446744073709551615").is_err());
    }
}
