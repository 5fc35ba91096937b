//! LIST (RFC 3501 section 6.3.8, RFC 5258, RFC 5819, RFC 6154) and LSUB (RFC 3501 section 6.3.9),
//! authenticated state.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::ImapServices;
use super::client::Client;
use super::command::List;
use super::folder;
use super::outcome::{Done, Outcome};
use super::{respond, utf7};
use crate::service::context::Owner;
use crate::service::mailstore::MailStore;
use crate::service::mailstore::types::{FOLDER_NAME_OCTETS_MAX, Folder, FolderName, SpecialUse};

/// Longest pattern: each octet of a name, with wildcards between them.
const PATTERN_OCTETS_MAX: usize = 2 * FOLDER_NAME_OCTETS_MAX + 1;

/// LIST.
pub async fn list(client: &mut Client, services: &ImapServices, owner: &Owner, list: &List) -> Outcome {
    if !list.extended && list.patterns.iter().all(|pattern| pattern.is_empty()) {
        // Asks for the hierarchy separator only.
        client.out.extend_from_slice(b"* LIST (\\Noselect) \"/\" \"\"\r\n");
        return Ok(Done::new("LIST completed"));
    }
    let patterns: Vec<Pattern> =
        list.patterns.iter().filter_map(|pattern| Pattern::parse(&list.reference, pattern)).collect();
    let folders = services.mail.folder_list(owner).await?;
    let mut names: BTreeMap<FolderName, Option<&Folder>> =
        folders.iter().map(|folder| (folder.name.clone(), Some(folder))).collect();
    let mut subscribed = HashSet::new();
    if list.select_subscribed {
        for name in services.mail.subscriptions(owner).await? {
            names.entry(name.clone()).or_insert(None);
            subscribed.insert(name);
        }
    }
    let chosen = |name: &FolderName, folder: Option<&Folder>| {
        (!list.select_subscribed || subscribed.contains(name))
            && (!list.select_special_use || folder.is_some_and(|folder| folder.special_use.is_some()))
    };
    let matched = |name: &FolderName| patterns.iter().any(|pattern| pattern.matches(name));

    // RFC 5258 section 3.5: names above a chosen one that the patterns do not reach.
    let mut above = BTreeSet::new();
    if list.select_recursive {
        for (name, _) in names.iter().filter(|(name, folder)| chosen(name, **folder) && !matched(name)) {
            above.extend(std::iter::successors(name.parent(), FolderName::parent));
        }
    }
    for name in &above {
        names.entry(name.clone()).or_insert(None);
    }

    for (name, folder) in names {
        let has_child_info = above.contains(&name);
        if !matched(&name) || !(chosen(&name, folder) || has_child_info) {
            continue;
        }
        let subscribed = match folder {
            Some(folder) => folder.subscribed,
            None => subscribed.contains(&name),
        };
        let subscribed = subscribed && (list.return_subscribed || list.select_subscribed);
        write(&mut client.out, b"LIST", &attributes(folder, subscribed), name.as_str());
        if has_child_info {
            child_info(&mut client.out, list);
        }
        client.out.extend_from_slice(b"\r\n");
        if let Some(folder) = folder.filter(|folder| folder.selectable && !list.return_status.is_empty()) {
            // RFC 5819 section 2. The counters came with the list.
            folder::status_write(&mut client.out, services, &name, &folder.status, &list.return_status);
        }
        client.flush_if_large().await?;
    }
    Ok(Done::new("LIST completed"))
}

fn attributes(folder: Option<&Folder>, subscribed: bool) -> Vec<&'static str> {
    let mut attributes = Vec::new();
    match folder {
        None => attributes.push("\\NonExistent"),
        Some(folder) => {
            if !folder.selectable {
                attributes.push("\\Noselect");
            }
            attributes.push(if folder.has_children { "\\HasChildren" } else { "\\HasNoChildren" });
            attributes.extend(folder.special_use.map(special_use));
        }
    }
    if subscribed {
        attributes.push("\\Subscribed");
    }
    attributes
}

const fn special_use(special_use: SpecialUse) -> &'static str {
    match special_use {
        SpecialUse::Archive => "\\Archive",
        SpecialUse::Drafts => "\\Drafts",
        SpecialUse::Junk => "\\Junk",
        SpecialUse::Sent => "\\Sent",
        SpecialUse::Trash => "\\Trash",
    }
}

fn child_info(out: &mut Vec<u8>, list: &List) {
    out.extend_from_slice(b" (\"CHILDINFO\" (");
    if list.select_subscribed {
        out.extend_from_slice(b"\"SUBSCRIBED\"");
    }
    if list.select_special_use {
        out.extend_from_slice(if list.select_subscribed { b" \"SPECIAL-USE\"" } else { b"\"SPECIAL-USE\"" });
    }
    out.extend_from_slice(b"))");
}

/// Writes `* LIST (attributes) "/" name` without a line end.
fn write(out: &mut Vec<u8>, word: &[u8], attributes: &[&str], name: &str) {
    out.extend_from_slice(b"* ");
    out.extend_from_slice(word);
    out.extend_from_slice(b" (");
    out.extend_from_slice(attributes.join(" ").as_bytes());
    out.extend_from_slice(b") \"/\" ");
    respond::folder_text(out, name);
}

/// LSUB: subscribed names, existing or not. With `%` a name above a subscribed one that the pattern does not
/// reach is told as `\Noselect`.
pub async fn lsub(
    client: &mut Client,
    mail: &MailStore,
    owner: &Owner,
    reference: &[u8],
    pattern: &[u8],
) -> Outcome {
    let done = Ok(Done::new("LSUB completed"));
    let Some(parsed) = Pattern::parse(reference, pattern) else { return done };
    let mut found: BTreeMap<FolderName, bool> = BTreeMap::new();
    for name in mail.subscriptions(owner).await? {
        if parsed.matches(&name) {
            found.insert(name, true);
        } else if pattern.contains(&b'%') {
            for above in std::iter::successors(name.parent(), FolderName::parent) {
                if parsed.matches(&above) {
                    found.entry(above).or_insert(false);
                }
            }
        }
    }
    for (name, subscribed) in found {
        let attributes: &[&str] = if subscribed { &[] } else { &["\\Noselect"] };
        write(&mut client.out, b"LSUB", attributes, name.as_str());
        client.out.extend_from_slice(b"\r\n");
        client.flush_if_large().await?;
    }
    done
}

/// A pattern: `*` stands for anything, `%` for anything without a separator.
pub(super) struct Pattern(Vec<u8>);

impl Pattern {
    /// Reference and pattern in modified UTF-7; nothing for one that can match no name.
    pub(super) fn parse(reference: &[u8], pattern: &[u8]) -> Option<Self> {
        let mut text = utf7::decode(reference)?;
        text.push_str(&utf7::decode(pattern)?);
        let mut octets = text.into_bytes();
        octets.dedup_by(|next, previous| {
            *next == b'*' && *previous == b'*' || *next == b'%' && *previous == b'%'
        });
        if octets.len() > PATTERN_OCTETS_MAX {
            return None;
        }
        // INBOX is INBOX in any case, also above its children.
        if let Some((first, rest)) = octets.split_at_mut_checked(5)
            && first.eq_ignore_ascii_case(b"INBOX")
            && matches!(rest.first(), None | Some(b'/'))
        {
            first.make_ascii_uppercase();
        }
        Some(Self(octets))
    }

    pub(super) fn matches(&self, name: &FolderName) -> bool {
        let text = name.as_str().as_bytes();
        self.matches_octets(text, name.is_inbox())
    }

    /// Follows all positions of the name that the pattern so far can have reached: the work is bounded by the
    /// product of both lengths, whatever the wildcards.
    fn matches_octets(&self, text: &[u8], any_case: bool) -> bool {
        let mut reached = vec![false; text.len() + 1];
        if let Some(start) = reached.first_mut() {
            *start = true;
        }
        for &octet in &self.0 {
            let mut before = false;
            let mut any = false;
            for (index, here) in reached.iter_mut().enumerate() {
                let last = index.checked_sub(1).and_then(|index| text.get(index)).copied();
                let was = *here;
                *here = match (octet, last) {
                    // `before` is the new value one position earlier for wildcards, the old one for octets.
                    (b'*', _) => was || before,
                    (b'%', last) => was || before && last != Some(b'/'),
                    (octet, Some(last)) => {
                        before && (octet == last || any_case && octet.eq_ignore_ascii_case(&last))
                    }
                    (_, None) => false,
                };
                before = if matches!(octet, b'*' | b'%') { *here } else { was };
                any |= *here;
            }
            if !any {
                return false;
            }
        }
        reached.last() == Some(&true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ModSeq, Uid, UidValidity};
    use crate::service::mailstore::types::FolderStatus;

    const EMPTY: FolderStatus = FolderStatus {
        messages: 0,
        recent: 0,
        unseen: 0,
        deleted: 0,
        deleted_octets: 0,
        uid_next: Uid(1),
        uid_validity: UidValidity(1),
        highest_mod_seq: ModSeq(1),
        octets: 0,
    };

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse(b"", pattern.as_bytes())
            .is_some_and(|pattern| pattern.matches(&FolderName::parse(name).unwrap()))
    }

    #[test]
    fn wildcards_stop_where_they_must() {
        for (pattern, name, want) in [
            ("*", "a/b/c", true),
            ("%", "a", true),
            ("%", "a/b", false),
            ("%/%", "a/b", true),
            ("a/%", "a", false),
            ("a/%", "a/b", true),
            ("a/%", "a/b/c", false),
            ("a*c", "a/b/c", true),
            ("a%c", "abc", true),
            ("a%c", "a/c", false),
            ("*b", "a/b", true),
            ("b", "a/b", false),
            ("a", "A", false),
            ("inbox", "INBOX", true),
            ("inb*", "INBOX", true),
            ("Inbox/%", "INBOX/x", true),
            ("%%%", "abc", true),
            ("*%*", "a/b", true),
            ("", "a", false),
            ("&ANw-ber", "Über", true),
            ("&broken", "x", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn reference_stands_before_the_pattern() {
        let pattern = Pattern::parse(b"a/", b"%").unwrap();
        assert!(pattern.matches(&FolderName::parse("a/b").unwrap()));
        assert!(!pattern.matches(&FolderName::parse("b").unwrap()));
    }

    #[test]
    fn hostile_patterns_are_bounded() {
        assert!(Pattern::parse(b"", "a*".repeat(10_000).as_bytes()).is_none());
        let name = "a".repeat(255);
        assert!(!matches(&"a*".repeat(200), &name.replace('a', "b")));
    }

    #[test]
    fn attributes_say_what_a_name_is() {
        let folder = Folder {
            name: FolderName::parse("Sent").unwrap(),
            special_use: Some(SpecialUse::Sent),
            selectable: true,
            has_children: false,
            subscribed: true,
            status: EMPTY,
        };
        assert_eq!(attributes(Some(&folder), true), ["\\HasNoChildren", "\\Sent", "\\Subscribed"]);
        let parent = Folder { selectable: false, has_children: true, special_use: None, ..folder };
        assert_eq!(attributes(Some(&parent), false), ["\\Noselect", "\\HasChildren"]);
        assert_eq!(attributes(None, true), ["\\NonExistent", "\\Subscribed"]);
    }
}
