//! Enabling, disabling, deleting and undeleting administrators.

use super::administrators::{Administrator, AdministratorDetail, AdministratorRequest, detail, show};
use super::grant_places;
use super::grants::{could_grant, needs_over};
use super::second_factor::tell_gone;
use super::targets::OneAdministrator;
use crate::service::authority::Permission;
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::quota;
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::storage::metadata::administrator::{self, AdministratorRow};
use crate::storage::metadata::grant::{self, Holder};
use crate::storage::metadata::group;
use crate::storage::metadata::second_factor;

/// Runs a change of an administrator's state.
async fn set_enabled(tx: &mut Tx<'_>, target: OneAdministrator, enabled: bool) -> Result<Administrator> {
    administrator::set_enabled(tx.conn, target.row.id, enabled).await?;
    tx.before = Some(target.row.enabled.into());
    tx.after = Some(enabled.into());
    Ok(show(tx, AdministratorRow { enabled, ..target.row }))
}

async fn needs_here_and_over(
    tx: &mut Tx<'_>,
    target: &OneAdministrator,
    permission: Permission,
) -> Result<Vec<Need>> {
    let mut needs = vec![Need::at(target.row.customer, permission)];
    needs.extend(needs_over(tx, target.row.id).await?);
    Ok(needs)
}

macro_rules! acts_on_administrator {
    ($(#[$doc:meta])* $type:ident, $name:literal, $method:ident, $path:literal, $permission:ident, $summary:literal,
     |$tx:ident, $target:ident| $body:expr) => {
        $(#[$doc])*
        pub(in crate::service) struct $type;

        impl Operate for $type {
            declare! { $name, $method, $path, $permission, changes, $summary }
            type Request = AdministratorRequest;
            type Response = Administrator;
            type Target = OneAdministrator;

            async fn target<'a>(
                tx: &'a mut Tx<'_>,
                request: &'a AdministratorRequest,
            ) -> Result<OneAdministrator> {
                OneAdministrator::find(tx, &request.name).await
            }

            async fn needs<'a>(
                tx: &'a mut Tx<'_>,
                target: &'a OneAdministrator,
                _: &'a AdministratorRequest,
            ) -> Result<Vec<Need>> {
                needs_here_and_over(tx, target, Self::PERMISSION).await
            }

            async fn run(
                $tx: &mut Tx<'_>,
                $target: OneAdministrator,
                _: AdministratorRequest,
            ) -> Result<Administrator> {
                $body
            }
        }
    };
}

acts_on_administrator! {
    /// `administrator.enable`.
    AdministratorEnable, "administrator.enable", Post, "/v1/administrators/{name}/enable",
    AdministratorUpdate, "Let a disabled administrator in again",
    |tx, target| set_enabled(tx, target, true).await
}

acts_on_administrator! {
    /// `administrator.disable`: counts for the next request.
    AdministratorDisable, "administrator.disable", Post, "/v1/administrators/{name}/disable",
    AdministratorUpdate, "Keep an administrator out",
    |tx, target| set_enabled(tx, target, false).await
}

acts_on_administrator! {
    /// `second-factor.reset`: for who has lost it. Whoever may, may set the password too.
    SecondFactorReset, "second-factor.reset", Delete, "/v1/administrators/{name}/second-factor",
    AdministratorUpdate, "Take away an administrator's second factor and its recovery codes",
    |tx, target| {
        if tx.caller.administrator() == Some(target.row.id) {
            let message = "one's own second factor is removed with one of its codes".to_owned();
            return Err(ServiceError::Conflict { message });
        }
        if !second_factor::delete(tx.conn, target.row.id).await? {
            let message = format!("{} has no second factor", target.login);
            return Err(ServiceError::Conflict { message });
        }
        if target.row.second_factor {
            tell_gone(tx, &target).await?;
        }
        tx.before = Some(serde_json::json!({ "second_factor": target.row.second_factor }));
        tx.after = Some(serde_json::json!({ "second_factor": false }));
        Ok(show(tx, AdministratorRow { second_factor: false, ..target.row }))
    }
}

acts_on_administrator! {
    /// `administrator.delete`: its tokens end for good.
    AdministratorDelete, "administrator.delete", Delete, "/v1/administrators/{name}",
    AdministratorDelete, "Delete an administrator and its tokens; administrator undelete brings it back",
    |tx, target| {
        administrator::delete(tx.conn, target.row.id, tx.now, &tx.operation_id).await?;
        quota::count(tx, target.row.customer, Resource::Administrators, -1).await?;
        let before = show(tx, target.row);
        tx.before = serde_json::to_value(&before).ok();
        Ok(before)
    }
}

/// `administrator.undelete`: with those of its grants that the caller could grant now; the others end for good.
pub(in crate::service) struct AdministratorUndelete;

impl Operate for AdministratorUndelete {
    declare! { "administrator.undelete", Post, "/v1/administrators/{name}/undelete", AdministratorDelete, changes,
    "Bring a deleted administrator back with the grants that the caller could give; tokens do not come back" }
    type Request = AdministratorRequest;
    type Response = AdministratorDetail;
    type Target = OneAdministrator;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a AdministratorRequest) -> Result<OneAdministrator> {
        OneAdministrator::find_deleted(tx, &request.name).await
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneAdministrator { row, login }: OneAdministrator,
        _: AdministratorRequest,
    ) -> Result<AdministratorDetail> {
        let conflict = |message: String| Err(ServiceError::Conflict { message });
        if tx.caller.tree.node(row.customer).is_none_or(|home| home.deleted) {
            return conflict("its customer is deleted; undelete the customer first".to_owned());
        }
        let living = administrator::all_by_name(tx.conn, &row.name).await?;
        if living.iter().any(|other| other.customer == row.customer) {
            return conflict(format!("administrator {login} exists already"));
        }
        quota::admit(tx, row.customer, Resource::Administrators, 1).await?;
        administrator::undelete(tx.conn, row.id).await?;
        quota::count(tx, row.customer, Resource::Administrators, 1).await?;
        let tree = std::sync::Arc::clone(&tx.caller.tree);
        let mut recorded = Vec::new();
        for row in grant::of(tx.conn, Holder::Administrator(row.id)).await? {
            if !could_grant(tx, &row) {
                grant::delete(tx.conn, row.id).await?;
                continue;
            }
            recorded.push(format!("{} at {}", row.role, grant_places::recorded(&tree, &row)));
            tx.also.push(row.customer);
        }
        // The groups that the caller could not have let it into have lost it.
        for group in group::with_member(tx.conn, row.id).await? {
            let given = grant::of(tx.conn, Holder::Group(group.id)).await?;
            if !tx.caller.sees(group.customer) || !given.iter().all(|row| could_grant(tx, row)) {
                group::remove(tx.conn, group.id, row.id).await?;
            }
        }
        tx.also.sort_unstable();
        tx.also.dedup();
        let detail = detail(tx, row).await?;
        tx.after = Some(serde_json::json!({ "administrator": &detail.administrator, "grants": recorded }));
        Ok(detail)
    }
}
