//! Passwords of administrators. There is none until somebody sets it: the system over the socket, or who may act on the
//! administrator. With a password all tokens end that were made before.

use serde::Deserialize;
use utoipa::ToSchema;

use super::administrators::{Administrator, show};
use super::grants::needs_over;
use super::passwords;
use super::targets::OneAdministrator;
use crate::service::authority::Permission;
use crate::service::context::Authenticated;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Inner, Need, Operate, Tx, declare};
use crate::storage::metadata::credential;

/// The new password.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct AdministratorPasswordRequest {
    /// Whose: `name@CODE`, or the name alone where it is unambiguous.
    name: String,
    /// The password.
    password: Option<String>,
    /// Instead of a password: a hash taken over from elsewhere (argon2, bcrypt, SHA-512-crypt, SSHA).
    password_hash: Option<String>,
    /// Characters of the password.
    #[serde(skip)]
    #[schema(ignore)]
    password_characters: Option<usize>,
}

/// `administrator.password`.
pub(in crate::service) struct AdministratorPassword;

impl Operate for AdministratorPassword {
    declare! { "administrator.password", Put, "/v1/administrators/{name}/password", AdministratorUpdate, changes,
    "Set an administrator's password; its tokens and sessions end" }
    type Request = AdministratorPasswordRequest;
    type Response = Administrator;
    type Target = OneAdministrator;

    async fn prepare(
        _: &Inner,
        mut request: AdministratorPasswordRequest,
    ) -> Result<AdministratorPasswordRequest> {
        let imported = request.password_hash.take();
        let (hash, characters) = passwords::hash(request.password.take(), imported).await?;
        (request.password_hash, request.password_characters) = (Some(hash), characters);
        Ok(request)
    }

    async fn target<'a>(
        tx: &'a mut Tx<'_>,
        request: &'a AdministratorPasswordRequest,
    ) -> Result<OneAdministrator> {
        OneAdministrator::find(tx, &request.name).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneAdministrator,
        _: &'a AdministratorPasswordRequest,
    ) -> Result<Vec<Need>> {
        if tx.caller.administrator() == Some(target.row.id) {
            // Who has a stolen token must not come to own its owner: this takes the password of before.
            if matches!(tx.context.authenticated, Authenticated::Token { .. }) {
                return Err(ServiceError::Forbidden { permission: "administrator.password" });
            }
            return Ok(vec![Need::at(target.row.customer, Permission::Own)]);
        }
        let mut needs = vec![Need::at(target.row.customer, Self::PERMISSION)];
        needs.extend(needs_over(tx, target.row.id).await?);
        Ok(needs)
    }

    async fn run(
        tx: &mut Tx<'_>,
        target: OneAdministrator,
        request: AdministratorPasswordRequest,
    ) -> Result<Administrator> {
        passwords::long_enough(tx, target.row.customer, request.password_characters).await?;
        credential::set(tx.conn, target.row.id, request.password_hash.as_deref()).await?;
        Ok(show(tx, target.row))
    }
}
