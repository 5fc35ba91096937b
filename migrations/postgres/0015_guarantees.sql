-- Guarantees and overcommit of customers (storage/metadata/pool.rs). NULL means none. A guarantee is reserved at every
-- customer above; overcommit says, in percent of a customer's own limit, what the limits of those right below it may
-- add up to, and NULL that they share it freely.
ALTER TABLE customer ADD COLUMN bytes_guarantee BIGINT;
ALTER TABLE customer ADD COLUMN mailboxes_guarantee BIGINT;
ALTER TABLE customer ADD COLUMN bytes_overcommit_percent BIGINT;
ALTER TABLE customer ADD COLUMN mailboxes_overcommit_percent BIGINT;

-- Octets used at the customer itself and passed on by those below it: limits are on these. A row of customer_usage exists
-- while there is a limit on octets or messages, or a guarantee of octets.
ALTER TABLE customer_usage ADD COLUMN bytes_committed BIGINT NOT NULL DEFAULT 0;
UPDATE customer_usage SET bytes_committed = bytes_used;
