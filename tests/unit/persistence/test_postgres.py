"""The Postgres store beyond the contract: groups, processes, restarts, proxies, limits, secrets."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from agentspan.config import Settings
from agentspan.errors import (
    AgentspanError,
    ConfigurationError,
    CorruptRecordError,
    StaleEpochError,
    StoreUnavailableError,
    StoreVersionError,
)
from agentspan.persistence.opening import open_store
from agentspan.persistence.postgres import PostgresStore
from agentspan.persistence.postgres_link import Batch, Last, Work
from agentspan.persistence.postgres_session import Ask
from agentspan.persistence.postgres_url import read_url, without_password
from agentspan.persistence.store import Commit
from agentspan.testing.store_rules.building import ask, begin, entry, finish, new, step
from agentspan.testing.store_rules.building import signal as told
from tests.support.pooler import pooler
from tests.support.postgres import DATABASE, PASSWORD, USER, PostgresServer

SPAWN = multiprocessing.get_context("spawn")
BIG = "large value " * 3000


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.emptied_url()


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore.open(url) as opened:
        yield opened


# --- groups


async def test_commits_that_wait_together_share_a_transaction(store: PostgresStore) -> None:
    await asyncio.gather(*(begin(store, f"e{number}") for number in range(40)))
    before = store.transactions
    await asyncio.gather(*(store.commit(step(f"e{number}", entry(1, n=number))) for number in range(40)))
    assert store.transactions - before < 10
    for number in range(40):
        assert (await store.journal(f"e{number}"))[1].body == {"n": number}


async def test_a_lone_commit_is_one_transaction(store: PostgresStore) -> None:
    await begin(store)
    before = store.transactions
    await store.commit(step("e1", entry(1)))
    assert store.transactions - before == 1


async def test_each_of_a_group_succeeds_or_is_refused_by_itself(store: PostgresStore) -> None:
    for number in range(8):
        await begin(store, f"e{number}")
    await store.take_over("e3", host={})
    commits: list[Commit] = [step(f"e{number}", entry(1, n=number)) for number in range(6)]
    commits += [
        step("e6", entry(1, big=BIG), snapshot={"all": BIG}),
        step("e7", entry(1), status="WAITING", opens=[ask("e7", "c1")]),
        step("nobody", entry(1)),
    ]
    # One is queued alone and keeps the thread busy, so the others are together.
    first = asyncio.create_task(store.row("e0"))
    results = await asyncio.gather(*map(store.commit, commits), return_exceptions=True)
    await first
    assert [type(result).__name__ for result in results] == [
        *["Receipt"] * 3,
        "StaleEpochError",
        *["Receipt"] * 4,
        "UnknownExecutionError",
    ]
    assert [(await store.row(f"e{number}")).seq for number in range(8)] == [1, 1, 1, 0, 1, 1, 1, 1]
    assert (await store.load("e6")).snapshot == {"all": BIG}
    assert [call.call_id for call in await store.pending("e7")] == ["c1"]


async def test_a_write_that_fails_half_way_leaves_nothing_and_its_neighbours_stay(store: PostgresStore) -> None:
    def insert(name: str, failure: Exception | None = None, sql: str = "SELECT 1") -> Callable[[], Work[str]]:
        def work() -> Work[str]:
            yield Batch([Ask("INSERT INTO current_deployments VALUES (%s, 'd')", (name,))])
            yield Batch([Ask(sql)])
            if failure is not None:
                raise failure
            return name

        return work

    works = [
        insert("first"),  # Alone: the writer takes it at once.
        insert("a"),
        insert("b", ValueError("refused")),
        insert("c"),
        insert("d", sql="SELECT 1 / 0"),
        insert("e"),
    ]
    results = await asyncio.gather(*map(store._link.write, works), return_exceptions=True)
    assert [type(result) for result in results] == [str, str, ValueError, str, StoreUnavailableError, str]

    def names() -> Work[list[str]]:
        (found,) = yield Last([Ask("SELECT agent FROM current_deployments ORDER BY 1")])
        return [name for (name,) in found.rows]

    assert await store._link.read(names) == ["a", "c", "e", "first"]


async def test_one_execution_commits_in_order_while_others_do(store: PostgresStore) -> None:
    async def run(name: str) -> None:
        await begin(store, name)
        for seq in range(1, 21):
            await store.commit(step(name, entry(seq, n=seq)))

    names = [f"e{number}" for number in range(8)]
    await asyncio.gather(*map(run, names))
    for name in names:
        assert [one.seq for one in await store.journal(name)] == list(range(21))


async def test_writes_to_one_execution_that_wait_together_keep_their_order(store: PostgresStore) -> None:
    await begin(store)
    commits = [store.commit(step("e1", entry(seq))) for seq in range(1, 31)]
    await asyncio.gather(*commits)
    assert (await store.row("e1")).seq == 30


async def test_a_cancelled_caller_does_not_disturb_the_others(store: PostgresStore) -> None:
    for number in range(3):
        await begin(store, f"e{number}")
    tasks = [asyncio.create_task(store.commit(step(f"e{number}", entry(1)))) for number in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert (await store.row("e0")).seq == (await store.row("e2")).seq == 1
    await store.commit(step("e1", entry(1)))


async def test_a_commit_of_many_records_is_one_step(store: PostgresStore) -> None:
    await begin(store)
    await store.commit(step("e1", *(entry(seq, n=seq) for seq in range(1, 1201))))
    assert [one.body["n"] for one in (await store.journal("e1", limit=5000))[1:]] == list(range(1, 1201))


async def test_a_closed_store_says_so_and_close_waits_for_what_was_sent(url: str) -> None:
    store = await PostgresStore.connect(url)
    await begin(store)
    task = asyncio.create_task(store.commit(step("e1", entry(1))))
    await asyncio.sleep(0)
    await store.close()
    await task
    for call in (store.row("e1"), store.commit(step("e1", entry(2)))):
        with pytest.raises(StoreUnavailableError, match="closed"):
            await call


async def test_a_store_belongs_to_its_loop(store: PostgresStore) -> None:
    async def use() -> None:
        with pytest.raises(RuntimeError, match="event loop"):
            await store.row("e1")

    await asyncio.to_thread(asyncio.run, use())


# --- several processes


def _run_many(url: str, first: int, executions: int, steps: int) -> None:
    async def run(store: PostgresStore, name: str) -> None:
        await begin(store, name)
        for seq in range(1, steps + 1):
            await store.commit(step(name, entry(seq, n=seq, shared=BIG if seq == 3 else "")))

    async def main() -> None:
        async with PostgresStore.open(url) as store:
            await asyncio.gather(*(run(store, f"e{first + number}") for number in range(executions)))

    asyncio.run(main())


def test_two_processes_of_fifty_executions_make_the_tables_and_write(postgres: PostgresServer) -> None:
    url = postgres.new_url()
    workers = [SPAWN.Process(target=_run_many, args=(url, first, 50, 5)) for first in (0, 50)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]

    async def check() -> None:
        async with PostgresStore.open(url) as store:
            assert sorted(row.execution_id for row in await store.rows(limit=200)) == sorted(
                f"e{n}" for n in range(100)
            )
            for number in range(100):
                bodies = [one.body for one in await store.journal(f"e{number}")]
                assert [body.get("n", 0) for body in bodies] == list(range(6))
                assert bodies[3]["shared"] == BIG

    asyncio.run(check())


async def test_many_stores_open_new_tables_at_once(postgres: PostgresServer) -> None:
    url = postgres.new_url()
    stores = await asyncio.gather(*(PostgresStore.connect(url) for _ in range(8)))
    await stores[0].create(new("e1"))
    assert [(await store.row("e1")).seq for store in stores] == [0] * 8
    for store in stores:
        await store.close()


async def test_a_request_sent_to_many_stores_creates_one_execution(url: str) -> None:
    stores = [await PostgresStore.connect(url) for _ in range(4)]
    made = await asyncio.gather(
        *(
            store.create(new(f"e{number}-{index}", request_id=f"r{number}", idempotency_key=f"k{number}"))
            for number in range(10)
            for index, store in enumerate(stores)
        )
    )
    assert sum(one.is_new for one in made) == 10
    assert len({one.execution_id for one in made}) == 10
    for store in stores:
        await store.close()


async def test_a_zombie_writes_nothing_once_its_successor_may(url: str) -> None:
    async with PostgresStore.open(url) as old, PostgresStore.open(url) as successor:
        await begin(old)
        kept: list[int] = []
        is_running = asyncio.Event()

        async def write() -> None:
            for seq in range(1, 10_000):
                await old.commit(step("e1", entry(seq, by="old")))
                kept.append(seq)
                if seq == 5:
                    is_running.set()

        async def zombie() -> None:
            with pytest.raises(StaleEpochError) as caught:
                await write()
            assert (caught.value.offered, caught.value.held) == (1, 2)

        running = asyncio.create_task(zombie())
        await is_running.wait()
        taken = await successor.take_over("e1", host={}, expected_epoch=1)
        loaded = await successor.load("e1")
        for seq in range(loaded.row.seq + 1, loaded.row.seq + 6):
            await successor.commit(step("e1", entry(seq, by="new"), epoch=taken.epoch))
        await running
        entries = (await successor.journal("e1", limit=20_000))[1:]
        assert [one.body["by"] for one in entries] == ["old"] * loaded.row.seq + ["new"] * 5
        assert len(kept) == loaded.row.seq, "what a zombie was told is kept, and nothing else"


async def test_of_many_rescuers_one_takes_over(url: str) -> None:
    stores = [await PostgresStore.connect(url) for _ in range(4)]
    await begin(stores[0])
    results = await asyncio.gather(
        *(store.take_over("e1", host={}, expected_epoch=1) for store in stores), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["StaleEpochError"] * 3 + ["TakenOver"]
    for store in stores:
        await store.close()


async def test_gc_never_takes_a_large_value_that_somebody_just_refers_to(url: str) -> None:
    async with PostgresStore.open(url) as store, PostgresStore.open(url) as sweeper:
        done = asyncio.Event()

        async def sweep() -> None:
            while not done.is_set():
                await sweeper.gc(finished_before=1e12, dry_run=False)

        sweeping = asyncio.create_task(sweep())
        for number in range(40):
            await begin(store, f"e{number}")
            await store.commit(step(f"e{number}", entry(1, value=BIG)))
            assert (await store.journal(f"e{number}"))[1].body["value"] == BIG
            await finish(store, f"e{number}", seq=2)
        done.set()
        await sweeping
        await store.gc(finished_before=1e12, dry_run=False)
        assert await store.rows() == []


# --- what breaks


async def _patiently(call: Callable[[], Any]) -> Any:
    """As the driver does it: the same again, until the store answers."""
    until = time.monotonic() + 60
    while True:
        try:
            return await call()
        except StoreUnavailableError:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)  # Every refused try is a connection to a server that just starts.


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "crash"])
async def test_a_restart_under_load_loses_nothing_that_was_acknowledged(
    postgres: PostgresServer, url: str, how: signal.Signals
) -> None:
    acknowledged: dict[str, int] = {}
    failures: list[str] = []
    stop = asyncio.Event()
    more: asyncio.Queue[str] = asyncio.Queue()

    async with PostgresStore.open(url) as store:

        async def run(name: str) -> None:
            seq = 0
            while not stop.is_set():
                commit = step(name, entry(seq + 1, n=seq + 1, pad="x" * 500))
                try:
                    await store.commit(commit)
                except StoreUnavailableError as problem:
                    failures.append(str(problem))
                    await _patiently(lambda commit=commit: store.commit(commit))
                seq += 1
                acknowledged[name] = seq
                more.put_nowait(name)

        names = [f"e{number}" for number in range(20)]
        for name in names:
            await begin(store, name)
        tasks = [asyncio.create_task(run(name)) for name in names]
        for _ in range(2):
            for _ in range(200):
                await more.get()
            await asyncio.to_thread(postgres.restart, how)
        while not more.empty():
            more.get_nowait()
        for _ in range(200):
            await more.get()
        stop.set()
        await asyncio.gather(*tasks)
        assert failures
        assert not any(PASSWORD in failure for failure in failures)
    async with PostgresStore.open(url) as store:
        for name in names:
            entries = await store.journal(name, limit=10_000)
            assert [one.body.get("n", 0) for one in entries] == list(range(acknowledged[name] + 1))


async def test_an_idle_connection_that_the_server_closed_is_replaced_unseen(
    postgres: PostgresServer, store: PostgresStore
) -> None:
    await begin(store)
    await store.row("e1")
    assert await asyncio.to_thread(postgres.terminate) == 2
    await store.commit(step("e1", entry(1)))
    assert (await store.row("e1")).seq == 1
    await asyncio.to_thread(postgres.restart)
    assert (await store.row("e1")).seq == 1
    await store.commit(step("e1", entry(2)))


async def test_terminated_backends_under_load_lose_nothing(postgres: PostgresServer, store: PostgresStore) -> None:
    async def run(name: str) -> None:
        for seq in range(1, 61):
            await _patiently(lambda seq=seq: store.commit(step(name, entry(seq, n=seq))))
            await _patiently(lambda: store.row(name))

    names = [f"e{number}" for number in range(10)]
    for name in names:
        await begin(store, name)
    tasks = [asyncio.create_task(run(name)) for name in names]
    terminated = 0
    while not all(task.done() for task in tasks):
        terminated += await asyncio.to_thread(postgres.terminate)
    await asyncio.gather(*tasks)
    assert terminated
    for name in names:
        assert [one.body.get("n", 0) for one in await store.journal(name)] == list(range(61))


async def test_calls_fail_while_the_server_is_down(postgres: PostgresServer, store: PostgresStore) -> None:
    await begin(store)
    await asyncio.to_thread(postgres.stop)
    try:
        for call in (store.row("e1"), store.commit(step("e1", entry(1)))):
            with pytest.raises(StoreUnavailableError) as caught:
                await call
            assert PASSWORD not in str(caught.value)
        with pytest.raises(StoreUnavailableError):
            await PostgresStore.connect(postgres.url())
    finally:
        await asyncio.to_thread(postgres.start)
    await store.commit(step("e1", entry(1)))


async def test_every_call_has_a_deadline(postgres: PostgresServer, url: str) -> None:
    async with PostgresStore.open(url + "&timeout=1") as store:
        await begin(store)
        with postgres.admin() as db, db.transaction():
            db.execute("LOCK TABLE shared.executions")
            for call in (store.commit(step("e1", entry(1))), store.row("e1")):
                with pytest.raises(StoreUnavailableError, match="timeout"):
                    await call
        await store.commit(step("e1", entry(1)))


async def test_a_server_that_hangs_is_given_up(postgres: PostgresServer, url: str) -> None:
    async with PostgresStore.open(url + "&timeout=1") as store:
        await begin(store)
        await store.row("e1")
        with postgres.admin() as db:
            found = db.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'agentspan'").fetchall()
        pids = [int(str(pid)) for (pid,) in found]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailableError, match="no answer within 1 s"):
                await store.row("e1")
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        await _patiently(lambda: store.commit(step("e1", entry(1))))


async def test_a_damaged_row_is_noticed_and_only_there(postgres: PostgresServer, store: PostgresStore) -> None:
    for name in ("e1", "e2"):
        await begin(store, name)
        await store.commit(step(name, entry(1), status="WAITING", opens=[ask(name, "c1")]))
    with postgres.admin() as db:
        mine = "execution = (SELECT id FROM shared.executions WHERE execution_id = 'e1')"
        db.execute(f"UPDATE shared.records SET kind = 'model' WHERE seq = 1 AND {mine}")
        db.execute(f"UPDATE shared.pending SET body = body || '\\x00' WHERE {mine}")
    with pytest.raises(CorruptRecordError, match="record 1"):
        await store.load("e1")
    assert [call.execution_id for call in await store.pending()] == ["e2"]
    assert (await store.load("e2")).row.seq == 1


# --- proxies, connections


@pytest.mark.parametrize("connections", [1, 2, 4])
async def test_a_process_holds_few_connections_and_lets_unused_ones_go(
    postgres: PostgresServer, url: str, connections: int
) -> None:
    async with PostgresStore.open(f"{url}&max_connections={connections}&idle=0.5") as store:

        async def run(name: str) -> None:
            await begin(store, name)
            await asyncio.gather(store.load(name), store.rows(), store.commit(step(name, entry(1))))

        tasks = [asyncio.create_task(run(f"e{number}")) for number in range(60)]
        most = 0
        while not all(task.done() for task in tasks):
            most = max(most, await asyncio.to_thread(postgres.connections))
        await asyncio.gather(*tasks)
        assert 0 < most <= connections
        until = time.monotonic() + 20
        while await asyncio.to_thread(postgres.connections):
            assert time.monotonic() < until
        assert (await store.row("e7")).seq == 1


async def test_it_works_through_a_proxy_that_pools_transactions(postgres: PostgresServer) -> None:
    schema = postgres.new_url().partition("schema=")[2]
    async with pooler(postgres.url()) as proxy:
        url = f"postgresql://{USER}@127.0.0.1:{proxy.port}/{DATABASE}?schema={schema}"
        async with PostgresStore.open(url) as store, PostgresStore.open(url) as other:

            async def run(store: PostgresStore, name: str) -> None:
                await begin(store, name)
                for seq in range(1, 11):
                    await store.commit(step(name, entry(seq, n=seq, big=BIG if seq == 5 else "")))
                await store.send(told(name, "message", value="hi"))
                await finish(store, name, seq=11)

            await asyncio.gather(*(run((store, other)[number % 2], f"e{number}") for number in range(10)))
            for number in range(10):
                assert len((await other.load(f"e{number}")).entries) == 12
            assert (await store.gc(finished_before=1e12, dry_run=False)).executions == 10
        assert len(proxy.used) == 3
        assert proxy.transactions > 30


async def test_statements_may_be_prepared(url: str) -> None:
    async with PostgresStore.open(url + "&prepare=true") as store:
        await begin(store)
        for seq in range(1, 21):
            await store.commit(step("e1", entry(seq, n=seq)))
        assert (await store.row("e1")).seq == 20


# --- opening


async def test_the_tables_of_another_program_are_left_alone(postgres: PostgresServer) -> None:
    with postgres.admin() as db:
        db.execute("CREATE SCHEMA IF NOT EXISTS taken")
        db.execute("CREATE TABLE IF NOT EXISTS taken.users (name text)")
    with pytest.raises(ConfigurationError, match="another program"):
        await PostgresStore.connect(postgres.url(schema="taken"))


async def test_tables_of_a_newer_version_are_left_alone(postgres: PostgresServer) -> None:
    url = postgres.new_url()
    await (await PostgresStore.connect(url)).close()
    with postgres.admin() as db:
        db.execute(f"UPDATE {url.partition('schema=')[2]}.agentspan_store SET version = 99")
    with pytest.raises(StoreVersionError):
        await PostgresStore.connect(url)


async def test_a_database_without_utf8_is_refused(postgres: PostgresServer) -> None:
    with postgres.admin("postgres") as db:
        db.execute("DROP DATABASE IF EXISTS latin")
        db.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    with pytest.raises(ConfigurationError, match="LATIN1"):
        await PostgresStore.connect(postgres.url("latin"))


async def test_what_never_heals_is_a_configuration_error_without_the_password(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "wr0ng-secret"
    for url in (
        postgres.url("nowhere"),
        f"postgresql://{USER}:{wrong}@127.0.0.1:{postgres.port}/{DATABASE}",
        f"postgresql://127.0.0.1:{postgres.port}/{DATABASE}?user={USER}&password={wrong}",
        f"postgresql://{USER}:{wrong}@127.0.0.1:{postgres.port}/{DATABASE}?colour={wrong}",
        f"postgresql+asyncpg://{USER}:{wrong}@h/db",
        f"postgresql://{USER}:{wrong}@h/db?schema=Bad-{USER}",
        f"postgresql://{USER}:{wrong}@[h/db",
    ):
        with pytest.raises(ConfigurationError) as caught:
            await open_store(url)
        problem: BaseException | None = caught.value
        while problem is not None:
            assert wrong not in str(problem)
            assert PASSWORD not in str(problem)
            problem = problem.__cause__ or (None if problem.__suppress_context__ else problem.__context__)
    assert wrong not in caplog.text


async def test_the_password_is_shown_nowhere(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = await open_store(url)
    assert isinstance(store, PostgresStore)
    info = await store.info()
    await store.close()
    shown = [repr(Settings(store=url)), str(info), repr(store), repr(store._link.target), store.where, caplog.text]
    with pytest.raises(AgentspanError) as caught:
        await store.row("e1")
    for text in (*shown, str(caught.value)):
        assert PASSWORD not in text
        assert "s3cr3t" not in text
    assert info["kind"] == "postgres"
    assert info["where"] == without_password(url)
    assert info["bytes"] > 0


async def test_without_the_driver_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'agentspan\[postgres\]'"):
        await open_store("postgresql://u:p@h/db")


async def test_names_with_nul_and_private_characters_come_back(store: PostgresStore) -> None:
    odd = "a\x00b\ue000c\ue0000"
    await begin(store, odd, session_id=odd, idempotency_key=odd)
    await store.commit(
        step(odd, entry(1), status="WAITING", current_task="\x00", opens=[ask(odd, odd)], error="no\x00"),
    )
    await store.send(told(odd, "approve", signal_id=odd))
    row = await store.row(odd)
    assert (row.execution_id, row.session_id, row.idempotency_key, row.current_task) == (odd, odd, odd, "\x00")
    assert await store.find("a\x00") == odd
    assert [one.signal_id for one in await store.inbox(odd)] == [odd]
    assert not (await store.create(new("other", idempotency_key=odd))).is_new


@pytest.mark.parametrize(
    ("url", "where", "rest"),
    [
        ("postgresql://u:p%40ss@h:5/db?sslmode=require", "postgresql://u@h:5/db", {}),
        (
            "postgres://h/db?schema=mine&max_connections=4",
            "postgresql://h/db",
            {"schema": "mine", "max_connections": 4},
        ),
        ("postgresql:///db?host=/run/pg&user=ann", "postgresql://ann@/run/pg/db", {}),
        (
            "postgresql://u:p@h1:1,h2:2/db?timeout=3&idle=0",
            "postgresql://u@h1:1,h2:2/db",
            {"timeout_s": 3.0, "idle_s": 0.0},
        ),
        ("postgresql://u:p@[::1]/db?prepare=true", "postgresql://u@[::1]/db", {"prepare": True}),
    ],
)
def test_urls_are_understood(url: str, where: str, rest: dict[str, Any]) -> None:
    target = read_url(url)
    assert target.where == without_password(url) == where
    assert {name: getattr(target, name) for name in rest} == rest
    assert not any(name in target.conninfo for name in ("schema=", "max_connections=", "timeout=", "prepare="))


@pytest.mark.parametrize(
    "query",
    ["max_connections=0", "max_connections=two", "max_connections=1.5", "timeout=0", "schema=pg_x", "prepare=1"],
)
def test_urls_that_make_no_sense_are_refused(query: str) -> None:
    with pytest.raises(ConfigurationError, match=query.partition("=")[0]):
        read_url(f"postgresql://h/db?{query}")
