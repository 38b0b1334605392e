-- Clouds, offerings, clusters, nodes, migrations.
SET lock_timeout = '5s';

-- Written by app (spec) and the cloud worker (phase, checks, inventory). A row dies when an
-- operator removes a cloud on which nothing is left.
CREATE TABLE clouds (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    spec jsonb NOT NULL,
    generation bigint NOT NULL DEFAULT 1,
    observed_generation bigint NOT NULL DEFAULT 0,
    phase text NOT NULL DEFAULT 'checking'
        CONSTRAINT clouds_phase_check CHECK (phase IN ('checking', 'ready', 'unusable')),
    checks jsonb NOT NULL DEFAULT '[]',
    inventory jsonb,
    inventory_at timestamptz,
    check_wanted bigint NOT NULL DEFAULT 1,
    check_done bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT clouds_name_key UNIQUE (name)
);

-- A project and its credential on a cloud. One shared account a cloud (project_id null) by
-- default. Written by app; dies with its cloud.
CREATE TABLE accounts (
    id uuid PRIMARY KEY,
    cloud_id uuid NOT NULL REFERENCES clouds (id),
    project_id uuid REFERENCES projects (id),
    credential bytea NOT NULL,
    listed_at timestamptz,
    created_at timestamptz NOT NULL,
    CONSTRAINT accounts_cloud_project_key UNIQUE NULLS NOT DISTINCT (cloud_id, project_id)
);
CREATE INDEX accounts_project_id_idx ON accounts (project_id);

-- A Kubernetes version and an addon-manager version of one minor. Written by app; kept for ever,
-- since clusters point to them.
CREATE TABLE offerings (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    spec jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT offerings_name_key UNIQUE (name)
);

-- Desired columns (spec, generation, desired) are written by app, the rest by the cluster worker
-- under its lease. Rows are kept after deletion (phase deleted) for the history.
CREATE TABLE clusters (
    id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects (id),
    name text NOT NULL,
    offering_id uuid NOT NULL REFERENCES offerings (id),
    control_plane_cloud_id uuid NOT NULL REFERENCES clouds (id),
    control_plane_count integer NOT NULL
        CONSTRAINT clusters_control_plane_count_check CHECK (control_plane_count IN (1, 3)),
    control_plane_flavor text NOT NULL,
    network jsonb NOT NULL,
    api_server_args jsonb NOT NULL DEFAULT '{}',
    desired text NOT NULL DEFAULT 'present'
        CONSTRAINT clusters_desired_check CHECK (desired IN ('present', 'absent')),
    generation bigint NOT NULL DEFAULT 1,
    observed_generation bigint NOT NULL DEFAULT 0,
    phase text NOT NULL DEFAULT 'creating'
        CONSTRAINT clusters_phase_check CHECK (phase IN ('creating', 'running', 'deleting', 'deleted')),
    conditions jsonb NOT NULL DEFAULT '[]',
    waiting jsonb NOT NULL DEFAULT '[]',
    vip_port text NOT NULL DEFAULT 'never'
        CONSTRAINT clusters_vip_port_check
        CHECK (vip_port IN ('never', 'unknown', 'present', 'deleting', 'gone')),
    vip_port_id text,
    vip_address text,
    api_reached_at timestamptz,
    base_applied_at timestamptz,
    nodes_listed_at timestamptz,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz
);
CREATE UNIQUE INDEX clusters_name_per_project_key ON clusters (project_id, name)
    WHERE phase <> 'deleted';
CREATE INDEX clusters_offering_id_idx ON clusters (offering_id);
CREATE INDEX clusters_control_plane_cloud_id_idx ON clusters (control_plane_cloud_id);

-- A cluster's own PKI: certificates in clear, keys sealed. Written once by app with the cluster;
-- dies when the cluster is deleted.
CREATE TABLE cluster_keys (
    cluster_id uuid NOT NULL REFERENCES clusters (id),
    kind text NOT NULL
        CONSTRAINT cluster_keys_kind_check
        CHECK (kind IN ('cluster_ca', 'front_proxy_ca', 'etcd_ca', 'service_account')),
    public_pem text NOT NULL,
    private_key bytea NOT NULL,
    PRIMARY KEY (cluster_id, kind)
);

-- Workers that are alike. Written by app; cloud_id and flavor also by the migration worker at
-- commit. Dies with its cluster.
CREATE TABLE pools (
    id uuid PRIMARY KEY,
    cluster_id uuid NOT NULL REFERENCES clusters (id),
    name text NOT NULL,
    cloud_id uuid NOT NULL REFERENCES clouds (id),
    flavor text NOT NULL,
    zone text,
    count integer NOT NULL CONSTRAINT pools_count_check CHECK (count BETWEEN 0 AND 1000),
    labels jsonb NOT NULL DEFAULT '{}',
    taints jsonb NOT NULL DEFAULT '[]',
    surge integer NOT NULL DEFAULT 1 CONSTRAINT pools_surge_check CHECK (surge BETWEEN 1 AND 20),
    CONSTRAINT pools_name_per_cluster_key UNIQUE (cluster_id, name)
);
CREATE INDEX pools_cloud_id_idx ON pools (cloud_id);

-- Numbers writes to and lists of the outside world: a list that took its number before a row was
-- written knows less than the row. No clock is involved, so replicas need not agree on the time.
CREATE SEQUENCE outside_order;

-- One worker or control-plane member. Made by the cluster worker; `desired` is set absent by the
-- cluster worker (scale, replace), the migration worker (commit, rollback) and never set back.
-- server_* and port_* are written by the cluster worker and the server list, object_* and kubelet
-- by the cluster worker and the node list, drain* by the migration worker while the node is wanted
-- and by the cluster worker once it is not. Rows are kept for 30 days after they are closed.
CREATE TABLE nodes (
    id uuid PRIMARY KEY,
    cluster_id uuid NOT NULL REFERENCES clusters (id),
    pool_id uuid REFERENCES pools (id),
    cloud_id uuid NOT NULL REFERENCES clouds (id),
    account_id uuid NOT NULL REFERENCES accounts (id),
    role text NOT NULL CONSTRAINT nodes_role_check CHECK (role IN ('control_plane', 'worker')),
    member integer,
    name text NOT NULL,
    flavor text NOT NULL,
    zone text,
    job_id uuid,
    desired text NOT NULL DEFAULT 'present'
        CONSTRAINT nodes_desired_check CHECK (desired IN ('present', 'absent')),
    attempt integer NOT NULL DEFAULT 0,
    not_before timestamptz,
    trouble text,
    created_at timestamptz NOT NULL,
    closed_at timestamptz,
    port text NOT NULL DEFAULT 'never'
        CONSTRAINT nodes_port_check CHECK (port IN ('never', 'unknown', 'present', 'deleting', 'gone')),
    port_id text,
    address text,
    group_id uuid,
    server text NOT NULL DEFAULT 'never'
        CONSTRAINT nodes_server_check
        CHECK (server IN ('never', 'unknown', 'present', 'deleting', 'gone')),
    server_id text,
    server_intent_at timestamptz,
    server_looked_at timestamptz,
    server_status text,
    server_fault text,
    server_missing_since timestamptz,
    server_order bigint NOT NULL DEFAULT 0,
    secret bytea NOT NULL,
    bundle_token_hash bytea,
    bundle_expires_at timestamptz,
    bundle_used_at timestamptz,
    token text NOT NULL DEFAULT 'never'
        CONSTRAINT nodes_token_check CHECK (token IN ('never', 'unknown', 'present', 'deleting', 'gone')),
    object text NOT NULL DEFAULT 'never'
        CONSTRAINT nodes_object_check
        CHECK (object IN ('never', 'unknown', 'present', 'deleting', 'gone')),
    object_uid text,
    object_order bigint NOT NULL DEFAULT 0,
    kubelet jsonb NOT NULL DEFAULT '{}',
    usable_at timestamptz,
    drain text NOT NULL DEFAULT 'idle'
        CONSTRAINT nodes_drain_check CHECK (drain IN (
            'idle', 'cordoning', 'evicting', 'drained', 'skipped', 'uncordoning')),
    drain_started_at timestamptz,
    drained_at timestamptz,
    was_cordoned boolean NOT NULL DEFAULT false,
    blockers jsonb NOT NULL DEFAULT '[]',
    CONSTRAINT nodes_name_key UNIQUE (name),
    CONSTRAINT nodes_bundle_token_hash_key UNIQUE (bundle_token_hash)
) WITH (fillfactor = 80);
CREATE INDEX nodes_cluster_id_idx ON nodes (cluster_id) WHERE closed_at IS NULL;
CREATE INDEX nodes_account_id_idx ON nodes (account_id) WHERE closed_at IS NULL;
CREATE INDEX nodes_pool_id_idx ON nodes (pool_id);
CREATE INDEX nodes_cloud_id_idx ON nodes (cloud_id) WHERE closed_at IS NULL;
CREATE UNIQUE INDEX nodes_member_key ON nodes (cluster_id, member)
    WHERE role = 'control_plane' AND desired = 'present';

-- Nova server groups, at most `server_group_members` nodes each. Written by the cluster worker;
-- dies when the group is deleted in Nova.
CREATE TABLE server_groups (
    id uuid PRIMARY KEY,
    cluster_id uuid NOT NULL REFERENCES clusters (id),
    pool_id uuid REFERENCES pools (id),
    account_id uuid NOT NULL REFERENCES accounts (id),
    number integer NOT NULL,
    name text NOT NULL,
    state text NOT NULL DEFAULT 'never'
        CONSTRAINT server_groups_state_check
        CHECK (state IN ('never', 'unknown', 'present', 'deleting', 'gone')),
    server_group_id text,
    CONSTRAINT server_groups_number_key
        UNIQUE NULLS NOT DISTINCT (cluster_id, pool_id, account_id, number)
);
CREATE INDEX server_groups_account_id_idx ON server_groups (account_id);
CREATE INDEX server_groups_pool_id_idx ON server_groups (pool_id);
ALTER TABLE nodes ADD CONSTRAINT nodes_group_id_fkey
    FOREIGN KEY (group_id) REFERENCES server_groups (id);
CREATE INDEX nodes_group_id_idx ON nodes (group_id);

-- Moving a cluster's workers. Wishes (paused, approved_wave, wants_*) are written by app, the rest
-- by the migration worker under its lease. Rows are kept for ever: they are the history.
CREATE TABLE migrations (
    id uuid PRIMARY KEY,
    cluster_id uuid NOT NULL REFERENCES clusters (id),
    source_cloud_id uuid NOT NULL REFERENCES clouds (id),
    target_cloud_id uuid NOT NULL REFERENCES clouds (id),
    spec jsonb NOT NULL,
    pool_ids uuid[] NOT NULL,
    phase text NOT NULL DEFAULT 'pending'
        CONSTRAINT migrations_phase_check CHECK (phase IN (
            'pending', 'preflight', 'provisioning', 'draining', 'soaking', 'approval', 'holding',
            'committing', 'succeeded', 'rolling_back', 'rolled_back', 'cancelled')),
    phase_since timestamptz NOT NULL,
    wave integer NOT NULL DEFAULT 0,
    paused text,
    approved_wave integer,
    wants_commit boolean NOT NULL DEFAULT false,
    wants_rollback boolean NOT NULL DEFAULT false,
    wants_cancel boolean NOT NULL DEFAULT false,
    healthy_since timestamptz,
    conditions jsonb NOT NULL DEFAULT '[]',
    waiting jsonb NOT NULL DEFAULT '[]',
    insights jsonb NOT NULL DEFAULT '[]',
    generation bigint NOT NULL DEFAULT 1,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    finished_at timestamptz
);
CREATE INDEX migrations_cluster_id_idx ON migrations (cluster_id);
CREATE INDEX migrations_source_cloud_id_idx ON migrations (source_cloud_id);
CREATE INDEX migrations_target_cloud_id_idx ON migrations (target_cloud_id);
-- One changing job a cluster.
CREATE UNIQUE INDEX migrations_one_per_cluster_key ON migrations (cluster_id)
    WHERE phase NOT IN ('succeeded', 'rolled_back', 'cancelled');

-- The old nodes of a migration and their waves, fixed when it is accepted. Written once by app;
-- dies with its node.
CREATE TABLE migration_nodes (
    migration_id uuid NOT NULL REFERENCES migrations (id),
    node_id uuid NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    wave integer NOT NULL,
    PRIMARY KEY (migration_id, node_id)
);
CREATE INDEX migration_nodes_node_id_idx ON migration_nodes (node_id);

-- What the sweep found of ours without an owner. Written by the sweep worker; a row dies when the
-- thing is gone or turns out to be owned.
CREATE TABLE orphans (
    account_id uuid NOT NULL REFERENCES accounts (id),
    kind text NOT NULL CONSTRAINT orphans_kind_check CHECK (kind IN ('server', 'port', 'server_group')),
    outside_id text NOT NULL,
    name text NOT NULL,
    seen_count integer NOT NULL DEFAULT 1,
    first_seen_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, kind, outside_id)
);
