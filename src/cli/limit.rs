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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_know_none_from_nothing() {
        assert_eq!(count_limit("none"), Ok(Limit(None)));
        assert_eq!(count_limit("0"), Ok(Limit(Some(0))));
        assert_eq!(size_limit("1KiB"), Ok(Limit(Some(1024))));
        assert!(count_limit("-1").is_err());
        assert!(count_limit("18446744073709551615").is_err());
    }
}
