//! Deciding: approving, rejecting, withdrawing.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::operations::{OneRequest, OneRequestRequest, Request, show};
use super::process::{self, may_decide, steps};
use super::{askable, bound_to, json, key_of, name_of, shown_fields, standing_of, void};
use crate::base::clock::Timestamp;
use crate::base::id::AdministratorId;
use crate::service::audit::names;
use crate::service::authority::Permission;
use crate::service::directory::scope::plain_text;
use crate::service::error::{Result, ServiceError};
use crate::service::notices::{self, Kind, To};
use crate::service::registry::{Bound, Need, Operate, Tx, declare};
use crate::storage::metadata::administrator;
use crate::storage::metadata::grant::{self, GrantRow};
use crate::storage::metadata::request::{self, ApprovalRow, RequestRow};
use crate::storage::metadata::sql::Conn;

/// Which request, and what to say.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct DecisionRequest {
    /// Its id.
    id: String,
    /// Why; the requester sees it.
    reason: Option<String>,
}

fn conflict<T>(message: impl Into<String>) -> Result<T> {
    Err(ServiceError::Conflict { message: message.into() })
}

fn not_the_step<T>() -> Result<T> {
    Err(ServiceError::Forbidden { permission: "to decide about this request" })
}

/// Refuses what is no longer open.
fn still_open(row: &RequestRow, now: Timestamp) -> Result<()> {
    match row.state.as_str() {
        "open" if now < row.expires_at => Ok(()),
        "open" => conflict("the request has expired; ask anew"),
        state => conflict(format!("the request is {state} already")),
    }
}

/// Whether the caller is the requester by another name: appointed by it, or with its contact address.
async fn is_deputy(tx: &mut Tx<'_>, row: &RequestRow) -> Result<bool> {
    let Some(me) = tx.caller.administrator() else { return Ok(false) };
    let tree = std::sync::Arc::clone(&tx.caller.tree);
    let Some(requester) = standing_of(tx.conn, &tree, row.requester, tx.now).await? else { return Ok(false) };
    let Some(theirs) = requester.administrator() else { return Ok(false) };
    let appointed = |row: &GrantRow| row.grantor == Some(theirs) || row.made_by == requester.name();
    if grant::held_by(tx.conn, me).await?.iter().any(appointed) {
        return Ok(true);
    }
    let contact = async |tx: &mut Tx<'_>, id: AdministratorId| {
        let row = administrator::by_id(tx.conn, id).await?;
        Ok::<_, ServiceError>(row.and_then(|row| row.contact).map(|contact| contact.to_lowercase()))
    };
    let mine = contact(tx, me).await?;
    Ok(mine.is_some() && mine == contact(tx, theirs).await?)
}

/// The first step whose approver could not take it any more.
async fn lapsed(tx: &mut Tx<'_>, row: &RequestRow, approvals: &[ApprovalRow]) -> Result<Option<usize>> {
    let tree = std::sync::Arc::clone(&tx.caller.tree);
    let (all, needs) = (steps(tx.conn, row.process).await?, super::kept_needs(&row.needs)?);
    for approval in approvals {
        let caller = standing_of(tx.conn, &tree, approval.administrator, tx.now).await?;
        let stands = match (caller, all.get(approval.step)) {
            (Some(caller), Some(step)) => {
                step.is_for(tx.conn, &caller, (row.customer, &needs), tx.now).await?
            }
            _ => false,
        };
        if !stands {
            return Ok(Some(approval.step));
        }
    }
    Ok(None)
}

/// Ends a request and tells the requester.
pub(super) async fn decide(
    conn: &mut Conn,
    row: &RequestRow,
    state: &'static str,
    (by, why): (Option<&str>, Option<&str>),
    now: Timestamp,
) -> Result<()> {
    let fields = shown_fields(&row.fields).to_string();
    request::decide(conn, (row.id, &fields), state, (by, why), now).await?;
    if row.requester == 0 || state == "withdrawn" {
        return Ok(());
    }
    let words = match state {
        "done" => "was approved and carried out",
        "rejected" => "was rejected",
        "expired" => "has expired: nobody decided in time",
        _ => "is void",
    };
    let subject = format!("Your request {words}: {} {}", row.operation, row.target);
    let by = by.map(|by| format!("Decided by {by}.\n")).unwrap_or_default();
    let why = why.map(|why| format!("{why}\n")).unwrap_or_default();
    let text = format!(
        "Your request for {} of {} {words}.\n\n{by}{why}\nposthouse request show {} tells more.",
        row.operation, row.target, row.public_id
    );
    let to = To::Administrator(AdministratorId(row.requester));
    notices::give(conn, to, Kind::RequestDecided, (&subject, &text), now).await
}

/// What came of an approval.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Approved {
    #[serde(flatten)]
    request: Request,
    /// The operation's answer, when this was the last approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
}

/// `request.approve`: with the last approval the operation is run by the approver, in the same transaction.
pub(in crate::service) struct RequestApprove;

impl Operate for RequestApprove {
    declare! { "request.approve", Post, "/v1/requests/{id}/approve", RequestCreate, changes,
    "Approve a request; the last approval carries it out with the approver's rights" }
    type Request = OneRequestRequest;
    type Response = Approved;
    type Target = OneRequest;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a OneRequestRequest) -> Result<OneRequest> {
        OneRequest::find(tx, &request.id).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneRequest,
        _: &'a OneRequestRequest,
    ) -> Result<Vec<Need>> {
        // Which step it waits for is the authority to take it; nobody ever has it for a request of its own.
        let is_open = target.0.state == "open";
        if is_open && !may_decide(tx, &target.0).await? {
            return not_the_step();
        }
        Ok(vec![Need::at(target.0.customer, Permission::Own)])
    }

    async fn run(tx: &mut Tx<'_>, OneRequest(row): OneRequest, _: OneRequestRequest) -> Result<Approved> {
        still_open(&row, tx.now)?;
        let tree = std::sync::Arc::clone(&tx.caller.tree);
        if let Some(why) = void(tx.conn, &tree, &row, tx.now).await? {
            return conflict(format!("the request is void: {why}"));
        }
        if is_deputy(tx, &row).await? {
            return conflict(
                "who asked for it has appointed you or has your contact: somebody else must approve",
            );
        }
        let approvals = request::approvals(tx.conn, row.id).await?;
        if approvals.iter().any(|one| one.administrator == key_of(tx.caller)) {
            return conflict("you have approved another step of it: this one is somebody else's");
        }
        if let Some(step) = lapsed(tx, &row, &approvals).await? {
            process::enter(tx.conn, &tree, (&row, row.process, step), tx.now).await?;
            tx.after = Some(serde_json::json!({ "waits_again_for_step": step + 1 }));
            return again(tx, &row, None).await;
        }
        let step = row.step;
        let approval =
            ApprovalRow { step, administrator: key_of(tx.caller), approver: name_of(tx.caller), at: tx.now };
        request::approve(tx.conn, row.id, &approval).await?;
        tx.after = Some(serde_json::json!({ "approved_step": step + 1, "operation": &row.operation }));
        if step + 1 < steps(tx.conn, row.process).await?.len() {
            process::enter(tx.conn, &tree, (&row, row.process, step + 1), tx.now).await?;
            return again(tx, &row, None).await;
        }
        // Whoever reads the trail may not know the requester, who may be at home above.
        let home = row.requester_name.rsplit_once('@').and_then(|(_, code)| tx.caller.tree.by_code(code));
        let on_behalf = home.map_or_else(
            || row.requester_name.clone(),
            |home| names::administrator(&tx.caller.tree, home, &row.requester_name),
        );
        let bound = Bound { on: bound_to(&row), on_behalf: Some(on_behalf) };
        let operation = &askable(&row.operation)?.nested;
        let result = (operation.carry_out)(tx, json(&row.fields), bound).await?;
        decide(tx.conn, &row, "done", (Some(&approval.approver), None), tx.now).await?;
        again(tx, &row, Some(result)).await
    }
}

/// The request as it is now.
async fn again(tx: &mut Tx<'_>, row: &RequestRow, result: Option<Value>) -> Result<Approved> {
    let gone = || ServiceError::Internal("a request vanished inside a transaction".to_owned());
    let row = request::by_public_id(tx.conn, &row.public_id).await?.ok_or_else(gone)?;
    Ok(Approved { request: show(tx, row).await?, result })
}

/// `request.reject`.
pub(in crate::service) struct RequestReject;

impl Operate for RequestReject {
    declare! { "request.reject", Post, "/v1/requests/{id}/reject", RequestCreate, changes,
    "Reject a request that waits for the caller" }
    type Request = DecisionRequest;
    type Response = Request;
    type Target = OneRequest;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a DecisionRequest) -> Result<OneRequest> {
        OneRequest::find(tx, &request.id).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneRequest,
        _: &'a DecisionRequest,
    ) -> Result<Vec<Need>> {
        if target.0.state == "open" && !may_decide(tx, &target.0).await? {
            return not_the_step();
        }
        Ok(vec![Need::at(target.0.customer, Permission::Own)])
    }

    async fn run(tx: &mut Tx<'_>, OneRequest(row): OneRequest, asked: DecisionRequest) -> Result<Request> {
        still_open(&row, tx.now)?;
        let why = plain_text("reason", asked.reason.as_deref().unwrap_or_default())?;
        let (by, why) = (name_of(tx.caller), (!why.is_empty()).then_some(why));
        decide(tx.conn, &row, "rejected", (Some(&by), why.as_deref()), tx.now).await?;
        tx.after = Some(serde_json::json!({ "operation": &row.operation, "reason": why }));
        Ok(again(tx, &row, None).await?.request)
    }
}

/// `request.withdraw`: only by who has asked.
pub(in crate::service) struct RequestWithdraw;

impl Operate for RequestWithdraw {
    declare! { "request.withdraw", Post, "/v1/requests/{id}/withdraw", RequestCreate, changes,
    "Take back a request of one's own" }
    type Request = OneRequestRequest;
    type Response = Request;
    type Target = OneRequest;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a OneRequestRequest) -> Result<OneRequest> {
        OneRequest::find(tx, &request.id).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneRequest,
        _: &'a OneRequestRequest,
    ) -> Result<Vec<Need>> {
        if target.0.requester != key_of(tx.caller) {
            return Err(ServiceError::Forbidden {
                permission: "to withdraw what somebody else has asked for",
            });
        }
        Ok(vec![Need::at(target.0.customer, Permission::Own)])
    }

    async fn run(tx: &mut Tx<'_>, OneRequest(row): OneRequest, _: OneRequestRequest) -> Result<Request> {
        still_open(&row, tx.now)?;
        decide(tx.conn, &row, "withdrawn", (Some(&name_of(tx.caller)), None), tx.now).await?;
        tx.after = Some(serde_json::json!({ "operation": &row.operation }));
        Ok(again(tx, &row, None).await?.request)
    }
}
