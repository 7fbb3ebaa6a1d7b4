"""What supervision needs from whoever runs actors: a port, so that its logic is tested without Ray.

`RayFleet` (in `supervisor`) is the real one; the tests' fake passes the same contract.
"""

from __future__ import annotations

from typing import Any, Protocol


class ActorGone(Exception):
    """The actor's process is dead, for certain. Its name is free."""


class ActorHandle(Protocol):
    """One execution actor. Every method raises `ActorGone` once the process is dead."""

    @property
    def name(self) -> str: ...

    async def warm(self, deployments: tuple[str, ...]) -> dict[str, Any]:
        """Get ready for a run; answers where it lives."""
        ...

    async def run(self, execution_id: str, epoch: int, crashed: bool, tokens: bool) -> dict[str, Any]:
        """Run an incarnation until it ends. The call may be lost with its caller; the run goes on (`attach`)."""
        ...

    async def attach(self, execution_id: str) -> dict[str, Any]:
        """Wait for a run that was started before; `{"ended": "idle"}` when there is none."""
        ...

    async def ping(self, timeout_s: float) -> dict[str, Any]:
        """Where it lives. Raises TimeoutError when it does not answer."""
        ...

    async def poke(self, execution_id: str) -> None: ...

    async def let_go(self, execution_id: str) -> None:
        """Ask for the run to end, cleanly, as soon as nothing is in flight."""
        ...

    async def poll(
        self, execution_id: str, after: int, after_token: int, timeout_s: float, tokens: bool
    ) -> dict[str, Any] | None: ...

    def kill(self) -> None:
        """End the process now. Idempotent; also when it is gone."""
        ...


class Fleet(Protocol):
    """Creates and finds actors."""

    async def create(self, name: str) -> ActorHandle:
        """Start an actor of this name. Raises ActorGone when it does not come up."""
        ...

    async def find(self, name: str) -> ActorHandle | None:
        """The living actor of this name, or None."""
        ...

    async def cores(self) -> int:
        """How many cores there are for executions now, at least 1; it changes as nodes come and go."""
        ...

    async def names(self) -> list[str]:
        """The names of all execution actors, living or starting."""
        ...
