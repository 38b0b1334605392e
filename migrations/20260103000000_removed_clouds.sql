-- A removed cloud keeps its row: closed nodes and finished migrations point to it. Its name is free
-- again, and its accounts hold no credential any more. Written by app; rows are kept for ever.
SET lock_timeout = '5s';

ALTER TABLE clouds ADD COLUMN removed_at timestamptz;
ALTER TABLE clouds DROP CONSTRAINT clouds_name_key;
CREATE UNIQUE INDEX clouds_name_key ON clouds (name) WHERE removed_at IS NULL;
