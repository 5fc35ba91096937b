//! Setting up and removing one's own second factor. That of others is reset in `administrator_state.rs`.
//!
//! A secret counts for nothing until a code has shown that the authenticator has it. Nothing of it is done with a
//! token: who has a stolen one must not come to own its owner.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::codes;
use super::identity::Nothing;
use super::targets::OneAdministrator;
use crate::base::id::{AdministratorId, random_bytes};
use crate::base::totp;
use crate::service::authority::Permission;
use crate::service::context::{Authenticated, SecondFactor};
use crate::service::error::{Result, ServiceError};
use crate::service::login::LoginError;
use crate::service::login::second_factor::{plain, recovery_codes, take};
use crate::service::notices::{self, To};
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::storage::metadata::{administrator, second_factor};

/// What authenticators show above the codes where the host has no name.
const ISSUER: &str = "Posthouse";

/// The caller, as an administrator.
async fn myself(tx: &mut Tx<'_>) -> Result<OneAdministrator> {
    let mine = match tx.caller.administrator() {
        Some(id) => administrator::by_id(tx.conn, id).await?,
        None => None,
    };
    let row = mine.ok_or_else(|| ServiceError::Conflict {
        message: "only administrators have a second factor; log in as one".to_owned(),
    })?;
    Ok(OneAdministrator::new(tx, row))
}

/// Everybody may, about themselves, but not with a token.
fn own(tx: &Tx<'_>, target: &OneAdministrator, operation: &'static str) -> Result<Vec<Need>> {
    if matches!(tx.context.authenticated, Authenticated::Token { .. }) {
        return Err(ServiceError::Forbidden { permission: operation });
    }
    Ok(vec![Need::at(target.row.customer, Permission::Own)])
}

fn wrong(message: &str) -> ServiceError {
    ServiceError::Invalid { field: "code", message: message.to_owned() }
}

/// Refuses to look at a code of an administrator of whom too many were wrong.
fn admitted(tx: &Tx<'_>, whose: AdministratorId) -> Result<()> {
    let admits = tx.inner.login.get().is_none_or(|login| login.admits_code(whose, tx.context.source));
    if admits { Ok(()) } else { Err(ServiceError::Limit(LoginError::TooMany.to_string())) }
}

/// What was found of a code of an administrator; one for which nothing was found counts as wrong.
fn counted<T>(tx: &Tx<'_>, whose: AdministratorId, found: Option<T>) -> Result<T> {
    if found.is_none() {
        tx.inner.login.get().inspect(|login| login.code_failed(whose, tx.context.source));
    }
    found
        .ok_or_else(|| wrong("it is wrong, or was used before; each is good once, and the clocks must agree"))
}

/// Refuses who brings no present code: with the login, or with the request where the login is none with a password.
async fn present(tx: &mut Tx<'_>, target: &OneAdministrator, code: Option<&str>) -> Result<()> {
    if !target.row.second_factor {
        return Err(ServiceError::Conflict { message: "there is no second factor".to_owned() });
    }
    if let Authenticated::Password { second_factor: SecondFactor::Brought, .. } = tx.context.authenticated {
        return Ok(());
    }
    let code = code.ok_or_else(|| wrong("give a present code, or a recovery code"))?;
    let whose = target.row.id;
    admitted(tx, whose)?;
    let found = take(tx.conn, whose, code, tx.now).await?;
    counted(tx, whose, found).map(drop)
}

/// Makes new recovery codes; answers them, but not when it is only tried, since they would be good for nothing.
async fn new_recovery_codes(tx: &mut Tx<'_>, whose: AdministratorId) -> Result<Option<Vec<String>>> {
    let (codes, hashes) = recovery_codes();
    second_factor::set_recovery_codes(tx.conn, whose, &hashes).await?;
    Ok((!tx.dry_run).then_some(codes))
}

/// Tells somebody that their second factor is gone.
pub(super) async fn tell_gone(tx: &mut Tx<'_>, target: &OneAdministrator) -> Result<()> {
    let by = match tx.caller.administrator() {
        Some(id) if id == target.row.id => "you".to_owned(),
        _ => codes::made_by(tx.caller),
    };
    let text = format!(
        "The second factor of {} was taken away by {by}. Its codes and recovery codes are good for nothing any more. \
         Logging in takes the password alone, until another one is set up.",
        target.login
    );
    let to = To::Administrator(target.row.id);
    let subject = "Your second factor was taken away";
    notices::give(tx.conn, to, notices::Kind::SecondFactor, (subject, &text), tx.now).await
}

/// A second factor that is being set up.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct SecondFactorBegun {
    /// Whose: `name@CODE`.
    name: String,
    /// The secret in base 32, to type into an authenticator; shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// The same with everything else that an authenticator is told, as `otpauth:` URI for a QR code; shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
}

/// `second-factor.enrol`.
pub(in crate::service) struct SecondFactorEnrol;

impl Operate for SecondFactorEnrol {
    declare! { "second-factor.enrol", Post, "/v1/second-factor/enrol", Own, changes,
    "Begin to set up one's own second factor: a secret for an authenticator, which counts once it is confirmed" }
    const SETS_UP_FACTOR: bool = true;
    type Request = Nothing;
    type Response = SecondFactorBegun;
    type Target = OneAdministrator;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a Nothing) -> Result<OneAdministrator> {
        myself(tx).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneAdministrator,
        _: &'a Nothing,
    ) -> Result<Vec<Need>> {
        own(tx, target, Self::NAME)
    }

    async fn run(tx: &mut Tx<'_>, target: OneAdministrator, _: Nothing) -> Result<SecondFactorBegun> {
        let secret = random_bytes(totp::SECRET_OCTETS);
        if !second_factor::begin(tx.conn, target.row.id, &secret, tx.now).await? {
            let message =
                "there is a second factor; remove it with one of its codes, or have it reset".to_owned();
            return Err(ServiceError::Conflict { message });
        }
        let host = tx.inner.options.host_name.as_str();
        let issuer = if host.is_empty() { ISSUER } else { host };
        let uri = totp::key_uri(&secret, issuer, &target.login);
        let (secret, uri) = if tx.dry_run { (None, None) } else { (Some(totp::base32(&secret)), Some(uri)) };
        Ok(SecondFactorBegun { name: target.login, secret, uri })
    }
}

/// The code that shows that the authenticator has the secret.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct SecondFactorConfirmRequest {
    /// The present code.
    code: String,
}

/// Codes for when the authenticator is lost.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct RecoveryCodes {
    /// Whose: `name@CODE`.
    name: String,
    /// Each is good once in place of a code; shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_codes: Option<Vec<String>>,
}

/// `second-factor.confirm`.
pub(in crate::service) struct SecondFactorConfirm;

impl Operate for SecondFactorConfirm {
    declare! { "second-factor.confirm", Post, "/v1/second-factor/confirm", Own, changes,
    "Confirm one's own second factor with a code of it: from now on logging in with the password takes one" }
    const SETS_UP_FACTOR: bool = true;
    type Request = SecondFactorConfirmRequest;
    type Response = RecoveryCodes;
    type Target = OneAdministrator;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a SecondFactorConfirmRequest) -> Result<OneAdministrator> {
        myself(tx).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneAdministrator,
        _: &'a SecondFactorConfirmRequest,
    ) -> Result<Vec<Need>> {
        own(tx, target, Self::NAME)
    }

    async fn run(
        tx: &mut Tx<'_>,
        target: OneAdministrator,
        request: SecondFactorConfirmRequest,
    ) -> Result<RecoveryCodes> {
        let whose = target.row.id;
        let open = second_factor::of(tx.conn, whose).await?.filter(|row| row.confirmed_at.is_none());
        let open = open.ok_or_else(|| ServiceError::Conflict {
            message: "no second factor is being set up; begin with second-factor enrol".to_owned(),
        })?;
        admitted(tx, whose)?;
        let given = plain(&request.code).unwrap_or_default();
        let step = totp::matching_step(&open.secret, &given, tx.now, open.last_step);
        let step = counted(tx, whose, step)?;
        second_factor::use_step(tx.conn, whose, step).await?;
        second_factor::confirm(tx.conn, whose, tx.now).await?;
        let recovery_codes = new_recovery_codes(tx, whose).await?;
        tx.before = Some(serde_json::json!({ "second_factor": false }));
        tx.after = Some(serde_json::json!({ "second_factor": true }));
        Ok(RecoveryCodes { name: target.login, recovery_codes })
    }
}

/// A code that shows who it is.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct SecondFactorRequest {
    /// A present code, or a recovery code; not asked for where the login with a password has brought one.
    code: Option<String>,
}

/// `second-factor.recovery-codes`.
pub(in crate::service) struct SecondFactorRecoveryCodes;

impl Operate for SecondFactorRecoveryCodes {
    declare! { "second-factor.recovery-codes", Post, "/v1/second-factor/recovery-codes", Own, changes,
    "Make new recovery codes for one's own second factor; those of before end" }
    type Request = SecondFactorRequest;
    type Response = RecoveryCodes;
    type Target = OneAdministrator;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a SecondFactorRequest) -> Result<OneAdministrator> {
        myself(tx).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneAdministrator,
        _: &'a SecondFactorRequest,
    ) -> Result<Vec<Need>> {
        own(tx, target, Self::NAME)
    }

    async fn run(
        tx: &mut Tx<'_>,
        target: OneAdministrator,
        request: SecondFactorRequest,
    ) -> Result<RecoveryCodes> {
        present(tx, &target, request.code.as_deref()).await?;
        let left = second_factor::recovery_codes_left(tx.conn, target.row.id).await?;
        let recovery_codes = new_recovery_codes(tx, target.row.id).await?;
        tx.before = Some(serde_json::json!({ "recovery_codes_left": left }));
        Ok(RecoveryCodes { name: target.login, recovery_codes })
    }
}

/// A second factor that was removed.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct SecondFactorRemoved {
    /// Whose: `name@CODE`.
    name: String,
}

/// `second-factor.remove`.
pub(in crate::service) struct SecondFactorRemove;

impl Operate for SecondFactorRemove {
    declare! { "second-factor.remove", Post, "/v1/second-factor/remove", Own, changes,
    "Remove one's own second factor and its recovery codes, with a code of it" }
    type Request = SecondFactorRequest;
    type Response = SecondFactorRemoved;
    type Target = OneAdministrator;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a SecondFactorRequest) -> Result<OneAdministrator> {
        myself(tx).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneAdministrator,
        _: &'a SecondFactorRequest,
    ) -> Result<Vec<Need>> {
        own(tx, target, Self::NAME)
    }

    async fn run(
        tx: &mut Tx<'_>,
        target: OneAdministrator,
        request: SecondFactorRequest,
    ) -> Result<SecondFactorRemoved> {
        present(tx, &target, request.code.as_deref()).await?;
        second_factor::delete(tx.conn, target.row.id).await?;
        tell_gone(tx, &target).await?;
        tx.before = Some(serde_json::json!({ "second_factor": true }));
        tx.after = Some(serde_json::json!({ "second_factor": false }));
        Ok(SecondFactorRemoved { name: target.login })
    }
}
