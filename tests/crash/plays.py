"""The runs that are killed at every point: one for each thing an execution can be in the middle of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from agentspan.agents import Agent, ToolContext, human_tool, tool, wait_for_message_tool
from agentspan.testing import ScriptedModel, call, calls, fail, raw_call, say
from tests.support.lives import Act, Ledger, Moment, Play


@tool
async def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@tool
async def slow(seconds: float) -> str:
    """Take some time."""
    await asyncio.sleep(seconds)
    return f"after {seconds:g} s"


@tool(approval_required=True)
async def refund(order: str, amount: int = 5) -> dict[str, Any]:
    """Pay money back."""
    return {"order": order, "amount": amount}


@tool(retry_count=5, retry_delay_seconds=2)
async def flaky(context: ToolContext) -> str:
    """Fails twice."""
    if context.attempt <= 2:
        raise RuntimeError("not yet")
    return "at last"


@tool(retry_count=5, retry_delay_seconds=60, retry_policy="fixed")
async def rests(context: ToolContext) -> str:
    """Fails once, and is tried again after longer than an idle actor lives."""
    if context.attempt == 1:
        raise RuntimeError("come back later")
    return "later"


@tool(retry_count=1, retry_delay_seconds=1)
async def hopeless() -> str:
    """Fails always."""
    raise RuntimeError("no way")


@tool(retry_count=0, timeout_seconds=3)
async def stuck() -> str:
    """Never comes back."""
    await asyncio.Event().wait()
    return "never"


@tool(retry_count=0)
async def endless() -> str:
    """Has no timeout and never comes back."""
    await asyncio.Event().wait()
    return "never"


@tool
async def count(context: ToolContext, by: int = 1) -> int:
    """Count in the shared state."""
    context.state["count"] = context.state.get("count", 0) + by
    context.state["last"] = {"by": by}
    context.state.pop("gone", None)
    return int(context.state["count"])


@tool
async def leave_something(context: ToolContext) -> None:
    """Put something into the state that `count` takes out again."""
    context.state["gone"] = [1, 2]


@tool(on_crash="ask")
async def wire(amount: int) -> str:
    """Must not happen twice."""
    return f"sent {amount}"


@tool(num_cpus=1, retry_delay_seconds=1)
async def crunch() -> str:
    """Runs elsewhere, and may run again."""
    return "crunched"


@tool(num_cpus=1, on_crash="ask")
async def ship(order: str) -> str:
    """Runs elsewhere, and must not happen twice."""
    return f"shipped {order}"


@tool(on_crash="fail")
async def launch() -> str:
    """Must not happen twice either."""
    return "launched"


@tool(on_crash="ask", approval_required=True)
async def demolish(house: str) -> str:
    """Needs a permit, and must not happen twice."""
    return f"{house} is down"


@tool(max_calls=1)
async def once() -> str:
    """Only once in a run."""
    return "that was it"


class Verdict(BaseModel):
    """A typed answer."""

    good: bool
    why: str


def agent(*tools: Any, **options: Any) -> Callable[[Ledger], Agent]:
    return lambda ledger: Agent("hero", model="scripted/hero", tools=list(tools), **options)


def asked(kind: str) -> Callable[[Moment], bool]:
    return lambda moment: moment.asks(kind)


def asleep(kind: str) -> Callable[[Moment], bool]:
    return lambda moment: moment.asleep and moment.asks(kind)


def runs(name: str) -> Callable[[Moment], bool]:
    return lambda moment: name in moment.running


def undecided(call_id: str) -> Callable[[Moment], bool]:
    return lambda moment: any(call.call_id == call_id for call in moment.undecided)


def done(call_id: str) -> Callable[[Moment], bool]:
    def is_done(moment: Moment) -> bool:
        found = moment.state.call("", call_id)
        return found is not None and found.phase == "done"

    return is_done


def paused(moment: Moment) -> bool:
    return moment.asleep and moment.state.paused


def script(*steps: Any) -> ScriptedModel:
    return ScriptedModel(list(steps))


def third_turn(context: Any) -> bool:
    return bool(context.turn >= 2)


PLAYS = [
    Play("plain", agent(), script(say("Hello."))),
    Play("one tool", agent(add), script(call("add", a=1, b=2), say("3"))),
    Play(
        "parallel tools",
        agent(add, slow),
        script(calls(call("slow", seconds=2), call("add", a=1, b=2), call("slow", seconds=1), text="Three."), "Done."),
    ),
    Play(
        "calls that are refused",
        agent(add, once),
        script(calls(call("once"), call("once"), call("nothing"), raw_call("add", "{broken")), "Never mind."),
    ),
    Play(
        "approve",
        agent(refund),
        script(call("refund", order="8821"), "Done."),
        acts=[Act(asked("approval"), "approve")],
    ),
    Play(
        "approve edited arguments",
        agent(refund),
        script(call("refund", order="8821"), "Done."),
        acts=[Act(asked("approval"), "approve", {"arguments": {"order": "8821", "amount": 3}})],
    ),
    Play(
        "reject",
        agent(refund),
        script(call("refund", order="8821"), "Sorry."),
        acts=[Act(asked("approval"), "reject", {"text": "too much"})],
    ),
    Play(
        "respond to an approval",
        agent(refund),
        script(call("refund", order="8821"), "Done."),
        acts=[Act(asked("approval"), "respond", {"value": {"done": "by hand"}})],
    ),
    Play(
        "two pending",
        agent(refund, slow),
        script(calls(call("refund", order="1"), call("slow", seconds=1), call("refund", order="2")), "Done."),
        acts=[
            Act(undecided("call_0_2"), "reject", {"call_id": "call_0_2"}),
            Act(asleep("approval"), "approve", {"call_id": "call_0_0"}),
        ],
    ),
    Play(
        "human question",
        agent(human_tool("ask", "Ask a person.")),
        script(call("ask", question="Which one?"), "Thanks."),
        acts=[Act(asleep("question"), "respond", {"value": "the red one"})],
    ),
    Play("failing tool", agent(flaky), script(call("flaky"), "Done.")),
    Play("hopeless tool", agent(hopeless), script(call("hopeless"), "Too bad.")),
    Play("hibernating retry", agent(rests), script(call("rests"), "Done.")),
    Play("tool timeout", agent(stuck), script(call("stuck"), "Too bad.")),
    Play("model 429", agent(add), script(fail(429, times=2, retry_after_s=3), call("add", a=1, b=1), fail(503), "2")),
    Play("model for good", agent(), script(fail(400, times=None), "Never said.")),
    Play(
        "message",
        agent(wait_for_message_tool("listen", "Wait.")),
        script(call("listen"), "Heard."),
        acts=[Act(asked("message"), "message", {"value": {"text": "hi"}})],
    ),
    Play(
        "messages in batches",
        agent(wait_for_message_tool("listen", "Wait.", batch_size=2), slow),
        script(call("slow", seconds=1), calls(call("listen"), call("listen")), "Heard."),
        acts=[
            Act(runs("slow"), "message", {"value": 1}),
            Act(runs("slow"), "message", {"value": [2]}),
            Act(runs("slow"), "message", {"value": None}),
        ],
    ),
    Play(
        "messages without waiting",
        agent(wait_for_message_tool("peek", "Look.", blocking=False)),
        script(call("peek"), "Nothing there."),
    ),
    Play(
        "pause and resume",
        agent(slow),
        script(call("slow", seconds=4), call("slow", seconds=1), "Done."),
        acts=[Act(runs("slow"), "pause"), Act(paused, "resume")],
    ),
    Play(
        "cancel",
        agent(endless, add),
        script(calls(call("endless"), call("add", a=1, b=1)), "Never said."),
        acts=[Act(done("call_0_1"), "cancel", {"text": "enough"})],
    ),
    Play(
        "cancel while asleep",
        agent(refund),
        script(call("refund", order="1"), "Never said."),
        acts=[Act(asleep("approval"), "cancel")],
    ),
    Play(
        "stop",
        agent(slow),
        script(call("slow", seconds=2), call("slow", seconds=2), "Never said."),
        acts=[Act(runs("slow"), "stop")],
    ),
    Play(
        "stop while asking",
        agent(refund, slow),
        script(calls(call("refund", order="1"), call("slow", seconds=1)), "Never said."),
        acts=[Act(runs("slow"), "stop")],
    ),
    Play(
        "guidance",
        agent(slow),
        script(call("slow", seconds=2), "Done."),
        acts=[Act(runs("slow"), "guide", {"text": "Be brief."})],
    ),
    Play(
        "structured output",
        agent(output_type=Verdict),
        script("It is good.", '{"good": 1.5}', '{"good": true, "why": "it works"}'),
    ),
    Play("structured output given up", agent(output_type=Verdict), ScriptedModel(["no"], at_end="repeat")),
    Play("stop_when", agent(add, stop_when=third_turn), ScriptedModel([call("add", a=1, b=1)], at_end="repeat")),
    Play("max_turns", agent(add, max_turns=2), ScriptedModel([call("add", a=1, b=1)], at_end="repeat")),
    Play(
        "state",
        agent(count, leave_something),
        script(call("leave_something"), call("count"), call("count", by=4), "5"),
    ),
    Play("deadline", agent(endless), script(call("endless"), "Never said."), timeout_s=30),
    Play("deadline while asking", agent(refund), script(call("refund", order="1"), "Never said."), timeout_s=30),
    Play(
        "session",
        agent(add),
        ScriptedModel([call("add", a=1, b=1), "2", call("add", a=2, b=2), "4"]),
        session=Play("before", agent(add), script(call("add", a=1, b=1), "2")),
    ),
    Play(
        "session after a stop",
        agent(refund),
        ScriptedModel([call("refund", order="1"), "Where were we?"]),
        session=Play("before", agent(refund), script(call("refund", order="1")), acts=[Act(asked("approval"), "stop")]),
    ),
    Play(
        "wake by approval",
        agent(refund),
        script(call("refund", order="8821"), "Done."),
        acts=[Act(asleep("approval"), "approve")],
    ),
    Play(
        "crash asks",
        agent(wire, slow),
        script(calls(call("wire", amount=5), call("slow", seconds=1)), "Done."),
        acts=[Act(asked("crash"), "approve"), Act(asked("crash"), "approve")],
    ),
    Play("lost elsewhere", agent(crunch), script(call("crunch"), "Done.")),
    Play(
        "lost elsewhere asks",
        agent(ship),
        script(call("ship", order="7"), "Done."),
        acts=[Act(asked("crash"), "approve"), Act(asked("crash"), "approve")],
    ),
    Play("crash fails", agent(launch, slow), script(calls(call("launch"), call("slow", seconds=1)), "Done.")),
    Play(
        "approved, then lost",
        agent(demolish),
        script(call("demolish", house="No. 9"), "Done."),
        acts=[
            Act(asked("approval"), "approve", {"arguments": {"house": "No. 10"}}),
            Act(asked("crash"), "approve"),
            Act(asked("crash"), "approve"),
        ],
    ),
]
BY_NAME = {play.name: play for play in PLAYS}
