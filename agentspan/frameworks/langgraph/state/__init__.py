"""The state of a graph as bytes and back: data only, of the types the graph declares. `serde` is the start.

`wire` is the format; `forms*` and `builtin_types` say how a type becomes data, `statetypes` which types are known, and
`blame` names the path of what cannot be stored.
"""
