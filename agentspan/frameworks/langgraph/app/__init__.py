"""A user's graph before it runs. `graph` is the start.

`unwrapping` finds the graph in what the user handed over; `naming`, `structure`, `drawing` describe it; `losses` says
what cannot keep its meaning; `schemas`, `inputs`, `outputs` are what it takes and gives; `pickling` and `graphtypes` are
how its code and the classes of its state travel.
"""
