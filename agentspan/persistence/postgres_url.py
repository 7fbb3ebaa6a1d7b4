"""What a Postgres URL means: where to connect, and how this store uses the server. No driver is needed to read one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from agentspan.errors import ConfigurationError

SCHEMES = ("postgresql://", "postgres://")
FORM = "postgresql://user:password@host:5432/database"
SCHEMA = "agentspan"
CONNECTIONS_MAX = 2
"""One that writes and one that reads."""
TIMEOUT_S = 30.0
"""How long one call may take."""
IDLE_S = 30.0
"""How long an unused connection stays open."""

_SECRETS = frozenset({"password", "passfile", "sslpassword", "sslkey", "oauth_client_secret"})
_OWN = ("schema", "max_connections", "timeout", "idle", "prepare")
_NAME = re.compile("[a-z_][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresTarget:
    """Where to connect and how. Its `repr` shows no password."""

    conninfo: str = field(repr=False)
    """The URL as libpq takes it."""
    where: str
    """The same for people: without passwords."""
    schema: str = SCHEMA
    max_connections: int = CONNECTIONS_MAX
    timeout_s: float = TIMEOUT_S
    idle_s: float = IDLE_S
    prepare: bool = False
    """Statements are prepared once for each connection. Not through a proxy that pools transactions."""


def is_postgres(url: str) -> bool:
    """Whether a store URL means Postgres, rightly or wrongly written."""
    return url.startswith((*SCHEMES, "postgresql+", "postgres+"))


def read_url(url: str) -> PostgresTarget:
    """Take a URL apart. No error repeats the URL: a password may be anywhere in it.

    Raises:
        ConfigurationError: Says which part cannot be used.
    """
    if not url.startswith(SCHEMES):
        raise ConfigurationError(problem=f"The store URL names a driver; AgentSpan brings its own. Give {FORM}.")
    try:
        parts = urlsplit(url)
        given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        where = _without_secrets(url)
    except ValueError:
        raise ConfigurationError(
            problem=f"The Postgres URL of the store cannot be read. Give {FORM}, with reserved characters of the "
            "password as %XX."
        ) from None
    own = {name: value for name, value in given if name in _OWN}
    rest = [(name, value) for name, value in given if name not in _OWN]
    schema = own.get("schema", SCHEMA)
    if _NAME.fullmatch(schema) is None or schema.startswith("pg_"):
        raise ConfigurationError(
            problem=f"schema={schema} in the store URL: use small letters, digits and underscores."
        )
    prepare = own.get("prepare", "false")
    if prepare not in ("true", "false"):
        raise ConfigurationError(problem=f"prepare={prepare} in the store URL: it is true or false.")
    return PostgresTarget(
        # `%20`, not `+`: libpq takes a plus sign as it is.
        conninfo="?".join(filter(None, (url.partition("?")[0], urlencode(rest, quote_via=quote)))),
        where=where,
        schema=schema,
        max_connections=int(_number(own, "max_connections", CONNECTIONS_MAX, at_least=1, at_most=64)),
        timeout_s=_number(own, "timeout", TIMEOUT_S, at_least=1, at_most=3600),
        idle_s=_number(own, "idle", IDLE_S, at_least=0, at_most=86_400),
        prepare=prepare == "true",
    )


def without_password(url: str) -> str:
    """A store URL as it may be shown and logged: any user, host, port and database, nothing else of a Postgres URL."""
    if not is_postgres(url):
        return url
    try:
        return _without_secrets(url)
    except ValueError:
        return "postgresql://…"


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    user = parts.netloc.rpartition("@")[0].partition(":")[0]
    # What libpq takes from the query instead.
    query = dict(parse_qsl(parts.query))
    hosts = hosts or query.get("host", "")
    user = user or quote(query.get("user", ""))
    name = parts.path.lstrip("/") or quote(query.get("dbname", ""))
    return f"postgresql://{user + '@' if user else ''}{hosts}/{name}"


def secrets_of(url: str) -> list[str]:
    """The passwords in a URL, as written and as meant, so that a driver's message can be searched for them."""
    try:
        parts = urlsplit(url)
        written = parts.netloc.rpartition("@")[0].partition(":")[2]
        found = [written, *(value for name, value in parse_qsl(parts.query) if name in _SECRETS)]
    except ValueError:
        return []
    return sorted({form for one in found if one for form in (one, unquote(one), quote(one))}, key=len, reverse=True)


def _number(own: dict[str, str], name: str, default: float, *, at_least: float, at_most: float) -> float:
    try:
        value = float(own.get(name, default))
    except ValueError:
        value = -1.0
    if not at_least <= value <= at_most or (name == "max_connections" and value != int(value)):
        raise ConfigurationError(problem=f"{name}= in the store URL has to be from {at_least:g} to {at_most:g}.")
    return value
