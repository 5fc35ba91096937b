//! An administrator with its roles. It gets no token: who imports many would have to keep many secrets.

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::compare::{Differences, Fields, created, found, readable};
use super::{Done, Options};
use crate::base::clock::Timestamp;
use crate::service::authority::Permission;
use crate::service::directory::administrator_state::{AdministratorDisable, AdministratorEnable};
use crate::service::directory::administrators::AdministratorCreate;
use crate::service::directory::customer_limits::given;
use crate::service::directory::grants::{AdministratorGrant, AdministratorRevoke};
use crate::service::directory::scope::{address, until};
use crate::service::directory::targets::{OneAdministrator, OneCustomer};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Tx, within};
use crate::storage::metadata::administrator::AdministratorRow;
use crate::storage::metadata::grant::{self, GrantRow, Holder};

/// The role that a new administrator has unless told otherwise, as `administrator.create` does it.
const ROLE_DEFAULT: &str = "viewer";

/// A role of an administrator.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct RoleEntry {
    /// The role.
    role: String,
    /// Where it counts, and below; default: the administrator's home.
    customer: Option<String>,
    /// Whether it may be passed on.
    #[serde(default)]
    delegable: bool,
    /// From when it counts: RFC 3339, or from now such as `7d`; a time that is over means at once.
    not_before: Option<String>,
    /// When it ends: RFC 3339, or from now such as `90d`. One that has ended is left out.
    expires_at: Option<String>,
}

/// An administrator.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct AdministratorEntry {
    /// Its name, unique at its home.
    name: String,
    /// Path of its home.
    customer: String,
    /// Roles that it has; others that it has besides stay. Default: viewer, when it is created.
    roles: Option<Vec<RoleEntry>>,
    /// Address for people; null for none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    contact: Option<Option<String>>,
    /// Whether it may log in.
    enabled: Option<bool>,
}

/// A role at a customer that was found.
struct Wanted {
    role: String,
    at: OneCustomer,
    delegable: bool,
    not_before: Option<String>,
    expires_at: Option<String>,
}

/// Whether a grant has this time. Times are shown, and so written down, in whole seconds; one that was given from now
/// on cannot be compared.
fn is_time(wanted: Option<&str>, held: Option<Timestamp>) -> bool {
    match wanted.map(Timestamp::parse_rfc3339) {
        None => held.is_none(),
        Some(Ok(wanted)) => held.is_some_and(|held| held.to_string() == wanted.to_string()),
        Some(Err(_)) => true,
    }
}

impl Wanted {
    fn is(&self, grant: &GrantRow) -> bool {
        grant.zone.is_none() && grant.customer == self.at.id && grant.role == self.role
    }

    fn is_exactly(&self, grant: &GrantRow, now: Timestamp) -> bool {
        let begins = grant.not_before.filter(|&at| at > now);
        grant.delegable == self.delegable
            && is_time(self.not_before.as_deref(), begins)
            && is_time(self.expires_at.as_deref(), grant.expires_at)
    }

    fn fields(&self) -> Fields {
        let mut fields = Fields::naming([("role", self.role.clone().into())]);
        fields.set("customer", self.at.path.clone());
        fields.set("delegable", self.delegable);
        fields.maybe("not_before", self.not_before.clone());
        fields.maybe("expires_at", self.expires_at.clone());
        fields
    }

    fn text(&self) -> String {
        let Self { role, at, delegable, expires_at, .. } = self;
        text(role, &at.path, *delegable, expires_at.as_deref())
    }
}

/// A role for people.
fn text(role: &str, path: &str, delegable: bool, expires_at: Option<&str>) -> String {
    let delegable = if delegable { " delegable" } else { "" };
    let until = expires_at.map(|at| format!(" until {at}")).unwrap_or_default();
    format!("{role} at {path}{delegable}{until}")
}

impl AdministratorEntry {
    /// Makes it, or brings it to what is said.
    pub(super) async fn carry_out(&self, tx: &mut Tx<'_>, options: &Options) -> Result<Done> {
        let home = OneCustomer::find(tx, &options.path(&self.customer))?;
        let wanted = self.wanted(tx, options, &home)?;
        let code = tx.caller.tree.node(home.id).map(|node| node.code.to_string()).unwrap_or_default();
        let login = format!("{}@{code}", self.name);
        match found(OneAdministrator::find(tx, &login).await)? {
            Some(there) => self.change(tx, &login, there.row, wanted.unwrap_or_default()).await,
            None => self.create(tx, &login, &home, wanted).await,
        }
    }

    /// The roles, without those that have ended.
    fn wanted(&self, tx: &Tx<'_>, options: &Options, home: &OneCustomer) -> Result<Option<Vec<Wanted>>> {
        let Some(roles) = &self.roles else { return Ok(None) };
        let mut wanted = Vec::with_capacity(roles.len());
        for one in roles {
            let at = match &one.customer {
                Some(path) => OneCustomer::find(tx, &options.path(path))?,
                None => home.clone(),
            };
            let moment = |text: &Option<String>| Timestamp::parse_rfc3339(text.as_deref()?).ok();
            if moment(&one.expires_at).is_some_and(|ends| ends <= tx.now) {
                continue;
            }
            until("expires_at", one.expires_at.as_deref(), tx.now)?;
            let is_over = moment(&one.not_before).is_some_and(|begins| begins <= tx.now);
            let not_before = one.not_before.clone().filter(|_| !is_over);
            let (role, delegable, expires_at) = (one.role.clone(), one.delegable, one.expires_at.clone());
            wanted.push(Wanted { role, at, delegable, not_before, expires_at });
        }
        Ok(Some(wanted))
    }

    async fn create(
        &self,
        tx: &mut Tx<'_>,
        login: &str,
        home: &OneCustomer,
        wanted: Option<Vec<Wanted>>,
    ) -> Result<Done> {
        let mut wanted = wanted;
        let at_home = wanted.as_mut().and_then(|wanted| {
            // Only a grant can begin later.
            let index = wanted.iter().position(|one| one.at.id == home.id && one.not_before.is_none())?;
            Some(wanted.remove(index))
        });
        let stays = at_home.is_some() || wanted.is_none();
        let mut fields = at_home.map_or_else(|| Fields::naming([]), |one| one.fields());
        fields.set("name", self.name.clone());
        fields.set("customer", home.path.clone());
        fields.set("without_token", true);
        fields.maybe("contact", self.contact.clone().flatten());
        within::<AdministratorCreate>(tx, fields.all()).await?;
        for one in wanted.iter().flatten() {
            grant(tx, login, one).await?;
        }
        if !stays {
            revoke(tx, login, ROLE_DEFAULT, &home.path).await?;
        }
        if self.enabled == Some(false) {
            within::<AdministratorDisable>(tx, serde_json::json!({ "name": login })).await?;
        }
        Ok(created())
    }

    async fn change(
        &self,
        tx: &mut Tx<'_>,
        login: &str,
        there: AdministratorRow,
        wanted: Vec<Wanted>,
    ) -> Result<Done> {
        readable(tx, there.customer, Permission::AdministratorRead)?;
        let mut differences = Differences::default();
        let contact = match &self.contact {
            Some(Some(text)) => Some(Some(address("contact", text)?.to_string())),
            other => other.clone(),
        };
        if contact.is_some_and(|contact| contact != there.contact) {
            let message = "an administrator's contact cannot be changed here".to_owned();
            return Err(ServiceError::Invalid { field: "contact", message });
        }
        let grants = grant::of(tx.conn, Holder::Administrator(there.id)).await?;
        for one in &wanted {
            match grants.iter().find(|grant| one.is(grant)) {
                Some(grant) if one.is_exactly(grant, tx.now) => {}
                Some(held) => {
                    let ends = held.expires_at.map(|at| at.to_string());
                    let before = text(&held.role, &one.at.path, held.delegable, ends.as_deref());
                    differences.add("roles", before, one.text());
                    revoke(tx, login, &one.role, &one.at.path).await?;
                    grant(tx, login, one).await?;
                }
                None => {
                    differences.add("roles", Value::Null, one.text());
                    grant(tx, login, one).await?;
                }
            }
        }
        if let Some(enabled) = self.enabled.filter(|enabled| *enabled != there.enabled) {
            differences.add("enabled", there.enabled, enabled);
            let fields = serde_json::json!({ "name": login });
            if enabled {
                within::<AdministratorEnable>(tx, fields).await?;
            } else {
                within::<AdministratorDisable>(tx, fields).await?;
            }
        }
        Ok(differences.done())
    }
}

async fn grant(tx: &mut Tx<'_>, login: &str, wanted: &Wanted) -> Result<()> {
    let mut fields = wanted.fields();
    fields.set("name", login);
    within::<AdministratorGrant>(tx, fields.all()).await.map(drop)
}

async fn revoke(tx: &mut Tx<'_>, login: &str, role: &str, path: &str) -> Result<()> {
    let fields = serde_json::json!({ "name": login, "role": role, "customer": path });
    within::<AdministratorRevoke>(tx, fields).await.map(drop)
}
