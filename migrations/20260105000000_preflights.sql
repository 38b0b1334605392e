-- What was looked at before a migration: insights, waivers, and what the migration would do.
SET lock_timeout = '5s';

-- Spec, pools, waivers and wanted are written by app, the rest by the preflight worker under its
-- lease. A row without a migration dies after 30 days; one of a migration is kept as its history.
CREATE TABLE preflights (
    id uuid PRIMARY KEY,
    cluster_id uuid NOT NULL REFERENCES clusters (id),
    source_cloud_id uuid NOT NULL REFERENCES clouds (id),
    target_cloud_id uuid NOT NULL REFERENCES clouds (id),
    spec jsonb NOT NULL,
    pool_ids uuid[] NOT NULL,
    waivers jsonb NOT NULL DEFAULT '[]',
    -- Counts wishes to check; done is the last one that a check fulfilled.
    wanted bigint NOT NULL DEFAULT 1,
    done bigint NOT NULL DEFAULT 0,
    -- The check of the target cloud that the next look waits for.
    cloud_check bigint,
    cloud_asked_at timestamptz,
    insights jsonb NOT NULL DEFAULT '[]',
    plan jsonb,
    checked_at timestamptz,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX preflights_cluster_id_idx ON preflights (cluster_id);
CREATE INDEX preflights_source_cloud_id_idx ON preflights (source_cloud_id);
CREATE INDEX preflights_target_cloud_id_idx ON preflights (target_cloud_id);

-- Written once by app, with the migration.
ALTER TABLE migrations ADD COLUMN preflight_id uuid REFERENCES preflights (id);
CREATE INDEX migrations_preflight_id_idx ON migrations (preflight_id);

ALTER TABLE work_items DROP CONSTRAINT work_items_kind_check;
ALTER TABLE work_items ADD CONSTRAINT work_items_kind_check CHECK (
    kind IN ('cloud', 'observe_servers', 'observe_nodes', 'cluster', 'preflight', 'migration',
             'sweep'));

-- Migrations that have not begun get the check that they would have been born with.
INSERT INTO preflights (id, cluster_id, source_cloud_id, target_cloud_id, spec, pool_ids,
                        created_by, created_at)
SELECT id, cluster_id, source_cloud_id, target_cloud_id, spec, pool_ids, created_by, created_at
FROM migrations
WHERE phase IN ('pending', 'preflight');
UPDATE migrations SET preflight_id = id WHERE phase IN ('pending', 'preflight');
INSERT INTO work_items (kind, resource_id, due_at) SELECT 'preflight', id, now() FROM preflights;
