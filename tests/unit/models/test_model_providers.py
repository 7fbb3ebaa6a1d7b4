"""Which provider, where, with which key."""

from __future__ import annotations

import pickle

import pytest

from agentspan.errors import ModelNotFoundError
from agentspan.models.providers import (
    PLACEHOLDER_KEY,
    PROVIDERS,
    is_loopback,
    key_variables,
    provider_names,
    resolve,
)

KEY = "sk-secret"
ALL_KEYS = {variable: KEY for variables in key_variables().values() for variable in variables}


@pytest.mark.parametrize(
    ("model", "base_url", "variable"),
    [
        ("openai/gpt-4o", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("gpt-4o", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("anthropic/claude-sonnet-4-5", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
        ("gemini/gemini-2.5-pro", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
        ("google_gemini/x", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
        ("google/x", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
        ("groq/llama-3.3-70b", "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
        ("mistral/mistral-large-latest", "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
        ("deepseek/deepseek-chat", "https://api.deepseek.com", "DEEPSEEK_API_KEY"),
        ("xai/grok-4", "https://api.x.ai/v1", "XAI_API_KEY"),
        ("openrouter/meta-llama/llama-3.3-70b", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        ("together/x", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
        ("fireworks/x", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
        ("cohere/command-a", "https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY"),
    ],
)
def test_a_model_name_leads_to_its_provider(model: str, base_url: str, variable: str):
    endpoint = resolve(model, environ=ALL_KEYS)
    assert (endpoint.base_url, endpoint.api_key_variable, endpoint.api_key) == (base_url, variable, KEY)


def test_everything_after_the_first_slash_is_the_model():
    assert resolve("openrouter/meta-llama/llama-3", environ=ALL_KEYS).model_name == "meta-llama/llama-3"


def test_the_agent_goes_before_the_environment_and_that_before_the_table():
    environ = {**ALL_KEYS, "OPENAI_BASE_URL": "https://gateway.example/v1/"}
    assert resolve("gpt-4o", environ=environ).base_url == "https://gateway.example/v1"
    assert resolve("gpt-4o", base_url="http://other/v1", environ=environ).base_url == "http://other/v1"


def test_anthropics_own_variable_names_the_host_alone():
    environ = {**ALL_KEYS, "ANTHROPIC_BASE_URL": "https://api.anthropic.com"}
    assert resolve("anthropic/x", environ=environ).base_url == "https://api.anthropic.com/v1"


def test_the_second_key_variable_counts_if_the_first_is_blank():
    endpoint = resolve("gemini/x", environ={"GEMINI_API_KEY": " ", "GOOGLE_API_KEY": KEY})
    assert (endpoint.api_key_variable, endpoint.api_key) == ("GOOGLE_API_KEY", KEY)


def test_a_missing_key_is_named():
    with pytest.raises(ModelNotFoundError, match="Set GEMINI_API_KEY or GOOGLE_API_KEY"):
        resolve("gemini/gemini-2.5-pro", environ={})


def test_a_local_server_needs_no_key():
    assert resolve("ollama/llama3", environ={}).api_key == PLACEHOLDER_KEY
    assert resolve("openai/x", base_url="http://localhost:8000/v1", environ={}).api_key == PLACEHOLDER_KEY
    with pytest.raises(ModelNotFoundError):
        resolve("openai/x", base_url="http://models.example/v1", environ={})


def test_an_unknown_provider_names_the_nearest():
    with pytest.raises(ModelNotFoundError, match="Did you mean 'anthropic'"):
        resolve("antropic/claude", environ={})
    with pytest.raises(ModelNotFoundError, match="openai/<model>"):
        resolve("meta-llama/Llama-3-8b", base_url="http://localhost:8000/v1", environ={})


@pytest.mark.parametrize("model", ["", "openai/", " "])
def test_a_model_without_a_name_is_refused(model: str):
    with pytest.raises(ModelNotFoundError):
        resolve(model, environ=ALL_KEYS)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://x/v1", "https://", "/v1"])
def test_a_base_url_that_is_none_is_refused(url: str):
    with pytest.raises(ModelNotFoundError, match="http"):
        resolve("gpt-4o", base_url=url, environ=ALL_KEYS)


@pytest.mark.parametrize("key", ["sk-line\nbreak", "sk-ünicode"])
def test_a_key_that_cannot_be_sent_is_refused_unquoted(key: str):
    with pytest.raises(ModelNotFoundError, match="OPENAI_API_KEY") as caught:
        resolve("gpt-4o", environ={"OPENAI_API_KEY": key})
    assert key not in str(caught.value)


def test_a_line_break_after_the_key_is_forgiven():
    assert resolve("gpt-4o", environ={"OPENAI_API_KEY": KEY + "\n"}).api_key == KEY


def test_azure_speaks_its_v1_api_unless_a_version_is_asked_for():
    environ = {**ALL_KEYS, "AZURE_OPENAI_ENDPOINT": "https://me.openai.azure.com/"}
    plain = resolve("azure_openai/gpt-4o", environ=environ)
    assert (plain.base_url, plain.api_version) == ("https://me.openai.azure.com/openai/v1", None)
    dated = resolve("azure/dep", environ={**environ, "OPENAI_API_VERSION": "2024-10-21"})
    assert dated.base_url == "https://me.openai.azure.com/openai/deployments/dep"
    assert dated.api_version == "2024-10-21"


def test_azure_without_an_endpoint_says_what_to_set():
    with pytest.raises(ModelNotFoundError, match="AZURE_OPENAI_ENDPOINT"):
        resolve("azure/dep", environ=ALL_KEYS)


@pytest.mark.parametrize(
    ("model", "base_url", "field"),
    [
        ("gpt-4o", None, "max_completion_tokens"),
        ("gpt-4o", "https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("gpt-4o", "http://localhost:8000/v1", "max_tokens"),
        ("gpt-5-mini", "https://gateway.example/v1", "max_completion_tokens"),
        ("o3", "https://gateway.example/v1", "max_completion_tokens"),
        ("mistral/x", None, "max_tokens"),
    ],
)
def test_the_token_limit_has_the_name_the_server_knows(model: str, base_url: str | None, field: str):
    assert resolve(model, base_url=base_url, environ=ALL_KEYS).token_limit_field == field


def test_an_endpoint_neither_shows_nor_pickles_its_key():
    endpoint = resolve("gpt-4o", environ=ALL_KEYS)
    assert KEY not in repr(endpoint) + str(endpoint)
    with pytest.raises(TypeError, match="API key"):
        pickle.dumps(endpoint)


def test_the_table_is_sound():
    names = [name for provider in PROVIDERS for name in (provider.name, *provider.aliases)]
    assert len(names) == len(set(names))
    assert set(provider_names()) == set(key_variables())
    assert all(url.startswith("https://") or is_loopback(url) for url in (p.base_url for p in PROVIDERS) if url)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:1/v1", True),
        ("http://127.0.0.9/v1", True),
        ("http://[::1]:80/", True),
        ("https://localhost.example.com/", False),
        ("http://10.0.0.1", False),
    ],
)
def test_loopback(url: str, local: bool):
    assert is_loopback(url) is local
