-- Zones: named sets of mail stores and servers, within which rights over those can be granted
-- (service/authority/zone.rs says what that means).
-- The folder migrations/postgres holds the same tables under the same number and name.

CREATE TABLE zone (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT   NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE zone_store (
    zone_id  BIGINT NOT NULL REFERENCES zone (id),
    store_id BIGINT NOT NULL REFERENCES store (id),
    PRIMARY KEY (zone_id, store_id)
) WITHOUT ROWID;

-- A server is meant by its name: it stays in its zone when its row goes, as it does when a backup is restored.
CREATE TABLE zone_node (
    zone_id BIGINT NOT NULL REFERENCES zone (id),
    node_id TEXT   NOT NULL,
    PRIMARY KEY (zone_id, node_id)
) WITHOUT ROWID;

-- The zone in which a grant counts, and nowhere else; its customer is the root then. NULL for grants at customers.
ALTER TABLE role_grant ADD COLUMN zone_id BIGINT REFERENCES zone (id);
CREATE INDEX role_grant_zone ON role_grant (zone_id) WHERE zone_id IS NOT NULL;

-- The mail store that a job is about, so that those with rights over it see the job.
ALTER TABLE job ADD COLUMN store_id BIGINT REFERENCES store (id);
CREATE INDEX job_store ON job (store_id, id) WHERE store_id IS NOT NULL;
