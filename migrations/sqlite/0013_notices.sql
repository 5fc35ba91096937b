-- Notices (service/notices): what people are told. Written in the transaction of what caused them.
-- The folder migrations/postgres holds the same tables under the same number and name.

-- Who it is for: a mailbox's owner, an administrator, a group, a role at a customer, or a customer as a whole; of the
-- columns for that, the ones of its kind are set. Subject and text hold references as the audit trail does.
CREATE TABLE notice (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    public_id        TEXT   NOT NULL UNIQUE,
    at               BIGINT NOT NULL,
    kind             TEXT   NOT NULL,
    mailbox_id       BIGINT,
    administrator_id BIGINT,
    group_id         BIGINT,
    role             TEXT,
    customer_id      BIGINT,
    subject          TEXT   NOT NULL,
    text             TEXT   NOT NULL,
    spread           BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX notice_at ON notice (at);
CREATE INDEX notice_spread ON notice (id) WHERE spread = 0;
CREATE INDEX notice_customer ON notice (customer_id, id) WHERE customer_id IS NOT NULL;
CREATE INDEX notice_mailbox ON notice (mailbox_id, id) WHERE mailbox_id IS NOT NULL;

-- The administrators whom it is told, and when they have read it; 0 is the system.
CREATE TABLE notice_reader (
    administrator_id BIGINT NOT NULL,
    notice_id        BIGINT NOT NULL,
    read_at          BIGINT,
    PRIMARY KEY (administrator_id, notice_id)
) WITHOUT ROWID;
CREATE INDEX notice_reader_notice ON notice_reader (notice_id);

-- Copies on their way into mailboxes; the delivery removes the row, so that nobody gets two. The reader is the
-- administrator in whose view it is written; none for a customer or the mailbox's owner.
CREATE TABLE notice_mail (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    notice_id        BIGINT NOT NULL,
    mailbox_id       BIGINT NOT NULL,
    administrator_id BIGINT,
    next_at          BIGINT NOT NULL,
    attempts         BIGINT NOT NULL DEFAULT 0,
    UNIQUE (notice_id, mailbox_id)
);
CREATE INDEX notice_mail_next ON notice_mail (next_at, id);
CREATE INDEX notice_mail_mailbox ON notice_mail (mailbox_id);
