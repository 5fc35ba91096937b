-- The base of Posthouse's metadata. Times are microseconds since 1970 (UTC); sizes are octets; flags are bit words
-- (see service/mailstore/types.rs); *_max columns are limits, NULL means no own limit, 0 means nothing.
-- AUTOINCREMENT: an id is never given twice, since caches and logs may still name a deleted row.
-- The folder migrations/postgres holds the same tables under the same number and name.

-- Values of the instance as a whole.
CREATE TABLE instance (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- Ids of bodies and trace lines ascend and are never given twice, not even after the newest was deleted:
-- packs name bodies by id.
CREATE TABLE counter (
    name  TEXT PRIMARY KEY,
    value BIGINT NOT NULL
) WITHOUT ROWID;
INSERT INTO counter (name, value) VALUES ('object', 0);

-- The hierarchy. parent_id is the truth; the root has none.
CREATE TABLE customer (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id          TEXT   NOT NULL UNIQUE,
    parent_id          BIGINT REFERENCES customer (id),
    slug               TEXT   NOT NULL,
    name               TEXT   NOT NULL,
    kind               TEXT   NOT NULL DEFAULT 'customer',
    code               TEXT   NOT NULL UNIQUE,
    contact            TEXT,
    bytes_max          BIGINT,
    messages_max       BIGINT,
    mailboxes_max      BIGINT,
    aliases_max        BIGINT,
    domains_max        BIGINT,
    customers_max      BIGINT,
    administrators_max BIGINT,
    created_at         BIGINT NOT NULL,
    deleted_at         BIGINT,
    deleted_by         TEXT
);
CREATE UNIQUE INDEX customer_slug ON customer (coalesce(parent_id, 0), slug) WHERE deleted_at IS NULL;
CREATE INDEX customer_parent ON customer (parent_id);

-- Use of customers that have a limit on bytes or messages; a row exists exactly while there is such a limit.
-- Deliveries charge every such customer on the way up.
CREATE TABLE customer_usage (
    customer_id   INTEGER PRIMARY KEY REFERENCES customer (id),
    bytes_used    BIGINT NOT NULL,
    messages_used BIGINT NOT NULL
);

CREATE TABLE domain (
    id                        INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id                 TEXT   NOT NULL UNIQUE,
    customer_id               BIGINT NOT NULL REFERENCES customer (id),
    name                      TEXT   NOT NULL,
    state                     TEXT   NOT NULL CHECK (state IN ('pending', 'verified')),
    alias_of                  BIGINT REFERENCES domain (id),
    catch_all                 TEXT,
    bytes_max                 BIGINT,
    messages_max              BIGINT,
    mailbox_bytes_max_default BIGINT,
    created_at                BIGINT NOT NULL,
    deleted_at                BIGINT,
    deleted_by                TEXT
);
CREATE UNIQUE INDEX domain_verified_name ON domain (name) WHERE state = 'verified' AND deleted_at IS NULL;
CREATE UNIQUE INDEX domain_customer_name ON domain (customer_id, name) WHERE deleted_at IS NULL;

-- Use of domains that have a limit, as customer_usage.
CREATE TABLE domain_usage (
    domain_id     INTEGER PRIMARY KEY REFERENCES domain (id),
    bytes_used    BIGINT NOT NULL,
    messages_used BIGINT NOT NULL
);

-- Mail stores (volumes).
CREATE TABLE store (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    name              TEXT   NOT NULL UNIQUE,
    path              TEXT   NOT NULL,
    state             TEXT   NOT NULL DEFAULT 'online' CHECK (state IN ('online', 'read-only', 'draining', 'stopped')),
    compression_level BIGINT NOT NULL DEFAULT 3,
    compression_dictionary BIGINT NOT NULL DEFAULT 1,
    created_at        BIGINT NOT NULL
);

CREATE TABLE mailbox (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id         TEXT   NOT NULL UNIQUE,
    domain_id         BIGINT NOT NULL REFERENCES domain (id),
    local_part        TEXT   NOT NULL,
    name              TEXT   NOT NULL DEFAULT '',
    password_hash     TEXT   NOT NULL,
    store_id          BIGINT NOT NULL REFERENCES store (id),
    bytes_max         BIGINT,
    messages_max      BIGINT,
    bytes_used        BIGINT NOT NULL DEFAULT 0,
    messages_used     BIGINT NOT NULL DEFAULT 0,
    uid_validity_next BIGINT NOT NULL,
    last_login_at     BIGINT,
    created_at        BIGINT NOT NULL,
    deleted_at        BIGINT,
    deleted_by        TEXT
);
CREATE UNIQUE INDEX mailbox_address ON mailbox (domain_id, local_part) WHERE deleted_at IS NULL;

CREATE TABLE alias (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id  TEXT   NOT NULL UNIQUE,
    domain_id  BIGINT NOT NULL REFERENCES domain (id),
    local_part TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (domain_id, local_part)
);

CREATE TABLE alias_target (
    alias_id BIGINT NOT NULL REFERENCES alias (id) ON DELETE CASCADE,
    address  TEXT   NOT NULL,
    PRIMARY KEY (alias_id, address)
) WITHOUT ROWID;

-- Reasons for which a switch is off. Exactly one of the three targets is set; a switch is off while any hold on it
-- exists at the mailbox, its domain, or a customer on the path.
CREATE TABLE hold (
    id                    INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id             TEXT   NOT NULL UNIQUE,
    customer_id           BIGINT REFERENCES customer (id),
    domain_id             BIGINT REFERENCES domain (id),
    mailbox_id            BIGINT REFERENCES mailbox (id),
    switch                TEXT   NOT NULL,
    reason                TEXT   NOT NULL,
    actor                 TEXT   NOT NULL,
    authority_customer_id BIGINT NOT NULL REFERENCES customer (id),
    created_at            BIGINT NOT NULL
);
CREATE INDEX hold_customer ON hold (customer_id) WHERE customer_id IS NOT NULL;
CREATE INDEX hold_domain ON hold (domain_id) WHERE domain_id IS NOT NULL;
CREATE INDEX hold_mailbox ON hold (mailbox_id) WHERE mailbox_id IS NOT NULL;

CREATE TABLE administrator (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id     TEXT   NOT NULL UNIQUE,
    customer_id   BIGINT NOT NULL REFERENCES customer (id),
    name          TEXT   NOT NULL,
    password_hash TEXT,
    contact       TEXT,
    enabled       BIGINT NOT NULL DEFAULT 1,
    created_at    BIGINT NOT NULL,
    deleted_at    BIGINT,
    deleted_by    TEXT
);
CREATE UNIQUE INDEX administrator_name ON administrator (customer_id, name) WHERE deleted_at IS NULL;

CREATE TABLE role_grant (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id        TEXT   NOT NULL UNIQUE,
    administrator_id BIGINT NOT NULL REFERENCES administrator (id),
    customer_id      BIGINT NOT NULL REFERENCES customer (id),
    role             TEXT   NOT NULL,
    not_before       BIGINT,
    expires_at       BIGINT,
    delegable        BIGINT NOT NULL DEFAULT 0,
    made_by          TEXT   NOT NULL,
    created_at       BIGINT NOT NULL
);
CREATE INDEX role_grant_administrator ON role_grant (administrator_id);
CREATE INDEX role_grant_customer ON role_grant (customer_id);

-- Bearer tokens; only the BLAKE3 hash of the secret is kept.
CREATE TABLE token (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id        TEXT   NOT NULL UNIQUE,
    administrator_id BIGINT NOT NULL REFERENCES administrator (id),
    secret_hash      BLOB   NOT NULL UNIQUE,
    label            TEXT   NOT NULL,
    created_at       BIGINT NOT NULL,
    expires_at       BIGINT NOT NULL,
    last_used_at     BIGINT
);
CREATE INDEX token_administrator ON token (administrator_id);

-- What administrators did, or were refused. node_path holds the ids from the root down at the time of the event
-- (`/1/7/23/`), so that a subtree is one range of the index.
CREATE TABLE audit (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id     TEXT   NOT NULL UNIQUE,
    at            BIGINT NOT NULL,
    node_path     TEXT   NOT NULL,
    customer_path TEXT   NOT NULL,
    actor_id      BIGINT,
    actor         TEXT   NOT NULL,
    actor_path    TEXT   NOT NULL,
    authenticated TEXT   NOT NULL,
    source        TEXT   NOT NULL,
    operation     TEXT   NOT NULL,
    target        TEXT   NOT NULL,
    before        TEXT,
    after         TEXT,
    outcome       TEXT   NOT NULL,
    request_id    TEXT   NOT NULL
);
CREATE INDEX audit_node ON audit (node_path, id);
CREATE INDEX audit_at ON audit (at);

-- Answers already given under an Idempotency-Key, by caller and operation.
CREATE TABLE idempotency (
    caller     TEXT   NOT NULL,
    operation  TEXT   NOT NULL,
    key        TEXT   NOT NULL,
    request    BLOB   NOT NULL,
    response   TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (caller, operation, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_created ON idempotency (created_at);

-- A mailbox's folders. mod_seq is the highest one given in the folder; recent_uid the first UID that no SELECT has
-- claimed as recent.
CREATE TABLE folder (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    mailbox_id   BIGINT NOT NULL REFERENCES mailbox (id),
    name         TEXT   NOT NULL,
    special_use  TEXT,
    selectable   BIGINT NOT NULL DEFAULT 1,
    uid_validity BIGINT NOT NULL,
    uid_next     BIGINT NOT NULL DEFAULT 1,
    mod_seq      BIGINT NOT NULL DEFAULT 1,
    recent_uid   BIGINT NOT NULL DEFAULT 1,
    messages     BIGINT NOT NULL DEFAULT 0,
    unseen       BIGINT NOT NULL DEFAULT 0,
    octets       BIGINT NOT NULL DEFAULT 0,
    created_at   BIGINT NOT NULL,
    UNIQUE (mailbox_id, name)
);

-- Deleted folders whose messages are being purged in the background; their charge is released with them.
CREATE TABLE folder_purge (
    folder_id  INTEGER PRIMARY KEY,
    mailbox_id BIGINT NOT NULL REFERENCES mailbox (id),
    created_at BIGINT NOT NULL
);

CREATE TABLE subscription (
    mailbox_id BIGINT NOT NULL REFERENCES mailbox (id),
    name       TEXT   NOT NULL,
    PRIMARY KEY (mailbox_id, name)
) WITHOUT ROWID;

-- Keyword n of a folder is bit 5 + n of its messages' flags.
CREATE TABLE folder_keyword (
    folder_id BIGINT NOT NULL,
    keyword   BIGINT NOT NULL,
    name      TEXT   NOT NULL,
    PRIMARY KEY (folder_id, keyword)
) WITHOUT ROWID;

-- One copy of a message in one folder; nothing wide stands here.
CREATE TABLE message (
    mailbox_id    BIGINT NOT NULL,
    folder_id     BIGINT NOT NULL,
    uid           BIGINT NOT NULL,
    flags         BIGINT NOT NULL,
    mod_seq       BIGINT NOT NULL,
    body_id       BIGINT NOT NULL,
    prefix_id     BIGINT NOT NULL,
    octets        BIGINT NOT NULL,
    internal_date BIGINT NOT NULL,
    PRIMARY KEY (mailbox_id, folder_id, uid)
) WITHOUT ROWID;
CREATE INDEX message_mod_seq ON message (folder_id, mod_seq);
-- Few messages are marked \Deleted (bit 3) at any time: EXPUNGE and STATUS find them here.
CREATE INDEX message_deleted ON message (folder_id, uid) WHERE (flags & 8) <> 0;

-- UIDs that went away, as ranges with the mod-sequence of their going.
CREATE TABLE expunged (
    folder_id BIGINT NOT NULL,
    mod_seq   BIGINT NOT NULL,
    uid_first BIGINT NOT NULL,
    uid_last  BIGINT NOT NULL,
    PRIMARY KEY (folder_id, mod_seq, uid_first)
) WITHOUT ROWID;

-- Trace lines (Return-Path, Delivered-To, Received) of one message, compressed; prefix_id 0 means none.
CREATE TABLE message_prefix (
    id            INTEGER PRIMARY KEY,
    codec         BIGINT NOT NULL,
    dictionary_id BIGINT NOT NULL,
    octets        BIGINT NOT NULL,
    data          BLOB   NOT NULL
);

-- The immutable bytes of messages. scope_id is the customer within which they are shared. pack_id NULL: the bytes
-- are in fresh_body.
CREATE TABLE body (
    id            INTEGER PRIMARY KEY,
    scope_id      BIGINT NOT NULL,
    store_id      BIGINT NOT NULL,
    octets        BIGINT NOT NULL,
    stored_octets BIGINT NOT NULL,
    reference_count BIGINT NOT NULL,
    pack_id       BIGINT,
    pack_offset   BIGINT
);

-- Bytes of bodies that no pack holds yet. Mailbox and folder are those of the first message; they decide only the order
-- within a pack.
CREATE TABLE fresh_body (
    body_id       INTEGER PRIMARY KEY,
    mailbox_id    BIGINT NOT NULL DEFAULT 0,
    folder_id     BIGINT NOT NULL DEFAULT 0,
    codec         BIGINT NOT NULL,
    dictionary_id BIGINT NOT NULL,
    data          BLOB   NOT NULL
);

-- What is computed once per body so that listing reads none: header, structure, preview (service/mailstore/summary.rs),
-- compressed.
CREATE TABLE summary (
    body_id       INTEGER PRIMARY KEY,
    codec         BIGINT NOT NULL,
    dictionary_id BIGINT NOT NULL,
    octets        BIGINT NOT NULL,
    data          BLOB   NOT NULL
);

-- Packs. Bodies that nothing refers to are dead; a pack whose bodies are all dead is dropped, and its file goes later,
-- when no reader can be about to open it any more.
CREATE TABLE pack (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id   TEXT   NOT NULL UNIQUE,
    store_id    BIGINT NOT NULL REFERENCES store (id),
    octets      BIGINT NOT NULL,
    bodies      BIGINT NOT NULL,
    dead_bodies BIGINT NOT NULL DEFAULT 0,
    dead_octets BIGINT NOT NULL DEFAULT 0,
    created_at  BIGINT NOT NULL,
    dropped_at  BIGINT
);
CREATE INDEX pack_dead ON pack (id) WHERE dropped_at IS NULL AND dead_bodies >= bodies;
CREATE INDEX pack_dropped ON pack (dropped_at) WHERE dropped_at IS NOT NULL;

-- Files about to be written: clean-up after a crash goes by these rows and never by listing a directory.
CREATE TABLE pack_intent (
    public_id  TEXT   PRIMARY KEY,
    store_id   BIGINT NOT NULL REFERENCES store (id),
    node_id    TEXT   NOT NULL,
    epoch      BIGINT NOT NULL,
    created_at BIGINT NOT NULL
) WITHOUT ROWID;

-- While a pin lasts, no pack file is removed: a backup copies what a snapshot of the database names.
CREATE TABLE pin (
    id         TEXT   PRIMARY KEY,
    node_id    TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
) WITHOUT ROWID;

-- Running daemons; the epoch grows by one with each start.
CREATE TABLE node (
    id         TEXT   PRIMARY KEY,
    epoch      BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL
) WITHOUT ROWID;

-- Where mail went: one row for each recipient of each delivery, accepted or refused. Kept for trace_days; the id
-- ascends with time, so a look back is a range.
CREATE TABLE delivery_trace (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    at         BIGINT NOT NULL,
    domain_id  BIGINT,
    mailbox_id BIGINT,
    recipient  TEXT   NOT NULL,
    sender     TEXT   NOT NULL,
    message_id TEXT   NOT NULL,
    octets     BIGINT NOT NULL,
    source     TEXT   NOT NULL,
    queue_id   TEXT   NOT NULL,
    outcome    TEXT   NOT NULL,
    detail     TEXT   NOT NULL
);
