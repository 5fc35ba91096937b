-- Metering (storage/metadata/metering.rs). Hours are counted since 1970 (UTC). A domain has a line only for hours in which
-- something of it changed; what it has after a line holds until its next one. Nothing refers to the domain or the
-- customers, since both may be purged while what they used stays.

-- Where a domain belonged: the keys of the customers from the root down, as in /1/7/, and their names then.
CREATE TABLE usage_path (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    path  TEXT NOT NULL UNIQUE,
    names TEXT NOT NULL
);

CREATE TABLE usage_line (
    domain_id       BIGINT NOT NULL,
    start_hour      BIGINT NOT NULL,
    hours           BIGINT NOT NULL,
    path_id         BIGINT NOT NULL REFERENCES usage_path (id),
    byte_hours      BIGINT NOT NULL,
    mailbox_hours   BIGINT NOT NULL,
    messages_in     BIGINT NOT NULL,
    octets_in       BIGINT NOT NULL,
    bytes_after     BIGINT NOT NULL,
    mailboxes_after BIGINT NOT NULL,
    PRIMARY KEY (domain_id, start_hour)
) WITHOUT ROWID;
CREATE INDEX usage_line_path ON usage_line (path_id, domain_id);
CREATE INDEX usage_line_start ON usage_line (start_hour);

-- What a month came to, frozen: a row for each domain and place where it was, numbered as in 202611.
CREATE TABLE usage_month (
    month         BIGINT NOT NULL,
    domain_id     BIGINT NOT NULL,
    path_id       BIGINT NOT NULL REFERENCES usage_path (id),
    byte_hours    BIGINT NOT NULL,
    mailbox_hours BIGINT NOT NULL,
    messages_in   BIGINT NOT NULL,
    octets_in     BIGINT NOT NULL,
    PRIMARY KEY (month, path_id, domain_id)
) WITHOUT ROWID;

-- Prices of a customer and all below it that have no list of their own, from a month on; in minor units of the currency.
-- They are for a GiB for a month, a mailbox for a month, and a thousand messages received.
CREATE TABLE price_list (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    customer_id   BIGINT NOT NULL,
    month         BIGINT NOT NULL,
    currency      TEXT   NOT NULL,
    gib_month     BIGINT NOT NULL,
    mailbox_month BIGINT NOT NULL,
    messages_1000 BIGINT NOT NULL,
    created_at    BIGINT NOT NULL,
    UNIQUE (customer_id, month)
);
