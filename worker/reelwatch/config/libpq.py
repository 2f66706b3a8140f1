"""PostgreSQL's client library without what it would take from the environment by itself.

libpq fills in from `PGHOST`, `PGPASSWORD`, `PGOPTIONS`, `PGSSLMODE` and some thirty others what
`DATABASE_URL` leaves out. In a producer's environment they are about the producer's own database:
its password would go to another host, its `search_path` would hide our tables.
"""

import os
import pwd
from collections.abc import Iterator, Mapping
from typing import Any

from psycopg import pq

# They can't be taken back, since no value means "as if it were not said": `PGSERVICE`,
# `PGREQUIREAUTH` and the like have their effect.
_LASTING = frozenset(
    {"service", "require_auth", "sslcertmode", "min_protocol_version", "max_protocol_version"}
)


def without_environment(
    options: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """The options of a connection, and its default for each that the environment would set."""
    defaults = {name: _default(name, option) for name, option in _ignored(options, environ)}
    return {**defaults, **options}


def ignored(options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> list[str]:
    """The variables that libpq would have taken: what they say is not heeded."""
    return sorted((option.envvar or b"").decode() for _, option in _ignored(options, environ))


def _ignored(
    options: Mapping[str, Any], environ: Mapping[str, str]
) -> Iterator[tuple[str, pq.ConninfoOption]]:
    for option in pq.Conninfo.get_defaults():
        name, variable = option.keyword.decode(), (option.envvar or b"").decode()
        if variable in environ and name not in {*options, *_LASTING}:
            yield name, option


def _default(name: str, option: pq.ConninfoOption) -> str:
    if name == "user":
        return pwd.getpwuid(os.geteuid()).pw_name
    return (option.compiled or b"").decode()
