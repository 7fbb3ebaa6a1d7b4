"""The pure state machine of an execution.

Five small files, in the order a step passes through them: `records` (what can be written to a journal), `state` (what a
journal adds up to), `apply` (one record onto a state), `decide` (what should happen next), `admit` (what a signal means
here). `view` turns states and records into what users read. Nothing in this room does I/O, looks at a clock or draws
a random number: the time comes in as an argument, so the same inputs always give the same answer.
"""
