-- What each customer's bodies take in each pack, so that a report on a customer reads a few rows and not its bodies.
-- Triggers keep it: whatever packs, moves or removes a body changes it in the same transaction. Bodies that no pack
-- holds are not in it, so that deliveries don't pay. frames: bodies and the parts that they share; bodies and octets
-- leave the parts out, since the octets of these are those of their bodies.
-- The folder migrations/postgres holds the same tables under the same number and name.
CREATE TABLE pack_scope (
    scope_id      BIGINT NOT NULL,
    pack_id       BIGINT NOT NULL,
    frames        BIGINT NOT NULL,
    bodies        BIGINT NOT NULL,
    octets        BIGINT NOT NULL,
    stored_octets BIGINT NOT NULL,
    PRIMARY KEY (scope_id, pack_id)
) WITHOUT ROWID;
INSERT INTO pack_scope (scope_id, pack_id, frames, bodies, octets, stored_octets)
    SELECT b.scope_id, b.pack_id, count(*), count(*) - count(p.body_id),
           coalesce(sum(CASE WHEN p.body_id IS NULL THEN b.octets END), 0), sum(b.stored_octets)
    FROM body b LEFT JOIN part p ON p.body_id = b.id WHERE b.pack_id IS NOT NULL GROUP BY b.scope_id, b.pack_id;

CREATE TRIGGER body_in_pack AFTER INSERT ON body WHEN NEW.pack_id IS NOT NULL
BEGIN
    INSERT INTO pack_scope (scope_id, pack_id, frames, bodies, octets, stored_octets)
        VALUES (NEW.scope_id, NEW.pack_id, 1, NOT EXISTS (SELECT 1 FROM part WHERE body_id = NEW.id),
                NEW.octets * NOT EXISTS (SELECT 1 FROM part WHERE body_id = NEW.id), NEW.stored_octets)
        ON CONFLICT (scope_id, pack_id) DO UPDATE SET
            frames = frames + excluded.frames, bodies = bodies + excluded.bodies,
            octets = octets + excluded.octets, stored_octets = stored_octets + excluded.stored_octets;
END;

CREATE TRIGGER body_to_pack AFTER UPDATE OF scope_id, pack_id, octets, stored_octets ON body
    WHEN OLD.pack_id IS NOT NULL OR NEW.pack_id IS NOT NULL
BEGIN
    UPDATE pack_scope SET
        frames = frames - 1,
        bodies = bodies - NOT EXISTS (SELECT 1 FROM part WHERE body_id = OLD.id),
        octets = octets - OLD.octets * NOT EXISTS (SELECT 1 FROM part WHERE body_id = OLD.id),
        stored_octets = stored_octets - OLD.stored_octets
    WHERE scope_id = OLD.scope_id AND pack_id = OLD.pack_id;
    DELETE FROM pack_scope WHERE scope_id = OLD.scope_id AND pack_id = OLD.pack_id AND frames <= 0;
    INSERT INTO pack_scope (scope_id, pack_id, frames, bodies, octets, stored_octets)
        SELECT NEW.scope_id, NEW.pack_id, 1, NOT EXISTS (SELECT 1 FROM part WHERE body_id = NEW.id),
               NEW.octets * NOT EXISTS (SELECT 1 FROM part WHERE body_id = NEW.id), NEW.stored_octets
        WHERE NEW.pack_id IS NOT NULL
        ON CONFLICT (scope_id, pack_id) DO UPDATE SET
            frames = frames + excluded.frames, bodies = bodies + excluded.bodies,
            octets = octets + excluded.octets, stored_octets = stored_octets + excluded.stored_octets;
END;

CREATE TRIGGER body_out_of_pack AFTER DELETE ON body WHEN OLD.pack_id IS NOT NULL
BEGIN
    UPDATE pack_scope SET
        frames = frames - 1,
        bodies = bodies - NOT EXISTS (SELECT 1 FROM part WHERE body_id = OLD.id),
        octets = octets - OLD.octets * NOT EXISTS (SELECT 1 FROM part WHERE body_id = OLD.id),
        stored_octets = stored_octets - OLD.stored_octets
    WHERE scope_id = OLD.scope_id AND pack_id = OLD.pack_id;
    DELETE FROM pack_scope WHERE scope_id = OLD.scope_id AND pack_id = OLD.pack_id AND frames <= 0;
END;

-- Deleted mailboxes of a domain: what of it can still come back.
CREATE INDEX mailbox_deleted ON mailbox (domain_id) WHERE deleted_at IS NOT NULL;
