//! What a large installation has, as statements for both databases.

use posthouse::base::clock::Clock;
use posthouse::service::authority::Permission;

use super::{HASH, Options};

/// Mailboxes of the domain whose report is timed.
const LARGE_DOMAIN: usize = 10_000;
/// Levels of the hierarchy, and customers of the chain.
pub const LEVELS: usize = 20;
pub const CHAIN: usize = 1_000;
/// Lines of metering of each domain in the present month.
pub const USAGE_LINES: i64 = 4;
/// Messages that one statement fills in: the log is written back between statements.
const MESSAGES_TOGETHER: usize = 1_000_000;
/// Tables whose keys are given here; PostgreSQL has to be told which ones.
const KEYED: [&str; 6] = ["store", "customer", "domain", "mailbox", "folder", "usage_path"];

/// The numbers from one to another.
fn numbers(from: usize, to: usize) -> String {
    format!(
        "WITH RECURSIVE n (i) AS (SELECT CAST({from} AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < {to})"
    )
}

/// The customers and their domains. Keys are numbers from 1 on: the root is customer 1, a chain hangs below it, and the
/// others form a tree; each has a domain. Some have a ceiling, and some a hold on management.
pub fn hierarchy(options: Options) -> Vec<String> {
    let customers = options.mailboxes / 10;
    let chain = CHAIN.min(customers / 2);
    // Customer i of the tree hangs below i / 2 for a while, then in chains of so many levels.
    let (tree, levels) = (chain + 2, LEVELS - 14);
    let parent = format!(
        "CASE WHEN i <= {chain} + 1 THEN i - 1
              WHEN i - {tree} < 8192 THEN CASE WHEN i - {tree} < 2 THEN 1 ELSE {tree} + (i - {tree}) / 2 END
              WHEN (i - {tree}) % {levels} = 0 THEN {tree} + 4096 + (i / {levels}) % 4096 ELSE i - 1 END"
    );
    let ceiling: Vec<&str> = Permission::ALL.iter().map(|permission| permission.name()).skip(1).collect();
    vec![
        "INSERT INTO store (id, name, path, created_at) VALUES (1, 'main', 'stores/main', 0)".to_owned(),
        format!(
            "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
             {} SELECT i, 'c' || i, {parent}, 'c' || i, 'Customer ' || i, 'k' || i, 0 FROM n",
            numbers(2, customers)
        ),
        format!("UPDATE customer SET ceiling = '{}' WHERE id % 101 = 7", ceiling.join(" ")),
        "INSERT INTO hold (public_id, customer_id, switch, reason, actor, authority_customer_id, created_at)
         SELECT 'h' || id, id, 'manage', 'late', 'system', 1, 0 FROM customer WHERE id % 1009 = 1008"
            .to_owned(),
        format!(
            "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
             {} SELECT i, 'd' || i, i, 'd' || i || '.example', 'verified', 0 FROM n",
            numbers(1, customers)
        ),
    ]
}

/// Mailboxes stand in their domains in turn, and in the first domain so many more; messages in mailboxes in turn.
pub fn mail(options: Options) -> Vec<String> {
    let Options { mailboxes, messages, .. } = options;
    let (customers, each) = (mailboxes / 10, messages.div_ceil(mailboxes).max(1));
    let mut statements = vec![
        format!(
            "INSERT INTO mailbox (id, public_id, domain_id, local_part, password_hash, store_id, bytes_max,
                                  uid_validity_next, created_at)
             {} SELECT i, 'm' || i, CASE WHEN i <= {LARGE_DOMAIN} THEN 1 ELSE 1 + i % {customers} END,
                       'user' || i, '{HASH}', 1, 1073741824, 2, 0 FROM n",
            numbers(1, mailboxes)
        ),
        "INSERT INTO folder (id, mailbox_id, name, uid_validity, created_at)
         SELECT id, id, 'INBOX', 1, 0 FROM mailbox"
            .to_owned(),
        "INSERT INTO body (id, scope_id, store_id, octets, stored_octets, reference_count)
         VALUES (1, 1, 1, 4000, 1500, 1)"
            .to_owned(),
    ];
    for from in (0..messages).step_by(MESSAGES_TOGETHER) {
        statements.push(format!(
            "INSERT INTO message (mailbox_id, folder_id, uid, flags, mod_seq, body_id, prefix_id, octets, internal_date)
             {} SELECT 1 + i / {each}, 1 + i / {each}, 1 + i % {each}, i % 2, 1 + i % {each}, 1, 0, 4000, 0 FROM n",
            numbers(from, messages.min(from + MESSAGES_TOGETHER) - 1)
        ));
    }
    statements.extend([
        format!("UPDATE body SET reference_count = {messages}"),
        "UPDATE folder SET (messages, recent, octets, unseen, uid_next, mod_seq) = (
             SELECT count(*), count(*), coalesce(sum(e.octets), 0), coalesce(sum(1 - (e.flags & 1)), 0),
                    coalesce(max(e.uid), 0) + 1, coalesce(max(e.mod_seq), 1)
             FROM message e WHERE e.mailbox_id = folder.mailbox_id AND e.folder_id = folder.id)"
            .to_owned(),
        "UPDATE mailbox SET (messages_used, bytes_used) = (
             SELECT f.messages, f.octets FROM folder f WHERE f.id = mailbox.id)"
            .to_owned(),
    ]);
    statements
}

/// What the domains used this month, as far as it is over: some lines for each.
pub fn metering() -> Vec<String> {
    let closed = Clock::system().now().secs() / 3_600 - 1;
    vec![
        "INSERT INTO usage_path (id, path, names)
         WITH RECURSIVE p (id, path, names) AS (
             SELECT id, '/' || id || '/', slug FROM customer WHERE parent_id IS NULL
             UNION ALL
             SELECT c.id, p.path || c.id || '/', p.names || '/' || c.slug FROM p JOIN customer c ON c.parent_id = p.id)
         SELECT id, path, names FROM p ORDER BY id"
            .to_owned(),
        "INSERT INTO usage_place (domain_id, path_id) SELECT id, customer_id FROM domain".to_owned(),
        format!(
            "INSERT INTO usage_line (domain_id, start_hour, hours, path_id, byte_hours, mailbox_hours, messages_in,
                                     octets_in, bytes_after, mailboxes_after)
             {} SELECT d.id, {closed} - n.i, 1, d.customer_id, 400000, 10, 1, 4000, 400000, 10
             FROM domain d CROSS JOIN n",
            numbers(0, USAGE_LINES as usize - 1)
        ),
        format!("INSERT INTO instance (key, value) VALUES ('metered_hour', '{closed}')"),
        "UPDATE instance SET value = 'filled' WHERE key = 'tree_version'".to_owned(),
        "ANALYZE".to_owned(),
    ]
}

/// Goes on with the keys behind those that were given.
pub fn keys() -> Vec<String> {
    let next = |table: &&str| {
        format!("SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))")
    };
    KEYED.iter().map(next).collect()
}
