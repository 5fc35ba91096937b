//! Bearer tokens of administrators. A token may be confined to permissions, of which it has those that its owner holds
//! when it is used, and to networks. It makes no tokens, but for the first one of an administrator that it makes,
//! which is worth no more than itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::administrators::label;
use super::grants::needs_over;
use super::scope::until;
use super::targets::{OneAdministrator, absent};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, random_text};
use crate::base::network::Network;
use crate::service::authority::{Permission, PermissionSet, Tree};
use crate::service::context::{Authenticated, Source};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::storage::metadata::administrator;
use crate::storage::metadata::token::{self, NewToken, TokenRow};

/// What every token begins with, so that secret scanners know it.
pub(in crate::service) const PREFIX: &str = "ph_";
/// Random characters of a token, 5 bits each: 200 bits.
const SECRET_CHARACTERS: usize = 40;
/// How long a token counts unless told otherwise.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(90 * 86_400);
/// How long it counts at most.
const LIFETIME_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Most networks that a token is bound to.
const NETWORKS_MAX: usize = 64;
/// Stands among networks for sockets of this machine, whose other end has no address.
const UNIX: &str = "unix";

/// The hash under which a token is kept.
pub(in crate::service) fn secret_hash(secret: &str) -> [u8; 32] {
    *blake3::hash(secret.as_bytes()).as_bytes()
}

/// A token that was made.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct TokenCreated {
    /// Random id, to revoke it by.
    id: String,
    /// The token itself; shown this once.
    pub token: String,
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
}

/// What a token is confined to, as it is stored.
#[derive(Default)]
struct Bounds {
    permissions: Option<String>,
    networks: Option<String>,
}

impl Bounds {
    /// As asked for: absent is no bounds, and nobody asks for a token that could do nothing.
    fn read(permissions: Option<&[String]>, networks: Option<&[String]>) -> Result<Self> {
        let invalid = |field, message: String| Err(ServiceError::Invalid { field, message });
        if let Some(names) = permissions {
            let wrong = names.iter().find(|name| Permission::by_name(name).is_none());
            if names.is_empty() || names.len() > Permission::ALL.len() || wrong.is_some() {
                let wrong = wrong.map_or("none".to_owned(), |name| format!("{name:?}"));
                return invalid("permissions", format!("expected names of permissions, found {wrong}"));
            }
        }
        if let Some(networks) = networks {
            let wrong = networks.iter().find(|text| *text != UNIX && text.parse::<Network>().is_err());
            if networks.is_empty() || networks.len() > NETWORKS_MAX || wrong.is_some() {
                let wrong =
                    wrong.map_or_else(|| format!("{} of them", networks.len()), |text| format!("{text:?}"));
                let message = format!(
                    "expected 1 to {NETWORKS_MAX} networks such as 192.0.2.0/24, or {UNIX}, found {wrong}"
                );
                return invalid("networks", message);
            }
        }
        let kept = |list: Option<&[String]>| list.map(|list| list.join(","));
        Ok(Self { permissions: kept(permissions), networks: kept(networks) })
    }
}

fn listed(kept: Option<&str>) -> Option<Vec<String>> {
    kept.map(|kept| kept.split(',').map(str::to_owned).collect())
}

/// The permissions that a token is confined to, as stored. A name that means nothing any more allows nothing.
pub(in crate::service) fn confined_to(kept: Option<&str>) -> Option<PermissionSet> {
    kept.map(|kept| PermissionSet::named(kept.split(',')))
}

/// Whether a token that is bound to networks, as stored, may come from there.
pub(in crate::service) fn is_from_allowed_network(kept: Option<&str>, source: Source) -> bool {
    let Some(kept) = kept else { return true };
    kept.split(',').any(|text| match source {
        None => text == UNIX,
        Some(address) => text.parse::<Network>().is_ok_and(|network| network.contains(address)),
    })
}

/// Makes a token.
async fn make(
    tx: &mut Tx<'_>,
    administrator: AdministratorId,
    label: &str,
    expires_at: Option<Timestamp>,
    bounds: Bounds,
) -> Result<TokenCreated> {
    let expires_at = expires_at.unwrap_or_else(|| tx.now.plus(LIFETIME_DEFAULT));
    if expires_at > tx.now.plus(LIFETIME_MAX) {
        let message = "a token lasts at most 366 days".to_owned();
        return Err(ServiceError::Invalid { field: "expires_at", message });
    }
    let secret = format!("{PREFIX}{}", random_text(SECRET_CHARACTERS));
    let new = NewToken {
        administrator,
        secret_hash: secret_hash(&secret),
        label: label.to_owned(),
        expires_at,
        permissions: bounds.permissions,
        networks: bounds.networks,
    };
    let id = token::insert(tx.conn, &new, tx.now).await?;
    Ok(TokenCreated { id, token: secret, expires_at })
}

/// Makes the first token of an administrator who was just made. If a token asks for that, it is confined as that one
/// is and ends no later: somebody confined must not come out of it by way of somebody new.
pub(super) async fn first(tx: &mut Tx<'_>, administrator: AdministratorId) -> Result<TokenCreated> {
    let (mut expires_at, mut bounds) = (tx.now.plus(LIFETIME_DEFAULT), Bounds::default());
    if let Authenticated::Token { id, .. } = &tx.context.authenticated {
        // One that was revoked meanwhile makes nothing.
        let own = token::valid(tx.conn, *id, tx.now).await?;
        let own = own.ok_or(ServiceError::Forbidden { permission: "token.create" })?;
        expires_at = expires_at.min(own.expires_at);
        bounds = Bounds { permissions: own.permissions, networks: own.networks };
    }
    make(tx, administrator, "first", Some(expires_at), bounds).await
}

/// A token to make.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct TokenCreateRequest {
    /// Whose: `name@CODE`; default: the caller's own.
    name: Option<String>,
    /// What it is for.
    label: Option<String>,
    /// When it ends: RFC 3339, or from now such as `30d`; default 90 days, at most 366.
    expires_at: Option<String>,
    /// Names of the permissions that it is confined to; default: all that its owner has.
    permissions: Option<Vec<String>>,
    /// Networks from which it may be used, and `unix` for sockets of this machine; default: anywhere.
    networks: Option<Vec<String>>,
}

async fn owner(tx: &mut Tx<'_>, login: Option<&str>) -> Result<OneAdministrator> {
    if let Some(login) = login {
        return OneAdministrator::find(tx, login).await;
    }
    let mine = match tx.caller.administrator() {
        Some(id) => administrator::by_id(tx.conn, id).await?,
        None => None,
    };
    let row = mine.ok_or_else(|| ServiceError::Invalid {
        field: "name",
        message: "say whose; the system itself has no tokens".to_owned(),
    })?;
    Ok(OneAdministrator::new(tx, row))
}

/// One's own tokens need no permission; others' need what acting on an administrator needs.
async fn needs(tx: &mut Tx<'_>, target: &OneAdministrator, permission: Permission) -> Result<Vec<Need>> {
    if tx.caller.administrator() == Some(target.row.id) {
        return Ok(vec![Need::at(target.row.customer, Permission::Own)]);
    }
    let mut needs = vec![Need::at(target.row.customer, permission)];
    if permission != Permission::AdministratorRead {
        needs.extend(needs_over(tx, target.row.id).await?);
    }
    Ok(needs)
}

/// `token.create`.
pub(in crate::service) struct TokenCreate;

impl Operate for TokenCreate {
    declare! { "token.create", Post, "/v1/tokens", AdministratorUpdate, changes, "Create a token; it is shown once" }
    type Request = TokenCreateRequest;
    type Response = TokenCreated;
    type Target = OneAdministrator;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a TokenCreateRequest) -> Result<OneAdministrator> {
        owner(tx, request.name.as_deref()).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneAdministrator,
        _: &'a TokenCreateRequest,
    ) -> Result<Vec<Need>> {
        // A token that could renew itself would never end, and one that makes others would outlive its revocation.
        if matches!(tx.context.authenticated, Authenticated::Token { .. }) {
            return Err(ServiceError::Forbidden { permission: "token.create" });
        }
        needs(tx, target, Self::PERMISSION).await
    }

    async fn run(
        tx: &mut Tx<'_>,
        target: OneAdministrator,
        request: TokenCreateRequest,
    ) -> Result<TokenCreated> {
        let label = label(request.label.as_deref())?;
        let expires_at = until("expires_at", request.expires_at.as_deref(), tx.now)?;
        let bounds = Bounds::read(request.permissions.as_deref(), request.networks.as_deref())?;
        let made = make(tx, target.row.id, &label, expires_at, bounds).await?;
        tx.after = Some(serde_json::json!({
            "id": made.id,
            "label": label,
            "expires_at": made.expires_at,
            "permissions": request.permissions,
            "networks": request.networks,
        }));
        Ok(made)
    }
}

/// Whose tokens.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct TokenListRequest {
    /// Whose: `name@CODE`; default: the caller's own.
    name: Option<String>,
}

/// A token without its secret.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Token {
    /// Random id, to revoke it by.
    id: String,
    label: String,
    #[schema(value_type = String)]
    created_at: Timestamp,
    #[schema(value_type = String)]
    expires_at: Timestamp,
    #[schema(value_type = Option<String>)]
    last_used_at: Option<Timestamp>,
    /// The permissions that it is confined to; without it has all that its owner has.
    #[serde(skip_serializing_if = "Option::is_none")]
    permissions: Option<Vec<String>>,
    /// The networks from which it may be used, `unix` for sockets of this machine; without it may from anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    networks: Option<Vec<String>>,
}

fn show(row: TokenRow) -> Token {
    Token {
        id: row.public_id,
        label: row.label,
        created_at: row.created_at,
        expires_at: row.expires_at,
        last_used_at: row.last_used_at,
        permissions: listed(row.permissions.as_deref()),
        networks: listed(row.networks.as_deref()),
    }
}

/// Tokens of one administrator, at most 1,000.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Tokens {
    items: Vec<Token>,
}

/// `token.list`.
pub(in crate::service) struct TokenList;

impl Operate for TokenList {
    declare! { "token.list", Get, "/v1/tokens", AdministratorRead, reads, "List an administrator's tokens" }
    type Request = TokenListRequest;
    type Response = Tokens;
    type Target = OneAdministrator;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a TokenListRequest) -> Result<OneAdministrator> {
        owner(tx, request.name.as_deref()).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneAdministrator,
        _: &'a TokenListRequest,
    ) -> Result<Vec<Need>> {
        needs(tx, target, Self::PERMISSION).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneAdministrator, _: TokenListRequest) -> Result<Tokens> {
        Ok(Tokens { items: token::list(tx.conn, target.row.id).await?.into_iter().map(show).collect() })
    }
}

/// Which token.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct TokenRequest {
    /// Its id.
    id: String,
    /// Whose it is, to be sure.
    name: Option<String>,
}

/// A token and its owner.
pub(in crate::service) struct OneToken {
    row: TokenRow,
    owner: OneAdministrator,
}

impl Targeted for OneToken {
    fn customer(&self) -> CustomerId {
        self.owner.row.customer
    }

    fn label(&self) -> String {
        format!("token {} of {}", self.row.public_id, self.owner.login)
    }

    fn recorded(&self, tree: &Tree) -> String {
        format!("token {} of {}", self.row.public_id, self.owner.recorded(tree))
    }
}

/// `token.revoke`.
pub(in crate::service) struct TokenRevoke;

impl Operate for TokenRevoke {
    declare! { "token.revoke", Delete, "/v1/tokens/{id}", AdministratorUpdate, changes, "Revoke a token" }
    type Request = TokenRequest;
    type Response = Token;
    type Target = OneToken;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a TokenRequest) -> Result<OneToken> {
        let said = match &request.name {
            Some(name) => Some(OneAdministrator::find(tx, name).await?.row.id),
            None => None,
        };
        let missing = || absent("token", &request.id);
        let row = token::by_public_id(tx.conn, &request.id).await?;
        let holder = match &row {
            Some(row) => administrator::by_id(tx.conn, row.administrator).await?,
            None => None,
        };
        let me = tx.caller.administrator();
        let visible = holder.filter(|holder| tx.caller.sees(holder.customer) || me == Some(holder.id));
        let visible = visible.filter(|holder| said.is_none_or(|said| said == holder.id));
        match (row, visible) {
            (Some(row), Some(holder)) => Ok(OneToken { row, owner: OneAdministrator::new(tx, holder) }),
            _ => Err(missing()),
        }
    }

    async fn needs<'a>(tx: &'a mut Tx<'_>, target: &'a OneToken, _: &'a TokenRequest) -> Result<Vec<Need>> {
        needs(tx, &target.owner, Self::PERMISSION).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneToken, _: TokenRequest) -> Result<Token> {
        token::delete(tx.conn, target.row.id).await?;
        Ok(show(target.row))
    }
}
