"""The models of one process, by name."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agentspan.errors import ModelNotFoundError
from agentspan.models.base import Model
from agentspan.models.providers import resolve

if TYPE_CHECKING:
    from agentspan.models.openai_client import Clients

SCRIPTED = "scripted/"


class ModelRegistry:
    """Gives the model for a name, and keeps it: calls to one endpoint share their connections.

    Belongs to one event loop; `get` is not locked, and connections cannot be used from another loop.

    Args:
        environ: Where API keys and base URLs are looked up. The process's environment by default, read at `get`.
        timeout_s: How long one call may take altogether.
        connect_timeout_s: How long one connection may take to open.
    """

    def __init__(
        self, *, environ: Mapping[str, str] | None = None, timeout_s: float = 600.0, connect_timeout_s: float = 10.0
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._models: dict[tuple[str, str | None], Model] = {}
        self._clients: Clients | None = None
        self._is_rehearsed = False

    def get(self, model: str | Model, base_url: str | None = None) -> Model:
        """The model for `provider/model` or `scripted/<script>`; a `Model` is returned as it is.

        The first name that needs `openai` imports it, 0.4 s, unless `warm` has.

        Raises:
            ModelNotFoundError: Unknown provider or script, or the provider's key is not set.
        """
        if not isinstance(model, str):
            return model
        key = (model, base_url or None)
        found = self._models.get(key)
        if found is None:
            found = self._models[key] = self._make(*key)
        return found

    def _make(self, model: str, base_url: str | None) -> Model:
        if model.startswith(SCRIPTED):
            # Here and not at the top: production code that never asks for a script does not load the test kit.
            from agentspan.testing.scripted import ScriptedModel

            return ScriptedModel.load(model[len(SCRIPTED) :])
        if not model.strip():
            raise ModelNotFoundError(model=model, problem="the agent names no model; set model='provider/model'.")
        endpoint = resolve(model, base_url=base_url, environ=self._environ)
        from agentspan.models.openai_client import Clients, OpenAIModel

        if self._clients is None:
            self._clients = Clients(timeout_s=self._timeout_s, connect_timeout_s=self._connect_timeout_s)
        return OpenAIModel(endpoint, self._clients)

    async def warm(self) -> None:
        """Import `openai`, load the certificate authorities and rehearse a call, so that no real one has to. Idempotent."""
        await asyncio.to_thread(_load)
        if not self._is_rehearsed:
            self._is_rehearsed = True
            from agentspan.models.rehearsal import rehearse

            await rehearse()

    async def aclose(self) -> None:
        """Close all connections. Idempotent; a registry that was closed starts anew."""
        self._models.clear()
        clients, self._clients = self._clients, None
        if clients is not None:
            await clients.aclose()


def _load() -> None:
    from agentspan.models.openai_client import tls_context

    tls_context()
