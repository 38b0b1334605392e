-- Whose turn it is to build a server is asked often, of all nodes of a cloud: the few that build
-- or are still to be built. Conditions as in store::nodes::slots.
SET lock_timeout = '5s';

CREATE INDEX nodes_building_idx ON nodes (cloud_id, cluster_id)
    WHERE closed_at IS NULL
      AND (server = 'unknown'
           OR server = 'present' AND (server_status IS NULL OR server_status = 'BUILD'));
CREATE INDEX nodes_wanted_idx ON nodes (cloud_id, cluster_id)
    WHERE closed_at IS NULL AND server = 'never';

-- How many servers the last list of all of them had: what such a list costs.
ALTER TABLE accounts
    ADD COLUMN servers integer NOT NULL DEFAULT 0;
