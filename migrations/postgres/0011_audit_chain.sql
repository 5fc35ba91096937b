-- The audit trail's chains (service/audit/chain.rs): what was done or refused cannot be changed afterwards unnoticed.
-- The folder migrations/sqlite holds the same tables under the same number and name.

-- Records that are still to be chained: written in the record's transaction, taken out by the sealer seconds later.
CREATE TABLE audit_unsealed (
    audit_id BIGINT PRIMARY KEY
);

-- One for each chained record: its place in the chain of its customer (0: of no customer), the batch that sealed it, and
-- the digest of all its columns. They stay when the record is pruned, so that what came after can still be checked.
CREATE TABLE audit_seal (
    audit_id    BIGINT PRIMARY KEY,
    customer_id BIGINT NOT NULL,
    seq         BIGINT NOT NULL,
    batch       BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    digest      BYTEA  NOT NULL,
    UNIQUE (customer_id, seq)
);
CREATE INDEX audit_seal_batch ON audit_seal (batch, audit_id);

-- The end of each customer's chain. `chain` is its random name in the signed roots.
CREATE TABLE audit_head (
    customer_id BIGINT PRIMARY KEY,
    chain       TEXT   NOT NULL,
    seq         BIGINT NOT NULL,
    head        BYTEA  NOT NULL
);

-- One for each batch: the root over the heads that it moved and the root before, signed with the key of the node.
-- Batch 0 is where the chains begin; audit_from is the last record that was there before and is in none.
CREATE TABLE audit_root (
    batch      BIGINT PRIMARY KEY,
    at         BIGINT NOT NULL,
    root       BYTEA  NOT NULL,
    key        BYTEA  NOT NULL,
    signature  BYTEA  NOT NULL,
    audit_from BIGINT
);
INSERT INTO audit_root (batch, at, root, key, signature, audit_from)
    SELECT 0, 0, decode(repeat('00', 32), 'hex'), CAST('' AS BYTEA), CAST('' AS BYTEA), coalesce(max(id), 0) FROM audit;
