"""An incarnation that was taken for dead and wakes up writes nothing (P4)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from agentspan.actors.desk import Desk
from agentspan.actors.shipping import load_key, pack
from agentspan.agents import AgentRuntime
from agentspan.engine import records as r
from agentspan.persistence.opening import open_store
from agentspan.persistence.reading import read_show
from agentspan.persistence.store import NewExecution, Store
from agentspan.testing import ScriptedModel, call, say
from tests.ray.agents import gate, make_agent
from tests.ray.honesty import check_honest
from tests.support.cluster import Server, answer, environment, is_alive, until
from tests.support.ledger import Ledger

INCARNATION = str(Path(__file__).parent / "clients" / "incarnation.py")


def test_a_stopped_actor_is_replaced_and_its_awakening_changes_nothing(runtime: AgentRuntime, ledger: Ledger) -> None:
    script = ScriptedModel([call("work", n=1, hold=2), call("work", n=2), say("{last_tool_result}")])
    handle = runtime.start(make_agent("frozen", ledger, script), "go")
    execution_id = handle.execution_id
    ledger.entered(execution_id)
    pid = runtime.show(execution_id)["host"]["pid"]
    os.kill(pid, signal.SIGSTOP)

    ledger.entered(execution_id, count=2)  # Its successor, of the same name, is at work.
    assert runtime.show(execution_id)["host"]["pid"] != pid
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass  # Ray ends a stopped process, too. It takes about 5 s to, which a busy machine may need as well.
    ledger.open(gate(execution_id, 1, attempt=1))
    until("end of the zombie", lambda: not is_alive(pid))
    ledger.open(gate(execution_id, 1, attempt=2))

    assert handle.join(30).output == "did 2 at attempt 1"
    seen = check_honest(runtime.show(execution_id), ledger)
    assert {call_id: len(entries) for call_id, entries in seen.items()} == {"call_0_0": 2, "call_1_0": 1}
    assert runtime.show(execution_id)["epoch"] == 2


def test_a_supervisor_that_hangs_is_restarted(server: Server, runtime: AgentRuntime, ledger: Ledger) -> None:
    script = ScriptedModel([call("work", n=1, hold=1), say("{last_tool_result}")])
    handle = runtime.start(make_agent("overseen", ledger, script), "go")
    ledger.entered(handle.execution_id)
    pid = server.supervisor_pid()

    os.kill(pid, signal.SIGSTOP)
    ledger.open(gate(handle.execution_id, 1))

    assert handle.join(40).output == "did 1 at attempt 1"
    assert server.supervisor_pid() != pid


async def test_a_process_that_lost_its_epoch_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    """The same without Ray, which would kill the zombie before it has said all it has to say."""
    home = tmp_path
    key = load_key(home / "server.key")
    store = await open_store(f"sqlite:///{home}/agentspan.db")
    try:
        script = ScriptedModel([call("work", n=1, hold=2), call("work", n=2), say("{last_tool_result}")])
        row = pack(make_agent("frozen", ledger, script))
        await Desk(store, None, key=key, where=str(home)).call("deploy", {"row": asdict(row)})
        await _create(store, row.deployment_id)
        first = _incarnation(home, 1, crashed=False)
        await asyncio.to_thread(ledger.entered, "ex-zombie:")
        first.send_signal(signal.SIGSTOP)
        assert (await store.take_over("ex-zombie", host={})).epoch == 2
        second = _incarnation(home, 2, crashed=True)
        await asyncio.to_thread(ledger.entered, "ex-zombie:", count=2)

        first.send_signal(signal.SIGCONT)
        await asyncio.to_thread(ledger.open, gate("ex-zombie", 1, attempt=1))
        assert (await asyncio.to_thread(answer, first))["ended"] == "stale"
        await asyncio.to_thread(ledger.open, gate("ex-zombie", 1, attempt=2))
        assert (await asyncio.to_thread(answer, second))["ended"] == "finished"

        shown = await read_show(store, "ex-zombie")
        assert shown["status"] == "COMPLETED"
        seen = check_honest(shown, ledger)
        assert {call_id: len(entries) for call_id, entries in seen.items()} == {"call_0_0": 2, "call_1_0": 1}
        assert {step["epoch"] for step in shown["steps"] if step["kind"] == "tool"} == {2}
    finally:
        await store.close()


async def _create(store: Store, deployment_id: str) -> None:
    started = r.to_plain(r.Started(at=1.0, agent="frozen", prompt="go"))
    await store.create(
        NewExecution(
            execution_id="ex-zombie",
            request_id="once",
            agent="frozen",
            deployment_id=deployment_id,
            started=started,
            created_at=1.0,
        )
    )
    assert (await store.take_over("ex-zombie", host={})).epoch == 1


def _incarnation(home: Path, epoch: int, *, crashed: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, INCARNATION, str(home), "ex-zombie", str(epoch), str(int(crashed))],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
