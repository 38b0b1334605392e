-- The engine's own tables: who runs, what is due, what was asked, what happened.
SET lock_timeout = '5s';

-- This installation of zcp. Written once, by the first replica that starts on an empty
-- database; never deleted. The key of the node-facing CA is sealed; the sealing key is not here.
CREATE TABLE installations (
    singleton    boolean     NOT NULL DEFAULT true,
    id           uuid        NOT NULL,
    node_ca_pem  text        NOT NULL,
    node_ca_key  bytea       NOT NULL,
    created_at   timestamptz NOT NULL,
    CONSTRAINT installations_pkey PRIMARY KEY (singleton),
    CONSTRAINT installations_one_row_check CHECK (singleton)
);

-- Running processes. Written by each replica about itself at start and at every beat; the row
-- dies when the replica stops, or by housekeeping when it was not seen for a day.
CREATE TABLE replicas (
    id          uuid        NOT NULL,
    name        text        NOT NULL,
    version     text        NOT NULL,
    started_at  timestamptz NOT NULL,
    seen_at     timestamptz NOT NULL,
    CONSTRAINT replicas_pkey PRIMARY KEY (id)
);

-- Durable work: one row per thing to look at, not one per event. `wanted` is raised by whoever
-- wakes the row (app, workers); lease, fence, back-off and parking are written by the driver
-- that holds it. `due_at` is of the injected clock, `expires_at` of the database's. The row
-- dies with its resource. No index on `due_at`: it would cost every update its place on the
-- page (HOT), and the whole table is small.
CREATE TABLE work_items (
    kind           text        NOT NULL,
    resource_id    uuid        NOT NULL,
    wanted         bigint      NOT NULL DEFAULT 1,
    seen           bigint      NOT NULL DEFAULT 0,
    due_at         timestamptz NOT NULL,
    enabled        boolean     NOT NULL DEFAULT true,
    holder         uuid,
    expires_at     timestamptz,
    fence          bigint      NOT NULL DEFAULT 0,
    attempts       integer     NOT NULL DEFAULT 0,
    last_error     text,
    parked_reason  text,
    parked_at      timestamptz,
    CONSTRAINT work_items_pkey PRIMARY KEY (kind, resource_id),
    CONSTRAINT work_items_kind_check CHECK (
        kind IN ('cloud', 'observe_servers', 'observe_nodes', 'cluster', 'migration', 'sweep')),
    CONSTRAINT work_items_lease_check CHECK ((holder IS NULL) = (expires_at IS NULL)),
    CONSTRAINT work_items_parked_check CHECK ((parked_reason IS NULL) = (parked_at IS NULL))
) WITH (fillfactor = 70);

-- Tenants. Written by operators through the API; rows are not deleted yet.
CREATE TABLE projects (
    id          uuid        NOT NULL,
    name        text        NOT NULL,
    created_at  timestamptz NOT NULL,
    CONSTRAINT projects_pkey PRIMARY KEY (id),
    CONSTRAINT projects_name_key UNIQUE (name)
);

-- API tokens, by hash only. Written by operators through the API; a revoked or expired row is
-- kept as a record of who had access.
CREATE TABLE api_tokens (
    id          uuid        NOT NULL,
    name        text        NOT NULL,
    hash        bytea       NOT NULL,
    role        text        NOT NULL,
    project_id  uuid,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz,
    revoked_at  timestamptz,
    CONSTRAINT api_tokens_pkey PRIMARY KEY (id),
    CONSTRAINT api_tokens_hash_key UNIQUE (hash),
    CONSTRAINT api_tokens_hash_check CHECK (octet_length(hash) = 32),
    CONSTRAINT api_tokens_project_fkey FOREIGN KEY (project_id) REFERENCES projects (id)
);
CREATE INDEX api_tokens_project_idx ON api_tokens (project_id);

-- What happened, for timelines and streams. Written by app and workers in the transaction of
-- the change; rows die by age (housekeeping). No foreign keys: an event outlives its subject.
-- `xact` orders the stream: an id may become visible after a greater one, a transaction below
-- every running one may not.
CREATE TABLE events (
    id             bigserial   NOT NULL,
    xact           bigint      NOT NULL DEFAULT (pg_current_xact_id()::text::bigint),
    at             timestamptz NOT NULL,
    project_id     uuid,
    cluster_id     uuid,
    resource_kind  text        NOT NULL,
    resource_id    uuid        NOT NULL,
    type           text        NOT NULL,
    reason         text        NOT NULL,
    message        text        NOT NULL,
    data           jsonb       NOT NULL DEFAULT '{}',
    CONSTRAINT events_pkey PRIMARY KEY (id),
    CONSTRAINT events_type_check CHECK (type IN ('normal', 'warning'))
);
CREATE INDEX events_stream_idx ON events (xact, id);
CREATE INDEX events_project_idx ON events (project_id, id);
CREATE INDEX events_cluster_idx ON events (cluster_id, id);
CREATE INDEX events_resource_idx ON events (resource_id, id);
CREATE INDEX events_at_idx ON events (at);

-- Who asked for what. Written by app in the transaction of the change, never updated; rows are
-- kept until an operator archives them.
CREATE TABLE audit (
    id             uuid        NOT NULL,
    at             timestamptz NOT NULL,
    actor          text        NOT NULL,
    action         text        NOT NULL,
    project_id     uuid,
    resource_kind  text        NOT NULL,
    resource_id    uuid        NOT NULL,
    detail         jsonb       NOT NULL DEFAULT '{}',
    CONSTRAINT audit_pkey PRIMARY KEY (id)
);
CREATE INDEX audit_project_idx ON audit (project_id, id);
CREATE INDEX audit_resource_idx ON audit (resource_id, id);

-- Answers already given to requests that carried an idempotency key. Written by app in the
-- transaction of the change, so a row exists if and only if the change does; rows die a day
-- later (housekeeping).
CREATE TABLE idempotency_keys (
    actor         text        NOT NULL,
    key           text        NOT NULL,
    request_hash  bytea       NOT NULL,
    status        smallint    NOT NULL,
    response      jsonb       NOT NULL,
    created_at    timestamptz NOT NULL,
    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (actor, key)
);
CREATE INDEX idempotency_keys_created_idx ON idempotency_keys (created_at);
