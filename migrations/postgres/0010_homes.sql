-- Where mailboxes and their bodies belong: placement, moves between mail stores, domains that change customer.
-- The folder migrations/sqlite holds the same tables under the same number and name.

-- The mail store for new mailboxes of a customer and of those below it; NULL: what stands above counts.
ALTER TABLE customer ADD COLUMN store_id BIGINT REFERENCES store (id);

-- Mail stores that the administrators of a customer may know and name, within what is allowed above. A customer
-- without rows has what is allowed above; where nothing is said anywhere, they may name none.
CREATE TABLE customer_store (
    customer_id BIGINT NOT NULL REFERENCES customer (id),
    store_id    BIGINT NOT NULL REFERENCES store (id),
    PRIMARY KEY (customer_id, store_id)
);

CREATE INDEX mailbox_store ON mailbox (store_id);

-- Mailboxes that may have bodies elsewhere than at home: in another mail store, or shared within another customer.
-- is_automatic: they came to another customer, and the daemon sees to it by itself; else a job does.
CREATE TABLE homing (
    mailbox_id   BIGINT PRIMARY KEY REFERENCES mailbox (id),
    is_automatic BIGINT NOT NULL,
    tried_at     BIGINT NOT NULL,
    created_at   BIGINT NOT NULL
);
CREATE INDEX homing_tried ON homing (tried_at, mailbox_id) WHERE is_automatic = 1;

-- Bodies that have been written anew for another customer or mail store, while others still refer to the old one: who
-- follows takes the same. A row goes with its old body; a copy that is gone counts for nothing.
CREATE TABLE body_copy (
    body_id  BIGINT NOT NULL,
    scope_id BIGINT NOT NULL,
    store_id BIGINT NOT NULL,
    copy_id  BIGINT NOT NULL,
    PRIMARY KEY (body_id, scope_id, store_id)
);

-- Domains that are offered to the customer with this short code, whether there is such a customer or not.
CREATE TABLE domain_offer (
    domain_id  BIGINT PRIMARY KEY REFERENCES domain (id),
    to_code    TEXT   NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX domain_offer_code ON domain_offer (to_code);
