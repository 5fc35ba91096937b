//! `audit prove`: a record with everything that somebody without access needs to see that it is what was sealed.
//!
//! A proof tells its reader's view of the record: what the reader is not told is there as digests. How deep the
//! customer is, and what others did meanwhile, follows neither from how many digests there are nor from where the
//! record stands.

use std::collections::HashMap;

use serde::Deserialize;
use utoipa::ToSchema;

use super::chain::{self, hex};
use super::names;
use crate::base::id::CustomerId;
use crate::base::proof::{self, Chain, Column, KIND, Part, Proof, Sealed, VERSION, VERSION_BEFORE};
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
        if root.kind == chain::KIND_PLAIN {
            let message = "this record was sealed before there were proofs".to_owned();
            return Err(ServiceError::Conflict { message });
        }
        let is_hiding = root.kind == chain::KIND_HIDING;
        let secret = instance::known_secret(tx.conn, chain::SECRET).await?;
        let links = seal::batch(tx.conn, root.batch).await?;
        let broken = || ServiceError::Internal("the seal of an audit record is incomplete".to_owned());
        let link = links.iter().find(|link| link.audit == record.id).ok_or_else(broken)?;
        let head_before = match link.seq {
            1 => vec![0; 32],
            seq => seal::head_at(tx.conn, link.customer, seq - 1).await?.ok_or_else(broken)?,
        };
        let heads = seal::heads(tx.conn, links.iter().map(|link| link.customer)).await?;
        let name = |customer: i64| heads.get(&customer).map_or("", |head| head.chain.as_str());
        // The leaf that the record leads to: its own link, or the last one of its chain in the batch.
        let last = links.iter().rfind(|other| !is_hiding && other.customer == link.customer);
        let leaf = last.unwrap_or(link);
        let (tree, path) = tree(&links, leaf, name, is_hiding.then_some((&secret, root.batch)));
        let head = leaf.head.as_deref().ok_or_else(broken)?;
        let after = links
            .iter()
            .filter(|other| other.customer == link.customer && other.seq > link.seq && other.seq <= leaf.seq);
        Ok(Proof {
            kind: KIND.to_owned(),
            version: if is_hiding { VERSION } else { VERSION_BEFORE },
            record: columns(tx, &target, &secret, is_hiding),
            digest: hex(&link.digest),
            chain: Chain {
                name: name(link.customer).to_owned(),
                seq: link.seq,
                before: hex(&head_before),
                after: after.map(|link| hex(&link.digest)).collect(),
                head: hex(head),
            },
            sealed: Sealed {
                at_micros: root.at.0,
                tree: hex(&tree),
                path,
                link: hex(&proof::link(&secret, &before.root, root.batch)),
                root: hex(&root.root),
                key: hex(&root.key),
                signature: hex(&root.signature),
            },
        })
    }
}

/// The top of a batch's tree and the way to it from a leaf. With a secret and the batch every link is a leaf;
/// without, the last one of each chain, in the order of customers.
fn tree<'h>(
    links: &[Link],
    leaf: &Link,
    name: impl Fn(i64) -> &'h str,
    hiding: Option<(&[u8; 32], i64)>,
) -> (chain::Digest, Vec<proof::Neighbour>) {
    let mut leaves: Vec<&Link> = links.iter().collect();
    if hiding.is_some() {
        leaves.sort_by_key(|link| link.audit);
    } else {
        let last: HashMap<i64, i64> = links.iter().map(|link| (link.customer, link.seq)).collect();
        leaves.retain(|link| last.get(&link.customer) == Some(&link.seq));
    }
    let index = leaves.iter().position(|link| link.audit == leaf.audit).unwrap_or(0);
    let digest =
        |link: &&Link| chain::leaf(name(link.customer), link.seq, link.head.as_deref().unwrap_or_default());
    let digests: Vec<chain::Digest> = leaves.iter().map(digest).collect();
    match hiding {
        Some((secret, batch)) => chain::hiding_tree(secret, batch, &digests, index),
        None => (chain::tree(digests.clone()), proof::path(digests, index)),
    }
}

/// The record's columns as the reader is told them. Of a path, the steps that are not told are one digest if they were
/// sealed so.
fn columns(tx: &Tx<'_>, target: &OneRecord, secret: &[u8; 32], is_hiding: bool) -> Vec<Column> {
    let of = |name: &str, fragments: Vec<names::Fragment>| {
        let mut parts = Vec::new();
        // The digest of the last part if that is not told.
        let mut hidden: Option<chain::Digest> = None;
        for (index, fragment) in fragments.into_iter().enumerate() {
            let salt = chain::salt(secret, &target.record, name, index);
            let joined = is_hiding && fragment.joined;
            if fragment.is_told(tx.caller, target.own) {
                hidden = None;
                parts.push(Part::Told { text: fragment.text, salt: hex(&salt), joined });
                continue;
            }
            let digest = proof::part(&salt, &fragment.text);
            let above = hidden.filter(|_| joined);
            if above.is_some() {
                parts.pop();
            }
            let digest = above.map_or(digest, |above| proof::joined(&above, &digest));
            parts.push(Part::Hidden { hidden: hex(&digest) });
            hidden = Some(digest);
        }
        parts
    };
    let column = |(name, parts): (&str, Option<Vec<names::Fragment>>)| {
        let parts = parts.map(|parts| of(name, parts));
        Column { name: name.to_owned(), parts }
    };
    chain::columns(&target.record).into_iter().map(column).collect()
}
