-- Counters that STATUS tells without counting, and sets of messages on their way into a folder.
-- recent: messages with a UID from recent_uid on. deleted, deleted_octets: messages marked \Deleted (bit 3).
ALTER TABLE folder ADD COLUMN recent BIGINT NOT NULL DEFAULT 0;
ALTER TABLE folder ADD COLUMN deleted BIGINT NOT NULL DEFAULT 0;
ALTER TABLE folder ADD COLUMN deleted_octets BIGINT NOT NULL DEFAULT 0;
UPDATE folder SET
    recent = (SELECT count(*) FROM message m
              WHERE m.mailbox_id = folder.mailbox_id AND m.folder_id = folder.id AND m.uid >= folder.recent_uid),
    deleted = (SELECT count(*) FROM message m WHERE m.folder_id = folder.id AND (m.flags & 8) <> 0),
    deleted_octets = (SELECT CAST(coalesce(sum(m.octets), 0) AS BIGINT) FROM message m
                      WHERE m.folder_id = folder.id AND (m.flags & 8) <> 0);

-- A large copy or append puts its rows into the folder slice by slice, with UIDs from staged_uid and a mod-sequence
-- far above what the folder has given so far; one last change of uid_next and mod_seq makes them visible together.
-- 0: nothing is on its way. Until then nobody reads rows from uid_next on, and nobody is given a UID from staged_uid
-- on.
ALTER TABLE folder ADD COLUMN staged_uid BIGINT NOT NULL DEFAULT 0;

-- Which node's which start does it. What an ended epoch has left, or what was refused, is abandoned: its rows are
-- purged in the background, then the folder is free again.
CREATE TABLE folder_stage (
    folder_id  BIGINT PRIMARY KEY,
    mailbox_id BIGINT NOT NULL REFERENCES mailbox (id),
    node_id    TEXT   NOT NULL,
    epoch      BIGINT NOT NULL,
    abandoned  BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL
);
