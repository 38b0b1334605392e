-- When a migration was last resumed: time that it stood paused is not a drain's.
SET lock_timeout = '5s';

-- Written by app with the wish to go on.
ALTER TABLE migrations ADD COLUMN resumed_at timestamptz;
