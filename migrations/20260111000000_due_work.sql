-- Work that is due is found by an index. Without it a claim reads every row of its kind: with
-- 14,000 clusters that took most of a core of the database. It costs each finish a second place to
-- write, which is little beside that.
SET lock_timeout = '5s';

CREATE INDEX work_items_due_idx ON work_items (kind, due_at);
