-- Canaries: servers that try a target before a node is touched, and what they reported.
SET lock_timeout = '5s';

-- A replica of the release before this one does not know the role; it leaves clusters with an open
-- canary alone until the canary is gone, which is at most an hour.
ALTER TABLE nodes DROP CONSTRAINT nodes_role_check;
ALTER TABLE nodes ADD CONSTRAINT nodes_role_check
    CHECK (role IN ('control_plane', 'worker', 'canary')) NOT VALID;
ALTER TABLE nodes VALIDATE CONSTRAINT nodes_role_check;

-- One try of one flavor, image and network of a target for one cluster. Made by the preflight
-- worker, which also takes the wish back (`is_wanted`); all else is written by the cluster worker
-- under its lease. `probe` is the pod on an old node that tries the way back. Rows are kept for 30
-- days after they ended: their results are believed for one.
CREATE TABLE canaries (
    id uuid PRIMARY KEY,
    cluster_id uuid NOT NULL REFERENCES clusters (id),
    source_cloud_id uuid NOT NULL REFERENCES clouds (id),
    cloud_id uuid NOT NULL REFERENCES clouds (id),
    flavor text NOT NULL,
    image_id text NOT NULL,
    network_id text NOT NULL,
    security_group text,
    zone text,
    job_id uuid,
    wish bigint NOT NULL DEFAULT 0,
    is_wanted boolean NOT NULL DEFAULT true,
    node_id uuid REFERENCES nodes (id) ON DELETE SET NULL,
    peer_id uuid REFERENCES nodes (id) ON DELETE SET NULL,
    probe text NOT NULL DEFAULT 'never'
        CONSTRAINT canaries_probe_check
        CHECK (probe IN ('never', 'unknown', 'present', 'deleting', 'gone')),
    probe_since timestamptz,
    round integer,
    kubelet jsonb,
    peer_report jsonb,
    report jsonb,
    outcome text
        CONSTRAINT canaries_outcome_check
        CHECK (outcome IN ('reported', 'cannot_join', 'given_up')),
    reason text,
    console text,
    created_at timestamptz NOT NULL,
    finished_at timestamptz
);
-- Two preflights of one cluster wait for one canary.
CREATE UNIQUE INDEX canaries_open_key ON canaries (cluster_id, cloud_id, flavor)
    WHERE outcome IS NULL;
CREATE INDEX canaries_cluster_id_idx ON canaries (cluster_id);
CREATE INDEX canaries_cloud_id_idx ON canaries (cloud_id);
CREATE INDEX canaries_source_cloud_id_idx ON canaries (source_cloud_id);
CREATE INDEX canaries_node_id_idx ON canaries (node_id);
CREATE INDEX canaries_peer_id_idx ON canaries (peer_id);
