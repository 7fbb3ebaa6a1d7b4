"""Kill this program in the middle of its work and run it again: the agent goes on from where it was.

    python examples/crash_and_resume.py --crash     # kills itself, with SIGKILL, while mail goes out
    python examples/crash_and_resume.py             # resumes that execution and finishes it

The execution's ID is kept in the file `interrupted_execution_id` in the current directory. Instead of --crash you may
kill the program yourself (Ctrl-C, or kill -9 from elsewhere). Set AGENTSPAN_LLM_MODEL to use a real model.

The file `outbox` plays the mail provider. Like a real one it takes an idempotency key with each request, and ignores a
request whose key it knows: a mail that was on its way when the program died is not sent twice.
"""

import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from agentspan.agents import Agent, AgentHandle, AgentRuntime, EventType, ToolContext, tool
from agentspan.testing import ScriptedModel, call, say

ID_FILE = Path("interrupted_execution_id")
OUTBOX = Path("outbox").absolute()  # Absolute: the tools run in other processes.
SUBSCRIBERS = ["ada", "barbara", "grace", "katherine", "margaret"]
SCRIPT = ScriptedModel(
    [
        call("list_subscribers"),
        *(call("send_mail", to=name, subject="News of the week") for name in SUBSCRIBERS),
        say("The newsletter is sent."),
    ]
)


@tool
def list_subscribers() -> list[str]:
    """Who gets the newsletter."""
    return SUBSCRIBERS


@tool
def send_mail(to: str, subject: str, context: ToolContext) -> str:
    """Send the newsletter to one person."""
    time.sleep(0.8)  # Talking to the provider.
    sent = OUTBOX.read_text() if OUTBOX.exists() else ""
    if context.idempotency_key in sent:
        return f"{to} had it already"
    with OUTBOX.open("a") as outbox:
        outbox.write(f"{context.idempotency_key} {to} {subject}\n")
    return f"sent to {to}"


agent = Agent(
    name="newsletter",
    model=os.environ.get("AGENTSPAN_LLM_MODEL") or str(SCRIPT),
    instructions="Send the newsletter to every subscriber, one mail at a time. Then say that it is done.",
    tools=[list_subscribers, send_mail],
)


def start_or_resume(runtime: AgentRuntime) -> AgentHandle:
    """The execution that was interrupted, if there is one; else a new one."""
    if ID_FILE.exists():
        handle = AgentHandle(execution_id=ID_FILE.read_text().strip(), runtime=runtime)
        print(f"Resuming execution {handle.execution_id}: {handle.get_status().status}")
        return handle
    handle = runtime.start(agent, "Send this week's newsletter.")
    ID_FILE.write_text(handle.execution_id)
    print(f"Started execution {handle.execution_id}")
    return handle


def main(crash: bool) -> None:
    began = datetime.now(UTC)
    with AgentRuntime() as runtime:
        handle = start_or_resume(runtime)
        for event in handle.stream():
            when = "done already" if event.at and event.at < began else "now"
            if event.type is EventType.TOOL_RESULT:
                print(f"  {when}: {event.tool_name} → {event.result}", flush=True)
            elif event.type is EventType.RECOVERED:
                print("  recovered: the agent has a new process", flush=True)
            elif event.type is EventType.TOOL_CALL and crash and event.args.get("to") == SUBSCRIBERS[2]:
                print(f"  killing this program while the mail to {event.args['to']} goes out", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        result = handle.join()
    ID_FILE.unlink()
    result.print_result()


if __name__ == "__main__":
    main(crash="--crash" in sys.argv)
