-- What customers may spend in a month, in minor units of a currency, and what it has led to in `month` (as in 202611).
-- `spent` is what is billed for the hours before `counted_until` (since 1970), `percent` what was warned of. When all is
-- spent, at `reached_at`, the steps (JSON, as in expiry) follow; `done` of them were taken, `undo` takes them back.
CREATE TABLE spending (
    customer_id           BIGINT NOT NULL PRIMARY KEY,
    amount_max            BIGINT NOT NULL,
    currency              TEXT   NOT NULL,
    steps                 TEXT   NOT NULL,
    actor                 TEXT   NOT NULL,
    authority_customer_id BIGINT NOT NULL,
    month                 BIGINT NOT NULL,
    counted_until         BIGINT NOT NULL DEFAULT 0,
    spent                 BIGINT NOT NULL DEFAULT 0,
    percent               BIGINT NOT NULL DEFAULT 0,
    reached_at            BIGINT,
    done                  BIGINT NOT NULL DEFAULT 0,
    undo                  TEXT   NOT NULL DEFAULT '[]',
    next_at               BIGINT
);
