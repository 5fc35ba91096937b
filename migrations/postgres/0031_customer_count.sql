-- Numbers of objects at customers that have limits on them, with what is below (storage/metadata/customer_count.rs). Of
-- mailboxes it is what is committed. NULL means not known: whoever needs it counts it.
CREATE TABLE customer_count (
    customer_id    BIGINT PRIMARY KEY REFERENCES customer (id),
    mailboxes      BIGINT,
    aliases        BIGINT,
    domains        BIGINT,
    administrators BIGINT
);

-- Administrators and groups by name, wherever they are at home: lists go through them in this order, and names are looked
-- up by it.
CREATE INDEX administrator_by_name ON administrator (name, id) WHERE deleted_at IS NULL;
DROP INDEX administrator_group_name;
CREATE INDEX administrator_group_name ON administrator_group (name, id);
