//! What must hold after each step, whatever happened: everything that is counted is right, and files and objects are
//! those that rows name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::*;

/// What must be 0.
const COUNTED: [(&str, &str); 11] = [
    (
        "references to bodies",
        "SELECT count(*) FROM body b WHERE id NOT IN (SELECT body_id FROM part) AND (reference_count = 0
            OR reference_count <> (SELECT count(*) FROM message WHERE body_id = b.id)
                                + (SELECT count(*) FROM tombstone WHERE body_id = b.id))",
    ),
    (
        "references to parts",
        "SELECT count(*) FROM part p LEFT JOIN body b ON b.id = p.body_id
         WHERE b.id IS NULL OR b.pack_id IS NULL OR b.reference_count = 0
            OR b.reference_count <> (SELECT count(*) FROM body_part u WHERE u.part_id = b.id)",
    ),
    (
        "uses of parts",
        "SELECT count(*) FROM body_part u WHERE NOT EXISTS (SELECT 1 FROM body b WHERE b.id = u.body_id)
            OR NOT EXISTS (SELECT 1 FROM part p WHERE p.body_id = u.part_id)",
    ),
    (
        "parts of other customers",
        "SELECT count(*) FROM body_part u JOIN body b ON b.id = u.body_id JOIN body p ON p.id = u.part_id
         WHERE b.scope_id <> p.scope_id",
    ),
    (
        "fresh bodies",
        "SELECT (SELECT count(*) FROM fresh_body WHERE body_id NOT IN (SELECT id FROM body WHERE pack_id IS NULL))
              + (SELECT count(*) FROM body WHERE pack_id IS NULL AND id NOT IN (SELECT body_id FROM fresh_body))",
    ),
    (
        "living and dead of packs",
        "SELECT count(*) FROM pack p WHERE (dropped_at IS NOT NULL AND dead_bodies < bodies)
            OR bodies - dead_bodies <> (SELECT count(*) FROM body b WHERE b.pack_id = p.id)
            OR octets <> 68 + 71 * bodies + dead_octets
                       + (SELECT CAST(coalesce(sum(b.stored_octets), 0) AS BIGINT) FROM body b WHERE b.pack_id = p.id)",
    ),
    (
        "bodies in packs that are gone",
        "SELECT count(*) FROM body b LEFT JOIN pack p ON p.id = b.pack_id WHERE b.pack_id IS NOT NULL AND p.id IS NULL",
    ),
    ("intents", "SELECT count(*) FROM pack_intent"),
    (
        "use of mailboxes",
        "SELECT count(*) FROM mailbox m WHERE (messages_used, bytes_used) <>
           (SELECT count(*), coalesce(sum(octets), 0) FROM message WHERE mailbox_id = m.id)
            OR tombstone_octets <> (SELECT coalesce(sum(octets + 1024), 0) FROM tombstone WHERE mailbox_id = m.id)",
    ),
    (
        "trace lines and summaries",
        "SELECT abs((SELECT count(*) FROM message_prefix)
                  - (SELECT count(*) FROM message WHERE prefix_id <> 0)
                  - (SELECT count(*) FROM tombstone WHERE prefix_id <> 0))
              + abs((SELECT count(*) FROM summary)
                  - (SELECT count(*) FROM body WHERE id NOT IN (SELECT body_id FROM part)))",
    ),
    (
        "blocks of summaries",
        "SELECT count(*) FROM summary_block k
         WHERE bodies <= 0 OR bodies <> (SELECT count(*) FROM summary WHERE block_id = k.id)
            OR living_octets <> (SELECT coalesce(sum(octets), 0) FROM summary WHERE block_id = k.id)",
    ),
];

impl Scene {
    /// Bodies are those that messages and tombstones refer to, each once, and everything that is counted is right.
    pub(super) async fn count(&self) {
        for (what, text) in COUNTED {
            assert_eq!(self.house.number(text).await, 0, "{what}");
        }
        let letters = |expected: &Expected| {
            let living = expected.there.values().chain(&expected.gone).map(|letter| letter.body);
            living.collect::<Vec<_>>()
        };
        let all: Vec<_> = self.mailboxes.iter().flat_map(letters).collect();
        let own = "SELECT count(*) FROM body WHERE id NOT IN (SELECT body_id FROM part)";
        let own = self.house.number(own).await as usize;
        if self.has_moved {
            // Mailboxes that have parted and met again may have a body each.
            let numbers: BTreeSet<u32> = all.iter().map(|(_, number)| *number).collect();
            assert!(numbers.len() <= own && own <= all.len(), "bodies");
        } else {
            assert_eq!(own, all.into_iter().collect::<BTreeSet<_>>().len(), "bodies");
        }
        let gone: usize = self.mailboxes.iter().map(|expected| expected.gone.len()).sum();
        assert_eq!(self.house.number("SELECT count(*) FROM tombstone").await, gone as i64, "tombstones");
    }

    /// Files and objects are those that rows say are there, or may be.
    pub(super) async fn places(&self) {
        let (mut local, mut maybe_local) = (BTreeMap::<_, i64>::new(), BTreeSet::new());
        let (mut remote, mut maybe_remote) = (BTreeSet::new(), BTreeSet::new());
        // Of a dropped pack a crash may have left the row alone.
        let rows = "SELECT public_id, octets,
                CASE WHEN dropped_at IS NULL OR local_state = 'absent' THEN local_state ELSE 'removing' END,
                CASE WHEN dropped_at IS NULL OR remote_state = 'absent' THEN remote_state ELSE 'uploading' END
             FROM pack";
        for row in self.house.rows(rows).await {
            let (name, octets) = (row.text(0).unwrap() + ".pack", row.number(1).unwrap());
            match row.text(2).unwrap().as_str() {
                "present" => drop(local.insert(name.clone(), octets)),
                "removing" => drop(maybe_local.insert(name.clone())),
                _ => {}
            }
            match row.text(3).unwrap().as_str() {
                "present" => drop(remote.insert(name)),
                "uploading" => drop(maybe_remote.insert(name)),
                _ => {}
            }
        }
        let found = names(&self.pack_files());
        for (name, octets) in &local {
            assert_eq!(found.get(name), Some(octets), "the file of a pack");
        }
        let unknown = found.keys().find(|name| !local.contains_key(*name) && !maybe_local.contains(*name));
        assert_eq!(unknown, None, "a file without row");
        let found = names(&self.server.objects(""));
        let missing = remote.iter().find(|name| !found.contains_key(*name));
        assert_eq!(missing, None, "an object that is not there");
        let unknown = found.keys().find(|name| !remote.contains(*name) && !maybe_remote.contains(*name));
        assert_eq!(unknown, None, "an object without row");
    }
}

/// All files below a folder.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found
}

/// Names and lengths of packs, whole or half written; what else is in the bucket is left out.
pub(super) fn names(files: &[PathBuf]) -> BTreeMap<String, i64> {
    let is_pack =
        |file: &&PathBuf| file.extension().is_some_and(|extension| extension == "pack" || extension == "tmp");
    let own = files.iter().filter(is_pack);
    own.map(|file| {
        let octets = file.metadata().unwrap().len() as i64;
        (file.file_name().unwrap().to_str().unwrap().to_owned(), octets)
    })
    .collect()
}
