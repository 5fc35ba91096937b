-- Logins of mailboxes' owners, counted by service, source and hour (since 1970). `customer_id` is the customer to which
-- the mailbox belonged at that time. `source` is an IP address, `unix`, or `other`: further ones of that hour, together.
CREATE TABLE login_log (
    mailbox_id  BIGINT NOT NULL,
    hour        BIGINT NOT NULL,
    service     TEXT   NOT NULL,
    source      TEXT   NOT NULL,
    customer_id BIGINT NOT NULL,
    successes   BIGINT NOT NULL,
    failures    BIGINT NOT NULL,
    last_at     BIGINT NOT NULL,
    PRIMARY KEY (mailbox_id, hour, service, source, customer_id)
);
CREATE INDEX login_log_customer ON login_log (customer_id, hour);
