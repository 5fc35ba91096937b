//! The two sets of migrations, embedded in the program.

use sqlx::SqlSafeStr as _;
use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Number, name, SQLite text, PostgreSQL text. Both folders hold the same numbers and names (`tests/tidy.rs`).
const MIGRATIONS: &[(i64, &str, &str, &str)] = &[
    (
        1,
        "base",
        include_str!("../../../migrations/sqlite/0001_base.sql"),
        include_str!("../../../migrations/postgres/0001_base.sql"),
    ),
    (
        2,
        "stores",
        include_str!("../../../migrations/sqlite/0002_stores.sql"),
        include_str!("../../../migrations/postgres/0002_stores.sql"),
    ),
    (
        3,
        "audit_scope",
        include_str!("../../../migrations/sqlite/0003_audit_scope.sql"),
        include_str!("../../../migrations/postgres/0003_audit_scope.sql"),
    ),
    (
        4,
        "folder_counters",
        include_str!("../../../migrations/sqlite/0004_folder_counters.sql"),
        include_str!("../../../migrations/postgres/0004_folder_counters.sql"),
    ),
    (
        5,
        "servers",
        include_str!("../../../migrations/sqlite/0005_servers.sql"),
        include_str!("../../../migrations/postgres/0005_servers.sql"),
    ),
    (
        6,
        "volumes",
        include_str!("../../../migrations/sqlite/0006_volumes.sql"),
        include_str!("../../../migrations/postgres/0006_volumes.sql"),
    ),
    (
        7,
        "pack_scope",
        include_str!("../../../migrations/sqlite/0007_pack_scope.sql"),
        include_str!("../../../migrations/postgres/0007_pack_scope.sql"),
    ),
    (
        8,
        "backup",
        include_str!("../../../migrations/sqlite/0008_backup.sql"),
        include_str!("../../../migrations/postgres/0008_backup.sql"),
    ),
    (
        9,
        "catalogs",
        include_str!("../../../migrations/sqlite/0009_catalogs.sql"),
        include_str!("../../../migrations/postgres/0009_catalogs.sql"),
    ),
    (
        10,
        "homes",
        include_str!("../../../migrations/sqlite/0010_homes.sql"),
        include_str!("../../../migrations/postgres/0010_homes.sql"),
    ),
    (
        11,
        "audit_chain",
        include_str!("../../../migrations/sqlite/0011_audit_chain.sql"),
        include_str!("../../../migrations/postgres/0011_audit_chain.sql"),
    ),
    (
        12,
        "settings",
        include_str!("../../../migrations/sqlite/0012_settings.sql"),
        include_str!("../../../migrations/postgres/0012_settings.sql"),
    ),
    (
        13,
        "notices",
        include_str!("../../../migrations/sqlite/0013_notices.sql"),
        include_str!("../../../migrations/postgres/0013_notices.sql"),
    ),
    (
        14,
        "summary_block",
        include_str!("../../../migrations/sqlite/0014_summary_block.sql"),
        include_str!("../../../migrations/postgres/0014_summary_block.sql"),
    ),
    (
        15,
        "guarantees",
        include_str!("../../../migrations/sqlite/0015_guarantees.sql"),
        include_str!("../../../migrations/postgres/0015_guarantees.sql"),
    ),
    (
        16,
        "metering",
        include_str!("../../../migrations/sqlite/0016_metering.sql"),
        include_str!("../../../migrations/postgres/0016_metering.sql"),
    ),
    (
        17,
        "quota_marks",
        include_str!("../../../migrations/sqlite/0017_quota_marks.sql"),
        include_str!("../../../migrations/postgres/0017_quota_marks.sql"),
    ),
    (
        18,
        "domain_names",
        include_str!("../../../migrations/sqlite/0018_domain_names.sql"),
        include_str!("../../../migrations/postgres/0018_domain_names.sql"),
    ),
    (
        19,
        "people",
        include_str!("../../../migrations/sqlite/0019_people.sql"),
        include_str!("../../../migrations/postgres/0019_people.sql"),
    ),
    (
        20,
        "usage_places",
        include_str!("../../../migrations/sqlite/0020_usage_places.sql"),
        include_str!("../../../migrations/postgres/0020_usage_places.sql"),
    ),
    (
        21,
        "audit_index",
        include_str!("../../../migrations/sqlite/0021_audit_index.sql"),
        include_str!("../../../migrations/postgres/0021_audit_index.sql"),
    ),
    (
        22,
        "legal_hold",
        include_str!("../../../migrations/sqlite/0022_legal_hold.sql"),
        include_str!("../../../migrations/postgres/0022_legal_hold.sql"),
    ),
    (
        23,
        "roles",
        include_str!("../../../migrations/sqlite/0023_roles.sql"),
        include_str!("../../../migrations/postgres/0023_roles.sql"),
    ),
    (
        24,
        "requests",
        include_str!("../../../migrations/sqlite/0024_requests.sql"),
        include_str!("../../../migrations/postgres/0024_requests.sql"),
    ),
    (
        25,
        "spending",
        include_str!("../../../migrations/sqlite/0025_spending.sql"),
        include_str!("../../../migrations/postgres/0025_spending.sql"),
    ),
    (
        26,
        "large",
        include_str!("../../../migrations/sqlite/0026_large.sql"),
        include_str!("../../../migrations/postgres/0026_large.sql"),
    ),
    (
        27,
        "invitations",
        include_str!("../../../migrations/sqlite/0027_invitations.sql"),
        include_str!("../../../migrations/postgres/0027_invitations.sql"),
    ),
];

/// Which database's texts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// The migrations of one database. A database that has newer ones than this program knows is refused.
pub(super) fn migrator(dialect: Dialect) -> Migrator {
    let migrations = MIGRATIONS.iter().map(|&(number, name, sqlite, postgres)| {
        let text: SqlStr = if dialect == Dialect::Sqlite { sqlite } else { postgres }.into_sql_str();
        Migration::new(number, name.into(), MigrationType::Simple, text, false)
    });
    Migrator::with_migrations(migrations.collect())
}
