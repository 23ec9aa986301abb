-- Instances: who they are, who runs them, when they want attention.
CREATE TABLE instance (
    key         INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    app_id      TEXT NOT NULL,
    workflow    TEXT NOT NULL,
    status      TEXT NOT NULL,
    owner       INTEGER,
    due         REAL,
    waits       TEXT,
    recoveries  INTEGER NOT NULL DEFAULT 0,
    created_at  REAL NOT NULL,
    finished_at REAL
);

-- Answers "what is due that nobody owns" and "what did this worker own"; waiting for a signal is not in it.
CREATE INDEX instance_due ON instance (owner, due) WHERE due IS NOT NULL;

-- Histories, appended in the order of commits, so that a group commit touches few pages.
CREATE TABLE history (
    pos      INTEGER PRIMARY KEY,
    instance INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    at       REAL NOT NULL,
    events   TEXT NOT NULL
);
CREATE UNIQUE INDEX history_instance ON history (instance, seq);

-- Accepted events that no episode has taken over yet.
CREATE TABLE inbox (
    pos      INTEGER PRIMARY KEY AUTOINCREMENT,
    instance INTEGER NOT NULL,
    event    TEXT NOT NULL
);
CREATE INDEX inbox_instance ON inbox (instance);

-- Large values by content. encoding: 0 as it is, 1 zlib.
CREATE TABLE blob (
    digest   TEXT PRIMARY KEY,
    encoding INTEGER NOT NULL,
    size     INTEGER NOT NULL,
    content  BLOB NOT NULL
);

-- Conversation chains; the links of one conversation are neighbours.
CREATE TABLE link (
    root    TEXT NOT NULL,
    depth   INTEGER NOT NULL,
    digest  TEXT NOT NULL,
    parent  TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (root, depth, digest)
) WITHOUT ROWID;

-- Living workers; a row is a lease, its token the fence.
CREATE TABLE worker (
    token      INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL,
    lock_file  TEXT,
    expires_at REAL NOT NULL
);
