-- What things of one cloud are called on another, and where that puts pools and nodes.
SET lock_timeout = '5s';

-- Written by app. A row dies when an operator deletes it, or with one of its clouds.
CREATE TABLE cloud_pairs (
    id uuid PRIMARY KEY,
    source_cloud_id uuid NOT NULL REFERENCES clouds (id),
    target_cloud_id uuid NOT NULL REFERENCES clouds (id),
    spec jsonb NOT NULL,
    generation bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT cloud_pairs_clouds_key UNIQUE (source_cloud_id, target_cloud_id),
    CONSTRAINT cloud_pairs_two_clouds_check CHECK (source_cloud_id <> target_cloud_id)
);
CREATE INDEX cloud_pairs_target_cloud_id_idx ON cloud_pairs (target_cloud_id);

-- What a mapping chose; null is the cloud's default. A pool's are written by the migration worker
-- at commit, a node's are fixed when its row is made, as its flavor and zone are.
ALTER TABLE pools
    ADD COLUMN network text,
    ADD COLUMN security_group text,
    ADD COLUMN image text;
ALTER TABLE nodes
    ADD COLUMN network text,
    ADD COLUMN security_group text,
    ADD COLUMN image text;
