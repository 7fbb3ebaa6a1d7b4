"""A graph at work for the driver, over crashes and questions to people. `running` is the start.

`graphloop` and `threads` are what it runs on; `execution` is its way to the driver's commits, `telling` its events;
`interrupts`, `decisions` and `breakpoints` are what people are asked; `starting` is what a start carries, `origins`
where sessions and forks begin, `remote` reads a thread from a client, `rehearsal` warms a process.
"""
