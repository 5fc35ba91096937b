//! Time as people keep it: time zones, hours of the day, and weekly windows in them.
//!
//! A window is compared with the clock on the wall: an hour that a change to summer time leaves out does not occur, and
//! one that comes twice counts both times.

use std::fmt;

use jiff::tz::TimeZone;

use super::clock::Timestamp;

/// Longest name of a time zone in octets; the longest in use has 30.
const ZONE_OCTETS_MAX: usize = 64;
/// Minutes of a day.
const DAY_MINUTES: u16 = 24 * 60;
/// Most windows of a schedule.
const WINDOWS_MAX: usize = 50;
/// Longest text of a schedule in octets.
const SCHEDULE_OCTETS_MAX: usize = 1_000;
/// Names of the weekdays, as in mail (RFC 5322 section 3.3).
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// Why a text is no time zone, time of day or schedule; says what was expected.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct CivilError(String);

fn wrong<T>(text: impl Into<String>) -> Result<T, CivilError> {
    Err(CivilError(text.into()))
}

/// A time zone of the IANA database: the system's if it has one, else the one that was built in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone(TimeZone);

/// A moment as the clock on the wall shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WallTime {
    /// 0 is Monday.
    pub weekday: u8,
    /// Minutes since midnight, by the clock.
    pub minute: u16,
}

impl Zone {
    /// UTC.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The zone of this name, such as `Europe/Vienna`; case does not matter.
    ///
    /// # Errors
    /// When the database has none of this name.
    pub fn named(name: &str) -> Result<Self, CivilError> {
        let unknown =
            || CivilError(format!("{name:?} is no time zone: expected a name such as Europe/Vienna"));
        let clean = !name.is_empty()
            && name.len() <= ZONE_OCTETS_MAX
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'+'));
        if !clean {
            return Err(unknown());
        }
        let zone = TimeZone::get(name).map_err(|_| unknown())?;
        zone.iana_name().ok_or_else(unknown)?;
        Ok(Self(zone))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// What the clock on the wall shows then.
    pub fn wall_time(&self, at: Timestamp) -> WallTime {
        // Outside of the years -9999 to 9999 there are no windows to speak of.
        let moment = jiff::Timestamp::from_microsecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let shown = self.0.to_datetime(moment);
        let number = |value: i8| u16::try_from(value).unwrap_or_default();
        let minute = number(shown.hour()) * 60 + number(shown.minute());
        let weekday = u8::try_from(shown.weekday().to_monday_zero_offset()).unwrap_or_default();
        WallTime { weekday, minute }
    }
}

/// Hours of the day from a minute until another, over midnight if the end comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hours {
    from: u16,
    until: u16,
}

impl Hours {
    /// Reads `22:00-07:00`; 24:00 is the end of the day.
    ///
    /// # Errors
    /// When it is something else, or both times are the same.
    pub fn parse(text: &str) -> Result<Self, CivilError> {
        let parts = text.split_once('-').and_then(|(from, until)| Some((minute(from)?, minute(until)?)));
        match parts {
            Some((from, until)) if from != until && from < DAY_MINUTES => Ok(Self { from, until }),
            _ => wrong(format!("{text:?}: expected hours such as 22:00-07:00")),
        }
    }

    /// Whether the hours of a day cover this minute of the same day, or of the day after.
    fn covers(self, minute: u16, is_next_day: bool) -> bool {
        match (self.from < self.until, is_next_day) {
            (true, false) => self.from <= minute && minute < self.until,
            (true, true) => false,
            (false, false) => self.from <= minute,
            (false, true) => minute < self.until,
        }
    }

    /// Whether the clock shows one of these hours.
    pub fn contains(self, wall: WallTime) -> bool {
        self.covers(wall.minute, false) || self.covers(wall.minute, true)
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, until } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

/// Minutes since midnight of `HH:MM`, up to 24:00.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let two_digits = |part: &str| {
        let fits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        fits.then(|| part.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= DAY_MINUTES).then_some(minute)
}

/// Days of the week with hours. Hours over midnight belong to the day on which they begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Window {
    first_day: u8,
    last_day: u8,
    hours: Hours,
}

impl Window {
    fn parse(text: &str) -> Result<Self, CivilError> {
        let expected =
            || CivilError(format!("{text:?}: expected days and hours such as Mon-Fri 08:00-18:00"));
        let (days, hours) = text.split_once(' ').ok_or_else(expected)?;
        let day = |name: &str| {
            let at = DAYS.iter().position(|day| day.eq_ignore_ascii_case(name))?;
            u8::try_from(at).ok()
        };
        let (first, last) = days.split_once('-').unwrap_or((days, days));
        let (Some(first_day), Some(last_day)) = (day(first), day(last)) else { return Err(expected()) };
        Ok(Self { first_day, last_day, hours: Hours::parse(hours.trim())? })
    }

    fn has_day(self, day: u8) -> bool {
        if self.first_day <= self.last_day {
            (self.first_day..=self.last_day).contains(&day)
        } else {
            day >= self.first_day || day <= self.last_day
        }
    }

    fn contains(self, wall: WallTime) -> bool {
        let yesterday = (wall.weekday + 6) % 7;
        self.has_day(wall.weekday) && self.hours.covers(wall.minute, false)
            || self.has_day(yesterday) && self.hours.covers(wall.minute, true)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |day: u8| DAYS.get(usize::from(day)).copied().unwrap_or_default();
        f.write_str(name(self.first_day))?;
        if self.first_day != self.last_day {
            write!(f, "-{}", name(self.last_day))?;
        }
        write!(f, " {}", self.hours)
    }
}

/// Windows of the week in which something is allowed, and others in which it is not. Without allowed ones everything
/// is, but for the prohibited ones.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Schedule {
    allowed: Vec<Window>,
    prohibited: Vec<Window>,
}

impl Schedule {
    /// Reads `always`, or windows with semicolons between them: `Mon-Fri 07:00-19:00; not Wed 12:00-13:00`.
    ///
    /// # Errors
    /// When it is something else or too long.
    pub fn parse(text: &str) -> Result<Self, CivilError> {
        let mut schedule = Self::default();
        if text.trim().eq_ignore_ascii_case("always") {
            return Ok(schedule);
        }
        if text.len() > SCHEDULE_OCTETS_MAX || text.split(';').count() > WINDOWS_MAX {
            return wrong(format!("expected at most {WINDOWS_MAX} windows in {SCHEDULE_OCTETS_MAX} octets"));
        }
        for part in text.split(';').map(str::trim) {
            match part.strip_prefix("not ") {
                Some(part) => schedule.prohibited.push(Window::parse(part.trim())?),
                None => schedule.allowed.push(Window::parse(part)?),
            }
        }
        Ok(schedule)
    }

    /// Whether it is allowed at every time.
    pub fn is_always(&self) -> bool {
        self.allowed.is_empty() && self.prohibited.is_empty()
    }

    /// Whether it is allowed when the clock on the wall shows this.
    pub fn allows(&self, wall: WallTime) -> bool {
        let is_in = |windows: &[Window]| windows.iter().any(|window| window.contains(wall));
        (self.allowed.is_empty() || is_in(&self.allowed)) && !is_in(&self.prohibited)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_always() {
            return f.write_str("always");
        }
        let allowed = self.allowed.iter().map(ToString::to_string);
        let prohibited = self.prohibited.iter().map(|window| format!("not {window}"));
        f.write_str(&allowed.chain(prohibited).collect::<Vec<_>>().join("; "))
    }
}
