"""`start()` with a standby on the shelf → the model server sees the first call."""

from __future__ import annotations

import http.server
import threading
import time

from agentspan.agents import Agent, AgentRuntime
from benchmarks.common import line, p50, private_home

ROUNDS = 30


class Stamp(http.server.BaseHTTPRequestHandler):
    """Notes when a request arrives, and answers with a fixed completion."""

    protocol_version = "HTTP/1.1"
    seen: list[float] = []  # noqa: RUF012 - shared on purpose: one server, one list
    body = (
        b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
        b'"message":{"role":"assistant","content":"hi"}}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
    )

    def do_POST(self) -> None:
        self.seen.append(time.perf_counter())
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stamp)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    took = []
    with private_home(), AgentRuntime() as runtime:
        agent = Agent("hello", model="openai/bench", base_url=url, instructions="Say hi.")
        runtime.run(agent, "warm the path once")
        for _ in range(ROUNDS):
            runtime.ready()
            time.sleep(0.2)
            Stamp.seen.clear()
            started = time.perf_counter()
            handle = runtime.start(agent, "hi")
            handle.join(30)
            took.append(Stamp.seen[0] - started)
    server.shutdown()
    print(line("start() → first model call arrives", took))
    print(f"  {'p50':<44} {p50(took) * 1e3:.1f} ms  (first target ≤ 25 ms)")


if __name__ == "__main__":
    main()
