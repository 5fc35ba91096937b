//! Months, in UTC.

use std::fmt;
use std::str::FromStr;

use crate::service::error::ServiceError;
use crate::storage::metadata::metering::hour_start;

/// A month of a year.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::service) struct Month {
    year: i64,
    /// 1 to 12.
    month: i64,
}

impl Month {
    /// That in which an hour since 1970 lies.
    pub fn of_hour(hour: i64) -> Self {
        let date = hour_start(hour).utc();
        Self { year: i64::from(date.year()), month: i64::from(u8::from(date.month())) }
    }

    /// As it is kept: 202611.
    pub fn number(self) -> i64 {
        self.year * 100 + self.month
    }

    /// The opposite of [`Self::number`].
    pub fn of_number(number: i64) -> Self {
        Self { year: number.div_euclid(100), month: number.rem_euclid(100).clamp(1, 12) }
    }

    /// The next one.
    pub fn next(self) -> Self {
        match self.month {
            12.. => Self { year: self.year + 1, month: 1 },
            month => Self { month: month + 1, ..self },
        }
    }

    /// The one before.
    pub fn previous(self) -> Self {
        match self.month {
            ..=1 => Self { year: self.year - 1, month: 12 },
            month => Self { month: month - 1, ..self },
        }
    }

    /// Its first hour since 1970.
    pub fn first_hour(self) -> i64 {
        // Days from civil (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"), for the first of the month.
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let era = year.div_euclid(400);
        let year_of_era = year - era * 400;
        let day_of_year = (153 * ((self.month + 9) % 12) + 2) / 5;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        (era * 146_097 + day_of_era - 719_468) * 24
    }

    /// How many hours it has.
    pub fn hours(self) -> i64 {
        self.next().first_hour() - self.first_hour()
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Month {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        let wrong = || ServiceError::Invalid {
            field: "month",
            message: format!("expected a month such as 2026-11, got {text}"),
        };
        let (year, month) = text.split_once('-').ok_or_else(wrong)?;
        let number = |part: &str, length: usize| {
            let is_number = part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
            if is_number { part.parse::<i64>().ok() } else { None }
        };
        let (year, month) = number(year, 4).zip(number(month, 2)).ok_or_else(wrong)?;
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
            return Err(wrong());
        }
        Ok(Self { year, month })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_where_the_calendar_says() {
        for (text, secs) in [
            ("1970-01", 0),
            ("2000-02", 949_363_200),
            ("2000-03", 951_868_800),
            ("2026-11", 1_793_491_200),
            ("2027-01", 1_798_761_600),
        ] {
            let month: Month = text.parse().unwrap();
            assert_eq!(month.first_hour() * 3_600, secs, "{text}");
            assert_eq!(month.to_string(), text);
            assert_eq!(Month::of_hour(month.first_hour()), month);
            assert_eq!(Month::of_hour(month.first_hour() - 1), month.previous());
            assert_eq!(Month::of_number(month.number()), month);
        }
        let hours = |text: &str| text.parse::<Month>().unwrap().hours() / 24;
        assert_eq!(
            [hours("2026-02"), hours("2028-02"), hours("2100-02"), hours("2026-12")],
            [28, 29, 28, 31]
        );
        for text in ["", "2026", "2026-13", "2026-00", "26-01", "2026-1", "2026-+1", "12026-01"] {
            assert!(text.parse::<Month>().is_err(), "{text}");
        }
    }
}
