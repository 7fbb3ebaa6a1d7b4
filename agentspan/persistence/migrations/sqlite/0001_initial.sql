-- Pages are 1 kB (set when the file is made): a step touches one leaf of `records` and one of `executions`, and what a
-- commit costs is whole pages. `executions` therefore holds no large columns and no index on a column that changes with
-- every step.

CREATE TABLE executions (
    id INTEGER PRIMARY KEY,
    execution_id TEXT NOT NULL UNIQUE,
    request_id TEXT NOT NULL UNIQUE,
    agent TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    idempotency_key TEXT,
    session_from INTEGER,
    created_at REAL NOT NULL,
    unfinished INTEGER NOT NULL,
    status TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    events INTEGER NOT NULL,
    updated_at REAL NOT NULL,
    wake_at REAL,
    resident INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    recoveries INTEGER NOT NULL,
    current_task TEXT NOT NULL,
    finish_reason TEXT,
    host BLOB NOT NULL,
    error TEXT
);

CREATE UNIQUE INDEX executions_key ON executions (agent, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX executions_session ON executions (agent, session_id, created_at) WHERE session_id <> '';
CREATE INDEX executions_created ON executions (created_at);
CREATE INDEX executions_unfinished ON executions (created_at) WHERE unfinished = 1;

CREATE TABLE metadata (
    execution INTEGER PRIMARY KEY,
    body BLOB NOT NULL
);

-- The journal. `id` is execution << 32 | seq: the rowid is the key, so a record needs no index beside it.
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    events_to INTEGER NOT NULL,
    body BLOB NOT NULL
);

CREATE TABLE snapshots (
    execution INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL
);

CREATE TABLE pending (
    id INTEGER PRIMARY KEY,
    execution INTEGER NOT NULL,
    call_id TEXT NOT NULL,
    asked_at REAL NOT NULL,
    decided_by TEXT,
    body BLOB NOT NULL,
    UNIQUE (execution, call_id)
);

-- Signals in the order they were accepted. Consumed ones stay until the execution is collected: whoever decides a call
-- late is told the first decision.
CREATE TABLE inbox (
    id INTEGER PRIMARY KEY,
    execution INTEGER NOT NULL,
    signal_id TEXT NOT NULL,
    decides TEXT,
    consumed INTEGER NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (execution, signal_id)
);

CREATE INDEX inbox_waiting ON inbox (execution) WHERE consumed = 0;

-- Large values, once each however many bodies they are part of.
CREATE TABLE blobs (
    id INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    body BLOB NOT NULL
);

CREATE TABLE blob_refs (
    execution INTEGER NOT NULL,
    blob INTEGER NOT NULL,
    PRIMARY KEY (execution, blob)
) WITHOUT ROWID;

CREATE INDEX blob_refs_blob ON blob_refs (blob);

CREATE TABLE deployments (
    deployment_id TEXT PRIMARY KEY,
    agent TEXT NOT NULL,
    kind TEXT NOT NULL,
    source TEXT NOT NULL,
    reference TEXT,
    signature TEXT NOT NULL,
    python TEXT NOT NULL,
    created_at REAL NOT NULL,
    spec BLOB NOT NULL,
    code BLOB
);

CREATE TABLE current_deployments (
    agent TEXT PRIMARY KEY,
    deployment_id TEXT NOT NULL
) WITHOUT ROWID;
