-- Inherited settings and templates (service/settings).
-- The folder migrations/postgres holds the same tables under the same number and name.

-- What is set or locked at a customer, a domain or a mailbox; exactly one of the three is set. A row has a value, a lock
-- or both. `lock_customer_id` is the customer whose authority locked it: nobody below may change it there, and nothing
-- below it counts.
CREATE TABLE setting (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    customer_id      BIGINT REFERENCES customer (id),
    domain_id        BIGINT REFERENCES domain (id),
    mailbox_id       BIGINT REFERENCES mailbox (id),
    key              TEXT   NOT NULL,
    value            TEXT,
    lock_customer_id BIGINT REFERENCES customer (id),
    changed_at       BIGINT NOT NULL
);
CREATE UNIQUE INDEX setting_customer ON setting (customer_id, key) WHERE customer_id IS NOT NULL;
CREATE UNIQUE INDEX setting_domain ON setting (domain_id, key) WHERE domain_id IS NOT NULL;
CREATE UNIQUE INDEX setting_mailbox ON setting (mailbox_id, key) WHERE mailbox_id IS NOT NULL;
CREATE INDEX setting_key ON setting (key);
CREATE INDEX setting_lock ON setting (lock_customer_id) WHERE lock_customer_id IS NOT NULL;

-- Classes of service: what a new customer or mailbox gets. `kind` is `customer` or `mailbox`, `content` JSON.
CREATE TABLE template (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id   TEXT   NOT NULL UNIQUE,
    customer_id BIGINT NOT NULL REFERENCES customer (id),
    name        TEXT   NOT NULL,
    kind        TEXT   NOT NULL,
    content     TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    UNIQUE (customer_id, name)
);
