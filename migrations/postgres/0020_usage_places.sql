-- Where domains were, each place once: what a report and the metering of an hour look domains up by. `is_open` is 0 for
-- what was purged and is counted to the end.
CREATE TABLE usage_place (
    domain_id BIGINT NOT NULL,
    path_id   BIGINT NOT NULL REFERENCES usage_path (id),
    is_open   BIGINT NOT NULL DEFAULT 1,
    PRIMARY KEY (domain_id, path_id)
);
CREATE INDEX usage_place_path ON usage_place (path_id, domain_id);
INSERT INTO usage_place (domain_id, path_id) SELECT DISTINCT domain_id, path_id FROM usage_line;
DROP INDEX usage_line_path;
DROP INDEX usage_line_start;
