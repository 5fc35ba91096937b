-- Expiry dates, requests that wait for approval, and on whose behalf something was done.
-- The folder migrations/postgres holds the same tables under the same number and name.

-- Who had asked for what somebody else has carried out; NULL when nobody else had.
ALTER TABLE audit ADD COLUMN on_behalf TEXT;

-- What ends on a date: a customer, an administrator or a mailbox; exactly one of the three is set. `steps` is JSON: what
-- happens then, each with its delay in seconds. Of these the first `done` have happened, the last of them due at
-- `last_due`; `undo` is JSON of what takes them back. The authority that set the date owns its holds.
CREATE TABLE expiry (
    id                    INTEGER PRIMARY KEY AUTOINCREMENT,
    customer_id           BIGINT UNIQUE,
    administrator_id      BIGINT UNIQUE,
    mailbox_id            BIGINT UNIQUE,
    expires_at            BIGINT NOT NULL,
    steps                 TEXT   NOT NULL,
    actor                 TEXT   NOT NULL,
    authority_customer_id BIGINT NOT NULL,
    warned                BIGINT NOT NULL DEFAULT 0,
    done                  BIGINT NOT NULL DEFAULT 0,
    undo                  TEXT   NOT NULL DEFAULT '[]',
    next_at               BIGINT,
    last_due              BIGINT
);
CREATE INDEX expiry_next ON expiry (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX expiry_last ON expiry (last_due) WHERE last_due IS NOT NULL;

-- Who must approve requests at a customer and below, as JSON: a list of steps.
CREATE TABLE process (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    customer_id BIGINT NOT NULL UNIQUE,
    steps       TEXT   NOT NULL,
    changed_at  BIGINT NOT NULL
);

-- An operation that waits for approval. `fields` are its frozen parameters; `place_path` and `target_key` say what it
-- may act on and nothing else. `needs` is JSON of the permissions that it takes. `step` is the one that it waits for in
-- its process (NULL: the default one), at the customer `waits_at`. Secrets are removed with the decision.
CREATE TABLE request (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id    TEXT   NOT NULL UNIQUE,
    customer_id  BIGINT NOT NULL,
    place_path   TEXT   NOT NULL,
    operation    TEXT   NOT NULL,
    fields       TEXT   NOT NULL,
    effects      TEXT   NOT NULL,
    target       TEXT   NOT NULL,
    target_key   TEXT   NOT NULL,
    needs        TEXT   NOT NULL,
    requester_id BIGINT NOT NULL,
    requester    TEXT   NOT NULL,
    reason       TEXT   NOT NULL,
    state        TEXT   NOT NULL CHECK (state IN ('open', 'done', 'rejected', 'withdrawn', 'expired', 'void')),
    process_id   BIGINT,
    step         BIGINT NOT NULL DEFAULT 0,
    waits_at     BIGINT NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    decided_at   BIGINT,
    decided_by   TEXT,
    decision     TEXT
);
CREATE INDEX request_customer ON request (customer_id, id);
CREATE INDEX request_requester ON request (requester_id, id);
CREATE INDEX request_open ON request (id) WHERE state = 'open';
CREATE INDEX request_decided ON request (decided_at) WHERE decided_at IS NOT NULL;

-- Who has approved which step; 0 is the system.
CREATE TABLE request_approval (
    request_id       BIGINT NOT NULL,
    step             BIGINT NOT NULL,
    administrator_id BIGINT NOT NULL,
    approver         TEXT   NOT NULL,
    at               BIGINT NOT NULL,
    PRIMARY KEY (request_id, step)
) WITHOUT ROWID;
