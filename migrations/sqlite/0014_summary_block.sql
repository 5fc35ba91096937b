-- Summaries of neighbouring messages of a folder, compressed together once their bodies are in packs: one sender's
-- headers resemble the next one's. A summary in a block has no data of its own but a place in it. A block never
-- changes but for its counts: what lives in one with much that is dead moves into a new one. bodies: how many summaries
-- live in it; living_octets: theirs; dead_at: since when it has others, as far as was noticed.
-- The folder migrations/postgres holds the same tables under the same number and name.
CREATE TABLE summary_block (
    id            INTEGER PRIMARY KEY,
    codec         BIGINT NOT NULL,
    dictionary_id BIGINT NOT NULL,
    octets        BIGINT NOT NULL,
    bodies        BIGINT NOT NULL,
    living_octets BIGINT NOT NULL,
    dead_at       BIGINT,
    data          BLOB   NOT NULL
);
CREATE INDEX summary_block_dead ON summary_block (id) WHERE living_octets < octets;

ALTER TABLE summary ADD COLUMN block_id BIGINT;
ALTER TABLE summary ADD COLUMN block_offset BIGINT;
CREATE INDEX summary_block_id ON summary (block_id) WHERE block_id IS NOT NULL;
