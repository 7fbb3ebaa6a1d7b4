-- Threads: the checkpoints of graphs, and the writes of tasks on them. What a super-step costs is whole pages again, so
-- everything that is stored goes to the end of one table, and one index finds it.
--
-- Whose thread it is does not show here: the thread of an execution has the execution's ID. A thread may be there
-- before the execution is, and one without an execution refers to large values too, so for what bodies of a thread
-- refer to, `blob_refs.execution` is -threads.id, never the execution's own number.

CREATE TABLE threads (
    id INTEGER PRIMARY KEY,
    thread_id TEXT NOT NULL UNIQUE
);

-- The namespaces of threads, so that rows name them by number. `shuffled` is 1 once a checkpoint was stored after one
-- with a greater ID (a clock went backwards). Until then the greatest ID is the one stored last, and the index gives it
-- at once.
CREATE TABLE thread_spaces (
    id INTEGER PRIMARY KEY,
    thread INTEGER NOT NULL,
    ns TEXT NOT NULL,
    shuffled INTEGER NOT NULL DEFAULT 0,
    UNIQUE (thread, ns)
);

-- Checkpoints (`task_id` is NULL) in the order they were stored, over all threads, and among them the writes of tasks,
-- those of one task on one checkpoint in one row. Writes may be there before their checkpoint is. IDs that are UUIDs
-- are kept as their 16 bytes, others as text; bytes order as their text does, so IDs made from a clock (as those of
-- LangGraph are) go to the end of the index too.
CREATE TABLE thread_rows (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL,
    checkpoint_id BLOB NOT NULL,
    task_id BLOB,
    parent_id BLOB,
    body BLOB NOT NULL
);

CREATE UNIQUE INDEX thread_rows_place ON thread_rows (space, checkpoint_id, task_id);
