-- Proof of domains, and what tokens are confined to.
-- The folder migrations/sqlite holds the same tables under the same number and name.

-- NULL: everything that the owner may, from anywhere. Lists are separated by commas.
ALTER TABLE token ADD COLUMN permissions TEXT;
ALTER TABLE token ADD COLUMN networks TEXT;

-- What came of looking for the proof of a pending domain, and when it is looked for again.
CREATE TABLE domain_check (
    domain_id  BIGINT PRIMARY KEY REFERENCES domain (id) ON DELETE CASCADE,
    checked_at BIGINT NOT NULL,
    next_at    BIGINT NOT NULL,
    failures   BIGINT NOT NULL,
    outcome    TEXT   NOT NULL
);
CREATE INDEX domain_pending ON domain (id) WHERE state = 'pending' AND deleted_at IS NULL;
