//! What the chains of the audit trail are made of.
//!
//! Every change and refusal is a link in the chain of its customer: `head = H(head before, digest of the record)`.
//! Records are chained in batches; of the links of a batch a tree is made ([`crate::base::proof`]), and its root
//! together with the root of the batch before is signed. Who changes, removes or inserts a record has to change every
//! root since, and these also stand in a second place ([`super::publish`]).

use serde::{Deserialize, Serialize};

use super::names::{self, Fragment};
use crate::base::clock::Timestamp;
use crate::base::proof::{self, hasher};
pub(super) use crate::base::proof::{Digest, head, hex, hiding_tree, leaf, tree};
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::audit::Record;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::instance;
use crate::storage::metadata::lane::Priority;

fn done(hasher: &blake3::Hasher) -> Digest {
    *hasher.finalize().as_bytes()
}

/// Name of the installation's secret, from which the salts of parts and the links of batches come.
pub(super) const SECRET: &str = "audit_salt";
/// That secret.
pub(super) async fn secret(database: &Database) -> Result<[u8; 32]> {
    let write = database.write(Priority::Background, |conn| {
        Box::pin(async move { Ok::<_, ServiceError>(instance::secret(conn, SECRET).await?) })
    });
    write.await
}

/// Octets of a salt.
const SALT_OCTETS: usize = 16;

/// How the digests of a batch are made: those of the first kind tell whoever checks one record everything about it and
/// the number of its batch.
pub(super) const KIND_PLAIN: i64 = 1;
/// The kind that can be proven in parts, version 2 of [`crate::base::proof`]: proofs tell how deep a customer is, and
/// how many customers had something sealed.
pub(super) const KIND_PARTS: i64 = 2;
/// The kind whose proofs tell neither.
pub(super) const KIND_HIDING: i64 = 3;

/// The columns of a record in parts; nothing for one that is absent.
pub(super) fn columns(record: &Record) -> Vec<(&'static str, Option<Vec<Fragment>>)> {
    let whole = |text: &str| Some(vec![Fragment::plain(text)]);
    let parts = |text: &str| Some(names::fragments(text));
    let json = |text: &Option<String>| text.as_ref().map(|text| names::fragments(&names::unescaped(text)));
    let numbers = |text: &str| Some(vec![Fragment::keys(text)]);
    let actor = |text: &str| Some(vec![Fragment::of_actor(&record.actor_path, text)]);
    let mut columns = vec![
        ("id", whole(&record.public_id)),
        ("at_micros", whole(&record.at.0.to_string())),
        ("node_path", numbers(&record.node_path)),
        ("customer_path", Some(names::path_fragments(&record.node_path, &record.customer_path))),
        ("actor_id", record.actor_id.map(|id| vec![Fragment::keys(&id.to_string())])),
        ("actor", actor(&record.actor)),
        ("actor_path", numbers(&record.actor_path)),
        ("authenticated", actor(&record.authenticated)),
        ("source", actor(&record.source)),
        ("operation", whole(&record.operation)),
        ("target", parts(&record.target)),
        ("before", json(&record.before)),
        ("after", json(&record.after)),
        ("outcome", whole(&record.outcome)),
        ("request_id", whole(&record.request_id)),
    ];
    // Records without it digest as they always did.
    columns.extend(record.on_behalf.as_ref().map(|text| ("on_behalf", parts(text))));
    columns
}

/// The salt of a part.
pub(super) fn salt(secret: &[u8; 32], record: &Record, column: &str, index: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    hasher.update(format!("salt\0{}\0{column}\0{index}", record.public_id).as_bytes());
    hasher.finalize().as_bytes().iter().copied().take(SALT_OCTETS).collect()
}

/// The digest of a record in a batch of this kind.
pub(super) fn record_digest(record: &Record, kind: i64, secret: &[u8; 32]) -> Digest {
    if kind == KIND_PLAIN {
        return plain_digest(record);
    }
    let digest = |(name, parts): (&str, Option<Vec<Fragment>>)| {
        let parts = parts.map(|parts| {
            let mut digests: Vec<Digest> = Vec::with_capacity(parts.len());
            for (index, part) in parts.into_iter().enumerate() {
                let digest = proof::part(&salt(secret, record, name, index), &part.text);
                let above = digests.pop_if(|_| part.joined && kind != KIND_PARTS);
                digests.push(above.map_or(digest, |above| proof::joined(&above, &digest)));
            }
            digests
        });
        proof::column(name, parts.as_deref())
    };
    proof::record(&columns(record).into_iter().map(digest).collect::<Vec<_>>())
}

/// Of all columns of a record. Lengths stand before texts, so that none can take from the next.
fn plain_digest(record: &Record) -> Digest {
    let mut hasher = hasher("posthouse audit record 1");
    hasher.update(&record.at.0.to_be_bytes());
    let actor_id = record.actor_id.map(|id| id.to_string());
    let texts = [
        Some(record.public_id.as_str()),
        Some(&record.node_path),
        Some(&record.customer_path),
        actor_id.as_deref(),
        Some(&record.actor),
        Some(&record.actor_path),
        Some(&record.authenticated),
        Some(&record.source),
        Some(&record.operation),
        Some(&record.target),
        record.before.as_deref(),
        record.after.as_deref(),
        Some(&record.outcome),
        Some(&record.request_id),
    ];
    for text in texts {
        let length = text.map_or(u64::MAX, |text| text.len() as u64);
        hasher.update(&length.to_be_bytes()).update(text.unwrap_or_default().as_bytes());
    }
    // Older records have none, and digest as they always did.
    if let Some(text) = &record.on_behalf {
        hasher.update(&(text.len() as u64).to_be_bytes()).update(text.as_bytes());
    }
    done(&hasher)
}

/// The root of a batch of this kind: what is signed.
pub(super) fn root(
    (kind, secret): (i64, &[u8; 32]),
    before: &[u8],
    batch: i64,
    at: Timestamp,
    tree: &Digest,
) -> Digest {
    if kind != KIND_PLAIN {
        return proof::root(&proof::link(secret, before, batch), at.0, tree);
    }
    let mut hasher = hasher("posthouse audit root 1");
    hasher.update(before).update(&batch.to_be_bytes()).update(&at.0.to_be_bytes());
    done(hasher.update(tree))
}

/// A batch as it stands in the second place: one line of JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Published {
    /// Its number.
    pub batch: i64,
    /// When it was sealed.
    pub at: Timestamp,
    /// Its root, hexadecimal.
    pub root: String,
    /// Public key of the node that sealed it, hexadecimal.
    pub key: String,
    /// Ed25519 signature of the root, hexadecimal.
    pub signature: String,
    /// Public ids of its records with their digests, hexadecimal: they tell which one is not what it was.
    pub records: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_move_from_one_column_to_the_next() {
        let record = |operation: &str, target: &str| Record {
            id: 0,
            public_id: "a".to_owned(),
            at: Timestamp(1),
            node_path: String::new(),
            customer_path: String::new(),
            actor_id: None,
            actor: String::new(),
            actor_path: String::new(),
            authenticated: String::new(),
            source: String::new(),
            operation: operation.to_owned(),
            target: target.to_owned(),
            before: None,
            after: None,
            outcome: String::new(),
            request_id: String::new(),
            on_behalf: None,
            is_chained: true,
        };
        for kind in [KIND_PLAIN, KIND_PARTS, KIND_HIDING] {
            let digest = |record: &Record| record_digest(record, kind, &[1; 32]);
            assert_ne!(digest(&record("ab", "c")), digest(&record("a", "bc")));
            let none = record("a", "b");
            let empty = Record { before: Some(String::new()), ..none.clone() };
            assert_ne!(digest(&none), digest(&empty));
            let asked = Record { on_behalf: Some("x".to_owned()), ..none.clone() };
            assert_ne!(digest(&none), digest(&asked));
        }
    }
}
