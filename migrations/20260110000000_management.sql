-- Migrations as objects of a management cluster.
SET lock_timeout = '5s';

ALTER TABLE work_items DROP CONSTRAINT work_items_kind_check;
ALTER TABLE work_items ADD CONSTRAINT work_items_kind_check CHECK (
    kind IN ('cloud', 'observe_servers', 'observe_nodes', 'cluster', 'migration', 'sweep',
             'preflight', 'management'));

-- Which object of the management cluster is which migration. For an object that somebody made,
-- app writes the row in the transaction that makes the migration, so its uid makes one migration
-- at most. For a migration that was started elsewhere, the management worker writes it before it
-- makes the object: `uid` is null as long as the object may or may not exist. `taken` is the spec's
-- wishes that were carried out last, written in the transaction that did it, with the object's
-- generation. A row with `released_at` says that the object is gone for good; rows are kept with
-- their migration.
CREATE TABLE migration_objects (
    migration_id      uuid        NOT NULL,
    namespace         text        NOT NULL,
    name              text        NOT NULL,
    uid               uuid,
    taken_generation  bigint      NOT NULL DEFAULT 0,
    taken             jsonb,
    created_at        timestamptz NOT NULL,
    released_at       timestamptz,
    CONSTRAINT migration_objects_pkey PRIMARY KEY (migration_id),
    CONSTRAINT migration_objects_uid_key UNIQUE (uid),
    CONSTRAINT migration_objects_migration_fkey FOREIGN KEY (migration_id) REFERENCES migrations (id)
);
