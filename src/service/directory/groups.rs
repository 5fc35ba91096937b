//! Groups of administrators. Who is in a group has what the group is granted. A group with a customer's role is a
//! permission profile; there is nothing more to one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::administrators::name;
use super::grants::{Grant, needs_over_grants, show_all};
use super::page::{Cursors, Page, limit};
use super::scope::Place;
use super::targets::{OneAdministrator, OneCustomer, OneGroup, full_name};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::audit::names;
use crate::service::authority::{Permission, Tree};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::storage::metadata::administrator;
use crate::storage::metadata::grant::{self, Holder};
use crate::storage::metadata::group::{self, GroupRow};

/// Most members of a group.
const MEMBERS_MAX: i64 = 10_000;
/// Most groups that an administrator is in.
const GROUPS_MAX: i64 = 100;

/// A group.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Group {
    /// Random id.
    id: String,
    /// `name@CODE`.
    name: String,
    /// Path of its home.
    customer: String,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

fn show(tx: &Tx<'_>, row: GroupRow) -> Group {
    Group {
        id: row.public_id,
        name: full_name(&tx.caller.tree, &row.name, row.customer),
        customer: tx.caller.path_of(row.customer).unwrap_or_default(),
        created_at: row.created_at,
    }
}

/// A group with its members and grants.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct GroupDetail {
    #[serde(flatten)]
    group: Group,
    /// `name@CODE`; `provider` for those at home above or beside.
    members: Vec<String>,
    grants: Vec<Grant>,
}

/// Everything that the group's members have by it, so that it may be passed on.
async fn needs_over(tx: &mut Tx<'_>, group: &OneGroup) -> Result<Vec<Need>> {
    let rows = grant::of(tx.conn, Holder::Group(group.row.id)).await?;
    Ok(needs_over_grants(tx, &rows))
}

/// A group to make.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct GroupCreateRequest {
    /// Its name, unique at its home.
    name: String,
    /// Its home.
    customer: String,
}

/// `group.create`.
pub(in crate::service) struct GroupCreate;

impl Operate for GroupCreate {
    declare! { "group.create", Post, "/v1/groups", GroupCreate, changes, "Create a group of administrators" }
    type Request = GroupCreateRequest;
    type Response = Group;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a GroupCreateRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.customer)
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: GroupCreateRequest) -> Result<Group> {
        let name = name(&request.name)?;
        let taken = || ServiceError::Conflict { message: format!("group {name} exists already there") };
        let id = group::insert(tx.conn, target.id, &name, tx.now).await?.ok_or_else(taken)?;
        let gone = || ServiceError::Internal("a group vanished inside a transaction".to_owned());
        let row = group::by_ids(tx.conn, [id.0]).await?.pop().ok_or_else(gone)?;
        let made = show(tx, row);
        tx.after = serde_json::to_value(&made).ok();
        Ok(made)
    }
}

/// Which groups to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct GroupListRequest {
    /// Only at home at this customer and those below; default: everywhere the caller may.
    customer: Option<String>,
    /// Most groups, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `group.list`.
pub(in crate::service) struct GroupList;

impl Operate for GroupList {
    declare! { "group.list", Get, "/v1/groups", AdministratorRead, reads, "List groups of administrators by name" }
    type Request = GroupListRequest;
    type Response = Page<Group>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a GroupListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Self::PERMISSION)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: GroupListRequest) -> Result<Page<Group>> {
        let limit = limit(request.limit)?;
        let filter = GroupListRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let after = cursors.read(request.cursor.as_deref())?;
        let rows = group::page(tx.conn, &target.customers(tx), after, limit + 1).await?;
        Page::cut(rows, limit, &cursors, |row| (row.name.clone(), row.id.0), |row| show(tx, row))
    }
}

/// Which group.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct GroupRequest {
    /// `name@CODE`, or the name alone where it is unambiguous.
    name: String,
}

/// `group.show`.
pub(in crate::service) struct GroupShow;

impl Operate for GroupShow {
    declare! { "group.show", Get, "/v1/groups/{name}", AdministratorRead, reads,
    "Show a group, its members and grants" }
    type Request = GroupRequest;
    type Response = GroupDetail;
    type Target = OneGroup;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a GroupRequest) -> Result<OneGroup> {
        OneGroup::find(tx, &request.name).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneGroup, _: GroupRequest) -> Result<GroupDetail> {
        detail(tx, target.row).await
    }
}

async fn detail(tx: &mut Tx<'_>, row: GroupRow) -> Result<GroupDetail> {
    let holder = Holder::Group(row.id);
    let rows = grant::of(tx.conn, holder).await?;
    let grants = show_all(tx, rows, Some(holder)).await?;
    let members = administrator::members(tx.conn, row.id).await?;
    let mut members: Vec<String> = members
        .into_iter()
        .map(|row| match tx.caller.sees(row.customer) || tx.caller.administrator() == Some(row.id) {
            true => OneAdministrator::new(tx, row).login,
            false => "provider".to_owned(),
        })
        .collect();
    members.sort_unstable();
    members.dedup();
    Ok(GroupDetail { group: show(tx, row), members, grants })
}

/// Who is meant.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MemberRequest {
    /// The group: `name@CODE`, or the name alone where it is unambiguous.
    name: String,
    /// The administrator: likewise.
    administrator: String,
}

/// A group and an administrator.
pub(in crate::service) struct Member {
    group: OneGroup,
    administrator: OneAdministrator,
}

impl Targeted for Member {
    fn customer(&self) -> CustomerId {
        self.group.row.customer
    }

    fn label(&self) -> String {
        format!("{} in {}", self.administrator.label(), self.group.label())
    }

    fn recorded(&self, tree: &Tree) -> String {
        format!("{} in {}", self.administrator.recorded(tree), self.group.recorded(tree))
    }
}

impl Member {
    async fn find(tx: &mut Tx<'_>, request: &MemberRequest) -> Result<Self> {
        let group = OneGroup::find(tx, &request.name).await?;
        Ok(Self { group, administrator: OneAdministrator::find(tx, &request.administrator).await? })
    }

    async fn needs(&self, tx: &mut Tx<'_>) -> Result<Vec<Need>> {
        let mut needs = vec![Need::at(self.group.row.customer, Permission::GroupUpdate)];
        needs.extend(needs_over(tx, &self.group).await?);
        Ok(needs)
    }
}

/// `group.add`: whoever adds must be able to pass on all that the group has.
pub(in crate::service) struct GroupAdd;

impl Operate for GroupAdd {
    declare! { "group.add", Post, "/v1/groups/{name}/members", GroupUpdate, changes,
    "Add an administrator to a group" }
    type Request = MemberRequest;
    type Response = GroupDetail;
    type Target = Member;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MemberRequest) -> Result<Member> {
        Member::find(tx, request).await
    }

    async fn needs<'a>(tx: &'a mut Tx<'_>, target: &'a Member, _: &'a MemberRequest) -> Result<Vec<Need>> {
        target.needs(tx).await
    }

    async fn run(tx: &mut Tx<'_>, target: Member, _: MemberRequest) -> Result<GroupDetail> {
        let Member { group: OneGroup { row, .. }, administrator } = target;
        let (members, groups) = group::counts(tx.conn, row.id, administrator.row.id).await?;
        if members >= MEMBERS_MAX || groups >= GROUPS_MAX {
            let message = format!(
                "a group has at most {MEMBERS_MAX} members, and an administrator is in at most {GROUPS_MAX} groups"
            );
            return Err(ServiceError::Limit(message));
        }
        if !group::add(tx.conn, row.id, administrator.row.id, tx.now).await? {
            let message = format!("{} is in the group already", administrator.login);
            return Err(ServiceError::Conflict { message });
        }
        let home = administrator.row.customer;
        tx.also.push(home);
        tx.after = Some(names::administrator(&tx.caller.tree, home, &administrator.login).into());
        detail(tx, row).await
    }
}

/// `group.remove`: counts for the next request.
pub(in crate::service) struct GroupRemove;

impl Operate for GroupRemove {
    declare! { "group.remove", Delete, "/v1/groups/{name}/members/{administrator}", GroupUpdate, changes,
    "Take an administrator out of a group" }
    type Request = MemberRequest;
    type Response = GroupDetail;
    type Target = Member;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MemberRequest) -> Result<Member> {
        Member::find(tx, request).await
    }

    async fn needs<'a>(tx: &'a mut Tx<'_>, target: &'a Member, _: &'a MemberRequest) -> Result<Vec<Need>> {
        target.needs(tx).await
    }

    async fn run(tx: &mut Tx<'_>, target: Member, _: MemberRequest) -> Result<GroupDetail> {
        let Member { group: OneGroup { row, .. }, administrator } = target;
        if !group::remove(tx.conn, row.id, administrator.row.id).await? {
            let message = format!("{} is not in the group", administrator.login);
            return Err(ServiceError::Conflict { message });
        }
        let home = administrator.row.customer;
        tx.also.push(home);
        tx.before = Some(names::administrator(&tx.caller.tree, home, &administrator.login).into());
        detail(tx, row).await
    }
}

/// `group.delete`: its grants end with it; its members stay administrators.
pub(in crate::service) struct GroupDelete;

impl Operate for GroupDelete {
    declare! { "group.delete", Delete, "/v1/groups/{name}", GroupDelete, changes,
    "Delete a group for good; its grants end with it, its members stay administrators" }
    type Request = GroupRequest;
    type Response = GroupDetail;
    type Target = OneGroup;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a GroupRequest) -> Result<OneGroup> {
        OneGroup::find(tx, &request.name).await
    }

    async fn needs<'a>(tx: &'a mut Tx<'_>, target: &'a OneGroup, _: &'a GroupRequest) -> Result<Vec<Need>> {
        let mut needs = vec![Need::at(target.row.customer, Self::PERMISSION)];
        needs.extend(needs_over(tx, target).await?);
        Ok(needs)
    }

    async fn run(tx: &mut Tx<'_>, target: OneGroup, _: GroupRequest) -> Result<GroupDetail> {
        let places = grant::of(tx.conn, Holder::Group(target.row.id)).await?;
        tx.also.extend(places.iter().map(|row| row.customer));
        tx.also.sort_unstable();
        tx.also.dedup();
        let id = target.row.id;
        let before = detail(tx, target.row).await?;
        group::delete(tx.conn, id).await?;
        tx.before = serde_json::to_value(&before.group).ok();
        Ok(before)
    }
}
