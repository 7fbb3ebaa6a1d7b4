"""What the garbage collector is told in a process that is made ready."""

from __future__ import annotations

import gc

import pytest

from agentspan.actors.heap import lasting


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


def test_what_was_built_up_is_not_looked_at_again():
    with lasting():
        assert not gc.isenabled()
        kept = [[number] for number in range(100)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(kept)


def test_collection_goes_on_after_a_failure():
    with pytest.raises(RuntimeError), lasting():
        raise RuntimeError("not made ready")
    assert gc.isenabled()
