-- Catalogs beside the packs: what is needed to bring the mail back when this database is lost.
-- The folder migrations/postgres holds the same tables under the same number and name.

-- Files of catalogs. `writing`: a file may lie about; `dropped`: it is to be removed. is_remote: it is in object storage
-- too, or may be.
CREATE TABLE catalog (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id    TEXT   NOT NULL UNIQUE,
    store_id     BIGINT NOT NULL REFERENCES store (id),
    is_directory BIGINT NOT NULL DEFAULT 0,
    state        TEXT   NOT NULL CHECK (state IN ('writing', 'present', 'dropped')),
    is_remote    BIGINT NOT NULL DEFAULT 0,
    octets       BIGINT NOT NULL DEFAULT 0,
    node_id      TEXT   NOT NULL,
    epoch        BIGINT NOT NULL,
    created_at   BIGINT NOT NULL
);
CREATE INDEX catalog_files ON catalog (store_id, state);

-- Which entries of which file belong to the present state. A mailbox's entries are applied by sequence; the first is
-- whole.
CREATE TABLE catalog_entry (
    catalog_id BIGINT NOT NULL REFERENCES catalog (id) ON DELETE CASCADE,
    mailbox_id BIGINT NOT NULL,
    sequence   BIGINT NOT NULL,
    octets     BIGINT NOT NULL,
    PRIMARY KEY (catalog_id, mailbox_id, sequence)
) WITHOUT ROWID;
CREATE INDEX catalog_entry_mailbox ON catalog_entry (mailbox_id);

-- What the catalogs of a store say of a mailbox. `fingerprint` changes with anything that they have to say; `positions`
-- is JSON: highest mod-sequence, messages and next UID of each folder; `tombstone` the last one.
CREATE TABLE catalog_mailbox (
    store_id     BIGINT NOT NULL,
    mailbox_id   BIGINT NOT NULL,
    fingerprint  TEXT   NOT NULL,
    sequence     BIGINT NOT NULL,
    whole_octets BIGINT NOT NULL,
    more_octets  BIGINT NOT NULL,
    positions    TEXT   NOT NULL,
    tombstone    BIGINT NOT NULL,
    PRIMARY KEY (store_id, mailbox_id)
) WITHOUT ROWID;

-- The state of a store that is named by its file CURRENT. `number` grows with each.
CREATE TABLE catalog_store (
    store_id    INTEGER PRIMARY KEY,
    number      BIGINT NOT NULL DEFAULT 0,
    directory   TEXT   NOT NULL DEFAULT '',
    complete_at BIGINT NOT NULL DEFAULT 0
);

-- What CURRENT says of a pack: that the catalogs know all that lives in it; in object storage also that it is there.
ALTER TABLE pack ADD COLUMN is_covered BIGINT NOT NULL DEFAULT 0;
ALTER TABLE pack ADD COLUMN is_named BIGINT NOT NULL DEFAULT 0;

-- Files of dictionaries beside the packs that need them. `writing` and `removing`: a file may lie about.
CREATE TABLE dictionary_place (
    dictionary_id BIGINT NOT NULL,
    store_id      BIGINT NOT NULL,
    state         TEXT   NOT NULL CHECK (state IN ('writing', 'present', 'removing')),
    is_remote     BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (dictionary_id, store_id)
) WITHOUT ROWID;
