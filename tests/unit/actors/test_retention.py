"""The server removes executions when they have been over for long enough, and nothing else."""

from __future__ import annotations

import pytest

from agentspan.actors import retention
from agentspan.actors.retention import Retention
from agentspan.config import Settings, seconds_of
from agentspan.errors import ConfigurationError, StoreUnavailableError
from agentspan.persistence.memory import MemoryStore
from agentspan.persistence.store import Sweep
from agentspan.testing.store_rules.building import begin, finish
from tests.support.virtual_time import clock, jump, run_virtual


async def names(store: MemoryStore) -> list[str]:
    return sorted(row.execution_id for row in await store.rows())


def test_executions_go_when_they_have_been_over_for_so_long() -> None:
    async def main() -> None:
        store = MemoryStore(clock=clock)
        keeping = Retention(store, keep_s=100.0, clock=clock)
        keeping.start()
        keeping.start()
        await begin(store, "first")
        await finish(store, "first", updated_at=clock())
        await begin(store, "open")
        await jump(60)
        await begin(store, "second")
        await finish(store, "second", updated_at=clock())
        await jump(35)
        assert await names(store) == ["first", "open", "second"]
        await jump(20)
        assert await names(store) == ["open", "second"]
        await jump(1000)
        assert await names(store) == ["open"]
        await keeping.stop()
        await keeping.stop()

    run_virtual(main())


def test_a_backlog_goes_in_one_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)

    async def main() -> None:
        store = MemoryStore(clock=clock)
        for number in range(8):
            await begin(store, f"e{number}")
            await finish(store, f"e{number}", updated_at=1.0)
        assert await Retention(store, keep_s=10.0, clock=clock).sweep() == 8
        assert await names(store) == []

    run_virtual(main())


def test_a_store_that_is_away_is_swept_when_it_is_back() -> None:
    class Away(MemoryStore):
        away = True

        async def gc(self, *, finished_before: float, dry_run: bool = True, limit: int = 10_000) -> Sweep:
            if self.away:
                raise StoreUnavailableError(where="disk", problem="away")
            return await super().gc(finished_before=finished_before, dry_run=dry_run, limit=limit)

    async def main() -> None:
        store = Away(clock=clock)
        await begin(store, "old")
        await finish(store, "old", updated_at=1.0)
        keeping = Retention(store, keep_s=20.0, clock=clock)
        keeping.start()
        await jump(30)
        assert await names(store) == ["old"]
        store.away = False
        await jump(5)
        assert await names(store) == []
        await keeping.stop()

    run_virtual(main())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("90s", 90), ("30m", 1800), ("12 h", 43200), ("30d", 2592000), ("2W", 1209600)],
)
def test_a_span_of_time_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


def test_the_setting_is_a_span_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_env().retention is None
    monkeypatch.setenv("AGENTSPAN_RETENTION", "12h")
    assert Settings.from_env().retention == 43200
    monkeypatch.setenv("AGENTSPAN_RETENTION", "")
    assert Settings.from_env().retention is None
    for wrong in ("soon", "0s", "30"):
        monkeypatch.setenv("AGENTSPAN_RETENTION", wrong)
        with pytest.raises(ConfigurationError, match="AGENTSPAN_RETENTION"):
            Settings.from_env()
