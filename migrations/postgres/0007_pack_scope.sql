-- What each customer's bodies take in each pack, so that a report on a customer reads a few rows and not its bodies.
-- Triggers keep it: whatever packs, moves or removes a body changes it in the same transaction. Bodies that no pack
-- holds are not in it, so that deliveries don't pay. frames: bodies and the parts that they share; bodies and octets
-- leave the parts out, since the octets of these are those of their bodies.
-- The folder migrations/sqlite holds the same tables under the same number and name.
CREATE TABLE pack_scope (
    scope_id      BIGINT NOT NULL,
    pack_id       BIGINT NOT NULL,
    frames        BIGINT NOT NULL,
    bodies        BIGINT NOT NULL,
    octets        BIGINT NOT NULL,
    stored_octets BIGINT NOT NULL,
    PRIMARY KEY (scope_id, pack_id)
);
INSERT INTO pack_scope (scope_id, pack_id, frames, bodies, octets, stored_octets)
    SELECT b.scope_id, b.pack_id, count(*), count(*) - count(p.body_id),
           coalesce(sum(CASE WHEN p.body_id IS NULL THEN b.octets END), 0), sum(b.stored_octets)
    FROM body b LEFT JOIN part p ON p.body_id = b.id WHERE b.pack_id IS NOT NULL GROUP BY b.scope_id, b.pack_id;

-- Adds a body to what is kept of its pack, or takes it away (sign -1).
CREATE FUNCTION pack_scope_count(which body, sign BIGINT) RETURNS void AS $$
DECLARE
    whole BIGINT := CASE WHEN EXISTS (SELECT 1 FROM part WHERE body_id = which.id) THEN 0 ELSE sign END;
BEGIN
    INSERT INTO pack_scope AS u (scope_id, pack_id, frames, bodies, octets, stored_octets)
        VALUES (which.scope_id, which.pack_id, sign, whole, which.octets * whole, which.stored_octets * sign)
        ON CONFLICT (scope_id, pack_id) DO UPDATE SET
            frames = u.frames + excluded.frames, bodies = u.bodies + excluded.bodies,
            octets = u.octets + excluded.octets, stored_octets = u.stored_octets + excluded.stored_octets;
    IF sign < 0 THEN
        DELETE FROM pack_scope WHERE scope_id = which.scope_id AND pack_id = which.pack_id AND frames <= 0;
    END IF;
END $$ LANGUAGE plpgsql;

CREATE FUNCTION pack_scope_follow() RETURNS trigger AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.pack_id IS NOT NULL THEN
        PERFORM pack_scope_count(OLD, -1);
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.pack_id IS NOT NULL THEN
        PERFORM pack_scope_count(NEW, 1);
    END IF;
    RETURN NULL;
END $$ LANGUAGE plpgsql;

CREATE TRIGGER body_in_pack AFTER INSERT ON body FOR EACH ROW
    WHEN (NEW.pack_id IS NOT NULL) EXECUTE FUNCTION pack_scope_follow();
CREATE TRIGGER body_to_pack AFTER UPDATE OF scope_id, pack_id, octets, stored_octets ON body FOR EACH ROW
    WHEN (OLD.pack_id IS NOT NULL OR NEW.pack_id IS NOT NULL) EXECUTE FUNCTION pack_scope_follow();
CREATE TRIGGER body_out_of_pack AFTER DELETE ON body FOR EACH ROW
    WHEN (OLD.pack_id IS NOT NULL) EXECUTE FUNCTION pack_scope_follow();

-- Deleted mailboxes of a domain: what of it can still come back.
CREATE INDEX mailbox_deleted ON mailbox (domain_id) WHERE deleted_at IS NOT NULL;
