"""Graphs from the command line: started, watched, answered, drawn, and gone back in."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentspan.cli.graphs import nodes_of
from agentspan.cli.loading import load_agent
from agentspan.errors import ConfigurationError
from tests.unit.cli.world import Command, PlayingConnection, World

APP = """
import operator
from typing import Annotated, TypedDict

from langchain_core.prompts import PromptTemplate
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import START, StateGraph

PROMPT = PromptTemplate.from_template("Write about {topic}.")


class State(TypedDict, total=False):
    topic: str
    pages: int
    log: Annotated[list[str], operator.add]


def draft(state):
    return {"log": [f"draft of {state['topic']}, {state.get('pages', 1)} pages"]}


def ship(state):
    return {"log": ["shipped"]}


builder = StateGraph(State)
builder.add_node("draft", draft)
builder.add_node("ship", ship)
builder.add_edge(START, "draft")
builder.add_edge("draft", "ship")
writer = builder.compile(checkpointer=MemorySaver())


def make():
    return builder.compile(name="made")
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A script with one compiled graph, among other things that run."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "graph_app.py"
    path.write_text(APP)
    yield str(path)
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def lines_of(text: str) -> list[str]:
    """Without the instants."""
    return [re.sub(r"^\d\d:\d\d:\d\d  ", "", line).rstrip() for line in text.splitlines()]


# --- starting


def test_the_graph_of_a_file_is_found_among_what_it_is_made_of(file: str):
    assert load_agent(file) is load_agent(f"{file}:writer")
    assert load_agent(f"{file}:make") == "graph_app:make"
    with pytest.raises(ConfigurationError, match="Its agents: writer"):
        load_agent(f"{file}:nothing")


def test_two_graphs_in_a_file_have_to_be_told_apart(file: str):
    with open(file, "a", encoding="utf-8") as text:
        text.write("other = builder.compile().with_config(tags=['x'])\n")
    with pytest.raises(ConfigurationError, match="Its agents: other, writer"):
        load_agent(file)


def test_run_takes_a_graph_and_a_text(command: Command, server: PlayingConnection, file: str):
    answer = command("run", file, "rivers")
    assert answer.code == 0, answer.err
    assert "draft of rivers, 1 pages" in answer.out
    assert [line.split()[1:3] for line in lines_of(answer.out)[1:5]] == [
        ["node_start", "draft"],
        ["node_end", "draft"],
        ["node_start", "ship"],
        ["node_end", "ship"],
    ]


@pytest.mark.parametrize("how", ["option", "stdin"])
def test_run_takes_a_graphs_state(command: Command, server: PlayingConnection, file: str, how: str):
    state = '{"topic": "lakes", "pages": 3}'
    answer = command("run", file, "--input", state if how == "option" else "-", input=state)
    assert answer.code == 0, answer.err
    assert "draft of lakes, 3 pages" in answer.out


def test_a_state_goes_with_file_and_without_an_argument(command: Command, server: PlayingConnection, file: str):
    answer = command("run", "--file", f"{file}:writer", "--input", '{"topic": "lakes"}', "--json")
    assert answer.code == 0, answer.err
    assert [event["type"] for event in answer.lines][-1] == "done"


def test_an_agent_takes_messages_as_its_input(command: Command, server: PlayingConnection):
    answer = command("run", "echo", "--input", '[{"role": "user", "content": "Good morning"}]')
    assert "You said: Good morning" in answer.out


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--input", '{"topc": "x"}'], "topic"),
        (["--input", "{topic: x}"], "--input is not JSON"),
        (["rivers", "--input", "{}"], "not both"),
        ([], "a prompt is missing"),
    ],
)
def test_an_input_that_does_not_fit_starts_nothing(
    command: Command, server: PlayingConnection, file: str, more: list[str], told: str
):
    answer = command("run", file, *more)
    assert (answer.code, told in answer.err) == (2, True), answer.err
    assert [verb for verb, _ in server.asked if verb == "submit"] == []


def test_what_a_graph_loses_is_a_note(command: Command, server: PlayingConnection, file: str):
    answer = command("deploy", file)
    assert answer.code == 0, answer.err
    assert "Deployed writer" in answer.out
    assert "Warning" not in answer.err
    assert command("agents").out.count("a graph") == 1
    assert "2 nodes" in command("agents").out
    assert command("run", "writer", "rivers").code == 0


# --- what waits


def test_pending_shows_what_is_asked_and_the_command_that_fits(command: Command, world: World):
    for number, name in enumerate(["asking", "stopping", "paying"], 1):
        world.started(name, number=number)
    lines = [line.strip() for line in command("pending").out.splitlines()]
    short = "ex-00000000"
    assert re.sub(r"\d+ s ago", "T", re.sub(r" +", " ", "\n".join(lines[1:]))).splitlines() == [
        f'{short} an answer T review: Is it good? (draft="draft of Hello")',
        f"agent-span respond {short} ANSWER",
        f"{short} a breakpoint T The graph stopped before ship. Approve to go on.",
        f"agent-span approve {short}",
        f"{short} approval T pay(cents=7)",
        f"agent-span approve {short}",
    ]


@pytest.mark.parametrize("width", ["80", "120"])
def test_two_calls_that_wait_are_told_apart_by_commands_that_work(
    command: Command, world: World, monkeypatch: pytest.MonkeyPatch, width: str
):
    monkeypatch.setenv("COLUMNS", width)
    full = world.started("wide")
    commands = re.findall(r"^ *agent-span (\w+) (\S+)( ANSWER)? --call (\w+)$", command("pending").out, re.MULTILINE)
    assert [(verb, short) for verb, short, _, _ in commands] == [("respond", full[:11]), ("approve", full[:11])]
    assert [call for *_, call in commands] == [call for *_, call in re.findall(
        r"agent-span (\w+) (\S+)( ANSWER)? --call (\w+)", command("show", full).out
    )]  # fmt: skip
    streamed = command("stream", full).out
    for verb, short, value, call in commands:
        assert f"(agent-span {verb} {short}{value} --call {call})" in streamed
        assert command(verb, full, *(["fine"] if value else []), "--call", call).code == 0
    world.play(full)
    assert "fine" in command("result", full).out


def test_two_calls_of_an_agent_are_told_apart_too(command: Command, world: World):
    full = world.started("twice")
    for told in (command("pending").out, command("stream", full).out, command("show", full).out):
        assert f"agent-span approve {full[:11]} --call call_0_0" in told
        assert f"agent-span approve {full[:11]} --call call_0_1" in told


def test_the_start_of_a_call_id_that_fits_two_is_refused(command: Command, world: World):
    full = world.started("twice")
    answer = command("approve", full, "--call", "call_0", "--json")
    assert (answer.code, answer.error["type"]) == (4, "UnknownCallError")
    assert command("approve", full, "--call", "call_0_1").code == 0


def test_a_breakpoint_is_approved_and_nothing_else(command: Command, world: World):
    full = world.started("stopping")
    answer = command("respond", full, "go on", "--json")
    assert (answer.code, answer.error["type"]) == (4, "InvalidDecisionError")
    assert command("approve", full).code == 0
    world.play(full)
    assert command("result", full).code == 0


def test_an_answer_goes_on_with_the_graph(command: Command, world: World):
    full = world.started("asking")
    assert command("respond", full, '{"good": true}').out.startswith("Answered review")
    world.play(full)
    assert command("result", full, "--json").json["output"]["log"][1] == {"good": True}


# --- watching


def test_stream_moves_in_what_happens_inside(command: Command, world: World):
    lines = lines_of(command("stream", world.started("wide")).out)
    assert lines[:4] == [
        "▶ started     Hello",
        "┌ node_start  draft",
        '· custom      {"progress": "half way"}',
        "└ node_end    draft",
    ]
    assert "┌ node_start  desk" in lines
    assert "┌ node_start    review" in lines


def test_on_a_narrow_terminal_the_command_to_decide_with_stays_whole(
    command: Command, world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "60")
    full = world.started("asking", prompt="an essay " * 20)
    lines = lines_of(command("stream", full).out)
    (waiting,) = [line for line in lines if "waiting" in line]
    assert f"(agent-span respond {full[:11]} ANSWER): review: Is it good?" in waiting
    assert all(len(line) <= 50 for line in lines if "waiting" not in line)


def test_a_node_that_raised_says_so_in_stream_and_show(command: Command, world: World):
    full = world.started("failing")
    assert "└ node_end    fail: ValueError: no paper" in lines_of(command("stream", full).out)
    shown = command("show", full)
    assert "draft began, custom, draft ended" in shown.out
    assert "fail began, fail failed" in shown.out
    assert "bytes>" in command("show", full, "--json").out


# --- the picture


def drawn(command: Command, full: str) -> tuple[str, dict[str, str]]:
    answer = command("show", full, "--graph", "--json").json
    return answer["mermaid"], {node["node"]: node["state"] for node in answer["nodes"]}


def test_show_graph_draws_it_with_how_far_it_is(command: Command, world: World):
    full = world.started("wide")
    mermaid, states = drawn(command, full)
    assert states == {"draft": "ran", "desk": "waits", "desk:review": "waits", "pay": "waits"}
    assert list(states) == ["draft", "desk", "desk:review", "pay"]
    assert "\tclass draft ran" in mermaid
    assert "\tclass desk\\3areview,pay waits" in mermaid
    text = command("show", full, "--graph").out
    assert text.startswith(mermaid.splitlines()[0])
    rows = [line.split() for line in text.splitlines()[-5:]]
    assert rows == [
        ["NODE", "STATE", "RAN", "NOTE"],
        ["draft", "ran", "1"],
        ["desk", "waits"],
        ["review", "waits"],
        ["pay", "waits"],
    ]


def test_show_graph_of_what_has_ended_failed_or_not_begun(command: Command, world: World):
    assert drawn(command, world.started("plain", number=1))[1] == {"draft": "ran", "ship": "ran"}
    assert drawn(command, world.started("failing", number=2))[1] == {"draft": "ran", "fail": "failed"}
    assert drawn(command, world.started("stopping", number=3))[1] == {"draft": "ran", "ship": "waits"}
    new = world.create("plain", number=4)
    assert drawn(command, new)[1] == {}
    assert "No node has begun." in command("show", new, "--graph").out


def test_an_agent_has_no_drawing(command: Command, world: World):
    answer = command("show", world.started("echo"), "--graph", "--json")
    assert (answer.code, answer.error["type"]) == (2, "ConfigurationError")


def event(kind: str, node: str = "", task: str = "", **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": {"node": node, "task_id": task, "ns": [], **data}}


@pytest.mark.parametrize(
    ("status", "events", "found"),
    [
        ("RUNNING", [event("node_start", "a", "1")], {"a": ("running", 0, 1, 0)}),
        ("PAUSED", [event("node_start", "a", "1")], {"a": ("", 0, 0, 0)}),
        ("RUNNING", [event("node_start", "a", "1"), event("recovered")], {"a": ("", 0, 0, 0)}),
        (
            "RUNNING",
            [event("node_start", "a", "1"), event("recovered"), event("node_start", "a", "1")],
            {"a": ("running", 0, 1, 0)},
        ),
        (
            "RUNNING",
            [event("node_start", "a", "1"), event("waiting", ask="interrupt"), event("node_start", "a", "1")],
            {"a": ("running", 0, 1, 0)},
        ),
        ("WAITING", [event("node_start", "a", "1"), event("waiting", ask="interrupt")], {"a": ("waits", 0, 0, 1)}),
        (
            "WAITING",
            [event("node_start", "a", "1"), event("waiting", ask="interrupt"), event("recovered")],
            {"a": ("waits", 0, 0, 1)},
        ),
        (
            "RUNNING",
            [event("node_start", "a", str(number)) for number in range(3)] + [event("node_end", "a", "1")],
            {"a": ("running", 1, 2, 0)},
        ),
        (
            "RUNNING",
            [event("node_start", "a", "1"), event("node_end", "a", "1", error="x"), event("node_end", "a", "1")],
            {"a": ("ran", 1, 0, 0)},
        ),
        ("TERMINATED", [event("node_start", "a", "1"), event("done")], {"a": ("", 0, 0, 0)}),
        (
            "TERMINATED",
            [event("node_start", "a", "1"), event("waiting", ask="interrupt"), event("done")],
            {"a": ("", 0, 0, 0)},
        ),
    ],
)
def test_what_nodes_do_follows_from_the_events(status: str, events: Any, found: Any):
    nodes = nodes_of(events, status)
    assert {node.path[0]: (node.state, node.runs, node.running, node.waits) for node in nodes} == found


# --- going back


def test_history_lists_the_states_of_a_graph(command: Command, server: PlayingConnection, file: str):
    command("run", file, "rivers")
    full = "ex-00000000000000000001"
    answer = command("history", full)
    assert answer.code == 0, answer.err
    rows = [line.split()[:1] + line.split()[2:4] for line in answer.out.splitlines()[1:]]
    assert rows == [["2", "loop", "the"], ["1", "loop", "ship"], ["0", "loop", "draft"], ["-1", "input", "__start__"]]
    states = command("history", full, "--json", "--limit", "2").json["history"]
    assert [(state["step"], state["next"]) for state in states] == [(2, []), (1, ["ship"])]
    assert states[1]["values"]["topic"] == "rivers"
    one = command("history", full, "--step", "1")
    assert '"draft of rivers, 1 pages"' in one.out
    assert command("history", full, "--step", "9").code == 2


def test_history_of_an_agent_needs_no_code(command: Command, world: World):
    full = world.started("support")
    answer = command("history", full)
    assert [line.split()[0] for line in answer.out.splitlines()[1:]] == ["3", "2", "1", "0"]
    assert "last '→ refund'" in answer.out
    assert "refund" in command("history", full, "--step", "3", "--json").out


def test_fork_goes_on_from_a_step_with_a_change(command: Command, server: PlayingConnection, file: str):
    command("run", file, "rivers")
    first = "ex-00000000000000000001"
    answer = command("fork", first, "--step", "0", "--state", '{"topic": "lakes"}')
    assert answer.code == 0, answer.err
    second = answer.out.strip()
    assert second == "ex-00000000000000000002"
    assert "draft of lakes, 1 pages" in command("result", second).out
    assert "draft of rivers, 1 pages" in command("result", first).out
    assert command("fork", first, "--json").json == {"execution_id": "ex-00000000000000000003", "forked_from": first}


def test_fork_goes_on_with_another_version(command: Command, server: PlayingConnection, file: str, tmp_path: Path):
    command("run", file, "rivers")
    (tmp_path / "later.py").write_text(Path(file).read_text().replace("draft of", "better draft of"))
    answer = command("fork", "ex-0", "--step", "0", "--agent", str(tmp_path / "later.py"))
    assert answer.code == 0, answer.err
    assert "better draft of rivers, 1 pages" in command("result", answer.out.strip()).out
    assert command("fork", "ex-00000000000000000001", "--agent", "nobody").code == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--step", "9"], "no step 9"),
        (["--state", "{"], "--state is not JSON"),
        (["--state", '{"colour": "red"}'], "colour"),
        (["--state", '{"topic": "x"}', "--as-node", "nobody"], "nobody"),
    ],
)
def test_a_fork_that_does_not_fit_starts_nothing(
    command: Command, server: PlayingConnection, file: str, options: list[str], told: str
):
    command("run", file, "rivers")
    answer = command("fork", "ex-0", *options)
    assert (answer.code, told in answer.err) == (2, True), answer.err
    assert len([verb for verb, _ in server.asked if verb == "submit"]) == 1


@pytest.mark.parametrize("verb", ["send", "signal"])
def test_a_graph_takes_no_messages_and_no_notes(command: Command, server: PlayingConnection, file: str, verb: str):
    command("run", file, "rivers")
    answer = command(verb, "ex-0", "hello", "--json")
    assert (answer.code, answer.error["type"]) == (4, "UnheardSignalError")
    assert "let it ask with `interrupt()`" in answer.error["message"]


def test_a_fork_needs_a_server(command: Command, world: World):
    answer = command("fork", world.started("support"), "--json")
    assert (answer.code, answer.error["type"]) == (5, "ServerUnavailableError")
