-- Roles that customers make themselves, groups of administrators, ceilings (service/authority.rs says what they mean).
-- The folder migrations/postgres holds the same tables under the same number and name.

-- A role of a customer: it counts at the customer and below. permissions are names with spaces between; what counts is
-- what the base role, a built-in one, has too.
CREATE TABLE custom_role (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id   TEXT   NOT NULL UNIQUE,
    customer_id BIGINT NOT NULL REFERENCES customer (id),
    name        TEXT   NOT NULL,
    base        TEXT   NOT NULL,
    permissions TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    UNIQUE (customer_id, name)
);
CREATE INDEX custom_role_name ON custom_role (name);

CREATE TABLE administrator_group (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id   TEXT   NOT NULL UNIQUE,
    customer_id BIGINT NOT NULL REFERENCES customer (id),
    name        TEXT   NOT NULL,
    created_at  BIGINT NOT NULL,
    UNIQUE (customer_id, name)
);
CREATE INDEX administrator_group_name ON administrator_group (name);

CREATE TABLE group_member (
    group_id         BIGINT NOT NULL REFERENCES administrator_group (id),
    administrator_id BIGINT NOT NULL REFERENCES administrator (id),
    added_at         BIGINT NOT NULL,
    PRIMARY KEY (group_id, administrator_id)
) WITHOUT ROWID;
CREATE INDEX group_member_administrator ON group_member (administrator_id);

-- A grant is held by an administrator or a group. role_id is set for a role of a customer. grantor_id is the
-- administrator who made it, whether it is still there or not; NULL for the system.
CREATE TABLE role_grant_new (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id        TEXT   NOT NULL UNIQUE,
    administrator_id BIGINT REFERENCES administrator (id),
    group_id         BIGINT REFERENCES administrator_group (id),
    customer_id      BIGINT NOT NULL REFERENCES customer (id),
    role             TEXT   NOT NULL,
    role_id          BIGINT REFERENCES custom_role (id),
    not_before       BIGINT,
    expires_at       BIGINT,
    delegable        BIGINT NOT NULL DEFAULT 0,
    made_by          TEXT   NOT NULL,
    grantor_id       BIGINT,
    created_at       BIGINT NOT NULL,
    CHECK ((administrator_id IS NULL) <> (group_id IS NULL))
);
INSERT INTO role_grant_new (id, public_id, administrator_id, customer_id, role, not_before, expires_at, delegable,
                            made_by, grantor_id, created_at)
    SELECT g.id, g.public_id, g.administrator_id, g.customer_id, g.role, g.not_before, g.expires_at, g.delegable,
           g.made_by,
           (SELECT a.id FROM administrator a JOIN customer c ON c.id = a.customer_id
            WHERE a.name || '@' || c.code = g.made_by AND a.created_at <= g.created_at ORDER BY a.id DESC LIMIT 1),
           g.created_at
    FROM role_grant g;
-- No id is given twice, those of revoked grants neither.
DELETE FROM sqlite_sequence WHERE name = 'role_grant_new';
INSERT INTO sqlite_sequence (name, seq) SELECT 'role_grant_new', seq FROM sqlite_sequence WHERE name = 'role_grant';
DROP TABLE role_grant;
ALTER TABLE role_grant_new RENAME TO role_grant;
CREATE INDEX role_grant_administrator ON role_grant (administrator_id) WHERE administrator_id IS NOT NULL;
CREATE INDEX role_grant_group ON role_grant (group_id) WHERE group_id IS NOT NULL;
CREATE INDEX role_grant_customer ON role_grant (customer_id);
CREATE INDEX role_grant_role ON role_grant (role_id) WHERE role_id IS NOT NULL;
CREATE INDEX role_grant_grantor ON role_grant (grantor_id) WHERE grantor_id IS NOT NULL;

-- The permissions, names with spaces between, that anybody can have at the customer and below; NULL for no ceiling.
ALTER TABLE customer ADD COLUMN ceiling TEXT;
