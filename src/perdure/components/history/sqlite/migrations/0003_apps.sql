-- Workers work for an app, and are given instances of that app only. listener is the process that a worker is in.
ALTER TABLE worker ADD COLUMN app_id TEXT NOT NULL DEFAULT 'default';
ALTER TABLE worker ADD COLUMN listener INTEGER;

-- So far any worker took up any agent's run, and the app was what people saw beside it. Runs of agents that are not
-- finished belong to the app that agents have unless they are told otherwise, so that they are found again.
UPDATE instance SET app_id = 'default' WHERE status = 'RUNNING' AND workflow LIKE 'dapr.agents.%';

-- Answers "what is due of this app and workflow that nobody owns" with one seek, however many instances wait or are due
-- elsewhere, and "what did this worker own": whatever has an owner has a due time.
DROP INDEX instance_due;
CREATE INDEX instance_due ON instance (owner, app_id, workflow, due) WHERE due IS NOT NULL;

-- Processes that listen to news of the others; name is that of the socket beside the database.
CREATE TABLE listener (
    id   INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE
);

-- Who wants to be told when an instance has ended; a row lives until then, or as long as its listener.
CREATE TABLE watch (
    instance INTEGER NOT NULL,
    listener INTEGER NOT NULL,
    PRIMARY KEY (instance, listener)
) WITHOUT ROWID;
