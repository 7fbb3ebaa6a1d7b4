-- The index of thread_rows keeps the first bytes of IDs instead of all: of the 16 of a UUID made from a clock the first 8
-- are its time, and 4 of a task's tell those of one checkpoint apart. What a super-step costs is whole pages, and an
-- index is split and written the more often the longer its keys are. An ID that is text is kept whole. Whoever looks
-- something up compares the rest in the row.

DROP INDEX thread_rows_place;

CREATE INDEX thread_rows_place ON thread_rows (
    space,
    CASE typeof(checkpoint_id) WHEN 'blob' THEN substr(checkpoint_id, 1, 8) ELSE checkpoint_id END,
    CASE typeof(task_id) WHEN 'blob' THEN substr(task_id, 1, 4) ELSE task_id END
);
