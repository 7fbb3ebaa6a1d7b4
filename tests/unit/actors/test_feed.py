"""The live end of a journal: numbers without gaps, waiting, and readers that come and go."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from agentspan.actors.feed import NO_TOKENS, TOKENS_MAX, WINDOW_RECORDS_MAX, Feed
from agentspan.engine import records as r
from agentspan.engine.events import count_events
from tests.support.situations import answered, finished, message, plan, started
from tests.support.virtual_time import clock, jump, until, virtual


class Journal:
    """Publishes records with the numbers a driver would give them."""

    def __init__(self, feed: Feed, told: int = 0) -> None:
        self.feed = feed
        self.events = told
        feed.open(told)

    def publish(self, *records: r.AnyRecord) -> None:
        applied = []
        for record in records:
            self.events += count_events(record)
            applied.append((record, self.events))
        self.feed.publish(applied)


def seqs(page: dict[str, Any] | None) -> list[int]:
    assert page is not None
    return [event["seq"] for event in page["events"]]


def test_events_are_numbered_on_from_what_the_journal_told_before():
    feed = Feed("ex-1")
    journal = Journal(feed, told=7)
    journal.publish(message("a"), answered(plan("c1"), text="Hm."))
    journal.publish(message("b"))
    assert seqs(feed.read(7)) == [8, 9, 10, 11]
    assert seqs(feed.read(9)) == [10, 11]
    assert seqs(feed.read(11)) == []
    assert feed.read(11)["next"] == 11  # type: ignore[index]


def test_a_reader_that_resumes_at_any_number_gets_every_event_once():
    feed = Feed("ex-1")
    journal = Journal(feed)
    journal.publish(started(), answered(plan("c1"), plan("c2", "refund", "approval"), text="x"), message(), finished())
    for after in range(journal.events + 1):
        assert seqs(feed.read(after)) == list(range(after + 1, journal.events + 1))


def test_records_that_tell_nothing_do_not_move_the_numbers():
    feed = Feed("ex-1")
    journal = Journal(feed)
    journal.publish(started(), r.SessionLoaded(at=0.0, messages=[]), message())
    assert seqs(feed.read(0)) == [1, 2]


def test_what_is_older_than_the_window_has_to_be_read_from_the_store():
    feed = Feed("ex-1")
    assert feed.read(0) is None, "nothing is known before the journal was loaded"
    journal = Journal(feed, told=5)
    assert feed.read(4) is None
    assert seqs(feed.read(5)) == []
    for number in range(WINDOW_RECORDS_MAX + 10):
        journal.publish(message(number))
    assert feed.read(14) is None
    assert seqs(feed.read(15)) == list(range(16, journal.events + 1))


@virtual
async def test_a_reader_waits_for_the_next_event_and_not_longer():
    feed = Feed("ex-1")
    journal = Journal(feed)
    reader = asyncio.create_task(feed.wait(0, 0, 30.0))
    await jump(1)
    assert not reader.done()
    before = clock()
    journal.publish(started())
    assert seqs(await reader) == [1]
    assert clock() - before < 0.1


@virtual
async def test_a_reader_that_waits_in_vain_gets_an_empty_page():
    feed = Feed("ex-1")
    Journal(feed, told=3)
    before = clock()
    page = await feed.wait(3, 0, 30.0)
    assert (seqs(page), page["next"], page["closed"]) == ([], 3, False)  # type: ignore[index]
    assert 30 <= clock() - before < 31
    assert seqs(await feed.wait(3, 0, 0.0)) == []


@virtual
async def test_a_reader_that_comes_before_the_journal_is_loaded_waits_for_it():
    feed = Feed("ex-1")
    early, other = (asyncio.create_task(feed.wait(after, 0, 30.0)) for after in (2, 5))
    await jump(1)
    assert not early.done()
    journal = Journal(feed, told=5)
    assert await early is None, "what it wants is in the store"
    journal.publish(message())
    assert seqs(await other) == [6]
    assert await Feed("ex-1").wait(0, 0, 1.0) is None


@virtual
async def test_a_reader_of_the_incarnation_before_is_not_deaf_to_this_ones_tokens():
    feed = Feed("ex-1")
    Journal(feed)
    feed.token("new")
    page = await feed.wait(0, 40, 1.0)
    assert page is not None
    assert (page["tokens"], page["next_token"]) == (["new"], 1)
    assert (await feed.wait(0, NO_TOKENS, 1.0))["tokens"] == []  # type: ignore[index]


@virtual
async def test_many_readers_are_woken_together_and_leave_nothing_behind():
    feed = Feed("ex-1")
    journal = Journal(feed)
    readers = [asyncio.create_task(feed.wait(0, 0, 30.0)) for _ in range(20)]
    gone = [asyncio.create_task(feed.wait(0, 0, 30.0)) for _ in range(20)]
    await jump(1)
    for reader in gone:
        reader.cancel()
    await asyncio.wait(gone)
    assert len(feed._waiters) == 20, "a reader that went away is not kept"
    journal.publish(started())
    assert [seqs(await reader) for reader in readers] == [[1]] * 20
    assert feed._waiters == set()


@virtual
async def test_the_end_wakes_every_reader_for_good():
    feed = Feed("ex-1")
    Journal(feed)
    reader = asyncio.create_task(feed.wait(0, 0, 30.0))
    await jump(1)
    feed.close()
    page = await reader
    assert page is not None
    assert page["closed"]
    assert (await feed.wait(0, 0, 30.0))["closed"]  # type: ignore[index]


@virtual
async def test_tokens_are_told_live_and_replaced_by_the_text_they_were():
    feed = Feed("ex-1")
    journal = Journal(feed)
    reader = asyncio.create_task(feed.wait(0, 0, 30.0))
    await jump(1)
    feed.token("Hel")
    page = await reader
    assert page is not None
    assert (page["tokens"], page["events"]) == (["Hel"], [])
    feed.token("lo")
    assert (await feed.wait(0, page["next_token"], 1.0))["tokens"] == ["lo"]  # type: ignore[index]
    journal.publish(started(), answered(text="Hello"))
    page = feed.read(0, 0)
    assert page is not None
    assert page["tokens"] == []
    assert page["next_token"] == 2, "later tokens are numbered on"


def test_tokens_are_bounded():
    feed = Feed("ex-1")
    Journal(feed)
    for number in range(TOKENS_MAX + 5):
        feed.token(str(number))
    page = feed.read(0, 0)
    assert page is not None
    assert len(page["tokens"]) == TOKENS_MAX
    assert page["tokens"][-1] == str(TOKENS_MAX + 4)


async def test_a_reader_on_another_loop_is_woken_too():
    feed = Feed("ex-1")
    journal = Journal(feed)
    pages: list[Any] = []
    reader = threading.Thread(target=lambda: pages.append(asyncio.run(feed.wait(0, 0, 30.0))))
    reader.start()
    async with asyncio.timeout(10):
        while not feed._waiters:  # noqa: ASYNC110 - the other thread's loop has no event to wait for.
            await asyncio.sleep(0)
    journal.publish(started())
    await asyncio.to_thread(reader.join, 10)
    assert seqs(pages[0]) == [1]


async def test_a_reader_whose_loop_is_closed_does_not_disturb_the_others():
    feed = Feed("ex-1")
    journal = Journal(feed)
    loop = asyncio.new_event_loop()
    feed._waiters.add((loop, loop.create_future()))
    loop.close()
    journal.publish(started())
    assert seqs(feed.read(0)) == [1]


@virtual
async def test_nothing_is_lost_between_reading_and_waiting():
    """Whatever the order of publisher and reader, a reader that follows `next` sees every number once."""
    feed = Feed("ex-1")
    journal = Journal(feed)
    seen: list[int] = []

    async def follow() -> None:
        after = 0
        while True:
            page = await feed.wait(after, 0, 5.0)
            assert page is not None
            seen.extend(seqs(page))
            after = page["next"]
            if page["closed"]:
                return

    reader = asyncio.create_task(follow())
    for number in range(50):
        journal.publish(*(message(number) for _ in range(number % 3)))
        await asyncio.sleep(0 if number % 2 else 0.01)
    await until(lambda: len(seen) == journal.events)
    feed.close()
    await reader
    assert seen == list(range(1, journal.events + 1))
