"""The two agents of the demo: one that researches, one that asks before it pays money back.

Their models play scripts (`agentspan/testing/scripts/demo_*.json`), so no key and no network is needed; all else is
what it is in any agent. The tools work for a second or less and write down what they did in the demo's ledger.
"""

from __future__ import annotations

import time

from agentspan.agents import Agent, ToolContext, tool
from agentspan.cli import demo_ledger as ledger

LIBRARY = {
    "Alarm 1202": (
        "Minutes before the first landing on the Moon, the guidance computer of Apollo 11 raised alarm 1202.",
        "A radar switch had been left in a position that cost the computer a good tenth of its time.",
        "More work was asked of it than it could do, so it threw everything out and restarted, several times.",
        "The crew heard the alarm, asked Houston, and was told to go on: the landing software kept flying.",
    ),
    "Restart protection": (
        "Each job of the landing software noted in memory, as it went along, how far it had come.",
        "The notes were kept in memory that a restart does not clear.",
        "After a restart, jobs that mattered were picked up at their last note; the others were dropped.",
        "Nothing that had been done was done again, and the engine never noticed.",
    ),
    "Core rope memory": (
        "The programs were woven: a wire through a ring was a one, a wire around it a zero.",
        "What was woven could not be damaged by a power failure, nor corrected after delivery.",
    ),
}
"""What the research agent can find: titles, and their text by paragraph."""

ORDERS = {"8821": {"item": "desk lamp", "state": "arrived broken", "paid": 129.0}}


def _work(context: ToolContext, *, parts: int, part_s: float) -> None:
    """Take as long as the real thing would, part by part, and have an effect on the world at the end."""
    ledger.write(context, ledger.BEGIN)
    for part in range(1, parts + 1):
        time.sleep(part_s)
        ledger.write(context, ledger.PROGRESS, part=part)
    ledger.write(context, ledger.EFFECT)


@tool
def search(words: str, context: ToolContext) -> list[str]:
    """Find pages in the library.

    Args:
        words: What to look for.
    """
    _work(context, parts=1, part_s=0.4)
    wanted = set(words.lower().split())
    return [title for title, text in LIBRARY.items() if wanted & set(f"{title} {' '.join(text)}".lower().split())]


@tool
def read_page(title: str, context: ToolContext) -> str:
    """Read a page of the library, paragraph by paragraph.

    Args:
        title: As `search` gave it.
    """
    paragraphs = LIBRARY[title]
    _work(context, parts=len(paragraphs), part_s=0.3)
    return " ".join(paragraphs)


@tool
def take_notes(notes: list[str], context: ToolContext) -> str:
    """Keep notes for the report.

    Args:
        notes: One sentence each.
    """
    _work(context, parts=1, part_s=0.3)
    context.state["notes"] = [*context.state.get("notes", []), *notes]
    return f"{len(context.state['notes'])} notes kept"


@tool
def write_report(title: str, context: ToolContext) -> str:
    """Publish a report made of the notes taken so far.

    Args:
        title: Its headline.
    """
    _work(context, parts=2, part_s=0.25)
    return f"published: {title} ({len(context.state['notes'])} paragraphs)"


@tool
def look_up_order(order_id: str, context: ToolContext) -> dict[str, object]:
    """Look up an order.

    Args:
        order_id: Its number.
    """
    _work(context, parts=1, part_s=0.3)
    return dict(ORDERS[order_id])


@tool(approval_required=True)
def refund(order_id: str, amount: float, context: ToolContext) -> str:
    """Pay money back. A person has to approve it.

    Args:
        order_id: The order it is for.
        amount: In dollars.
    """
    _work(context, parts=1, part_s=0.4)
    return f"${amount:.2f} paid back for order {order_id}"


researcher = Agent(
    name="researcher",
    model="scripted/demo_research",
    instructions="Find out what is asked, and publish a short report.",
    tools=[search, read_page, take_notes, write_report],
)
support = Agent(
    name="support",
    model="scripted/demo_refund",
    instructions="Help customers. Look the order up before you refund it.",
    tools=[look_up_order, refund],
)
AGENTS = {agent.name: agent for agent in (researcher, support)}
