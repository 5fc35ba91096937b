-- One-time codes: for new administrators, and for owners of mailboxes to set their password.
-- The folder migrations/postgres holds the same tables under the same number and name.

-- Of the code only the BLAKE3 hash is kept. mailbox_id is set for a code that sets a password; then there are neither
-- name nor roles. domain_id is the domain of the address. roles are those that the administrator will get, with spaces
-- between; one that is none of the built-in ones has its key behind a colon. inviter_id is the administrator who made it,
-- NULL for the system; token_id the token that it was made with, if it was. Whatever ends a code removes its row.
CREATE TABLE invitation (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id       TEXT   NOT NULL UNIQUE,
    secret_hash     BLOB   NOT NULL UNIQUE,
    customer_id     BIGINT NOT NULL,
    domain_id       BIGINT NOT NULL,
    mailbox_id      BIGINT UNIQUE,
    address         TEXT   NOT NULL,
    name            TEXT   NOT NULL,
    roles           TEXT   NOT NULL,
    delegable       BIGINT NOT NULL,
    role_expires_at BIGINT,
    inviter_id      BIGINT,
    token_id        BIGINT,
    made_by         TEXT   NOT NULL,
    created_at      BIGINT NOT NULL,
    expires_at      BIGINT NOT NULL
);
CREATE INDEX invitation_customer ON invitation (customer_id, id);
CREATE INDEX invitation_domain ON invitation (domain_id);
CREATE INDEX invitation_inviter ON invitation (inviter_id) WHERE inviter_id IS NOT NULL;
CREATE INDEX invitation_expires ON invitation (expires_at);
