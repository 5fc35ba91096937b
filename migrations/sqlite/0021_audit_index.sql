-- The index over the audit trail (storage/metadata/audit_index.rs): which records have which term. It is filled within
-- a minute of the records' commit, so that no change waits for it.
-- The folder migrations/postgres holds the same tables under the same number and name.

-- Records that are not in the index yet: written in the record's transaction.
CREATE TABLE audit_unindexed (
    audit_id INTEGER PRIMARY KEY
);
INSERT INTO audit_unindexed (audit_id) SELECT id FROM audit;

-- A term is a number that stands for three letters, an operation, an outcome or a customer (service/audit/terms.rs). A
-- chunk is twice a part, plus one for records of reads; a part is 32,768 keys of records. The records are the places in
-- the part: differences as variable-length numbers, or a bit for each where that is shorter.
CREATE TABLE audit_term (
    term    BIGINT NOT NULL,
    chunk   BIGINT NOT NULL,
    records BLOB   NOT NULL,
    PRIMARY KEY (term, chunk)
) WITHOUT ROWID;

-- Times of the first and the last record in a part.
CREATE TABLE audit_part (
    part     INTEGER PRIMARY KEY,
    at_first BIGINT NOT NULL,
    at_last  BIGINT NOT NULL
);

-- One row, held by whoever fills the index.
CREATE TABLE audit_index (
    id    INTEGER PRIMARY KEY,
    swept BIGINT NOT NULL
);
INSERT INTO audit_index (id, swept) VALUES (1, 0);

-- What proofs of single records need (base/proof.rs).
-- How a batch makes its digests: 1 is of whole records, 2 of records in parts that can be proven without each other.
ALTER TABLE audit_root ADD COLUMN kind BIGINT NOT NULL DEFAULT 1;
-- The chain's head after the record.
ALTER TABLE audit_seal ADD COLUMN head BLOB;
-- The record that tells of the last pruning in the chain (service/audit/prune.rs): what is older may be gone.
ALTER TABLE audit_head ADD COLUMN pruned_by BIGINT;

-- Webhooks (service/webhooks): where a customer has its events sent. The trail itself is the queue: `position` is the
-- key of the last audit record that was sent or passed over.
CREATE TABLE webhook (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id     TEXT   NOT NULL UNIQUE,
    customer_id   BIGINT NOT NULL REFERENCES customer (id),
    url           TEXT   NOT NULL,
    kinds         TEXT   NOT NULL,
    secret        TEXT   NOT NULL,
    created_at    BIGINT NOT NULL,
    enabled       BIGINT NOT NULL DEFAULT 1,
    position      BIGINT NOT NULL,
    delivered     BIGINT NOT NULL DEFAULT 0,
    delivered_at  BIGINT,
    attempts      BIGINT NOT NULL DEFAULT 0,
    failing_since BIGINT,
    outcome       TEXT   NOT NULL DEFAULT '',
    next_at       BIGINT NOT NULL DEFAULT 0,
    leased_by     TEXT   NOT NULL DEFAULT '',
    leased_until  BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX webhook_customer ON webhook (customer_id, id);
