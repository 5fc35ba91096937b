//! `audit prove`: a record with everything that somebody without access needs to see that it is what was sealed.
//!
//! A proof tells its reader's view of the record: what the reader is not told is there as digests.

use serde::Deserialize;
use utoipa::ToSchema;

use super::chain::{self, hex};
use super::names;
use crate::base::id::CustomerId;
use crate::base::proof::{self, Chain, Column, KIND, Part, Proof, Sealed, VERSION};
use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::storage::metadata::audit::{Record, by_public_id, path_ids};
use crate::storage::metadata::instance;
use crate::storage::metadata::seal::{self, Link};

/// Which record.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct AuditProveRequest {
    /// The record's id, as `audit.search` tells it.
    record: String,
}

/// A record that the caller may know of.
pub(in crate::service) struct OneRecord {
    record: Record,
    /// The customer at which the caller reads it.
    place: CustomerId,
    own: bool,
}

impl OneRecord {
    async fn find(tx: &mut Tx<'_>, public_id: &str) -> Result<Self> {
        let absent = || ServiceError::NotFound { what: format!("audit record {public_id}") };
        let record = by_public_id(tx.conn, public_id).await?.ok_or_else(absent)?;
        let own = record.actor_id.is_some() && record.actor_id == tx.caller.administrator().map(|id| id.0);
        let seen: Vec<CustomerId> =
            path_ids(&record.node_path).map(CustomerId).filter(|&id| tx.caller.sees(id)).collect();
        let readable = seen.iter().find(|&&id| tx.caller.may(Some(id), Permission::AuditRead));
        let home = tx.caller.home().filter(|_| own);
        let place = readable.copied().or(home).or(seen.first().copied()).ok_or_else(absent)?;
        Ok(Self { record, place, own })
    }
}

impl Targeted for OneRecord {
    fn customer(&self) -> CustomerId {
        self.place
    }

    fn label(&self) -> String {
        format!("audit record {}", self.record.public_id)
    }
}

/// `audit.prove`.
pub(in crate::service) struct AuditProve;

impl Operate for AuditProve {
    declare! { "audit.prove", Get, "/v1/audit/{record}/proof", AuditRead, reads,
    "A proof of one record, to be checked by anybody (posthouse audit check-proof)" }
    type Request = AuditProveRequest;
    type Response = Proof;
    type Target = OneRecord;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a AuditProveRequest) -> Result<OneRecord> {
        OneRecord::find(tx, &request.record).await
    }

    async fn needs<'a>(
        _: &'a mut Tx<'_>,
        target: &'a OneRecord,
        _: &'a AuditProveRequest,
    ) -> Result<Vec<Need>> {
        let permission = if target.own { Permission::Own } else { Permission::AuditRead };
        Ok(vec![Need::at(target.place, permission)])
    }

    async fn run(tx: &mut Tx<'_>, target: OneRecord, _: AuditProveRequest) -> Result<Proof> {
        let record = &target.record;
        let sealed = seal::sealed(tx.conn, record.id).await?;
        let unsealed = || ServiceError::Conflict {
            message: "this record is not sealed: changes and refusals are within ten seconds, reads never"
                .to_owned(),
        };
        let (root, before) = sealed.ok_or_else(unsealed)?;
        if root.kind != chain::KIND_PARTS {
            let message = "this record was sealed before there were proofs".to_owned();
            return Err(ServiceError::Conflict { message });
        }
        let secret = instance::known_secret(tx.conn, chain::SECRET).await?;
        let links = seal::batch(tx.conn, root.batch).await?;
        let broken = || ServiceError::Internal("the seal of an audit record is incomplete".to_owned());
        let place = links.iter().position(|link| link.audit == record.id).ok_or_else(broken)?;
        let own: Vec<&Link> = links.iter().filter(|link| is_beside(&links, place, link)).collect();
        let link = links.get(place).ok_or_else(broken)?;
        let head_before = match link.seq {
            1 => vec![0; 32],
            seq => seal::head_at(tx.conn, link.customer, seq - 1).await?.ok_or_else(broken)?,
        };
        // The leaves: the last link of each chain, in the order of customers.
        let is_last = |(index, link): &(usize, &Link)| {
            links.get(index + 1).is_none_or(|next| next.customer != link.customer)
        };
        let ends: Vec<&Link> = links.iter().enumerate().filter(is_last).map(|(_, link)| link).collect();
        let heads = seal::heads(tx.conn, ends.iter().map(|link| link.customer)).await?;
        let name = |customer: i64| heads.get(&customer).map_or("", |head| head.chain.as_str());
        let leaf = |link: &&Link| {
            chain::leaf(name(link.customer), link.seq, link.head.as_deref().unwrap_or_default())
        };
        let leaves: Vec<chain::Digest> = ends.iter().map(leaf).collect();
        let index = ends.iter().position(|end| end.customer == link.customer).ok_or_else(broken)?;
        let end = ends.get(index).and_then(|end| end.head.as_deref()).ok_or_else(broken)?;
        let after = own.iter().filter(|other| other.seq > link.seq);
        Ok(Proof {
            kind: KIND.to_owned(),
            version: VERSION,
            record: columns(tx, &target, &secret),
            digest: hex(&link.digest),
            chain: Chain {
                name: name(link.customer).to_owned(),
                seq: link.seq,
                before: hex(&head_before),
                after: after.map(|link| hex(&link.digest)).collect(),
                head: hex(end),
            },
            sealed: Sealed {
                at_micros: root.at.0,
                tree: hex(&chain::tree(leaves.clone())),
                path: proof::path(leaves, index),
                link: hex(&proof::link(&secret, &before.root, root.batch)),
                root: hex(&root.root),
                key: hex(&root.key),
                signature: hex(&root.signature),
            },
        })
    }
}

/// Whether a link is of the same chain as the one at `place`.
fn is_beside(links: &[Link], place: usize, link: &Link) -> bool {
    links.get(place).is_some_and(|own| own.customer == link.customer)
}

/// The record's columns as the reader is told them.
fn columns(tx: &Tx<'_>, target: &OneRecord, secret: &[u8; 32]) -> Vec<Column> {
    let one = |name: &str, index: usize, fragment: names::Fragment| {
        let salt = chain::salt(secret, &target.record, name, index);
        if fragment.is_told(tx.caller, target.own) {
            Part::Told { text: fragment.text, salt: hex(&salt) }
        } else {
            Part::Hidden { hidden: hex(&proof::part(&salt, &fragment.text)) }
        }
    };
    let column = |(name, parts): (&str, Option<Vec<names::Fragment>>)| {
        let parts = parts
            .map(|parts| parts.into_iter().enumerate().map(|(index, part)| one(name, index, part)).collect());
        Column { name: name.to_owned(), parts }
    };
    chain::columns(&target.record).into_iter().map(column).collect()
}
