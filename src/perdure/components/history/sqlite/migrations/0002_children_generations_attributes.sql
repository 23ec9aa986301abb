-- Child workflows know who called them; an instance that continues as new keeps its first row and its last generation.
ALTER TABLE instance ADD COLUMN parent TEXT;
ALTER TABLE instance ADD COLUMN base INTEGER NOT NULL DEFAULT 0;
ALTER TABLE instance ADD COLUMN custom_status TEXT;
CREATE INDEX instance_parent ON instance (parent) WHERE parent IS NOT NULL;

-- Custom attributes, by which instances are found; values as JSON.
CREATE TABLE attribute (
    instance INTEGER NOT NULL,
    name     TEXT NOT NULL,
    value    TEXT NOT NULL,
    PRIMARY KEY (instance, name)
) WITHOUT ROWID;
CREATE INDEX attribute_value ON attribute (name, value, instance);

-- Lists by status, by workflow and by time; what is old enough to be purged.
CREATE INDEX instance_status ON instance (status, key);
CREATE INDEX instance_workflow ON instance (workflow, status, key);
CREATE INDEX instance_created ON instance (created_at);
CREATE INDEX instance_finished ON instance (finished_at) WHERE finished_at IS NOT NULL;

-- Who refers to which content and conversations: they go when nobody does any more. What was stored before this table
-- is held for ever.
CREATE TABLE reference (
    holder TEXT NOT NULL,
    target TEXT NOT NULL,
    PRIMARY KEY (holder, target)
) WITHOUT ROWID;
CREATE INDEX reference_target ON reference (target);
INSERT INTO reference (holder, target) SELECT 'earlier', digest FROM blob;
INSERT INTO reference (holder, target) SELECT DISTINCT 'earlier', 'conversation:' || root FROM link;

-- Numbers of instances are never given again, though the instance may be purged.
CREATE TABLE counter (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO counter (name, value) SELECT 'instance', coalesce(max(key), 0) FROM instance;
