//! Names of objects.

use std::fmt;

use crate::storage::pack::PackName;

/// Longest key, in octets; S3 takes 1,024, and the prefix stands before it.
const KEY_OCTETS_MAX: usize = 512;

/// The name of an object below the prefix of its bucket or directory: letters, digits and `. _ - /` that need no
/// escaping anywhere. An object's key is never used again for other content.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// A pack: its random name spreads the keys, and no two packs ever share one.
    pub fn of_pack(name: PackName) -> Self {
        Self::of(name, "pack")
    }

    /// `NAME.EXTENSION` for what belongs to a pack or has a random name of the same kind.
    pub fn of(name: PackName, extension: &'static str) -> Self {
        Self(format!("{name}.{extension}"))
    }

    /// `FOLDER/NAME`, both of plain characters.
    pub(in crate::storage) fn in_folder(folder: &'static str, name: &str) -> Self {
        Self(format!("{folder}/{name}"))
    }

    /// Whether it names a pack.
    pub(super) fn is_pack(&self) -> bool {
        self.0.ends_with(".pack")
    }

    /// Reads a key, such as `manifests/2026-11-22.json`; nothing if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        is_path(text).then(|| Self(text.to_owned()))
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `text` is one or more segments of plain characters, none of them `.` or `..`.
pub(super) fn is_path(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let segment = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(plain);
    text.len() <= KEY_OCTETS_MAX && text.split('/').all(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_plain_relative_paths() {
        for right in ["a", "a/b.json", "packs/0-9_Z.pack", "a..b"] {
            assert_eq!(ObjectKey::parse(right).map(|key| key.to_string()).as_deref(), Some(right));
        }
        let long = "x".repeat(KEY_OCTETS_MAX + 1);
        for wrong in ["", "/a", "a/", "a//b", "../a", "a/./b", "a b", "a\0", "ä", "a?b", &long] {
            assert_eq!(ObjectKey::parse(wrong), None, "{wrong:?}");
        }
        let name = PackName([7; 16]);
        assert_eq!(ObjectKey::of_pack(name).as_str(), "07070707070707070707070707070707.pack");
        assert!(is_path(ObjectKey::of_pack(PackName::random()).as_str()));
    }
}
