//! Proofs that a record stands in the audit trail: what they are made of, and how they are checked by whoever has
//! nothing but the proof and, better, the public key from elsewhere.
//!
//! From a record to what is signed it goes up five steps: its *parts* (pieces of its columns) give the digests of
//! columns, these that of the record; records of a customer are links of a chain, and links are the leaves of a tree,
//! one for each batch; its root is signed together with a link to the batch before. A part that the reader of the
//! proof is not told is there as its digest only, which nobody can guess the part from, since each has a salt of its
//! own. Of other customers' records a proof has nothing but digests of digests.
//!
//! Nor does it tell how many of them there are, or how deep the hierarchy is. A tree has [`LEAVES_MAX`] places
//! whatever was sealed, of which a leaf has one that follows from a secret; what nobody has is filled with what
//! cannot be told from digests. The steps of a path from the root down are joined into one digest, each with all
//! above it, so that one digest stands for those that are not told.
//!
//! Proofs of version 2 are checked too: their trees (RFC 6962 section 2.1, with BLAKE3) have as many leaves as
//! customers had something sealed, and each step of a path is a part of its own.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::signing::is_signed;

/// A BLAKE3 digest.
pub type Digest = [u8; 32];

/// What stands at the top of a proof.
pub const KIND: &str = "posthouse audit proof";
/// The form of proofs and of the digests in them.
pub const VERSION: u32 = 3;
/// The form of proofs of what was sealed before.
pub const VERSION_BEFORE: u32 = 2;
/// Levels of the tree of a batch above its leaves.
const LEVELS: usize = 8;
/// Most leaves of a batch.
pub const LEAVES_MAX: usize = 1 << LEVELS;
/// Most steps through a chain or a tree that are gone: a batch has at most 256 records.
const STEPS_MAX: usize = 1_024;

/// Begins a digest that means one thing only.
pub fn hasher(purpose: &'static str) -> blake3::Hasher {
    blake3::Hasher::new_derive_key(purpose)
}

fn done(hasher: &blake3::Hasher) -> Digest {
    *hasher.finalize().as_bytes()
}

/// Lengths stand before texts, so that none can take from the next.
fn add_text(hasher: &mut blake3::Hasher, text: &[u8]) {
    hasher.update(&(text.len() as u64).to_be_bytes()).update(text);
}

/// Of a part of a column.
pub fn part(salt: &[u8], text: &str) -> Digest {
    let mut hasher = hasher("posthouse audit part 2");
    add_text(&mut hasher, salt);
    add_text(&mut hasher, text.as_bytes());
    done(&hasher)
}

/// Of a step of a path, and of all steps above it, whose digest is `before`.
pub fn joined(before: &Digest, part: &Digest) -> Digest {
    let mut hasher = hasher("posthouse audit path 3");
    done(hasher.update(before).update(part))
}

/// Of a column: nothing when it is absent.
pub fn column(name: &str, parts: Option<&[Digest]>) -> Digest {
    let mut hasher = hasher("posthouse audit column 2");
    add_text(&mut hasher, name.as_bytes());
    hasher.update(&parts.map_or(u64::MAX, |parts| parts.len() as u64).to_be_bytes());
    parts.into_iter().flatten().for_each(|part| {
        hasher.update(part);
    });
    done(&hasher)
}

/// Of a record, of which these are the columns.
pub fn record(columns: &[Digest]) -> Digest {
    let mut hasher = hasher("posthouse audit record 2");
    columns.iter().for_each(|column| {
        hasher.update(column);
    });
    done(&hasher)
}

/// The head of a chain after one more record; the head of an empty one is all zero.
pub fn head(before: &[u8], digest: &[u8]) -> Digest {
    let mut hasher = hasher("posthouse audit head 1");
    done(hasher.update(before).update(digest))
}

/// A leaf of the tree: a place in a chain, in trees of before the last one of a batch.
pub fn leaf(chain: &str, seq: i64, head: &[u8]) -> Digest {
    let mut hasher = hasher("posthouse audit leaf 1");
    add_text(&mut hasher, chain.as_bytes());
    done(hasher.update(&seq.to_be_bytes()).update(head))
}

fn node(left: &[u8], right: &[u8]) -> Digest {
    let mut hasher = hasher("posthouse audit node 1");
    done(hasher.update(left).update(right))
}

fn level_above(level: &[Digest]) -> Vec<Digest> {
    let above = |pair: &[Digest]| match pair {
        [left, right] => node(left, right),
        _ => pair.first().copied().unwrap_or_default(),
    };
    level.chunks(2).map(above).collect()
}

/// The root of the tree over these leaves. A node without a neighbour goes up as it is.
pub fn tree(mut level: Vec<Digest>) -> Digest {
    while level.len() > 1 {
        level = level_above(&level);
    }
    level.first().copied().unwrap_or_default()
}

/// The neighbours on the way from a leaf to the root.
pub fn path(mut level: Vec<Digest>, mut index: usize) -> Vec<Neighbour> {
    let mut path = Vec::new();
    while level.len() > 1 {
        if let Some(other) = level.get(index ^ 1) {
            let other = hex(other);
            path.push(if index.is_multiple_of(2) { Neighbour::Right(other) } else { Neighbour::Left(other) });
        }
        level = level_above(&level);
        index /= 2;
    }
    path
}

/// What a secret makes of a place in a batch.
fn drawn(secret: &Digest, purpose: &str, batch: i64, place: [usize; 2]) -> Digest {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    add_text(&mut hasher, purpose.as_bytes());
    hasher.update(&batch.to_be_bytes());
    for number in place {
        hasher.update(&(number as u64).to_be_bytes());
    }
    done(&hasher)
}

/// Where so many leaves stand.
fn places(secret: &Digest, batch: i64, count: usize) -> Vec<usize> {
    let mut taken = BTreeSet::new();
    let place = |leaf: usize| {
        let [first, ..] = drawn(secret, "posthouse audit place 3", batch, [leaf, 0]);
        let mut ways = (0..LEAVES_MAX).map(|further| (usize::from(first) + further) % LEAVES_MAX);
        ways.find(|&place| taken.insert(place))
    };
    (0..count).filter_map(place).collect()
}

/// The top of the tree of a batch with these leaves, at most [`LEAVES_MAX`], and the neighbours on the way to it from
/// the one at `index`. `secret` is the installation's.
pub fn hiding_tree(secret: &Digest, batch: i64, leaves: &[Digest], index: usize) -> (Digest, Vec<Neighbour>) {
    let places = places(secret, batch, leaves.len());
    let mut level: BTreeMap<usize, Digest> = places.iter().copied().zip(leaves.iter().copied()).collect();
    let (mut place, mut path) = (places.get(index).copied().unwrap_or(0), Vec::new());
    for height in 0..LEVELS {
        let at = |place: usize| {
            let filled = || drawn(secret, "posthouse audit filling 3", batch, [height, place]);
            level.get(&place).copied().unwrap_or_else(filled)
        };
        let other = hex(&at(place ^ 1));
        path.push(if place.is_multiple_of(2) { Neighbour::Right(other) } else { Neighbour::Left(other) });
        let above: BTreeSet<usize> = level.keys().map(|place| place / 2).collect();
        let above = above.into_iter().map(|place| (place, node(&at(2 * place), &at(2 * place + 1))));
        level = above.collect();
        place /= 2;
    }
    (level.remove(&0).unwrap_or_default(), path)
}

/// What links a batch to the one before without telling how many there are. `secret` is the installation's.
pub fn link(secret: &[u8; 32], before: &[u8], batch: i64) -> Digest {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    add_text(&mut hasher, b"posthouse audit link 2");
    done(hasher.update(before).update(&batch.to_be_bytes()))
}

/// The root of a batch: what is signed.
pub fn root(link: &Digest, at_micros: i64, tree: &Digest) -> Digest {
    let mut hasher = hasher("posthouse audit root 2");
    done(hasher.update(link).update(&at_micros.to_be_bytes()).update(tree))
}

/// Hexadecimal.
pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn octets(hex: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let octet = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(octet).collect() } else { None }
}

/// A part of a column in a proof.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Part {
    /// What it says.
    Told {
        /// The text.
        text: String,
        /// Hexadecimal.
        salt: String,
        /// Whether it is a step of the path that the part before is a part of.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        joined: bool,
    },
    /// What whoever asked for the proof is not told.
    Hidden {
        /// Its digest, hexadecimal; of a path that of all steps that are not told.
        hidden: String,
    },
}

/// A column in a proof.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its parts; nothing when it is absent.
    pub parts: Option<Vec<Part>>,
}

/// The record's place in the chain of its customer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// The chain's random name.
    pub name: String,
    /// The record's number in it.
    pub seq: i64,
    /// The chain's head before the record.
    pub before: String,
    /// Digests of the records between it and the leaf: in version 2 those behind it in the same batch.
    pub after: Vec<String>,
    /// The chain's head at the leaf.
    pub head: String,
}

/// A neighbour on the way up the tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Neighbour {
    /// It stands on the left.
    Left(String),
    /// It stands on the right.
    Right(String),
}

/// The batch that sealed the record. Digests, key and signature are hexadecimal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// When, in microseconds since 1970.
    pub at_micros: i64,
    /// The way from the leaf to the top of the tree.
    pub path: Vec<Neighbour>,
    /// The top of the tree.
    pub tree: String,
    /// The link to the batch before.
    pub link: String,
    /// What is signed.
    pub root: String,
    /// Public key (Ed25519) of the node that signed.
    pub key: String,
    /// Its signature of the root.
    pub signature: String,
}

/// A proof.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// [`KIND`].
    pub kind: String,
    /// [`VERSION`], or [`VERSION_BEFORE`].
    pub version: u32,
    /// The record's columns in their order.
    #[schema(value_type = Vec<Object>)]
    pub record: Vec<Column>,
    /// The record's digest, hexadecimal.
    pub digest: String,
    /// Its place in a chain.
    #[schema(value_type = Object)]
    pub chain: Chain,
    /// What sealed it.
    #[schema(value_type = Object)]
    pub sealed: Sealed,
}

/// Why something proves nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unproven {
    /// It is none, or of another version.
    #[error("this is no proof that this program can check: {0}")]
    Form(String),
    /// A step does not lead where the proof says.
    #[error("{0} differs from what was sealed")]
    Differs(&'static str),
    /// Somebody else signed it.
    #[error("it was signed with another key than the one that is trusted: {0}")]
    Key(String),
}

/// What was proven.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proven {
    /// Names and values of the columns; `…` stands for what is not told.
    pub columns: Vec<(String, String)>,
    /// When it was sealed, in microseconds since 1970.
    pub sealed_at_micros: i64,
    /// The key that signed it, hexadecimal.
    pub key: String,
}

/// Checks a proof. With `key` (hexadecimal) only what that key has signed is proven; without it, that whoever has the
/// key which stands in the proof vouches for the record.
///
/// # Errors
/// Why it proves nothing: the first step that is wrong.
pub fn check(proof: &Proof, key: Option<&str>) -> Result<Proven, Unproven> {
    let form = |what: &str| Unproven::Form(what.to_owned());
    let of_hex = |text: &str| octets(text).ok_or_else(|| form("a digest is not hexadecimal"));
    if proof.kind != KIND || ![VERSION_BEFORE, VERSION].contains(&proof.version) {
        return Err(form("kind or version"));
    }
    let (chain, sealed) = (&proof.chain, &proof.sealed);
    if chain.after.len() > STEPS_MAX || sealed.path.len() > STEPS_MAX {
        return Err(form("too many steps"));
    }
    let (mut columns, mut digests) = (Vec::new(), Vec::new());
    for one in &proof.record {
        let (shown, digest) = checked_column(one, &of_hex)?;
        columns.extend(shown.map(|shown| (one.name.clone(), shown)));
        digests.push(digest);
    }
    let digest = record(&digests);
    if hex(&digest) != proof.digest {
        return Err(Unproven::Differs("the record"));
    }
    let mut end = head(&of_hex(&chain.before)?, &digest);
    for after in &chain.after {
        end = head(&end, &of_hex(after)?);
    }
    if hex(&end) != chain.head {
        return Err(Unproven::Differs("the record's place in its chain"));
    }
    let last = i64::try_from(chain.after.len()).ok().and_then(|count| chain.seq.checked_add(count));
    let mut top = leaf(&chain.name, last.ok_or_else(|| form("the number in the chain"))?, &end);
    for neighbour in &sealed.path {
        top = match neighbour {
            Neighbour::Left(other) => node(&of_hex(other)?, &top),
            Neighbour::Right(other) => node(&top, &of_hex(other)?),
        };
    }
    if hex(&top) != sealed.tree {
        return Err(Unproven::Differs("the chain's place in the batch"));
    }
    let link: Digest = of_hex(&sealed.link)?.try_into().map_err(|_| form("the link"))?;
    let signed = root(&link, sealed.at_micros, &top);
    if hex(&signed) != sealed.root {
        return Err(Unproven::Differs("the batch (its time, tree or link)"));
    }
    if !is_signed(&of_hex(&sealed.key)?, &signed, &of_hex(&sealed.signature)?) {
        return Err(Unproven::Differs("the signature"));
    }
    if key.is_some_and(|key| !key.eq_ignore_ascii_case(&sealed.key)) {
        return Err(Unproven::Key(sealed.key.clone()));
    }
    Ok(Proven { columns, sealed_at_micros: sealed.at_micros, key: sealed.key.clone() })
}

/// What a column says, and its digest.
fn checked_column(
    one: &Column,
    of_hex: &impl Fn(&str) -> Result<Vec<u8>, Unproven>,
) -> Result<(Option<String>, Digest), Unproven> {
    let Some(parts) = &one.parts else { return Ok((None, column(&one.name, None))) };
    let form = |what: &str| Unproven::Form(what.to_owned());
    let (mut shown, mut digests) = (String::new(), Vec::new());
    for one in parts {
        let digest = match one {
            Part::Told { text, salt, joined: follows } => {
                shown.push_str(text);
                let digest = part(&of_hex(salt)?, text);
                let above =
                    if *follows { Some(digests.pop().ok_or_else(|| form("a joined part"))?) } else { None };
                above.map_or(digest, |above| joined(&above, &digest))
            }
            Part::Hidden { hidden } => {
                if !shown.ends_with('…') {
                    shown.push('…');
                }
                let digest: Option<Digest> = of_hex(hidden)?.try_into().ok();
                digest.ok_or_else(|| form("a hidden part"))?
            }
        };
        digests.push(digest);
    }
    // The signs around references.
    shown.retain(|c| !c.is_control());
    Ok((Some(shown), column(&one.name, Some(&digests))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::signing::SigningKey;

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

    /// The proof of the record at `index` of a batch with so many chains, as they were before.
    fn proof(chains: usize, index: usize) -> Proof {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::open_or_create(&dir.path().join("key")).unwrap();
        let told = |text: &str| Part::Told { text: text.to_owned(), salt: "0a0b".to_owned(), joined: false };
        let hidden = Part::Hidden { hidden: hex(&part(b"salt", "secret")) };
        let columns = vec![
            Column { name: "target".to_owned(), parts: Some(vec![told("customer "), hidden]) },
            Column { name: "before".to_owned(), parts: None },
        ];
        let digests: Vec<Digest> = columns
            .iter()
            .map(|column| checked_column(column, &|text| Ok(octets(text).unwrap())).unwrap().1)
            .collect();
        let digest = record(&digests);
        let (before, after) = ([7; 32], [9; 32]);
        let end = head(&head(&before, &digest), &after);
        let leaves: Vec<Digest> = (0..chains)
            .map(|at| if at == index { leaf("mine", 6, &end) } else { leaf("other", 1, &[at as u8; 32]) })
            .collect();
        let (top, link) = (tree(leaves.clone()), link(&[1; 32], &[2; 32], 3));
        let signed = root(&link, 99, &top);
        Proof {
            kind: KIND.to_owned(),
            version: VERSION_BEFORE,
            record: columns,
            digest: hex(&digest),
            chain: Chain {
                name: "mine".to_owned(),
                seq: 5,
                before: hex(&before),
                after: vec![hex(&after)],
                head: hex(&end),
            },
            sealed: Sealed {
                at_micros: 99,
                path: path(leaves, index),
                tree: hex(&top),
                link: hex(&link),
                root: hex(&signed),
                key: hex(&key.public()),
                signature: hex(&key.sign(&signed)),
            },
        }
    }

    #[test]
    fn every_place_in_every_tree_is_proven() {
        for chains in 1..20 {
            for index in 0..chains {
                let proof = proof(chains, index);
                let proven = check(&proof, Some(&proof.sealed.key)).unwrap();
                assert_eq!(proven.columns, [("target".to_owned(), "customer …".to_owned())]);
            }
        }
    }

    #[test]
    fn hiding_tree_leads_up_from_each_leaf_by_as_many_steps_whatever_is_in_it() {
        let secret = [7; 32];
        let mut tops = BTreeSet::new();
        for count in [1, 2, 3, 100, LEAVES_MAX] {
            let leaves: Vec<Digest> =
                (0..count).map(|at| leaf("chain", at as i64, &[at as u8; 32])).collect();
            let (top, _) = hiding_tree(&secret, 5, &leaves, 0);
            assert!(tops.insert(top));
            let mut sides = BTreeSet::new();
            for (index, leaf) in leaves.iter().enumerate() {
                let (same, path) = hiding_tree(&secret, 5, &leaves, index);
                assert_eq!((same, path.len()), (top, LEVELS));
                let climbed = path.iter().fold(*leaf, |below, neighbour| match neighbour {
                    Neighbour::Left(other) => node(&octets(other).unwrap(), &below),
                    Neighbour::Right(other) => node(&below, &octets(other).unwrap()),
                });
                assert_eq!(climbed, top, "{index} of {count}");
                sides.insert(path.iter().map(|one| matches!(one, Neighbour::Left(_))).collect::<Vec<_>>());
            }
            // Each has a place of its own.
            assert_eq!(sides.len(), count);
            let mut other = leaves.clone();
            other[count - 1][0] ^= 1;
            assert_ne!(hiding_tree(&secret, 5, &other, 0).0, top);
            for (secret, batch) in [([8; 32], 5), ([7; 32], 6)] {
                assert_ne!(hiding_tree(&secret, batch, &leaves, 0).0, top);
            }
        }
        // Where a leaf stands says nothing of how many came before.
        let place = |batch: i64| places(&secret, batch, 1)[0];
        assert!((0..100).map(place).collect::<BTreeSet<_>>().len() > 60);
    }

    #[test]
    fn steps_of_a_path_that_are_not_told_are_one_digest() {
        let steps: Vec<Digest> = ["root/", "top/", "low/", "own"].map(|step| part(b"s", step)).to_vec();
        let path =
            |from: usize| steps[..=from].iter().copied().reduce(|above, step| joined(&above, &step)).unwrap();
        let whole = column("customer_path", Some(&[path(3)]));
        let told = |text: &str, joined| Part::Told { text: text.to_owned(), salt: hex(b"s"), joined };
        let of = |text: &str| Ok(octets(text).unwrap());
        for (cut, rest) in [(1, vec!["low/", "own"]), (2, vec!["own"]), (3, vec![])] {
            let mut parts = vec![Part::Hidden { hidden: hex(&path(cut)) }];
            parts.extend(rest.iter().map(|text| told(text, true)));
            let one = Column { name: "customer_path".to_owned(), parts: Some(parts) };
            let expected = (Some(format!("…{}", rest.concat())), whole);
            assert_eq!(checked_column(&one, &of).unwrap(), expected);
        }
        let parts = vec![told("root/", false), told("top/", true), told("low/", true), told("own", true)];
        let one = Column { name: "customer_path".to_owned(), parts: Some(parts) };
        assert_eq!(checked_column(&one, &of).unwrap().1, whole);
    }

    #[test]
    fn tampered_proofs_are_refused_with_what_differs() {
        let differs = |change: fn(&mut Proof), what: &str| {
            let mut proof = proof(5, 2);
            change(&mut proof);
            let refused = check(&proof, None).unwrap_err().to_string();
            assert!(refused.contains(what), "{refused}: {what}");
        };
        let text = |proof: &mut Proof| {
            if let Some(Part::Told { text, .. }) = proof.record[0].parts.as_mut().unwrap().first_mut() {
                text.push('x');
            }
        };
        differs(text, "the record");
        differs(|proof| proof.record[1].parts = Some(Vec::new()), "the record");
        differs(|proof| proof.record.swap(0, 1), "the record");
        differs(|proof| proof.chain.before.replace_range(..1, "1"), "place in its chain");
        differs(|proof| proof.chain.after.clear(), "place in its chain");
        differs(|proof| proof.chain.seq += 1, "place in the batch");
        differs(|proof| proof.chain.name.push('x'), "place in the batch");
        differs(|proof| drop(proof.sealed.path.pop()), "place in the batch");
        differs(|proof| proof.sealed.at_micros += 1, "time");
        differs(|proof| proof.sealed.signature = "00".repeat(64), "signature");
        differs(|proof| proof.sealed.key = proof.sealed.tree.clone(), "signature");
        differs(|proof| proof.sealed.tree = "zz".to_owned(), "place in the batch");
        differs(|proof| proof.sealed.link = "zz".to_owned(), "hexadecimal");
        differs(|proof| proof.version = 4, "version");
        let join = |proof: &mut Proof| {
            if let Some(Part::Told { joined, .. }) = proof.record[0].parts.as_mut().unwrap().first_mut() {
                *joined = true;
            }
        };
        differs(join, "joined");
        // Whole, but of somebody else.
        let (one, other) = (proof(3, 1), proof(3, 1));
        assert!(matches!(check(&one, Some(&other.sealed.key)), Err(Unproven::Key(_))));
    }
}
