-- What large installations need: the hierarchy in memory brought up to date by what changed, and an index over the audit
-- trail that is written, and swept, where it grows.
-- The folder migrations/postgres holds the same tables under the same number and name.

-- What changed in the hierarchy with each version of it (`tree_version` in `instance`), the last few thousand changes. A
-- change of several customers has a row for each; without a customer it was one of too many, and all are read again.
CREATE TABLE tree_change (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    before      TEXT NOT NULL,
    version     TEXT NOT NULL,
    customer_id BIGINT
);

-- The rows of one chunk beside each other: whoever fills the index writes few pages, and what is swept goes at once.
ALTER TABLE audit_term RENAME TO audit_term_before;
CREATE TABLE audit_term (
    chunk   BIGINT NOT NULL,
    term    BIGINT NOT NULL,
    records BLOB   NOT NULL,
    PRIMARY KEY (chunk, term)
) WITHOUT ROWID;
INSERT INTO audit_term (chunk, term, records) SELECT chunk, term, records FROM audit_term_before ORDER BY chunk, term;
DROP TABLE audit_term_before;

-- 1 when the rows of reads in it are gone, as the reads are.
ALTER TABLE audit_part ADD COLUMN swept BIGINT NOT NULL DEFAULT 0;
-- It was never used.
ALTER TABLE audit_index DROP COLUMN swept;
