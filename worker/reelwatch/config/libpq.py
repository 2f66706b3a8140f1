"""PostgreSQL's client library without what it would take from the environment by itself.

libpq fills in from `PGHOST`, `PGPASSWORD`, `PGOPTIONS`, `PGSSLMODE` and some thirty others what
`DATABASE_URL` leaves out. In a producer's environment they are about the producer's own database:
its password would go to another host, its `search_path` would hide our tables.
"""

import os
import pwd
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from psycopg import pq

# Options of which no value means "as if it were not said", and variables that are no option's.
_LASTING = frozenset(
    {"service", "require_auth", "sslcertmode", "min_protocol_version", "max_protocol_version"}
)
_BESIDE = ("PGREQUIRESSL", "PGTZ", "PGDATESTYLE", "PGGEQO")

T = TypeVar("T")
_hiding = threading.Lock()
os.register_at_fork(after_in_child=lambda: globals().update(_hiding=threading.Lock()))


def without_environment(
    options: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """The options of a connection, and its default for each that the environment would set."""
    defaults = {name: _default(name, option) for name, option in _ignored(options, environ)}
    return {**defaults, **options}


def ignored(options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> list[str]:
    """The variables that libpq would have taken: what they say is not heeded."""
    overruled = ((option.envvar or b"").decode() for _, option in _ignored(options, environ))
    return sorted({*overruled, *_hidden(options, environ)})


def unheard(steps: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
    """The steps that make a connection; within them C code finds nothing that can't be overruled.

    `os.environ`, which is what Python code reads, stays as it is.
    """
    ready = None
    while True:
        with _unset(_hidden({}, os.environ)):
            try:
                wanted = steps.send(ready)
            except StopIteration as done:
                made: T = done.value
                return made
        ready = yield wanted


@contextmanager
def _unset(names: list[str]) -> Iterator[None]:
    if not names:
        yield
        return
    with _hiding:
        values = {name: os.environ[name] for name in names}
        try:
            for name in names:
                os.unsetenv(name)
            yield
        finally:
            for name, value in values.items():
                os.putenv(name, value)


def _hidden(options: Mapping[str, Any], environ: Mapping[str, str]) -> list[str]:
    """Those that are set, of which `options` do not say the same."""
    lasting = _LASTING - options.keys()
    named = [o.envvar for o in pq.Conninfo.get_defaults() if o.keyword.decode() in lasting]
    return [n for n in (*(each.decode() for each in named if each), *_BESIDE) if n in environ]


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
