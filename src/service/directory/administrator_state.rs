//! Enabling, disabling and deleting administrators.

use super::administrators::{Administrator, AdministratorRequest, needs_over, show};
use super::targets::OneAdministrator;
use crate::service::authority::Permission;
use crate::service::error::Result;
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::storage::metadata::administrator::{self, AdministratorRow};

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
    /// `administrator.delete`: its tokens and grants end for good.
    AdministratorDelete, "administrator.delete", Delete, "/v1/administrators/{name}",
    AdministratorDelete, "Delete an administrator with its tokens and grants",
    |tx, target| {
        administrator::delete(tx.conn, target.row.id, tx.now, &tx.operation_id).await?;
        let before = show(tx, target.row);
        tx.before = serde_json::to_value(&before).ok();
        Ok(before)
    }
}
