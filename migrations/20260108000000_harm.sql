-- Harm watch of a migration: facts before the present wave, when somebody looked last, and what is
-- worse since. Written by the migration worker; dies with its migration.
SET lock_timeout = '5s';

ALTER TABLE migrations ADD COLUMN harm jsonb NOT NULL DEFAULT '{}';
