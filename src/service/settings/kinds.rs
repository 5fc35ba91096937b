//! What values of settings can be. Each kind reads its text and gives it back in one form.

use crate::base::civil::{CivilError, Hours, Schedule, Zone};

/// A kind of value.
pub trait Kind: Sized {
    /// Reads a value.
    ///
    /// # Errors
    /// What was expected.
    fn read(text: &str) -> Result<Self, String>;
    /// The one form in which it is kept and shown.
    fn text(&self) -> String;
    /// What the kind is called in documents.
    fn describe() -> String;
}

/// A number within bounds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Number<const MIN: u32, const MAX: u32>(pub u32);

impl<const MIN: u32, const MAX: u32> Kind for Number<MIN, MAX> {
    fn read(text: &str) -> Result<Self, String> {
        let number = text.parse::<u32>().ok().filter(|number| (MIN..=MAX).contains(number));
        number.map(Self).ok_or_else(|| format!("expected a number from {MIN} to {MAX}, got {text:?}"))
    }

    fn text(&self) -> String {
        self.0.to_string()
    }

    fn describe() -> String {
        format!("{MIN} to {MAX}")
    }
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OnOff(pub bool);

impl Kind for OnOff {
    fn read(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "on" | "yes" | "true" => Ok(Self(true)),
            "off" | "no" | "false" => Ok(Self(false)),
            _ => Err(format!("expected on or off, got {text:?}")),
        }
    }

    fn text(&self) -> String {
        if self.0 { "on" } else { "off" }.to_owned()
    }

    fn describe() -> String {
        "on or off".to_owned()
    }
}

/// Whether something is demanded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Demand {
    /// It is not.
    Off,
    /// It is.
    Required,
}

impl Kind for Demand {
    fn read(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "off" => Ok(Self::Off),
            "required" => Ok(Self::Required),
            _ => Err(format!("expected {}, got {text:?}", Self::describe())),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Off => "off",
            Self::Required => "required",
        }
        .to_owned()
    }

    fn describe() -> String {
        "off or required".to_owned()
    }
}

/// Most roles that are given at once.
pub const ROLES_MAX: usize = 16;

/// Names of roles.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleNames(pub Vec<String>);

impl Kind for RoleNames {
    fn read(text: &str) -> Result<Self, String> {
        let is_name = |name: &str| {
            name.len() <= 64
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let words = text.split([',', ' ']).filter(|word| !word.is_empty());
        let mut names: Vec<String> = words.map(str::to_lowercase).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() || names.len() > ROLES_MAX || !names.iter().all(|name| is_name(name)) {
            return Err(format!("expected 1 to {ROLES_MAX} names of roles, got {text:?}"));
        }
        Ok(Self(names))
    }

    fn text(&self) -> String {
        self.0.join(", ")
    }

    fn describe() -> String {
        "names of roles, such as viewer, billing".to_owned()
    }
}

/// Reads one of the forms that `base/civil.rs` knows.
fn civil<T>(read: Result<T, CivilError>) -> Result<T, String> {
    read.map_err(|error| error.to_string())
}

impl Kind for Zone {
    fn read(text: &str) -> Result<Self, String> {
        civil(Self::named(text))
    }

    fn text(&self) -> String {
        self.name().to_owned()
    }

    fn describe() -> String {
        "time zone, such as Europe/Vienna".to_owned()
    }
}

/// Hours of the day, or none.
impl Kind for Option<Hours> {
    fn read(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("none") { Ok(None) } else { civil(Hours::parse(text).map(Some)) }
    }

    fn text(&self) -> String {
        self.map_or_else(|| "none".to_owned(), |hours| hours.to_string())
    }

    fn describe() -> String {
        "hours, such as 22:00-07:00, or none".to_owned()
    }
}

impl Kind for Schedule {
    fn read(text: &str) -> Result<Self, String> {
        civil(Self::parse(text))
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn describe() -> String {
        "always, or windows such as Mon-Fri 07:00-19:00; not Wed 12:00-13:00".to_owned()
    }
}
