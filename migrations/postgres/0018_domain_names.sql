-- Domains by name, whatever their state: lists go through them in this order, and names are looked up by it.
CREATE INDEX domain_name ON domain (name, id) WHERE deleted_at IS NULL;
