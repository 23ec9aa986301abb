-- What is limited, by which limits (as JSON), and how much of them is taken.
CREATE TABLE queue (
    number  INTEGER PRIMARY KEY,
    app_id  TEXT NOT NULL,
    kind    TEXT NOT NULL,
    name    TEXT NOT NULL,
    limits  TEXT NOT NULL,
    running INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0,
    virtual TEXT NOT NULL DEFAULT '{}',
    spent   TEXT NOT NULL DEFAULT '[]',
    wake_at REAL,
    UNIQUE (app_id, kind, name)
);

-- Where each key of a queue stands; head is the number of its first ticket.
CREATE TABLE queue_key (
    queue    INTEGER NOT NULL,
    key      TEXT NOT NULL,
    running  INTEGER NOT NULL,
    waiting  INTEGER NOT NULL,
    finish   INTEGER NOT NULL,
    start    INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    head     INTEGER NOT NULL,
    ready    INTEGER NOT NULL,
    PRIMARY KEY (queue, key)
) WITHOUT ROWID;

-- Answers "who is next"; and which keys need not be remembered any more.
CREATE INDEX queue_key_ready ON queue_key (queue, priority DESC, start, head) WHERE ready;
CREATE INDEX queue_key_idle ON queue_key (queue, finish) WHERE running = 0 AND waiting = 0;

-- Tickets. task: the attempt, or -1 for the instance itself. state: 0 waits, 1 granted, 2 comes at a later time.
CREATE TABLE ticket (
    number   INTEGER PRIMARY KEY,
    queue    INTEGER NOT NULL,
    key      TEXT NOT NULL,
    priority INTEGER NOT NULL,
    instance INTEGER NOT NULL,
    task     INTEGER NOT NULL,
    state    INTEGER NOT NULL,
    event    TEXT,
    at       REAL
);
CREATE UNIQUE INDEX ticket_instance ON ticket (instance, task);
CREATE INDEX ticket_waiting ON ticket (queue, key, priority DESC, number) WHERE state = 0;
CREATE INDEX ticket_later ON ticket (at) WHERE at IS NOT NULL;
