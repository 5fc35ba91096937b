-- Proof of domains, what tokens are confined to, invitations.
-- The folder migrations/postgres holds the same tables under the same number and name.

-- NULL: everything that the owner may, from anywhere. Lists are separated by commas.
ALTER TABLE token ADD COLUMN permissions TEXT;
ALTER TABLE token ADD COLUMN networks TEXT;

-- What came of looking for the proof of a pending domain, and when it is looked for again.
CREATE TABLE domain_check (
    domain_id  INTEGER PRIMARY KEY REFERENCES domain (id) ON DELETE CASCADE,
    checked_at BIGINT NOT NULL,
    next_at    BIGINT NOT NULL,
    failures   BIGINT NOT NULL,
    outcome    TEXT   NOT NULL
);
CREATE INDEX domain_pending ON domain (id) WHERE state = 'pending' AND deleted_at IS NULL;

-- One-time codes: for a new administrator, or for the owner of a mailbox to set its password. Only the BLAKE3 hash of the
-- code is kept. inviter_id NULL: the system.
CREATE TABLE invitation (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id       TEXT   NOT NULL UNIQUE,
    secret_hash     BLOB   NOT NULL UNIQUE,
    kind            TEXT   NOT NULL CHECK (kind IN ('administrator', 'mailbox')),
    customer_id     BIGINT NOT NULL REFERENCES customer (id) ON DELETE CASCADE,
    mailbox_id      BIGINT REFERENCES mailbox (id) ON DELETE CASCADE,
    address         TEXT   NOT NULL,
    name            TEXT   NOT NULL,
    roles           TEXT   NOT NULL,
    delegable       BIGINT NOT NULL,
    role_expires_at BIGINT,
    inviter_id      BIGINT,
    made_by         TEXT   NOT NULL,
    created_at      BIGINT NOT NULL,
    expires_at      BIGINT NOT NULL
);
CREATE INDEX invitation_customer ON invitation (customer_id);
CREATE INDEX invitation_address ON invitation (address);
CREATE INDEX invitation_mailbox ON invitation (mailbox_id);
CREATE INDEX invitation_expiry ON invitation (expires_at);
