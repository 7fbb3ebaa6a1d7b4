"""Stores that hold real journals, made by real drivers without Ray, and what a command answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentspan.actors.offline import StoreConnection
from agentspan.actors.residence import HostConfig, Residence
from agentspan.agents import Agent, tool
from agentspan.config import Settings
from agentspan.persistence.opening import open_store
from agentspan.persistence.store import DeploymentRow, NewExecution, Store
from agentspan.submission import StartCall, graph_request
from agentspan.testing import ScriptedModel, call, calls, fail, say


@tool(approval_required=True)
def refund(order_id: str, amount: float) -> str:
    """Refund an order."""
    return f"refunded {amount:g} for {order_id}"


@tool
def look_up(order_id: str) -> dict[str, Any]:
    """Look an order up."""
    return {"order_id": order_id, "total": 40.0}


AGENTS = {
    "echo": Agent(name="echo", model="scripted/echo"),
    "support": Agent(
        name="support",
        model=str(
            ScriptedModel(
                [
                    call("look_up", order_id="8821"),
                    call("refund", order_id="8821", amount=40.0),
                    say("[done] It is paid."),
                ]
            )
        ),
        tools=[refund, look_up],
    ),
    "twice": Agent(
        name="twice",
        model=str(
            ScriptedModel(
                [
                    calls(
                        call("refund", order_id="1", amount=1.0),
                        call("refund", order_id="2", amount=2.0),
                    ),
                    say("Both."),
                ]
            )
        ),
        tools=[refund],
    ),
    "broken": Agent(name="broken", model=str(ScriptedModel([fail(400)]))),
}


def deployed(name: str) -> Any:
    """The agent or graph that a world knows by this name. Graphs are made where they are needed: langgraph takes a second."""
    if name in AGENTS:
        return AGENTS[name]
    from tests.unit.cli import graphs

    return graphs.graph(name)


def unpacked(row: DeploymentRow, _: bytes) -> Any:
    """The code of a deployment: what this world knows, or what a command has deployed."""
    if row.deployment_id.startswith("v-"):
        return deployed(row.agent)
    from agentspan.actors.shipping import load

    return load(row)


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, Any]:
        (line,) = self.err.splitlines()
        error: dict[str, Any] = json.loads(line)["error"]
        return error


Command = Callable[..., Answer]


def deployment(agent: Any) -> DeploymentRow:
    is_agent = isinstance(agent, Agent)
    return DeploymentRow(
        deployment_id=f"v-{agent.name}",
        agent=agent.name,
        kind="agent" if is_agent else "langgraph",
        source="reference",
        reference=f"shop.agents:{agent.name}",
        code=None,
        signature="",
        spec=asdict(agent.spec()) if is_agent else agent.spec(),
        python="3.11",
        created_at=1.0,
    )


class World:
    """The store of a home, and drivers that work on it as a server would."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700, exist_ok=True)
        self.settings = Settings(home=home)
        self.settings.key_path.write_bytes(bytes(32))
        self.settings.key_path.chmod(0o600)

    def create(self, agent: str, *, prompt: Any = "Hello", number: int = 1) -> str:
        """A queued execution."""
        return self.ask(lambda store: self.add(store, agent, prompt, f"ex-{number:020x}"))

    def play(self, execution_id: str) -> str:
        """Run one incarnation to its end (or until it hibernates)."""
        return self.ask(lambda store: self.run(store, execution_id))

    def started(self, agent: str, *, prompt: Any = "Hello", number: int = 1) -> str:
        """An execution that has got as far as it can by itself."""
        return self.play(self.create(agent, prompt=prompt, number=number))

    def ask(self, question: Callable[[Store], Any]) -> Any:
        """Ask the store something."""

        async def with_store() -> Any:
            store = await open_store(self.settings.store_url)
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(with_store())

    async def add(
        self,
        store: Store,
        agent: str,
        prompt: Any,
        execution_id: str,
        *,
        deployment_id: str | None = None,
        started: dict[str, Any] | None = None,
    ) -> str:
        begin = {"agent": agent, "prompt": prompt, "at": 1_750_000_000.0, **(started or {})}
        if deployment_id is None:
            known = deployed(agent)
            await store.save_deployment(deployment(known))
            deployment_id = f"v-{agent}"
            if not isinstance(known, Agent) and "graph" not in begin:
                request = graph_request(agent, known.spec(), known, StartCall(prompt=prompt))
                begin |= {"prompt": request["prompt"], "graph": request["graph"]}
        created = await store.create(
            NewExecution(
                execution_id=execution_id,
                request_id=execution_id,
                agent=agent,
                deployment_id=deployment_id,
                started=begin,
                created_at=1_750_000_000.0 + int(execution_id[3:], 16),
            )
        )
        return created.execution_id

    async def run(self, store: Store, execution_id: str) -> str:
        config = HostConfig(
            store_url=self.settings.store_url, key=self.settings.key_path.read_bytes(), hibernate_after_s=0.0
        )
        residence = Residence(config, unpack=unpacked, actor_name=execution_id, node="n1")
        taken = await store.take_over(execution_id, host=residence.host)
        await residence.run(execution_id, taken.epoch, False)
        assert residence._store is not None
        await residence._store.close()
        return execution_id


class PlayingConnection(StoreConnection):
    """Stands in for the server: what is submitted is run at once, in this process."""

    def __init__(self, world: World) -> None:
        super().__init__(world.settings, is_served=lambda: True)
        self.world = world
        self.count = 1
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def call(self, verb: str, args: dict[str, Any], timeout_s: float) -> Any:
        self.asked.append((verb, args))
        if verb == "wake":
            return await (await self._store("deploy")).release(args["execution_id"])
        if verb != "submit":
            return await super().call(verb, args, timeout_s)
        new = args["new"]
        store = await self._store("deploy")
        if new.get("forked_from"):
            origin = await store.row(new["forked_from"])
            begun = (await store.journal(origin.execution_id))[0].body
            new = {**begun, "deployment_id": origin.deployment_id, **new}
        elif not new.get("deployment_id"):
            current = await store.current_deployment(new["agent"])
            new = {**new, "deployment_id": current and current.deployment_id}
        kept = ("graph", "forked_from", "forked_step", "forked_state")
        started = await self.world.add(
            store,
            new["agent"],
            new["prompt"],
            f"ex-{self.count:020d}",
            deployment_id=new.get("deployment_id"),
            started={name: new[name] for name in kept if new.get(name) is not None},
        )
        self.count += 1
        await self.world.run(store, started)
        return {"execution_id": started, "is_new": True}
