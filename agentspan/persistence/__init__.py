"""Where executions live when no process does.

`store` is the port: what every store promises. `sqlite` and `memory` keep it; `opening` picks one by URL. What they
share is written once: `codec` (values to bytes), `bodies` (what each row's bytes are and where they belong), `rules`
(fencing and order), `decisions` (which signals an execution takes). `loading` makes a state of what was stored.
"""
