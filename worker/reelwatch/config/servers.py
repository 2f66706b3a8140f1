"""The URLs of the two servers, database and broker: read as SQLAlchemy and kombu will read them.

What they would not understand alike, or not at all, is refused here: their own errors quote what
they take for a host or port, and that may be a part of a password.
"""

import re
from collections.abc import Iterable

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from reelwatch.config import tls
from reelwatch.rules import spelling, urls

# DATABASE_URL may be an application's own too, with its own driver; ours is psycopg 3 for all.
_DRIVERS = "psycopg|psycopg2|psycopg2cffi|psycopg_async|asyncpg|pg8000"
POSTGRESQL = re.compile(rf"postgres(ql)?(\+({_DRIVERS}))?")
DATABASE_FORMS = "sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE or postgres://…"
BROKER_FORMS = "redis://…, rediss://…, amqp://… or amqps://…"
BROKER_SCHEMES = ("redis", "rediss", "amqp", "amqps", "memory")
IMPATIENT = "reelwatch_impatient"  # execution option: a statement may not take for ever
# What a URL of PostgreSQL may say beside what libpq knows: `reelwatch.storage.postgresql` reads it.
OWN_PARAMETERS = frozenset({"prepare_threshold", "pgbouncer"})
# Found in URLs that producers share with others. Ours waits for locks, and its threads share none.
_OF_SQLITE = frozenset({"timeout", "check_same_thread"})
_NUMBERS = (
    "connect_timeout", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval",
    "tcp_user_timeout",
)  # fmt: skip
_HOST = re.compile(r"/.*|[^:,\s]*(:[0-9]*)?(,[^:,\s]*(:[0-9]*)?)*")


def normal_database_url(value: str) -> URL:
    """The URL with its driver named: `postgres://`, `postgresql+asyncpg://` … mean psycopg 3.

    Its scheme may be in capitals, and blanks around it.
    """
    if value.strip()[:1] in ("'", '"'):
        raise ValueError(f"{DATABASE_FORMS}, without quotes around it")
    scheme, colon, rest = value.strip().partition(":")
    value = f"{scheme.lower()}{colon}{rest}"
    if urls.is_sqlite(value):
        return _sqlite_url(value)
    try:
        value = _several_hosts(value)
        parts = urls.parse(value)
        url = make_url(value)
    except (ArgumentError, ValueError) as error:
        said = error if isinstance(error, ValueError) else urls.QUOTING
        raise ValueError(f"{DATABASE_FORMS}; {said}") from None
    if not POSTGRESQL.fullmatch(url.drivername):
        raise ValueError(f"{DATABASE_FORMS}, not {url.drivername}://…")
    read = tuple(part or None for part in (url.username, url.password, url.host, url.port))
    if read != (parts.user, parts.password, parts.host, parts.port):
        raise ValueError(f"{DATABASE_FORMS}; {urls.QUOTING}")
    _check_parameters(url, parts.query)
    return url.set(drivername="postgresql+psycopg")


def _several_hosts(value: str) -> str:
    """`//user:password@a:5432,b:5433/name`, as libpq takes it, in the form that SQLAlchemy does."""
    start, _, rest = value.partition("://")
    place, slash, tail = rest.partition("/")
    user, at, hosts = place.rpartition("@")
    if "," not in hosts:
        return value
    name, _, query = tail.partition("?")
    listed = "&".join([*(f"host={host}" for host in hosts.split(",")), *filter(None, [query])])
    return f"{start}://{user}{at}{slash or '/'}{name}?{listed}"


def _sqlite_url(value: str) -> URL:
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        raise ValueError(DATABASE_FORMS) from None
    if url.drivername not in ("sqlite", "sqlite+pysqlite") or url.host or url.username:
        raise ValueError(DATABASE_FORMS)
    if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
        in_memory = "in memory, every connection would have its own"
        raise ValueError(f"{DATABASE_FORMS} ({in_memory})")
    for name in url.query.keys() - _OF_SQLITE:
        raise ValueError(f"{DATABASE_FORMS}; SQLite is opened in one way alone, without ?{name}=")
    return url.set(query={})


def _check_parameters(url: URL, given: Iterable[tuple[str, str]]) -> None:
    """An unknown parameter is told at the start, not by each connection."""
    from psycopg.pq import Conninfo  # noqa: PLC0415 - only a URL of PostgreSQL needs it

    known = {option.keyword.decode() for option in Conninfo.get_defaults()} | OWN_PARAMETERS
    if any(name == "host" and not _HOST.fullmatch(value) for name, value in given):
        raise ValueError(f"{DATABASE_FORMS}; {urls.QUOTING}")
    for name in url.query:
        if name not in known:
            # Not shown: behind an `&` that is not quoted it is a part of a password.
            near = spelling.nearest(name, known)
            meant = f"; is {near} meant?" if near else ""
            raise ValueError(f"behind the ? the parameters of PostgreSQL's own URLs{meant}")
    for name, value in given:
        if name in _NUMBERS and not re.fullmatch("-?[0-9]+", value):
            raise ValueError(f"?{name}= is a number")


def check_broker_url(value: str) -> str:
    """A broker's URL, or several with `;` between; ValueError where one can't be used."""
    for each in re.split(r";(?=[A-Za-z][A-Za-z0-9+.-]*://)", value):
        try:
            parts = urls.parse(each)
        except ValueError as error:
            raise ValueError(f"{BROKER_FORMS}; {error}") from None
        if parts.scheme not in BROKER_SCHEMES:
            raise ValueError(BROKER_FORMS)
        if parts.scheme.startswith("redis") and not re.fullmatch(r"/?[0-9]*", parts.path):
            raise ValueError(f"{BROKER_FORMS}; behind its host a Redis has a database's number")
        for name, _ in parts.query:
            if not name.startswith("ssl_") and name != "heartbeat":
                raise ValueError(
                    f"{BROKER_FORMS}; behind the ? ssl_… alone, user and password before the host"
                )
    tls.read(value)
    return value
