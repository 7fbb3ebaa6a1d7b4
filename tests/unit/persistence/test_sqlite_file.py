"""What a SQLite store does with files: new, old, newer, foreign, damaged."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from importlib import resources
from pathlib import Path

import pytest

from agentspan.errors import (
    ConfigurationError,
    CorruptRecordError,
    StoreUnavailableError,
    StoreVersionError,
)
from agentspan.persistence import sqlite_file
from agentspan.persistence.opening import open_store, sqlite_path
from agentspan.persistence.sqlite import SqliteStore
from agentspan.persistence.sqlite_file import log_bytes
from agentspan.testing.store_rules.building import ask, begin, begin_asking, entry, signal, step


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "here" / "store.db"


def change(path: Path, statement: str, *values: object) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    assert db.execute(statement, values).rowcount != 0
    db.close()


async def test_a_new_file_is_private_and_of_the_current_version(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        facts = await store.info()
        assert (facts["kind"], facts["where"]) == ("sqlite", str(path))
        assert facts["schema_version"] == sqlite_file.SCHEMA_VERSION
        assert facts["bytes"] > 0
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert set(modes.values()) == {0o600}
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA page_size").fetchone() == (sqlite_file.PAGE_BYTES,)
    db.close()


async def test_a_newer_store_is_refused_and_not_changed(path: Path) -> None:
    async with SqliteStore.open(path):
        pass
    change(path, "PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StoreVersionError) as caught:
        await SqliteStore.connect(path)
    assert (caught.value.found, caught.value.known, caught.value.where) == (99, sqlite_file.SCHEMA_VERSION, str(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one" * 100, b"PK\x03\x04"])
async def test_a_file_that_is_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"notes\.txt is not an AgentSpan store"):
        await SqliteStore.connect(path)
    assert path.read_bytes() == content


async def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    change(path, "CREATE TABLE songs (title TEXT)")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="another program"):
        await SqliteStore.connect(path)
    assert path.read_bytes() == before


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="directory"):
        await SqliteStore.connect(tmp_path)


async def test_a_path_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreUnavailableError):
        await SqliteStore.connect(tmp_path / "file" / "store.db")


async def test_a_file_that_stays_locked_is_unavailable(path: Path) -> None:
    async with SqliteStore.open(path, locked_max_s=0.05) as store:
        await begin(store)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked") as caught:
            await store.commit(step("e1", entry(1)))
        assert caught.value.where == str(path)
        assert (await store.row("e1")).seq == 0, "readers do not wait for writers"
        other.execute("COMMIT")
        other.close()
        await store.commit(step("e1", entry(1)))


def test_the_last_migration_is_the_schema_version() -> None:
    folder = resources.files("agentspan.persistence") / "migrations" / "sqlite"
    numbers = sorted(int(file.name[:4]) for file in folder.iterdir() if file.name.endswith(".sql"))
    assert numbers == list(range(1, sqlite_file.SCHEMA_VERSION + 1))


async def test_a_migration_that_fails_leaves_the_store_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteStore.open(path) as store:
        await begin(store)
    released, last = sqlite_file.migration, sqlite_file.SCHEMA_VERSION

    def broken(number: int) -> str:
        return released(number) if number <= last else "CREATE TABLE extra (x);\nCREATE TABLE records (x);\n"

    monkeypatch.setattr(sqlite_file, "SCHEMA_VERSION", sqlite_file.SCHEMA_VERSION + 1)
    monkeypatch.setattr(sqlite_file, "migration", broken)
    with pytest.raises(StoreUnavailableError, match="records already exists"):
        await SqliteStore.connect(path)
    monkeypatch.undo()
    async with SqliteStore.open(path) as store:
        assert (await store.row("e1")).epoch == 1
    db = sqlite3.connect(path)
    assert db.execute("SELECT name FROM sqlite_master WHERE name = 'extra'").fetchone() is None
    db.close()


async def test_an_older_store_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SqliteStore.open(path) as store:
        await begin(store)
    monkeypatch.setattr(sqlite_file, "SCHEMA_VERSION", sqlite_file.SCHEMA_VERSION + 1)
    monkeypatch.setattr(sqlite_file, "migration", lambda number: f"-- {number}\nCREATE TABLE extra (x);\n-- end\n")
    async with SqliteStore.open(path) as store:
        assert (await store.info())["schema_version"] == sqlite_file.SCHEMA_VERSION
        assert (await store.row("e1")).epoch == 1


def test_a_migration_that_ends_inside_a_statement_is_refused() -> None:
    with pytest.raises(ValueError, match="ends inside a statement"):
        list(sqlite_file.statements("CREATE TABLE a (x);\nCREATE TABLE b (x)"))


# --- damage


async def prepared(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        for name in ("e1", "e2"):
            await begin(store, name, metadata={"team": "a"})
            await store.commit(step(name, entry(1, a=1), snapshot={"n": 1}))
            await store.commit(step(name, entry(2, big="x" * 50_000)))


FLIP = "CAST(substr({0}, 1, length({0}) - 1) || char(7) AS BLOB)"
FIRST = "(SELECT id FROM executions WHERE execution_id = 'e1')"
DAMAGE: dict[str, tuple[str, str, str]] = {
    "a record's body": (
        f"UPDATE records SET body = {FLIP.format('body')} WHERE id = {FIRST} << 32 | 2",
        "record 2",
        "",
    ),
    "a record's kind": (f"UPDATE records SET kind = 'model' WHERE id = {FIRST} << 32 | 2", "record 2", "digest"),
    "a record's event number": (f"UPDATE records SET events_to = 9 WHERE id = {FIRST} << 32 | 2", "record 2", "digest"),
    "a lost record": (f"DELETE FROM records WHERE id = {FIRST} << 32 | 2", "record 2", "missing"),
    "a record of nowhere": (
        f"INSERT INTO records SELECT id + 1, kind, epoch, events_to, body FROM records WHERE id = {FIRST} << 32 | 2",
        "record 3",
        "too much",
    ),
    "a snapshot's body": (
        f"UPDATE snapshots SET body = {FLIP.format('body')} WHERE execution = {FIRST}",
        "snapshot",
        "",
    ),
    "a snapshot's seq": (f"UPDATE snapshots SET seq = 0 WHERE execution = {FIRST}", "snapshot", "digest"),
    "another execution's snapshot": (
        f"UPDATE snapshots SET body = (SELECT s.body FROM snapshots s WHERE s.execution <> {FIRST}) "
        f"WHERE execution = {FIRST}",
        "snapshot",
        "digest",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
async def test_damage_stops_its_execution_and_no_other(path: Path, case: str) -> None:
    await prepared(path)
    statement, what, problem = DAMAGE[case]
    change(path, statement)
    async with SqliteStore.open(path) as store:
        with pytest.raises(CorruptRecordError) as caught:
            await store.load("e1")
        assert (caught.value.execution_id, caught.value.what) == ("e1", what)
        assert problem in caught.value.problem
        assert (await store.load("e2")).row.seq == 2
        assert len(await store.rows()) == len(await store.unfinished()) == 2
        await store.quarantine("e1", error=str(caught.value))
        assert (await store.row("e1")).status == "QUARANTINED"


@pytest.mark.parametrize("statement", ["UPDATE blobs SET body = zeroblob(length(body))", "DELETE FROM blobs"])
async def test_a_damaged_large_value_stops_those_that_refer_to_it(path: Path, statement: str) -> None:
    await prepared(path)
    change(path, statement)
    async with SqliteStore.open(path) as store:
        with pytest.raises(CorruptRecordError, match="large value"):
            await store.journal("e1")
        assert len(await store.journal("e1", limit=2)) == 2


async def test_every_flipped_byte_of_a_record_is_noticed(path: Path) -> None:
    await prepared(path)
    db = sqlite3.connect(path, isolation_level=None)
    (number, body) = db.execute(f"SELECT id, body FROM records WHERE id = {FIRST} << 32 | 1").fetchone()
    async with SqliteStore.open(path) as store:
        for index in range(len(body)):
            damaged = body[:index] + bytes([body[index] ^ 0x40]) + body[index + 1 :]
            db.execute("UPDATE records SET body = ? WHERE id = ?", (damaged, number))
            with pytest.raises(CorruptRecordError, match="record 1"):
                await store.journal("e1")
    db.close()


async def test_damaged_metadata_shows_in_its_row_only(path: Path) -> None:
    await prepared(path)
    change(path, f"UPDATE metadata SET body = zeroblob(20) WHERE execution = {FIRST}")
    async with SqliteStore.open(path) as store:
        by_id = {row.execution_id: row.metadata for row in await store.rows()}
        assert list(by_id["e1"]) == ["damaged"]
        assert by_id["e2"] == {"team": "a"}
        assert (await store.load("e1")).row.seq == 2


async def test_a_damaged_pending_call_does_not_hide_the_others(path: Path) -> None:
    async with SqliteStore.open(path) as store:
        for name in ("e1", "e2"):
            await begin_asking(store, ask(name, "c1"), execution_id=name)
            await store.send(signal(name, "message", value="hi"))
        change(path, f"UPDATE pending SET body = zeroblob(20) WHERE execution = {FIRST}")
        change(path, f"UPDATE inbox SET body = zeroblob(20) WHERE execution = {FIRST}")
        assert [call.execution_id for call in await store.pending()] == ["e2"]
        for damaged in (store.pending("e1"), store.inbox("e1")):
            with pytest.raises(CorruptRecordError):
                await damaged
        assert len(await store.inbox("e2")) == 1


# --- URLs


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////var/lib/a.db", "/var/lib/a.db"),
        ("sqlite:///a.db", "a.db"),
        ("/var/lib/a.db", "/var/lib/a.db"),
        ("~/a.db", "~/a.db"),
        (Path("a.db"), "a.db"),
    ],
)
def test_urls_and_paths_name_files(url: str | Path, path: str) -> None:
    assert sqlite_path(url) == Path(path)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("memory:", "belongs to one process"),
        (":memory:", "belongs to one process"),
        ("sqlite:///:memory:", "belongs to one process"),
        ("postgresql://u@h/db", "is a Postgres server, not a file"),
        ("postgres://u@h/db", "is a Postgres server, not a file"),
        ("mysql://h/db", "not a store AgentSpan knows"),
        ("sqlite://host/a.db", "not a store AgentSpan knows"),
        ("sqlite:///", "names no file"),
        ("", "names no file"),
        ("/var/lib/", "names no file"),
    ],
)
def test_other_urls_are_refused_with_a_reason(url: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        sqlite_path(url)


async def test_open_store_opens_a_sqlite_store(path: Path) -> None:
    store = await open_store(f"sqlite:///{path}")
    assert (await store.info())["where"] == str(path)
    await store.close()


async def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    async with SqliteStore.open("~/store.db") as store:
        assert store.path == tmp_path / "store.db"


async def test_commits_do_not_change_the_length_of_the_log(path: Path) -> None:
    log = path.with_name("store.db-wal")
    async with SqliteStore.open(path) as store:
        await begin(store)
        length, used = log.stat().st_size, log_bytes(path)
        await store.commit(step("e1", entry(1, text="x" * 5000)))
        assert log.stat().st_size == length
        assert length > log_bytes(path) > used + 5000
        async with SqliteStore.open(path) as second:
            await second.commit(step("e1", entry(2)))
        assert log.stat().st_size == length


async def test_what_a_process_leaves_behind_is_whole_whenever_it_dies(path: Path, tmp_path: Path) -> None:
    def left_behind(name: str) -> Path:
        for end in ("", "-wal"):  # What another process made of them goes with the last of them.
            shutil.copy(f"{path}{end}", tmp_path / (name + end))
        return tmp_path / name

    async with SqliteStore.open(path):
        pass
    async with SqliteStore.open(path) as store:
        assert log_bytes(path) == 0, "nothing but zeros"
        nothing_yet = left_behind("nothing-yet.db")
        await begin(store)
        begun = left_behind("begun.db")
    for left, executions in ((nothing_yet, 0), (begun, 1)):
        async with SqliteStore.open(left) as store:
            assert len(await store.rows()) == executions


async def test_a_store_behind_a_link_is_the_one_it_points_to(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    async with SqliteStore.open(path) as store:
        await begin(store)
    link.symlink_to(path)
    async with SqliteStore.open(link) as store:
        assert path.with_name("store.db-wal").stat().st_size > 1_000_000
        assert len(await store.rows()) == 1


@pytest.mark.parametrize("zeros", [0, 1, 31, 535, 536, 5000])
async def test_who_dies_while_the_log_is_reserved_leaves_a_good_one(path: Path, tmp_path: Path, zeros: int) -> None:
    """Between any two bytes of the zeros: behind the frames in use there are so many, and the lock is gone."""
    left = tmp_path / "left" / "store.db"
    left.parent.mkdir()
    async with SqliteStore.open(path) as store:
        await begin(store)
        shutil.copy(path, left)
        log = path.with_name(f"{path.name}-wal").read_bytes()[: log_bytes(path)]
        left.with_name(f"{left.name}-wal").write_bytes(log + bytes(zeros))
    async with SqliteStore.open(left) as store:
        assert (await store.row("e1")).epoch == 1
        await begin(store, "e2")
    async with SqliteStore.open(left) as store:
        assert (await store.row("e2")).epoch == 1
