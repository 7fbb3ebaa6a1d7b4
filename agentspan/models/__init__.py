"""Language models: the protocol the driver speaks, and what implements it.

Importing this package is cheap: `openai` (0.4 s) is loaded by `ModelRegistry.warm()`, or by the first model that needs it.
"""

from agentspan.models.base import Model, ModelReply, ModelRequest, OnToken, RequestedCall
from agentspan.models.registry import ModelRegistry

__all__ = ["Model", "ModelRegistry", "ModelReply", "ModelRequest", "OnToken", "RequestedCall"]
