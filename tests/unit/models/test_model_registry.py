"""Models by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentspan.errors import ModelNotFoundError
from agentspan.models import ModelRegistry, ModelRequest
from agentspan.models.openai_client import OpenAIModel
from agentspan.testing import ScriptedModel, say
from tests.support.model_server import ModelServer, text


@pytest.fixture
async def registry():
    registry = ModelRegistry(environ={"OPENAI_API_KEY": "sk-1"})
    yield registry
    await registry.aclose()


async def test_a_name_gives_the_same_model_again(registry: ModelRegistry):
    await registry.warm()
    model = registry.get("openai/gpt-4o")
    assert isinstance(model, OpenAIModel)
    assert registry.get("openai/gpt-4o") is model
    assert registry.get("openai/gpt-4o", "") is model
    assert registry.get("openai/gpt-4o", "http://localhost:1/v1") is not model


async def test_models_of_one_endpoint_share_their_connections(registry: ModelRegistry):
    with ModelServer([text("ok")]) as server:
        for name in ("openai/a", "openai/b", "openai/a"):
            request = ModelRequest(model=name, messages=[{"role": "user", "content": "hi"}], idempotency_key=name)
            assert (await registry.get(name, server.url).complete(request)).text == "ok"
        assert server.connection_count == 1


async def test_a_model_is_returned_as_it_is(registry: ModelRegistry):
    model = ScriptedModel([say("hi")])
    assert registry.get(model) is model


async def test_a_script_is_found_by_name_path_and_content(registry: ModelRegistry, tmp_path: Path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(["hello"]))
    model = ScriptedModel([say("hello")])
    assert registry.get(f"scripted/{path}") == model
    assert registry.get(str(model)) == model
    assert str(registry.get("scripted/echo")) == "scripted/echo"


async def test_an_unknown_script_names_those_there_are(registry: ModelRegistry):
    with pytest.raises(ModelNotFoundError, match="echo"):
        registry.get("scripted/nope")
    with pytest.raises(ModelNotFoundError, match="absolute path"):
        registry.get("scripted/no/such.json")


async def test_a_failed_look_up_is_not_remembered():
    environ: dict[str, str] = {}
    registry = ModelRegistry(environ=environ)
    with pytest.raises(ModelNotFoundError, match="OPENAI_API_KEY"):
        registry.get("gpt-4o")
    environ["OPENAI_API_KEY"] = "sk-1"
    assert registry.get("gpt-4o")


async def test_a_registry_closes_twice_and_starts_anew(registry: ModelRegistry):
    registry.get("gpt-4o")
    await registry.aclose()
    await registry.aclose()
    assert registry.get("gpt-4o")


def test_openai_is_not_imported_before_it_is_needed():
    program = (
        "import sys; from agentspan.models import ModelRegistry; import agentspan.models.providers, agentspan.testing;"
        "ModelRegistry().get('scripted/echo'); assert not {'openai', 'ray'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
