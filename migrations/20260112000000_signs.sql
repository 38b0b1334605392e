-- What goes wrong with the things of a node, and since when. Written by whoever sees it: the
-- cluster worker what it asked for, the lists what they show.
SET lock_timeout = '5s';

ALTER TABLE nodes
    ADD COLUMN server_creates integer NOT NULL DEFAULT 0,
    ADD COLUMN server_deleting_since timestamptz,
    ADD COLUMN server_delete_sent_at timestamptz,
    ADD COLUMN server_hidden_at timestamptz,
    ADD COLUMN server_started_at timestamptz,
    ADD COLUMN server_host text,
    ADD COLUMN unready_since timestamptz,
    ADD COLUMN token_until timestamptz,
    ADD COLUMN failed text;

-- Since when lists of the account's servers lack those of a cell that is down.
ALTER TABLE accounts
    ADD COLUMN incomplete_since timestamptz;
