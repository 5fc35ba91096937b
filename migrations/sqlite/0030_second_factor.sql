-- Second factors of administrators: secrets of authenticators (RFC 6238), and codes for when one is lost.
-- The folder migrations/postgres holds the same tables under the same number and name.

-- The secret is kept as it is, since codes are made of it. confirmed_at is NULL until a code has shown that the
-- authenticator has it; until then it counts for nothing. last_step is the step whose code was taken last: none is taken
-- twice, and none before it.
CREATE TABLE second_factor (
    administrator_id BIGINT NOT NULL PRIMARY KEY,
    secret           BLOB   NOT NULL,
    created_at       BIGINT NOT NULL,
    confirmed_at     BIGINT,
    last_step        BIGINT
);

-- Of a recovery code only the BLAKE3 hash is kept. Using one removes its row.
CREATE TABLE recovery_code (
    administrator_id BIGINT NOT NULL,
    secret_hash      BLOB   NOT NULL,
    PRIMARY KEY (administrator_id, secret_hash)
);
