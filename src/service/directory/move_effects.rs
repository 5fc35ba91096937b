//! What moving a customer does to who may what in it. Customers that are no longer above it keep no say there, and what
//! they imposed is not shaken off: it goes on, owned by the customer that stays above both places.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::targets::full_name;
use crate::base::id::{AdministratorId, CustomerId, RoleId};
use crate::service::audit::names;
use crate::service::authority::{PermissionSet, Tree, custom_permissions};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::Tx;
use crate::storage::metadata::grant::{self, GrantRow, GrantedRole, Holder};
use crate::storage::metadata::hold::{self, HoldOn};
use crate::storage::metadata::{administrator, customer, group, invitation, role};

/// How many names are tried for the copy of a role.
const COPY_NAMES_MAX: usize = 1_000;

/// What changes inside, besides the place.
#[derive(Clone, Default, Serialize, ToSchema)]
pub(in crate::service) struct MoveEffects {
    /// Grants that end, since their holders are at home neither on the new path nor in what moves.
    grants_ended: Vec<String>,
    /// Memberships of groups in what moves that end for the same reason.
    memberships_ended: Vec<String>,
    /// Roles of customers that are no longer above; a copy of each, as it is now, belongs to what moves.
    roles_copied: Vec<String>,
    /// Holds on customers that are no longer above; they go on, on what moves.
    holds_kept: Vec<String>,
    /// What ceilings of customers that are no longer above allow nobody; a ceiling of what moves goes on with that.
    ceiling_kept: Vec<String>,
    /// Invitations, and codes for passwords of mailboxes, that are void: who made them did not mean the new place.
    invitations_void: u64,
}

/// A move, once it has been admitted.
pub(super) struct Departure {
    pub moving: CustomerId,
    pub to: CustomerId,
    /// Customers that are no longer above.
    pub lost: Vec<CustomerId>,
    /// The lowest customer that is above both places.
    pub common: CustomerId,
}

impl Departure {
    /// Carries out all effects. Answers them for the caller, and for the audit trail.
    pub async fn carry_out(&self, tx: &mut Tx<'_>) -> Result<(MoveEffects, MoveEffects)> {
        let tree = Arc::clone(&tx.caller.tree);
        let (mut told, mut recorded) = (MoveEffects::default(), MoveEffects::default());
        let subtree = tree.subtree_ids(self.moving);
        let rows = self.end_grants(tx, &tree, &subtree, (&mut told, &mut recorded)).await?;
        self.end_memberships(tx, &tree, &subtree, (&mut told, &mut recorded)).await?;
        told.roles_copied = self.copy_roles(tx, &tree, &rows).await?;
        told.holds_kept = self.keep_holds(tx, &tree, &subtree).await?;
        told.ceiling_kept = self.keep_ceiling(tx, &tree).await?;
        told.invitations_void = invitation::delete_at(tx.conn, &subtree).await?;
        recorded.invitations_void = told.invitations_void;
        recorded.roles_copied.clone_from(&told.roles_copied);
        recorded.holds_kept.clone_from(&told.holds_kept);
        recorded.ceiling_kept.clone_from(&told.ceiling_kept);
        Ok((told, recorded))
    }

    /// Whether who is at home there keeps what it has in what moves.
    fn stays(&self, tree: &Tree, home: CustomerId) -> bool {
        tree.covers(self.moving, home) || tree.covers(home, self.to)
    }

    /// Ends grants of those who lose their say; answers the others.
    async fn end_grants(
        &self,
        tx: &mut Tx<'_>,
        tree: &Tree,
        subtree: &[i64],
        (told, recorded): (&mut MoveEffects, &mut MoveEffects),
    ) -> Result<Vec<GrantRow>> {
        let rows = grant::at(tx.conn, subtree).await?;
        let homes = homes(tx, &rows).await?;
        let mut staying = Vec::new();
        for row in rows {
            let Some((home, name)) = homes.get(&row.holder) else { continue };
            if self.stays(tree, *home) {
                staying.push(row);
                continue;
            }
            grant::delete(tx.conn, row.id).await?;
            let login = full_name(tree, name, *home);
            recorded.grants_ended.push(format!(
                "{} of {}",
                row.role,
                names::administrator(tree, *home, &login)
            ));
            let name = if tx.caller.sees(*home) { login } else { "provider".to_owned() };
            told.grants_ended.push(format!("{} of {name}", row.role));
        }
        Ok(staying)
    }

    async fn end_memberships(
        &self,
        tx: &mut Tx<'_>,
        tree: &Tree,
        subtree: &[i64],
        (told, recorded): (&mut MoveEffects, &mut MoveEffects),
    ) -> Result<()> {
        let rows = group::memberships_at(tx.conn, subtree).await?;
        let lost: Vec<_> = rows.into_iter().filter(|(.., home)| !self.stays(tree, *home)).collect();
        let members = administrator::homes(tx.conn, lost.iter().map(|(_, id, _)| id.0)).await?;
        let members: HashMap<AdministratorId, String> =
            members.into_iter().map(|(id, _, name)| (id, name)).collect();
        for (group_id, member, home) in lost {
            group::remove(tx.conn, group_id, member).await?;
            let login = full_name(tree, members.get(&member).map_or("", String::as_str), home);
            recorded.memberships_ended.push(names::administrator(tree, home, &login));
            told.memberships_ended.push(if tx.caller.sees(home) { login } else { "provider".to_owned() });
        }
        Ok(())
    }

    /// Gives what moves a copy of each role that is granted in it and belongs to a customer that is no longer above.
    async fn copy_roles(&self, tx: &mut Tx<'_>, tree: &Tree, rows: &[GrantRow]) -> Result<Vec<String>> {
        let mut copies: BTreeMap<RoleId, (RoleId, String)> = BTreeMap::new();
        for row in rows {
            let Some(custom) = &row.custom else { continue };
            if self.stays(tree, custom.customer) {
                continue;
            }
            let copy = match copies.get(&custom.id) {
                Some((copy, _)) => *copy,
                None => {
                    let made = self.copy_role(tx, tree, custom, &row.role).await?;
                    copies.insert(custom.id, made.clone());
                    made.0
                }
            };
            grant::set_role(tx.conn, row.id, copy).await?;
        }
        Ok(copies.into_values().map(|(_, name)| name).collect())
    }

    async fn copy_role(
        &self,
        tx: &mut Tx<'_>,
        tree: &Tree,
        custom: &GrantedRole,
        name: &str,
    ) -> Result<(RoleId, String)> {
        let frozen = custom_permissions(&custom.base, &custom.permissions).names().join(" ");
        for number in 1..=COPY_NAMES_MAX {
            let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
            let others = role::by_name(tx.conn, &name).await?;
            let is_taken = others.iter().any(|other| self.stays(tree, other.customer));
            if is_taken {
                continue;
            }
            let said = (custom.base.as_str(), frozen.as_str());
            if let Some(id) = role::insert(tx.conn, self.moving, &name, said, tx.now).await? {
                return Ok((id, name));
            }
        }
        Err(ServiceError::Conflict {
            message: format!("no free name was found for a copy of the role {name}"),
        })
    }

    /// Puts the holds on lost customers on what moves. What those customers had set belongs to the one that stays.
    async fn keep_holds(&self, tx: &mut Tx<'_>, tree: &Tree, subtree: &[i64]) -> Result<Vec<String>> {
        let mut kept = Vec::new();
        for &lost in &self.lost {
            for row in hold::on(tx.conn, HoldOn::Customer(lost)).await? {
                let is_above = tree.covers(row.authority, self.common);
                let authority = if is_above { row.authority } else { self.common };
                let (what, who) =
                    ((row.switch.as_str(), row.reason.as_str()), (row.actor.as_str(), authority));
                hold::insert(tx.conn, HoldOn::Customer(self.moving), what, who, tx.now).await?;
                kept.push(format!("{} ({})", row.switch, row.reason));
            }
        }
        let lost = self.lost.iter().map(|id| id.0);
        hold::inherit(tx.conn, subtree, lost, self.common).await?;
        Ok(kept)
    }

    /// Lets what moves have a ceiling where it loses some.
    async fn keep_ceiling(&self, tx: &mut Tx<'_>, tree: &Tree) -> Result<Vec<String>> {
        let ceilings = self.lost.iter().filter_map(|&id| tree.node(id)?.ceiling);
        let Some(lost) = ceilings.reduce(PermissionSet::intersection) else { return Ok(Vec::new()) };
        let own = tree.node(self.moving).and_then(|node| node.ceiling).unwrap_or(PermissionSet::all());
        let kept = own.intersection(lost);
        let text = kept.without(PermissionSet::ABOVE_CEILINGS).names().join(" ");
        customer::set_ceiling(tx.conn, self.moving, Some(&text)).await?;
        Ok(PermissionSet::all().without(lost).names())
    }
}

/// Where the holders of grants are at home, deleted ones too, with their names.
async fn homes(tx: &mut Tx<'_>, rows: &[GrantRow]) -> Result<HashMap<Holder, (CustomerId, String)>> {
    let (mut administrators, mut groups) = (Vec::new(), Vec::new());
    for row in rows {
        match row.holder {
            Holder::Administrator(id) => administrators.push(id.0),
            Holder::Group(id) => groups.push(id.0),
        }
    }
    let mut homes = HashMap::new();
    for (id, home, name) in administrator::homes(tx.conn, administrators).await? {
        homes.insert(Holder::Administrator(id), (home, name));
    }
    for row in group::by_ids(tx.conn, groups).await? {
        homes.insert(Holder::Group(row.id), (row.customer, row.name));
    }
    Ok(homes)
}
