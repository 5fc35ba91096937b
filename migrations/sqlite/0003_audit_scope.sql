-- Which audit records belong to which customers: one row for each customer on the path of a record at its time, so
-- that a search within a customer reads one range of this key, newest first, whatever else is in the trail.
CREATE TABLE audit_scope (
    customer_id BIGINT NOT NULL,
    audit_id    BIGINT NOT NULL,
    PRIMARY KEY (customer_id, audit_id)
) WITHOUT ROWID;
INSERT INTO audit_scope (customer_id, audit_id)
    SELECT DISTINCT CAST(step.value AS INTEGER), a.id
    FROM audit a, json_each('[' || replace(trim(a.node_path, '/'), '/', ',') || ']') AS step;
DROP INDEX audit_node;
-- What one administrator did.
CREATE INDEX audit_actor ON audit (actor_id, id);

-- Customers that were ever moved: records of the time before do not have those now above them on their path.
ALTER TABLE customer ADD COLUMN moved BIGINT NOT NULL DEFAULT 0;
CREATE INDEX customer_moved ON customer (id) WHERE moved = 1;

-- Records of the time before have names as whoever acted saw them: only those who see where the actor is at home are
-- told them (service/audit/names.rs).
UPDATE audit SET target = char(2) || 'a' || actor_path || char(31) || target || char(3) WHERE target <> '';
UPDATE audit SET before = json_quote(char(2) || 'a' || actor_path || char(31) || before || char(3)) WHERE before IS NOT NULL;
UPDATE audit SET after = json_quote(char(2) || 'a' || actor_path || char(31) || after || char(3)) WHERE after IS NOT NULL;
