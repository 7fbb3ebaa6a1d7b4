-- All tables live in one schema, which transactions name themselves (`SET LOCAL search_path`).
--
-- Names are text in byte order (COLLATE "C"), so that a short ID is a range of an index. Bodies are `bytea` of the same
-- form as in every store. `toast_tuple_target`: a step of some kB stays in its row, neither compressed nor moved away.

CREATE TABLE agentspan_store (
    version integer NOT NULL
);

INSERT INTO agentspan_store VALUES (1);

-- No index holds a column that changes with every step, and pages have room, so a step's new row version goes to the
-- same page and touches no index.
CREATE TABLE executions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id text COLLATE "C" NOT NULL UNIQUE,
    request_id text COLLATE "C" NOT NULL UNIQUE,
    agent text COLLATE "C" NOT NULL,
    deployment_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C",
    session_from bigint,
    created_at double precision NOT NULL,
    unfinished boolean NOT NULL,
    status text NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    events bigint NOT NULL,
    updated_at double precision NOT NULL,
    wake_at double precision,
    resident boolean NOT NULL,
    crashes bigint NOT NULL,
    recoveries bigint NOT NULL,
    current_task text NOT NULL,
    finish_reason text,
    host bytea NOT NULL,
    error text,
    metadata bytea NOT NULL
) WITH (fillfactor = 60, toast_tuple_target = 4080);

CREATE UNIQUE INDEX executions_key ON executions (agent, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX executions_session ON executions (agent, session_id, created_at) WHERE session_id <> '';
CREATE INDEX executions_created ON executions (created_at);
CREATE INDEX executions_unfinished ON executions (created_at) WHERE unfinished;
CREATE INDEX executions_session_from ON executions (session_from) WHERE unfinished AND session_from IS NOT NULL;

CREATE TABLE records (
    execution bigint NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,
    epoch bigint NOT NULL,
    events_to bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (execution, seq)
) WITH (toast_tuple_target = 4080);

CREATE TABLE snapshots (
    execution bigint PRIMARY KEY,
    seq bigint NOT NULL,
    body bytea NOT NULL
) WITH (fillfactor = 60, toast_tuple_target = 4080);

CREATE TABLE pending (
    id bigint GENERATED ALWAYS AS IDENTITY,
    execution bigint NOT NULL,
    call_id text COLLATE "C" NOT NULL,
    asked_at double precision NOT NULL,
    decided_by text COLLATE "C",
    body bytea NOT NULL,
    PRIMARY KEY (execution, call_id)
);

CREATE INDEX pending_undecided ON pending (asked_at, id) WHERE decided_by IS NULL;

-- Signals in the order they were accepted. Consumed ones stay until the execution is collected: whoever decides a call
-- late is told the first decision.
CREATE TABLE inbox (
    id bigint GENERATED ALWAYS AS IDENTITY,
    execution bigint NOT NULL,
    signal_id text COLLATE "C" NOT NULL,
    decides text COLLATE "C",
    consumed boolean NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (execution, signal_id)
);

CREATE INDEX inbox_waiting ON inbox (execution, id) WHERE NOT consumed;

-- Large values, once each however many bodies they are part of.
CREATE TABLE blobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash bytea NOT NULL UNIQUE,
    body bytea NOT NULL
);

-- Who refers is a number: an execution's own, or that of a thread, negated.
CREATE TABLE blob_refs (
    owner bigint NOT NULL,
    blob bigint NOT NULL,
    PRIMARY KEY (owner, blob)
);

CREATE INDEX blob_refs_blob ON blob_refs (blob);

CREATE TABLE deployments (
    deployment_id text COLLATE "C" PRIMARY KEY,
    agent text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    source text NOT NULL,
    reference text,
    signature text NOT NULL,
    python text NOT NULL,
    created_at double precision NOT NULL,
    spec bytea NOT NULL,
    code bytea
);

CREATE TABLE current_deployments (
    agent text COLLATE "C" PRIMARY KEY,
    deployment_id text COLLATE "C" NOT NULL
);

-- Threads: the checkpoints of graphs, and the writes of tasks on them. The thread of an execution has the execution's ID.
CREATE TABLE threads (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    thread_id text COLLATE "C" NOT NULL UNIQUE
);

-- `id` rises in the order a thread's checkpoints were stored: whoever stores holds the row of the thread, or of its
-- execution.
CREATE TABLE checkpoints (
    id bigint GENERATED ALWAYS AS IDENTITY,
    thread bigint NOT NULL,
    ns text COLLATE "C" NOT NULL,
    checkpoint_id text COLLATE "C" NOT NULL,
    parent_id text COLLATE "C",
    body bytea NOT NULL,
    PRIMARY KEY (thread, ns, checkpoint_id)
) WITH (toast_tuple_target = 4080);

CREATE INDEX checkpoints_stored ON checkpoints (thread, ns, id);

-- What one task wrote on one checkpoint, in one body. It may be there before its checkpoint is.
CREATE TABLE thread_writes (
    thread bigint NOT NULL,
    ns text COLLATE "C" NOT NULL,
    checkpoint_id text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (thread, ns, checkpoint_id, task_id)
) WITH (toast_tuple_target = 4080);
