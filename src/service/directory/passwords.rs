//! New passwords of mailboxes and administrators: hashed outside of the transaction, and long enough for whose they
//! are.

use secrecy::SecretString;

use crate::base::id::CustomerId;
use crate::service::error::{Result, ServiceError};
use crate::service::login::password::{PASSWORD_OCTETS_MAX, PasswordHash};
use crate::service::registry::Tx;
use crate::service::settings;

/// The characters of a password; refuses one that is too long to be hashed.
pub(in crate::service) fn characters(password: &str) -> Result<usize> {
    if password.len() > PASSWORD_OCTETS_MAX {
        let message = format!("expected at most {PASSWORD_OCTETS_MAX} octets");
        return Err(ServiceError::Invalid { field: "password", message });
    }
    Ok(password.chars().count())
}

/// Hashes a new password, or checks an imported hash; exactly one must be given. Answers the hash, and the characters
/// of the password where one was given: how many it must have depends on whose it is.
pub(in crate::service) async fn hash(
    password: Option<String>,
    imported: Option<String>,
) -> Result<(String, Option<usize>)> {
    let wrong = |field, message: String| ServiceError::Invalid { field, message };
    match (password, imported) {
        (Some(password), None) => {
            let characters = characters(&password)?;
            let password = SecretString::from(password);
            let hashing = tokio::task::spawn_blocking(move || PasswordHash::new(&password)).await;
            let hash = hashing.map_err(|error| ServiceError::Internal(error.to_string()))?;
            let hash = hash.map_err(|error| ServiceError::Internal(error.to_string()))?;
            Ok((hash.as_str().to_owned(), Some(characters)))
        }
        (None, Some(imported)) => {
            let hash =
                PasswordHash::parse(&imported).map_err(|error| wrong("password_hash", error.to_string()))?;
            Ok((hash.as_str().to_owned(), None))
        }
        _ => Err(wrong("password", "give either a password or an imported hash".to_owned())),
    }
}

/// Refuses a password that is shorter than the customer's setting asks for.
pub(in crate::service) async fn long_enough(
    tx: &mut Tx<'_>,
    customer: CustomerId,
    characters: Option<usize>,
) -> Result<()> {
    let Some(characters) = characters else { return Ok(()) };
    let least = settings::value(tx.conn, customer, &settings::PASSWORD_LENGTH_MIN).await?.0;
    if u32::try_from(characters).is_ok_and(|characters| characters < least) {
        let message = format!("expected at least {least} characters");
        return Err(ServiceError::Invalid { field: "password", message });
    }
    Ok(())
}
