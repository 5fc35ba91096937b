-- Mail stores: settings, offload, parts shared between bodies, dictionaries, undelete; jobs.
-- The folder migrations/postgres holds the same tables under the same number and name.

-- How a store keeps mail, as JSON of names and values (base/store_settings.rs): what differs from the defaults. `fixed` lists
-- the settings that the configuration file gives; they cannot be changed at run time.
ALTER TABLE store ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';
ALTER TABLE store ADD COLUMN fixed TEXT NOT NULL DEFAULT '[]';
ALTER TABLE store DROP COLUMN compression_level;
ALTER TABLE store DROP COLUMN compression_dictionary;
-- Grows when compression settings change: packs of lower generations are compressed anew in the background.
ALTER TABLE store ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;

-- A pack's copies. Before a local file is removed it is `removing`, before an object is written `uploading`: after a
-- crash these rows, never a listing, say what may lie about.
ALTER TABLE pack ADD COLUMN local_state TEXT NOT NULL DEFAULT 'present' CHECK (local_state IN ('present', 'removing', 'absent'));
ALTER TABLE pack ADD COLUMN remote_state TEXT NOT NULL DEFAULT 'absent' CHECK (remote_state IN ('absent', 'uploading', 'present'));
ALTER TABLE pack ADD COLUMN uploaded_at BIGINT;
-- Octets of its bodies as received.
ALTER TABLE pack ADD COLUMN original_octets BIGINT NOT NULL DEFAULT 0;
-- How often its bodies were merged: only packs of one tier are merged with each other, so that a body is rewritten few times.
ALTER TABLE pack ADD COLUMN tier BIGINT NOT NULL DEFAULT 0;
ALTER TABLE pack ADD COLUMN generation BIGINT NOT NULL DEFAULT 0;
-- Since when it has dead bodies, as far as was noticed.
ALTER TABLE pack ADD COLUMN dead_at BIGINT;
CREATE INDEX pack_state ON pack (store_id, remote_state, local_state, created_at);

-- Mailbox and folder of a body's first message: they decide only its place among others when packs are merged.
ALTER TABLE body ADD COLUMN mailbox_id BIGINT NOT NULL DEFAULT 0;
ALTER TABLE body ADD COLUMN folder_id BIGINT NOT NULL DEFAULT 0;

-- Attachments that several bodies of one scope share are bodies of their own, found by the BLAKE3 of their decoded bytes.
CREATE TABLE part (
    body_id  INTEGER PRIMARY KEY,
    scope_id BIGINT NOT NULL,
    store_id BIGINT NOT NULL,
    hash     BLOB   NOT NULL,
    UNIQUE (scope_id, store_id, hash)
);

-- Which parts a body is made of; each row is one reference to the part.
CREATE TABLE body_part (
    body_id BIGINT NOT NULL,
    part_id BIGINT NOT NULL,
    PRIMARY KEY (body_id, part_id)
) WITHOUT ROWID;

-- Dictionaries besides the shipped one, each trained from one customer's mail and for that customer alone. In frames
-- they have the number 1,000 + id.
CREATE TABLE dictionary (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    customer_id BIGINT NOT NULL,
    data        BLOB   NOT NULL,
    created_at  BIGINT NOT NULL,
    retired_at  BIGINT
);

-- Which packs need which dictionary: it goes after the last of them.
CREATE TABLE pack_dictionary (
    pack_id       BIGINT NOT NULL REFERENCES pack (id) ON DELETE CASCADE,
    dictionary_id BIGINT NOT NULL REFERENCES dictionary (id),
    PRIMARY KEY (pack_id, dictionary_id)
) WITHOUT ROWID;
CREATE INDEX pack_dictionary_dictionary ON pack_dictionary (dictionary_id);

-- Expunged messages that can still come back; each holds a reference to its body. Not part of any quota.
CREATE TABLE tombstone (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    mailbox_id    BIGINT NOT NULL,
    folder_id     BIGINT NOT NULL,
    uid           BIGINT NOT NULL,
    flags         BIGINT NOT NULL,
    body_id       BIGINT NOT NULL,
    prefix_id     BIGINT NOT NULL,
    octets        BIGINT NOT NULL,
    internal_date BIGINT NOT NULL,
    expunged_at   BIGINT NOT NULL
);
CREATE INDEX tombstone_folder ON tombstone (mailbox_id, folder_id, id);
CREATE INDEX tombstone_mailbox ON tombstone (mailbox_id, id);
CREATE INDEX tombstone_expunged ON tombstone (expunged_at);
-- What a mailbox's tombstones count: their octets and 1,024 for each. Few have more than every mailbox may have.
ALTER TABLE mailbox ADD COLUMN tombstone_octets BIGINT NOT NULL DEFAULT 0;
CREATE INDEX mailbox_tombstones ON mailbox (id) WHERE tombstone_octets > 1073741824;

-- Names of deleted folders whose messages can still come back.
CREATE TABLE deleted_folder (
    folder_id    INTEGER PRIMARY KEY,
    mailbox_id   BIGINT NOT NULL,
    name         TEXT   NOT NULL,
    special_use  TEXT,
    uid_validity BIGINT NOT NULL,
    deleted_at   BIGINT NOT NULL
);
CREATE INDEX deleted_folder_mailbox ON deleted_folder (mailbox_id);
CREATE INDEX deleted_folder_deleted ON deleted_folder (deleted_at);

-- Long work with progress. customer_id is whose administrators see it; with `is_system` only those of the servers do.
-- `position` is where it goes on after a restart, `attempts` counts its starts: with node and epoch it tells whether the
-- one who works at it still may. With bound_node only that node runs it. `asker` is who asked for it, as JSON.
CREATE TABLE job (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id   TEXT   NOT NULL UNIQUE,
    kind        TEXT   NOT NULL,
    customer_id BIGINT NOT NULL REFERENCES customer (id),
    is_system   BIGINT NOT NULL,
    target      TEXT   NOT NULL,
    request     TEXT   NOT NULL,
    asker       TEXT   NOT NULL,
    bound_node  TEXT,
    attempts    BIGINT NOT NULL DEFAULT 0,
    state       TEXT   NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'cancelled')),
    cancelled_by TEXT,
    unit        TEXT   NOT NULL DEFAULT '',
    done        BIGINT NOT NULL DEFAULT 0,
    total       BIGINT,
    position    TEXT   NOT NULL DEFAULT '',
    report      TEXT   NOT NULL DEFAULT '{}',
    error       TEXT,
    actor       TEXT   NOT NULL,
    node_id     TEXT,
    epoch       BIGINT,
    created_at  BIGINT NOT NULL,
    started_at  BIGINT,
    updated_at  BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE INDEX job_open ON job (state, id) WHERE state IN ('waiting', 'running');
CREATE INDEX job_customer ON job (customer_id, id);
CREATE INDEX job_finished ON job (finished_at) WHERE finished_at IS NOT NULL;

-- What was purged for good: a restore applies it again, so that no backup brings it back.
CREATE TABLE erasure (
    kind      TEXT   NOT NULL,
    public_id TEXT   NOT NULL,
    at        BIGINT NOT NULL,
    PRIMARY KEY (kind, public_id)
) WITHOUT ROWID;
