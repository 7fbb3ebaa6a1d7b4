"""The checkpointer: LangGraph's checkpoints on our store, in O(delta). `saver` is the start, `ports` and `desk` below it.

What is stored: `checkpoints`, `channels` (`channel_reading` takes them apart), `marks`. Around them: `reads` and `shelf`
(what need not be read again), `upkeep` (copy, prune, delete), `steps`, `failures`, `redacting`, `patches` (of LangGraph).
"""
