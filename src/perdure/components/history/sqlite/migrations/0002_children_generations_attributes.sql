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
