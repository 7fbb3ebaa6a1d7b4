"""Restate: a service whose model calls and tool calls are `ctx.run_typed` steps, behind Restate's own server.

The server is the single-node binary of the npm package, with its defaults (its log is flushed to disk before a step is
acknowledged). The service runs under Hypercorn with one worker for each core, as its documentation advises for production;
the client calls it through the server's ingress. Hypercorn is started again at once when it is killed, and the server
then calls the service again by itself.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import restate

from benchmarks.systems import Job, Place
from benchmarks.systems.task import MESSAGES, ask, call_tool, new_client

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "benchmarks/restate/node_modules/@restatedev"
URL = "AGENTSPAN_BENCH_MODEL_URL"
START_S = 60.0

service = restate.Service("bench")
client: Any = None


@service.handler("agent")
async def agent(ctx: restate.Context, model: str) -> str:
    global client
    if client is None:
        client = new_client(os.environ[URL])
    messages: list[dict[str, Any]] = list(MESSAGES)
    while True:
        message = await ctx.run_typed("model", ask, restate.RunOptions(), client, model, messages)
        messages.append(message)
        if not message.get("tool_calls"):
            return str(message["content"])
        for call in message["tool_calls"]:
            messages.append(await ctx.run_typed("tool", call_tool, restate.RunOptions(), call))


app = restate.app(services=[service])


def server_binary() -> Path:
    """The server's program.

    Raises:
        FileNotFoundError: It is not installed.
    """
    found = sorted(PACKAGE.glob("restate-server-*/bin/restate-server"))
    if not found:
        raise FileNotFoundError("its server is not installed: `npm ci` in benchmarks/restate, which `make bench` runs")
    return found[0]


class TheSystem:
    """The server, the service and a client of them."""

    def __init__(self) -> None:
        self.versions = {"restate-sdk": importlib.metadata.version("restate-sdk")}
        self._stopping = False

    async def open(self, place: Place) -> None:
        binary = server_binary()
        version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()
        self.versions["restate-server"] = next(word for word in version if word[0].isdigit())
        ingress, admin, node, self._service = (_free_port() for _ in range(4))
        self._folder, self._url = place.folder, place.url
        environment = {
            **os.environ,
            "RESTATE_BASE_DIR": str(place.folder),
            "RESTATE_NODE_NAME": "bench",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{node}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{node}/",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_LOG_FILTER": "warn",
            "DO_NOT_TRACK": "1",
        }
        with (place.folder / "server.log").open("ab") as log:
            self._server = subprocess.Popen([binary], env=environment, cwd=place.folder, stdout=log, stderr=log)
        self._serve()
        self._watching = asyncio.create_task(self._watch())
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{ingress}", timeout=900, limits=limits)
        await self._register(f"http://127.0.0.1:{admin}")

    def _serve(self) -> None:
        config = self._folder / "hypercorn.toml"
        config.write_text(
            f'bind = "127.0.0.1:{self._service}"\nworkers = {os.cpu_count()}\n'
            "h2_max_concurrent_streams = 2147483647\nkeep_alive_max_requests = 2147483647\nkeep_alive_timeout = 2147483647\n"
        )
        command = [sys.executable, "-m", "hypercorn", "--config", str(config), "benchmarks.systems.restate_:app"]
        with (self._folder / "service.log").open("ab") as log:
            self._hypercorn = subprocess.Popen(
                command, env={**os.environ, URL: self._url}, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    async def _watch(self) -> None:
        """Be the process manager: start the service again when it has ended."""
        while not self._stopping:
            if self._hypercorn.poll() is not None:
                _end(self._hypercorn)  # Its workers, where only the parent was killed.
                self._serve()
            await asyncio.sleep(0.005)

    async def _register(self, admin: str) -> None:
        until = time.monotonic() + START_S
        async with httpx.AsyncClient() as http:
            while True:
                try:
                    given = {"uri": f"http://127.0.0.1:{self._service}"}
                    answer = await http.post(f"{admin}/deployments", json=given, timeout=10)
                    if answer.status_code < 300:
                        return
                    problem: object = answer.text
                except httpx.HTTPError as caught:
                    problem = caught
                if time.monotonic() > until:
                    raise RuntimeError(f"Restate did not start: {problem}; see {self._folder}")
                await asyncio.sleep(0.1)

    async def run(self, job: Job) -> str:
        answer = await self._http.post("/bench/agent", json=job.model)
        answer.raise_for_status()
        return str(answer.json())

    async def settle(self) -> None:
        """Nothing goes on behind its back."""

    async def victim(self, job: Job) -> int:
        """The service: negative, as a whole group of processes is meant."""
        return -self._hypercorn.pid

    async def close(self) -> None:
        self._stopping = True
        await self._watching
        await self._http.aclose()
        _end(self._hypercorn)
        self._server.terminate()
        self._server.wait(30)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
