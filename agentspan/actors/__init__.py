"""Where executions live: thin Ray shells around plain async drivers.

`driver` runs one execution against a store and can be tested without Ray; `performer` does what it is told (models,
tools); `feed` passes on what happened; `supervision` decides which executions need an actor. `execution`, `supervisor`
and `cluster` are the Ray side and hold no decisions.
"""
