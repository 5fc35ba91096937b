-- Legal holds are holds on the switch `purge` (metadata/legal_hold.rs): housekeeping asks for all of them.
-- The folder migrations/postgres holds the same under the same number and name.
CREATE INDEX hold_purge ON hold (id) WHERE switch = 'purge';
