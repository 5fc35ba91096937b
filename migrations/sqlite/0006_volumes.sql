-- Whether the folder of a store was marked as its own: from then on a folder without the mark is not used.
ALTER TABLE store ADD COLUMN marked BIGINT NOT NULL DEFAULT 0;

-- When damage was last found in a pack, and in how many of its bodies; 0: it cannot be read at all. Background work tries
-- such a pack again once a day.
ALTER TABLE pack ADD COLUMN damaged_at BIGINT;
ALTER TABLE pack ADD COLUMN damaged_bodies BIGINT NOT NULL DEFAULT 0;
CREATE INDEX pack_damaged ON pack (store_id, id) WHERE damaged_at IS NOT NULL;
