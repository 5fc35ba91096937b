//! What the chains of the audit trail are made of.
//!
//! Every change and refusal is a link in the chain of its customer: `head = H(head before, digest of the record)`.
//! Records are chained in batches; of the heads that a batch moves a tree is made (as in RFC 6962 section 2.1, with
//! BLAKE3), and its root together with the root of the batch before is signed. Who changes, removes or inserts a record
//! has to change every root since, and these also stand in a second place ([`super::publish`]).

use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
use crate::storage::metadata::audit::Record;

/// A BLAKE3 digest.
pub(super) type Digest = [u8; 32];

/// Begins a digest that means one thing only.
fn hasher(purpose: &'static str) -> blake3::Hasher {
    blake3::Hasher::new_derive_key(purpose)
}

fn done(hasher: &blake3::Hasher) -> Digest {
    *hasher.finalize().as_bytes()
}

/// Of all columns of a record. Lengths stand before texts, so that none can take from the next.
pub(super) fn record_digest(record: &Record) -> Digest {
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
    done(&hasher)
}

/// The head of a chain after one more record; the head of an empty one is all zero.
pub(super) fn head(before: &[u8], digest: &[u8]) -> Digest {
    let mut hasher = hasher("posthouse audit head 1");
    done(hasher.update(before).update(digest))
}

/// A leaf of the tree: where a chain ends.
pub(super) fn leaf(chain: &str, seq: i64, head: &[u8]) -> Digest {
    let mut hasher = hasher("posthouse audit leaf 1");
    hasher.update(&(chain.len() as u64).to_be_bytes()).update(chain.as_bytes());
    done(hasher.update(&seq.to_be_bytes()).update(head))
}

/// The root of the tree over these leaves. A node without a neighbour goes up as it is.
pub(super) fn tree(mut level: Vec<Digest>) -> Digest {
    while level.len() > 1 {
        let node = |pair: &[Digest]| match pair {
            [left, right] => {
                let mut hasher = hasher("posthouse audit node 1");
                done(hasher.update(left).update(right))
            }
            _ => pair.first().copied().unwrap_or_default(),
        };
        level = level.chunks(2).map(node).collect();
    }
    level.first().copied().unwrap_or_default()
}

/// The root of a batch: what is signed.
pub(super) fn root(before: &[u8], batch: i64, at: Timestamp, tree: &Digest) -> Digest {
    let mut hasher = hasher("posthouse audit root 1");
    hasher.update(before).update(&batch.to_be_bytes()).update(&at.0.to_be_bytes());
    done(hasher.update(tree))
}

/// Hexadecimal.
pub(super) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
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
    fn tree_depends_on_every_leaf_and_their_order() {
        let leaves: Vec<Digest> = (0..7_u8).map(|number| [number; 32]).collect();
        let root = tree(leaves.clone());
        for index in 0..leaves.len() {
            let mut other = leaves.clone();
            other[index][0] ^= 1;
            assert_ne!(tree(other), root);
        }
        let mut turned = leaves.clone();
        turned.swap(0, 1);
        assert_ne!(tree(turned), root);
        assert_ne!(tree(leaves[..6].to_vec()), root);
        assert_eq!(tree(Vec::new()), Digest::default());
    }

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
            is_chained: true,
        };
        assert_ne!(record_digest(&record("ab", "c")), record_digest(&record("a", "bc")));
        let none = record("a", "b");
        let empty = Record { before: Some(String::new()), ..none.clone() };
        assert_ne!(record_digest(&none), record_digest(&empty));
    }
}
