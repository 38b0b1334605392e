-- Nodes whose drain nobody wants to wait for, and what owners put on single nodes.
SET lock_timeout = '5s';

-- Written by app with the verb skip_node; dies with its node.
CREATE TABLE migration_skips (
    migration_id uuid NOT NULL REFERENCES migrations (id),
    node_id uuid NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    reason text NOT NULL,
    PRIMARY KEY (migration_id, node_id)
);
CREATE INDEX migration_skips_node_id_idx ON migration_skips (node_id);

-- `ledger` is what the node's owner put on it beyond its pool's, written by the node list.
-- `predecessor_id` (whose ledger it is given) and `heir_id` (who was given its ledger) are written
-- by the cluster worker when the heir is added; `carried` is what it was given, once it was. No
-- foreign keys: either row may die before the other. `lost`: dismissed because it could not serve,
-- so another takes its place.
ALTER TABLE nodes ADD COLUMN ledger jsonb NOT NULL DEFAULT '{}';
ALTER TABLE nodes ADD COLUMN carried jsonb;
ALTER TABLE nodes ADD COLUMN predecessor_id uuid;
ALTER TABLE nodes ADD COLUMN heir_id uuid;
ALTER TABLE nodes ADD COLUMN lost boolean NOT NULL DEFAULT false;
CREATE INDEX nodes_lost_idx ON nodes (cluster_id) WHERE lost;
