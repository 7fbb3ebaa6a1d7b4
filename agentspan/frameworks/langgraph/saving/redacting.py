"""What of a config is stored with a checkpoint.

LangGraph's savers write every scalar of `configurable` into the metadata of every checkpoint, in clear text: API keys,
user names, whatever a program configures its graph with. Nothing reads them there. We store what LangGraph itself says
about the checkpoint, the run ID, and the metadata the user gave as metadata.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointMetadata, get_checkpoint_metadata

_IDS = ("run_id", "assistant_id", "graph_id")
"""What LangGraph's own server puts into `configurable`, and finds runs by."""
_TRACING = ("lc_", "ls_", "langgraph_")
"""Prefixes of keys that LangChain and LangGraph add for tracing."""


def stored_metadata(config: RunnableConfig, metadata: CheckpointMetadata) -> Mapping[str, Any]:
    """The metadata of a checkpoint as it is stored."""
    configurable = config.get("configurable") or {}
    given = {
        key: value
        for key, value in _flat(config.get("metadata") or {}).items()
        # What is in both was copied from `configurable` on the way here.
        if key in _IDS or not (key in configurable or key.startswith(_TRACING))
    }
    ids = {key: configurable[key] for key in _IDS if key in configurable}
    return get_checkpoint_metadata({"metadata": given, "configurable": ids}, metadata)


def _flat(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """LangGraph hands over a `ChainMap`, which takes its time for each key."""
    if type(metadata) is not ChainMap:
        return metadata
    return {key: value for of in reversed(metadata.maps) for key, value in of.items()}
