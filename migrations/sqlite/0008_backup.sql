-- Backups: what is known of those that were taken, and what is being written.
-- The folder migrations/postgres holds the same tables under the same number and name.

-- Backups that a target has, as its index tells (storage/backup/index.rs, JSON); the target itself is the truth.
CREATE TABLE backup (
    target    TEXT   NOT NULL,
    public_id TEXT   NOT NULL,
    at        BIGINT NOT NULL,
    entry     TEXT   NOT NULL,
    PRIMARY KEY (target, public_id)
) WITHOUT ROWID;
CREATE INDEX backup_at ON backup (target, at);

-- Objects that are written to a target, or were, and that no backup there names yet: what an interrupted run leaves is
-- used or removed by these rows, never by listing the target. hash is there once the object is.
CREATE TABLE backup_object (
    target TEXT   NOT NULL,
    key    TEXT   NOT NULL,
    octets BIGINT NOT NULL,
    hash   BLOB,
    PRIMARY KEY (target, key)
) WITHOUT ROWID;

-- Which job writes to a target (snapshot is empty), and which read a backup: it stays meanwhile. A lease is worth nothing
-- once its job has ended.
CREATE TABLE backup_lease (
    target   TEXT   NOT NULL,
    snapshot TEXT   NOT NULL,
    holder   TEXT   NOT NULL,
    job_id   BIGINT NOT NULL,
    PRIMARY KEY (target, snapshot, holder)
) WITHOUT ROWID;
