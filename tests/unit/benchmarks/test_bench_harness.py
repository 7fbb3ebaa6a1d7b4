"""The benchmark harness works: without peers, without Ray, in two processes and a second or two."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.accounts import Account, kind, memory_bytes, processes
from benchmarks.contest import Contest
from benchmarks.driving import Model, Worker, model_process
from benchmarks.model import answer, model_name
from benchmarks.results import Results
from benchmarks.systems import DEFAULT, MODULES, TITLES, Job
from benchmarks.tracing import count

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_the_bare_loop_is_measured_in_a_contest() -> None:
    with model_process() as model:
        contest = Contest(model, ("bare",), rounds=1, crowd=3)
        try:
            contest.open()
            one = contest.one(1)
            crowd = contest.throughput(1, 5)
            long = contest.length(1, 50)
        finally:
            contest.close()
    assert len(one["seconds"]["bare"]["20"]) == 2
    assert crowd["rounds"]["bare"][0]["steps_s"] > 0
    assert long["systems"]["bare"]["turn_ms"]["50"] > 0
    assert processes(contest.workers["bare"].mark) == []


def test_the_model_server_notes_arrivals_and_worker_processes_bear_the_mark() -> None:
    with model_process() as model:
        worker = Worker("bare", model)
        try:
            assert [process.pid for process in processes(worker.mark)] == [worker.pid]
            assert Account.of(worker.mark).since(Account.of(worker.mark)) == {"client": 0.0}
            worker.run(Job(turns=2, tag="smoke"))
            assert len(model.wait_for("smoke", 3, 1.0)) == 3
            with pytest.raises(TimeoutError):
                model.wait_for("smoke", 4, 0.01)
        finally:
            worker.close()
        assert not worker.folder.exists()


def test_a_system_that_is_not_installed_is_missing_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    model = object.__new__(Model)
    model.url = "http://127.0.0.1:9/v1"
    monkeypatch.setenv("AGENTSPAN_BENCH_ABSENT", "openai")
    contest = Contest(model, ("bare",))
    contest.open()
    contest.close()
    assert contest.missing == {"bare": "openai is said to be absent"}


def test_the_model_asks_for_the_tool_until_the_last_turn() -> None:
    assert model_name(10, 200, "x") == "t10-d200-x"
    assert b'"name": "lookup"' in answer(9, 10)
    assert b'"content": "done"' in answer(10, 10)


def test_bytes_of_traced_calls_are_added_up_by_file() -> None:
    lines = [
        '101 pwrite64(7</tmp/x/a.db-wal>, ""..., 1024, 0) = 1024',
        '101 write(8</tmp/y/else>, ""..., 10) = 10',
        '102 pwrite64(7</tmp/x/a.db-wal>, ""..., 500, 0 <unfinished ...>',
        '101 write(3<socket:[1]>, ""..., 77) = 77',
        "102 <... pwrite64 resumed>) = 500",
        '101 write(9</tmp/x/worker.log>, ""..., 77) = 77',
        '101 write(7</tmp/x/a.db-wal>, ""..., 5) = -1 ENOSPC (No space left on device)',
    ]
    assert count(lines, ["/tmp/x"]) == {"/tmp/x/a.db-wal": 1524}


def test_processes_are_named_for_what_they_do() -> None:
    assert kind("ray::HostActor.run") == "ray::HostActor"
    assert kind("postgres: agent spans 127.0.0.1(4242) idle") == "postgres"
    assert kind("python -m benchmarks.worker bare http://x /tmp/y") == "client"
    assert memory_bytes(os.getpid()) > 1_000_000


def test_tables_say_what_is_missing_and_what_misses_its_target(tmp_path: Path) -> None:
    results = Results(tmp_path / "r.json")
    results.begin(loaded=True)
    rounds: dict[str, Any] = {
        "bare": [{"steps_s": 500.0, "cpu_ms": 1.7, "cpu_ms_by_kind": {"client": 1.7}}],
        "restate": [{"steps_s": 250.0, "cpu_ms": 3.4, "cpu_ms_by_kind": {}}],
    }
    results.put("crowd_0", {"rounds": rounds, "missing": {"dbos-sqlite": "No module named 'dbos'"}})
    results.put("restart", {"count": 1000, "all_s": 31.0, "server_up_s": 5.0})
    again = Results.load(results.path)
    text = report.text(again)
    assert "| Restate | 250 | 0.50 × | 3.40 | 1 |" in text
    assert "| DBOS, SQLite | missing: No module named 'dbos' |" in text
    assert "31.0 s | ≤ 30 s | **no** |" in text
    assert "other work loaded the machine" in text


def test_every_system_has_a_file_and_every_table_a_place() -> None:
    for name in DEFAULT:
        assert name in TITLES
        assert (Path(report.ROOT) / f"benchmarks/systems/{MODULES[name.partition('-')[0]]}.py").exists()
    page = report.PAGE.read_text()
    for name in ("one", "crowd_0", "crowd_200", "kinds", "length", "written", "recovery", "fleet", "origin"):
        assert f"<!-- {name} -->\n" in page
        assert f"<!-- /{name} -->" in page
