-- A worker is silent when its row has not changed for lease_seconds by the steady clock of whoever looks.
-- No wall clock has a part in it: one that jumps would make the living look dead, or the dead alive.
ALTER TABLE worker ADD COLUMN lease_seconds REAL NOT NULL DEFAULT 10;
ALTER TABLE worker ADD COLUMN renewals INTEGER NOT NULL DEFAULT 0;
ALTER TABLE worker DROP COLUMN expires_at;
