-- Nodes that are seen and asked to restart or stop, and what each used, minute by minute.
-- The folder migrations/sqlite holds the same tables under the same number and name.

ALTER TABLE node ADD COLUMN host TEXT NOT NULL DEFAULT '';
ALTER TABLE node ADD COLUMN version TEXT NOT NULL DEFAULT '';
ALTER TABLE node ADD COLUMN pid BIGINT NOT NULL DEFAULT 0;
-- draining: it finishes what runs, then ends or hands over. stopped: it ended in order, at seen_at. A node that was
-- killed is still `serving` or `draining` and was not seen for a while.
ALTER TABLE node ADD COLUMN state TEXT NOT NULL DEFAULT 'serving' CHECK (state IN ('serving', 'draining', 'stopped'));
-- What somebody asks of it; it looks every second.
ALTER TABLE node ADD COLUMN wanted TEXT CHECK (wanted IN ('restart', 'stop'));
-- Why the last restart that was asked for did not come about.
ALTER TABLE node ADD COLUMN restart_error TEXT;

-- What a node used and had to do at one minute, kept for a day. cpu_permille: thousandths of one processor core, the
-- mean since the sample before. lmtp to http: open connections. deliveries to background: what waits for the
-- database. fresh: bodies that no pack holds yet. offload: packs that a store with object storage has not sent there.
CREATE TABLE node_sample (
    node_id         TEXT   NOT NULL,
    at              BIGINT NOT NULL,
    epoch           BIGINT NOT NULL,
    cpu_permille    BIGINT NOT NULL,
    resident_octets BIGINT NOT NULL,
    database_octets BIGINT NOT NULL,
    lmtp            BIGINT NOT NULL,
    smtp            BIGINT NOT NULL,
    imap            BIGINT NOT NULL,
    pop3            BIGINT NOT NULL,
    sasl            BIGINT NOT NULL,
    socketmap       BIGINT NOT NULL,
    admin           BIGINT NOT NULL,
    http            BIGINT NOT NULL,
    deliveries      BIGINT NOT NULL,
    interactive     BIGINT NOT NULL,
    bulk            BIGINT NOT NULL,
    background      BIGINT NOT NULL,
    fresh_bodies    BIGINT NOT NULL,
    fresh_octets    BIGINT NOT NULL,
    offload_packs   BIGINT NOT NULL,
    offload_octets  BIGINT NOT NULL,
    jobs_running    BIGINT NOT NULL,
    jobs_waiting    BIGINT NOT NULL,
    PRIMARY KEY (node_id, at)
);

-- The disks behind a node's mail stores at the same minutes; store_id 0 is the disk of an SQLite database.
CREATE TABLE node_disk_sample (
    node_id     TEXT   NOT NULL,
    at          BIGINT NOT NULL,
    store_id    BIGINT NOT NULL,
    octets      BIGINT NOT NULL,
    free_octets BIGINT NOT NULL,
    used_octets BIGINT NOT NULL,
    PRIMARY KEY (node_id, at, store_id)
);
