-- What is near its limit (storage/metadata/quota_mark.rs): `kind` is 1 for a mailbox, 2 for a domain, 3 for a customer.
-- `percent` was warned of; `full_since` is when mail was first refused for want of room, while that goes on.
CREATE TABLE quota_mark (
    kind       BIGINT NOT NULL,
    owner_id   BIGINT NOT NULL,
    percent    BIGINT NOT NULL,
    full_since BIGINT,
    PRIMARY KEY (kind, owner_id)
);
