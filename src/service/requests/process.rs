//! Who must approve: the steps of the nearest process at a customer or above; without one, whoever may do what is asked
//! for, beginning at the customer itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{kept_needs, key_of, standing_of};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, GroupId, RoleId};
use crate::service::authority::{Caller, Permission, Role, Tree};
use crate::service::directory::grants::NamedRole;
use crate::service::directory::targets::{OneAdministrator, OneCustomer, OneGroup};
use crate::service::error::{Result, ServiceError};
use crate::service::notices::{self, Kind, To};
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::storage::metadata::administrator::{self, AdministratorRow};
use crate::storage::metadata::grant::{self, GrantRow, Holder};
use crate::storage::metadata::request::{self, ProcessRow, RequestRow};
use crate::storage::metadata::sql::Conn;
use crate::storage::metadata::{group, role};

/// Most steps of a process.
const STEPS_MAX: usize = 8;
/// Most administrators who are looked at to find who may approve.
const LOOKED_AT_MAX: usize = 256;
/// Most open requests that a change of their process begins anew at once.
const RESTARTED_MAX: i64 = 1_000;

/// A step as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Step {
    /// Whoever may do what is asked for: the default process.
    Able,
    /// Who holds the role of this name by a grant at the customer itself.
    Role(String, CustomerId),
    /// This administrator.
    Administrator(AdministratorId),
    /// Who holds this role of a customer's own by a grant at the customer itself.
    CustomRole(RoleId, CustomerId),
    /// Who is in this group, as long as it has a grant there or above.
    Group(GroupId),
}

impl Step {
    /// Whether the caller can take this step of a request at `place`, which takes `needs`.
    pub(super) async fn is_for(
        &self,
        conn: &mut Conn,
        caller: &Caller,
        (place, needs): (CustomerId, &[Need]),
        now: Timestamp,
    ) -> Result<bool> {
        Ok(match self {
            Self::Able => needs.iter().all(|need| need.is_held_by(caller)),
            Self::Administrator(id) => caller.administrator() == Some(*id) && caller.sees(place),
            Self::CustomRole(role, at) => {
                stands(caller, *at, place)
                    && match caller.administrator() {
                        None => false,
                        Some(me) => {
                            custom_holders(conn, *role, *at, now).await?.iter().any(|row| row.id == me)
                        }
                    }
            }
            Self::Group(id) => match caller.administrator() {
                None => false,
                Some(me) => {
                    caller.sees(place)
                        && group_place(conn, &caller.tree, *id, place, now).await?.is_some()
                        && group::with_member(conn, me).await?.iter().any(|row| row.id == *id)
                }
            },
            Self::Role(role, at) => {
                stands(caller, *at, place)
                    && match caller.administrator() {
                        None => role == Role::SystemAdmin.name(),
                        Some(me) => {
                            notices::holders(conn, *at, Some(role), now).await?.iter().any(|row| row.id == me)
                        }
                    }
            }
        })
    }
}

/// Whether what the caller holds at `at` counts at `place`.
fn stands(caller: &Caller, at: CustomerId, place: CustomerId) -> bool {
    caller.tree.covers(at, place) && caller.grants.iter().any(|grant| grant.customer == at)
}

/// Who holds a role of a customer's own by a grant at the customer itself.
async fn custom_holders(
    conn: &mut Conn,
    role: RoleId,
    at: CustomerId,
    now: Timestamp,
) -> Result<Vec<AdministratorRow>> {
    let is_of = move |grant: &GrantRow| grant.custom.as_ref().is_some_and(|custom| custom.id == role);
    notices::holders_of(conn, at, now, is_of).await
}

/// The nearest customer at or above `place` where a group has a grant now; nothing when there is none, or
/// when the group's home is gone.
async fn group_place(
    conn: &mut Conn,
    tree: &Tree,
    id: GroupId,
    place: CustomerId,
    now: Timestamp,
) -> Result<Option<CustomerId>> {
    let home = group::by_ids(conn, [id.0]).await?.pop().map(|row| row.customer);
    if home.and_then(|home| tree.node(home)).is_none_or(|home| home.is_gone) {
        return Ok(None);
    }
    let grants = grant::of(conn, Holder::Group(id)).await?;
    let counts = |grant: &&GrantRow| {
        let is_in_time =
            grant.not_before.is_none_or(|start| start <= now) && grant.expires_at.is_none_or(|end| now < end);
        is_in_time && grant.zone.is_none() && tree.covers(grant.customer, place)
    };
    let depth = |id: &CustomerId| tree.node(*id).map_or(0, |node| node.depth);
    Ok(grants.iter().filter(counts).map(|grant| grant.customer).max_by_key(depth))
}

/// The steps of a process; those of the default one when there is none.
pub(super) async fn steps(conn: &mut Conn, process: Option<i64>) -> Result<Vec<Step>> {
    let row = match process {
        Some(id) => request::process_by_id(conn, id).await?,
        None => None,
    };
    Ok(row.map_or_else(|| vec![Step::Able], |row| kept(&row)))
}

fn kept(row: &ProcessRow) -> Vec<Step> {
    serde_json::from_str(&row.steps).unwrap_or_default()
}

/// The process in force at a customer.
pub(super) async fn nearest(tx: &mut Tx<'_>, place: CustomerId) -> Result<Option<ProcessRow>> {
    let path: Vec<CustomerId> = tx.caller.tree.path(place).iter().map(|node| node.id).collect();
    let rows = request::processes(tx.conn, path.iter().map(|id| id.0)).await?;
    let depth = |row: &ProcessRow| path.iter().position(|&id| id == row.customer);
    Ok(rows.into_iter().max_by_key(depth).filter(|row| !kept(row).is_empty()))
}

/// Where a step waits, and whom to tell.
struct Waiting {
    at: CustomerId,
    to: Vec<To>,
}

/// Finds who could take a step: of those who may, the nearest to the customer.
async fn waiting(
    conn: &mut Conn,
    tree: &std::sync::Arc<crate::service::authority::Tree>,
    (step, row): (&Step, &RequestRow),
    now: Timestamp,
) -> Result<Waiting> {
    let root = tree.root().map_or(row.customer, |root| root.id);
    match step {
        Step::Role(role, at) => return Ok(Waiting { at: *at, to: vec![To::Role(*at, role.clone())] }),
        Step::Administrator(id) => {
            let home = administrator::by_id(conn, *id).await?.map_or(root, |row| row.customer);
            return Ok(Waiting { at: home, to: vec![To::Administrator(*id)] });
        }
        Step::CustomRole(id, at) => {
            let to = role::by_id(conn, *id).await?.map_or(To::Customer(*at), |row| To::Role(*at, row.name));
            return Ok(Waiting { at: *at, to: vec![to] });
        }
        Step::Group(id) => {
            let at = group_place(conn, tree, *id, row.customer, now).await?.unwrap_or(root);
            let members = administrator::members(conn, *id).await?.into_iter().take(LOOKED_AT_MAX);
            let asked = members.filter(|member| member.enabled && member.id.0 != row.requester);
            return Ok(Waiting { at, to: asked.map(|member| To::Administrator(member.id)).collect() });
        }
        Step::Able => {}
    }
    let needs = kept_needs(&row.needs)?;
    let path: Vec<CustomerId> = tree.path(row.customer).iter().rev().map(|node| node.id).collect();
    let mut looked_at = 0;
    for at in path {
        let mut able = Vec::new();
        for holder in notices::holders(conn, at, None, now).await? {
            if holder.id.0 == row.requester || looked_at >= LOOKED_AT_MAX {
                continue;
            }
            looked_at += 1;
            let caller = standing_of(conn, tree, holder.id.0, now).await?;
            if caller.is_some_and(|caller| needs.iter().all(|need| need.is_held_by(&caller))) {
                able.push(To::Administrator(holder.id));
            }
        }
        if !able.is_empty() {
            return Ok(Waiting { at, to: able });
        }
    }
    Ok(Waiting { at: root, to: vec![To::Customer(root)] })
}

/// Makes an open request wait for a step and tells those who can take it.
pub(super) async fn enter(
    conn: &mut Conn,
    tree: &std::sync::Arc<crate::service::authority::Tree>,
    (row, process, step): (&RequestRow, Option<i64>, usize),
    now: Timestamp,
) -> Result<CustomerId> {
    let steps = steps(conn, process).await?;
    let next = steps.get(step).unwrap_or(&Step::Able);
    let waiting = waiting(conn, tree, (next, row), now).await?;
    request::wait(conn, row.id, process, step, waiting.at).await?;
    let subject = format!("A request waits for your approval: {} {}", row.operation, row.target);
    let reason =
        if row.reason.is_empty() { String::new() } else { format!("Reason given: {}\n\n", row.reason) };
    let text = format!(
        "{} asks for {} of {}.\n\n{reason}Look at it with\n\n    posthouse request show {id}\n\nand decide with\n\n    \
         posthouse request approve {id}\n    posthouse request reject {id} --reason TEXT\n\n\
         It waits until {}.",
        row.requester_name,
        row.operation,
        row.target,
        row.expires_at,
        id = row.public_id,
    );
    for to in waiting.to {
        notices::give(conn, to, Kind::RequestWaiting, (&subject, &text), now).await?;
    }
    Ok(waiting.at)
}

/// Where an open request waits according to what everybody may now; nothing when it waits there already.
pub(super) async fn waits_elsewhere(
    conn: &mut Conn,
    tree: &std::sync::Arc<crate::service::authority::Tree>,
    row: &RequestRow,
    now: Timestamp,
) -> Result<bool> {
    let steps = steps(conn, row.process).await?;
    let step = steps.get(row.step).unwrap_or(&Step::Able);
    Ok(waiting(conn, tree, (step, row), now).await?.at != row.waits_at)
}

/// A step to set: exactly one of role, group and administrator.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct StepRequest {
    /// Whoever holds this role, a built-in one or one of the customer or above it, by a grant at `customer` itself.
    role: Option<String>,
    /// Where; the process's customer or one above it that the caller sees. Default: the process's customer.
    customer: Option<String>,
    /// This administrator, `name@CODE`.
    administrator: Option<String>,
    /// Whoever is in this group, `name@CODE`.
    group: Option<String>,
}

/// A step.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct ProcessStep {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    /// Path of the customer, or `provider` above what the caller sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    /// `name@CODE`, or `provider`.
    #[serde(skip_serializing_if = "Option::is_none")]
    administrator: Option<String>,
    /// `name@CODE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
}

/// A process.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Process {
    /// Where it is in force.
    customer: String,
    /// Where it was set: a path, or `provider`; absent for the default process: an administrator of the customer who
    /// may do what is asked for, else the nearest above.
    #[serde(skip_serializing_if = "Option::is_none")]
    set_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    changed_at: Option<Timestamp>,
    steps: Vec<ProcessStep>,
    /// Open requests that began anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    restarted: Option<usize>,
}

const PROVIDER: &str = "provider";

/// A step in the view of the caller; one above says no more than that.
pub(super) async fn tell(tx: &mut Tx<'_>, step: &Step) -> Result<ProcessStep> {
    let path = |tx: &Tx<'_>, id: CustomerId| tx.caller.path_of(id).unwrap_or_else(|| PROVIDER.to_owned());
    let nothing = ProcessStep { role: None, customer: None, administrator: None, group: None };
    let above = |nothing| ProcessStep { customer: Some(PROVIDER.to_owned()), ..nothing };
    Ok(match step {
        Step::Able => nothing,
        Step::Role(role, at) if tx.caller.sees(*at) => {
            ProcessStep { role: Some(role.clone()), customer: Some(path(tx, *at)), ..nothing }
        }
        Step::CustomRole(id, at) if tx.caller.sees(*at) => {
            let role = role::by_id(tx.conn, *id)
                .await?
                .map_or_else(|| "a role that is gone".to_owned(), |row| row.name);
            ProcessStep { role: Some(role), customer: Some(path(tx, *at)), ..nothing }
        }
        Step::Role(..) | Step::CustomRole(..) => above(nothing),
        Step::Group(id) => match group::by_ids(tx.conn, [id.0]).await?.pop() {
            Some(row) if tx.caller.sees(row.customer) => {
                ProcessStep { group: Some(OneGroup::new(tx, row).login), ..nothing }
            }
            Some(_) => above(nothing),
            None => ProcessStep { group: Some("a group that is gone".to_owned()), ..nothing },
        },
        Step::Administrator(id) => {
            let row = administrator::by_id(tx.conn, *id).await?;
            let me = tx.caller.administrator();
            let seen = row.filter(|row| tx.caller.sees(row.customer) || me == Some(row.id));
            let name = seen.map_or_else(|| PROVIDER.to_owned(), |row| OneAdministrator::new(tx, row).login);
            ProcessStep { administrator: Some(name), ..nothing }
        }
    })
}

impl ProcessStep {
    /// In words.
    pub(super) fn words(&self) -> String {
        match (&self.role, &self.customer, &self.administrator) {
            (Some(role), Some(customer), _) => format!("{role} at {customer}"),
            (_, _, Some(administrator)) => administrator.clone(),
            _ if self.group.is_some() => format!("group {}", self.group.as_deref().unwrap_or_default()),
            (None, Some(customer), _) => customer.clone(),
            _ => "an administrator who may".to_owned(),
        }
    }
}

async fn show(tx: &mut Tx<'_>, target: &OneCustomer) -> Result<Process> {
    let row = nearest(tx, target.id).await?;
    let mut told = Vec::new();
    for step in row.as_ref().map(kept).unwrap_or_default() {
        told.push(tell(tx, &step).await?);
    }
    let path = |id: CustomerId| tx.caller.path_of(id).unwrap_or_else(|| PROVIDER.to_owned());
    Ok(Process {
        customer: target.path.clone(),
        set_at: row.as_ref().map(|row| path(row.customer)),
        changed_at: row.as_ref().filter(|row| tx.caller.sees(row.customer)).map(|row| row.changed_at),
        steps: told,
        restarted: None,
    })
}

/// Whose process.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct ProcessShowRequest {
    /// The customer's path.
    customer: String,
}

/// `process.show`.
pub(in crate::service) struct ProcessShow;

impl Operate for ProcessShow {
    declare! { "process.show", Get, "/v1/processes/{customer}", RequestCreate, reads,
    "Show who must approve requests at a customer" }
    type Request = ProcessShowRequest;
    type Response = Process;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a ProcessShowRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.customer)
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, _: ProcessShowRequest) -> Result<Process> {
        show(tx, &target).await
    }
}

/// A process to set.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct ProcessSetRequest {
    /// The customer's path; it counts there and below.
    customer: String,
    /// At most 8 steps, each of which must approve, in this order; none: no process of its own.
    steps: Vec<StepRequest>,
}

/// `process.set`: open requests that the old process decides begin anew.
pub(in crate::service) struct ProcessSet;

impl Operate for ProcessSet {
    declare! { "process.set", Put, "/v1/processes/{customer}", ProcessUpdate, changes,
    "Say who must approve requests at a customer and below; no steps take the process away" }
    type Request = ProcessSetRequest;
    type Response = Process;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a ProcessSetRequest) -> Result<OneCustomer> {
        for step in &request.steps {
            if let Some(path) = &step.customer {
                OneCustomer::find(tx, path)?;
            }
            if let Some(name) = &step.administrator {
                OneAdministrator::find(tx, name).await?;
            }
            if let Some(name) = &step.group {
                OneGroup::find(tx, name).await?;
            }
        }
        OneCustomer::find(tx, &request.customer)
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: ProcessSetRequest) -> Result<Process> {
        if request.steps.len() > STEPS_MAX {
            return Err(ServiceError::Limit(format!("a process has at most {STEPS_MAX} steps")));
        }
        let before = show(tx, &target).await?;
        tx.before = serde_json::to_value(&before).ok();
        let mut steps = Vec::new();
        for step in &request.steps {
            steps.push(step_of(tx, &target, step).await?);
        }
        let old = request::processes(tx.conn, [target.id.0]).await?.pop();
        let json =
            serde_json::to_string(&steps).map_err(|error| ServiceError::Internal(error.to_string()))?;
        let kept = (!steps.is_empty()).then_some(json.as_str());
        request::set_process(tx.conn, target.id, kept, tx.now).await?;
        let mut restarted = 0;
        if let Some(old) = old {
            let tree = std::sync::Arc::clone(&tx.caller.tree);
            for row in request::open_of_process(tx.conn, old.id, RESTARTED_MAX).await? {
                let process = nearest(tx, row.customer).await?.map(|row| row.id);
                enter(tx.conn, &tree, (&row, process, 0), tx.now).await?;
                restarted += 1;
            }
        }
        let after = show(tx, &target).await?;
        tx.after = serde_json::to_value(&after).ok();
        Ok(Process { restarted: Some(restarted), ..after })
    }
}

async fn step_of(tx: &mut Tx<'_>, target: &OneCustomer, step: &StepRequest) -> Result<Step> {
    let wrong = |message: String| Err(ServiceError::Invalid { field: "steps", message });
    let at = match &step.customer {
        Some(path) => OneCustomer::find(tx, path)?,
        None => target.clone(),
    };
    if !tx.caller.tree.covers(at.id, target.id) {
        return wrong(format!("{} is neither {} nor above it", at.path, target.path));
    }
    match (&step.role, &step.administrator, &step.group) {
        (Some(role), None, None) => {
            let role = NamedRole::find(tx, role, at.id).await?;
            Ok(match role.id {
                Some(id) => Step::CustomRole(id, at.id),
                None => Step::Role(role.name, at.id),
            })
        }
        (None, None, Some(name)) => {
            let one = OneGroup::find(tx, name).await?;
            let tree = std::sync::Arc::clone(&tx.caller.tree);
            if group_place(tx.conn, &tree, one.row.id, target.id, tx.now).await?.is_none() {
                return wrong(format!("{} has no grant at {} or above", one.login, target.path));
            }
            Ok(Step::Group(one.row.id))
        }
        (None, Some(name), None) => {
            let one = OneAdministrator::find(tx, name).await?;
            let tree = std::sync::Arc::clone(&tx.caller.tree);
            let standing = standing_of(tx.conn, &tree, one.row.id.0, tx.now).await?;
            if standing.is_none_or(|caller| !caller.sees(target.id)) {
                return wrong(format!("{} has no grant at {} or above", one.login, target.path));
            }
            Ok(Step::Administrator(one.row.id))
        }
        _ => wrong("give a role, a group or an administrator for each step".to_owned()),
    }
}

/// Whether the caller may decide about an open request now.
pub(super) async fn may_decide(tx: &mut Tx<'_>, row: &RequestRow) -> Result<bool> {
    if key_of(tx.caller) == row.requester {
        return Ok(false);
    }
    let steps = steps(tx.conn, row.process).await?;
    let step = steps.get(row.step).unwrap_or(&Step::Able);
    let needs = kept_needs(&row.needs)?;
    step.is_for(tx.conn, tx.caller, (row.customer, &needs), tx.now).await
}

/// Whether a request waits for the caller: it may decide, and of those who may it is the nearest.
pub(super) async fn waits_for(tx: &mut Tx<'_>, row: &RequestRow) -> Result<bool> {
    let is_near = tx.caller.grants.iter().any(|grant| grant.customer == row.waits_at);
    let steps = steps(tx.conn, row.process).await?;
    let is_named = matches!(steps.get(row.step), Some(Step::Administrator(_) | Step::Group(_)));
    Ok((is_near || is_named) && may_decide(tx, row).await?)
}

/// The permission that lets somebody ask.
pub(super) const ASKING: Permission = Permission::RequestCreate;
