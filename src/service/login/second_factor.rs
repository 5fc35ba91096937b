//! Second factors of administrators: a code of an authenticator (RFC 6238), each taken once, or a recovery code, gone
//! once it is used.
//!
//! Wrong ones are counted by whose they are, wherever they come from: unlike a password, a code is short enough to be
//! guessed by who is patient, so that no source is trusted to guess more.

use super::Login;
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, random_text};
use crate::base::totp;
use crate::service::context::Source;
use crate::service::directory::tokens::secret_hash;
use crate::service::error::Result;
use crate::service::notices::{self, Kind, To};
use crate::storage::metadata::second_factor;
use crate::storage::metadata::sql::Conn;

/// Keeps what is counted here apart from names.
const COUNTED_AS: &str = "second factor of administrator ";
/// Longest code that is looked at, in octets: a recovery code with as much between its letters as anybody types.
const CODE_OCTETS_MAX: usize = 64;
/// Recovery codes that are made at a time.
const RECOVERY_CODES: usize = 10;
/// Random characters of a recovery code, 5 bits each: 80 bits, so that a fast hash keeps it.
const RECOVERY_CHARACTERS: usize = 16;
/// Characters between the hyphens of a recovery code.
const GROUP_CHARACTERS: usize = 4;

/// What was brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::service) enum Brought {
    /// A code of the authenticator.
    Code,
    /// A recovery code.
    RecoveryCode,
}

impl Brought {
    /// The word for it in the audit trail.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::RecoveryCode => "recovery-code",
        }
    }
}

impl Login {
    /// Whether another code of this administrator may be looked at.
    pub(in crate::service) fn admits_code(&self, whose: AdministratorId, source: Source) -> bool {
        self.inner.throttle.admits(source, &counted(whose))
    }

    /// A code was wrong.
    pub(in crate::service) fn code_failed(&self, whose: AdministratorId, source: Source) {
        tracing::info!(?source, administrator = %whose, "a code of a second factor was wrong");
        self.inner.throttle.failed(source, &counted(whose));
    }
}

fn counted(whose: AdministratorId) -> String {
    format!("{COUNTED_AS}{whose}")
}

/// What `text` is of the confirmed second factor of an administrator; it is good for nothing afterwards. Nothing for
/// what is wrong or was taken before.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn take(
    conn: &mut Conn,
    whose: AdministratorId,
    text: &str,
    now: Timestamp,
) -> Result<Option<Brought>> {
    let Some(row) = second_factor::of(conn, whose).await?.filter(|row| row.confirmed_at.is_some()) else {
        return Ok(None);
    };
    let Some(typed) = plain(text) else { return Ok(None) };
    if !totp::is_code(&typed) {
        if !second_factor::use_recovery_code(conn, whose, &secret_hash(&typed)).await? {
            return Ok(None);
        }
        tell_used(conn, whose, now).await?;
        return Ok(Some(Brought::RecoveryCode));
    }
    let Some(step) = totp::matching_step(&row.secret, &typed, now, row.last_step) else { return Ok(None) };
    Ok(second_factor::use_step(conn, whose, step).await?.then_some(Brought::Code))
}

/// Tells somebody that one of their recovery codes was used.
async fn tell_used(conn: &mut Conn, whose: AdministratorId, now: Timestamp) -> Result<()> {
    let left = second_factor::recovery_codes_left(conn, whose).await?;
    let text = format!(
        "On {now} somebody has used one of your recovery codes in place of a code of your second factor, and knew your \
         password. Codes left: {left}.\n\nIf it was not you, set another password and make new recovery codes, or ask \
         your administrators to."
    );
    let subject = "A recovery code of your second factor was used";
    notices::give(conn, To::Administrator(whose), Kind::SecondFactor, (subject, &text), now).await
}

/// A code without what people put between its letters, and with the letters that they meant: recovery codes have none
/// that is read as a digit. Nothing for what no code can be.
pub(in crate::service) fn plain(text: &str) -> Option<String> {
    if text.len() > CODE_OCTETS_MAX {
        return None;
    }
    let meant = |letter: char| match letter.to_ascii_lowercase() {
        'o' => '0',
        'i' | 'l' => '1',
        letter => letter,
    };
    Some(text.chars().filter(|letter| !letter.is_whitespace() && *letter != '-').map(meant).collect())
}

/// New recovery codes as people get them, and the hashes that are kept.
pub(in crate::service) fn recovery_codes() -> (Vec<String>, Vec<[u8; 32]>) {
    let one = || {
        let secret = random_text(RECOVERY_CHARACTERS);
        let mut shown = String::new();
        for (number, letter) in secret.chars().enumerate() {
            if number > 0 && number.is_multiple_of(GROUP_CHARACTERS) {
                shown.push('-');
            }
            shown.push(letter);
        }
        (shown, secret_hash(&secret))
    };
    std::iter::repeat_with(one).take(RECOVERY_CODES).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_codes_are_ten_that_can_be_typed() {
        let (shown, hashes) = recovery_codes();
        assert_eq!((shown.len(), hashes.len()), (10, 10));
        for (shown, hash) in shown.iter().zip(hashes) {
            assert_eq!((shown.len(), shown.matches('-').count()), (19, 3), "{shown}");
            for typed in
                [shown.clone(), shown.to_uppercase(), shown.replace('-', " "), shown.replace('0', "O")]
            {
                assert_eq!(secret_hash(&plain(&typed).unwrap()), hash, "{typed}");
            }
        }
        let distinct: std::collections::BTreeSet<&String> = shown.iter().collect();
        assert_eq!(distinct.len(), 10);
    }

    #[test]
    fn codes_are_taken_as_they_are_typed() {
        assert_eq!(plain(" 123 456\n").as_deref(), Some("123456"));
        assert_eq!(plain("").as_deref(), Some(""));
        assert_eq!(plain(&"1".repeat(65)), None);
    }
}
