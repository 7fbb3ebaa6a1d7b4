"""One system in a process of its own, told what to do in lines of JSON: `python -m benchmarks.worker NAME URL FOLDER`.

The first line it prints says that the system is open, or why it is missing. Then each line on standard input is a command
and gets a line back. Whatever else writes to standard output goes to standard error.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.systems import Job, Place, System, load


async def do(system: System, command: dict[str, Any]) -> dict[str, Any]:
    """Obey one command."""
    match command:
        case {"run": fields, "executions": count}:
            job = Job(**fields)
            each: list[float] = []

            async def one() -> None:
                began = time.perf_counter()
                result = await system.run(job)
                each.append(time.perf_counter() - began)
                assert result == "done", result

            began = time.perf_counter()
            await asyncio.gather(*(one() for _ in range(count)))
            return {"seconds": time.perf_counter() - began, "each": each}
        case {"begin": fields}:
            # For a process that is about to be killed: nobody waits for the end.
            task = asyncio.create_task(system.run(Job(**fields)))
            BEGUN.add(task)
            return {}
        case {"victim": fields}:
            return {"pid": await system.victim(Job(**fields))}
        case {"settle": _}:
            await system.settle()
            return {}
    raise ValueError(f"no such command: {command}")


BEGUN: set[asyncio.Task[Any]] = set()


async def serve(name: str, url: str, folder: Path, answers: Any) -> None:
    """Open the system, obey until standard input ends, close it."""

    def answer(given: dict[str, Any]) -> None:
        answers.write(json.dumps(given) + "\n")
        answers.flush()

    try:
        kind, variant = load(name)
        system: System = kind()
        await system.open(Place(url=url, folder=folder, variant=variant))
    except (ImportError, FileNotFoundError) as missing:
        answer({"missing": str(missing)})
        return
    answer({"versions": system.versions})
    reader = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := await reader.readline():
            answer(await do(system, json.loads(line)))
    finally:
        for task in BEGUN:
            task.cancel()
        await system.close()


def main() -> None:
    name, url, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if name.endswith("uvloop"):
        import uvloop

        uvloop.run(serve(name, url, Path(folder), answers))
    else:
        asyncio.run(serve(name, url, Path(folder), answers))


if __name__ == "__main__":
    main()
