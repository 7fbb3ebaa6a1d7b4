"""The programs in `examples/`, run as their readers run them: real processes, a private home, no key."""

from __future__ import annotations

import difflib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentspan.cli.demo_stage import kill
from tests.support.cluster import Server, environment, private_home, until
from tests.support.model_server import ModelServer, text, tool

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAM_S_MAX = 60.0

SDK_PROGRAM = '''
import os
from agentspan.agents import Agent, AgentHandle, AgentRuntime, tool

@tool
def get_weather(city: str) -> str:
    """Get current weather for a city."""
    return f"Sunny in {city}"

@tool(approval_required=True)
def send_alert(city: str, text: str) -> str:
    """Alert a city."""
    return "alerted " + city

agent = Agent(
    name="weather_agent",
    model=os.environ["AGENTSPAN_LLM_MODEL"],
    tools=[get_weather, send_alert],
    instructions="You are a helpful weather assistant.",
)

if __name__ == "__main__":
    with AgentRuntime() as runtime:
        handle = runtime.start(agent, "Warn Oslo if it is sunny")
        execution_id = handle.execution_id
    with AgentRuntime() as runtime:
        runtime.serve(agent, blocking=False)
        resumed = runtime.resume(execution_id, agent)
        handle = AgentHandle(execution_id=execution_id, runtime=runtime)
        for event in handle.stream():
            print(event.type, event.tool_name)
            if event.type == "waiting":
                print("pending:", handle.get_status().pending_tool["tool_name"])
                handle.approve()
        result = resumed.join(timeout=30)
        print("output:", result.output)
        print("status:", result.status, result.is_success, result.finish_reason)
        result.print_result()
'''
SDK_SCRIPT = """[{"call": "get_weather", "args": {"city": "Oslo"}},
 {"call": "send_alert", "args": {"city": "Oslo", "text": "{last_tool_result}"}},
 {"say": "Done: {last_tool_result}"}]"""


def launch(program: Path, *arguments: str, home: Path, cwd: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(program), *arguments],
        cwd=cwd,
        env=environment(home, PYTHONIOENCODING="utf-8", **more),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def run(program: Path, *arguments: str, home: Path, cwd: Path, typed: str = "", code: int = 0, **more: str) -> str:
    """What the program printed; it has to end with `code` and to keep its stderr clean."""
    process = launch(program, *arguments, home=home, cwd=cwd, **more)
    try:
        out, err = process.communicate(typed, timeout=PROGRAM_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"{program.name} did not end:\n{''.join(process.communicate())}") from None
    assert process.returncode == code, out + err
    assert err == "", err
    return out


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(private_home())
    server.start()
    yield server
    server.dispose()


@pytest.fixture
def home() -> Iterator[Path]:
    """A home without a server: programs bring up their own."""
    owner = Server(private_home())
    yield owner.home
    for pid in owner.processes():
        kill(pid)  # Ray's helpers outlive a killed cluster by a minute; nobody needs them.
    owner.dispose()


def outbox_of(folder: Path) -> list[str]:
    outbox = folder / "outbox"
    return outbox.read_text().splitlines() if outbox.exists() else []


def assert_each_mail_was_sent_once(folder: Path) -> None:
    lines = outbox_of(folder)
    assert [line.split()[1] for line in lines] == ["ada", "barbara", "grace", "katherine", "margaret"]
    assert len({line.split()[0] for line in lines}) == len(lines)


def test_hello_agent(server: Server, tmp_path: Path) -> None:
    assert "The line has 6 words." in run(EXAMPLES / "hello_agent.py", home=server.home, cwd=tmp_path)


def test_async_agent(server: Server, tmp_path: Path) -> None:
    said = run(EXAMPLES / "async_agent.py", home=server.home, cwd=tmp_path)
    assert said.splitlines() == [
        "the Moon: It is 384400 km away.",
        "the Sun: It is 149600000 km away.",
        "the next town: It is 12 km away.",
    ]


def test_typed_output(server: Server, tmp_path: Path) -> None:
    said = run(EXAMPLES / "typed_output.py", home=server.home, cwd=tmp_path)
    assert said.strip() == "Flour for bread (urgency 4): flour, yeast"


def test_human_in_the_loop_asks_for_each_call_and_passes_the_reason_on(server: Server, tmp_path: Path) -> None:
    typed = "y\nn\nThe desk is too dear.\n"
    said = run(EXAMPLES / "human_in_the_loop.py", home=server.home, cwd=tmp_path, typed=typed)
    assert "refund(order_id='8821', amount=129.0)" in said
    assert said.index("'8821'") < said.index("'8822'")
    execution_id = next(line.split()[1] for line in said.splitlines() if line.startswith("Execution "))
    result = server.result(execution_id)
    first, second = result.tool_calls[1:]
    assert (first.status, first.result) == ("completed", "paid 129.00 back for order 8821")
    assert second.status == "rejected"
    assert "The desk is too dear." in str(result.output)


def test_another_model_can_be_named(server: Server, tmp_path: Path) -> None:
    said = run(EXAMPLES / "hello_agent.py", home=server.home, cwd=tmp_path, AGENTSPAN_LLM_MODEL="scripted/echo")
    assert "You said: How many words" in said


def test_with_a_server_the_agent_goes_on_while_its_program_is_dead(server: Server, tmp_path: Path) -> None:
    program = EXAMPLES / "crash_and_resume.py"
    said = run(program, "--crash", home=server.home, cwd=tmp_path, code=-signal.SIGKILL)
    assert "killing this program" in said
    until("all mails", lambda: len(outbox_of(tmp_path)) == 5)
    assert "Resuming execution" in run(program, home=server.home, cwd=tmp_path)
    assert_each_mail_was_sent_once(tmp_path)


def test_crash_and_resume_goes_on_where_it_was_killed(home: Path, tmp_path: Path) -> None:
    program = EXAMPLES / "crash_and_resume.py"
    process = launch(program, home=home, cwd=tmp_path)
    until("two mails", lambda: len(outbox_of(tmp_path)) >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(outbox_of(tmp_path)) < 5
    execution_id = (tmp_path / "interrupted_execution_id").read_text()

    said = run(program, home=home, cwd=tmp_path)

    assert f"Resuming execution {execution_id}: RUNNING" in said
    for step in ("list_subscribers → ", "send_mail → sent to ada", "send_mail → sent to barbara"):
        assert f"done already: {step}" in said
        assert f"now: {step}" not in said
    assert "now: send_mail → " in said
    assert "The newsletter is sent." in said
    assert_each_mail_was_sent_once(tmp_path)
    assert not (tmp_path / "interrupted_execution_id").exists()


def test_a_program_for_the_existing_sdk_runs_unchanged(server: Server, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SDK_PROGRAM)
    (tmp_path / "script.json").write_text(SDK_SCRIPT)
    model = f"scripted/{tmp_path / 'script.json'}"
    said = run(tmp_path / "program.py", home=server.home, cwd=tmp_path, AGENTSPAN_LLM_MODEL=model)
    assert "pending: send_alert" in said
    assert "output: Done: alerted Oslo" in said
    assert "status: COMPLETED True stop" in said


def test_the_durable_langgraph_program_differs_by_one_import_and_one_call() -> None:
    plain, durable = ((EXAMPLES / f"langgraph_app{name}.py").read_text().splitlines() for name in ("", "_durable"))
    diff = [line for line in difflib.ndiff(plain, durable) if line[0] in "+-" and line[2:].strip()]
    assert diff == [
        "+ from agentspan.agents import run",
        "-     state = app.invoke(NEWSLETTER)",
        "+     state = run(app, NEWSLETTER).state",
    ]


@pytest.mark.parametrize("name", ["langgraph_app", "langgraph_app_durable"])
def test_both_langgraph_programs_do_the_same(name: str, server: Server, tmp_path: Path) -> None:
    said = run(EXAMPLES / f"{name}.py", home=server.home, cwd=tmp_path)
    assert said == "The newsletter went to ada, grace, margaret.\n"
    assert outbox_of(tmp_path) == ["ada", "grace", "margaret"]


def test_the_durable_langgraph_program_does_not_notice_that_its_graph_was_killed(
    server: Server, tmp_path: Path
) -> None:
    process = launch(EXAMPLES / "langgraph_app_durable.py", home=server.home, cwd=tmp_path)
    until("the second mail", lambda: len(outbox_of(tmp_path)) == 1)
    newest = server.read(lambda store: store.rows(limit=1))
    kill(newest[0].host["pid"])

    said, complaints = process.communicate(timeout=PROGRAM_S_MAX)

    assert (said, complaints) == ("The newsletter went to ada, grace, margaret.\n", "")
    sent = outbox_of(tmp_path)
    assert list(dict.fromkeys(sent)) == ["ada", "grace", "margaret"]
    assert len(sent) <= 4, "more than the one that was under way went out again"


def test_the_langgraph_programs_run_with_a_real_chat_model(home: Path, tmp_path: Path) -> None:
    script = [tool("list_subscribers"), tool("send_mail", {"to": "ada"}), text("Ada has it.")]
    with ModelServer(script, by="conversation") as model:
        real = {"CHAT_MODEL": "openai:gpt-4o-mini", "OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "sk-test-not-a-key"}
        for name in ("langgraph_app", "langgraph_app_durable"):
            assert run(EXAMPLES / f"{name}.py", home=home, cwd=tmp_path, **real) == "Ada has it.\n"
    assert outbox_of(tmp_path) == ["ada", "ada"]
    assert [call.body["model"] for call in model.calls] == ["gpt-4o-mini"] * 6
