"""Connections to PostgreSQL: directly, or through a pooler that shares sessions between clients.

A pooler in transaction mode (PgBouncer, Supavisor, Neon's and others) gives each transaction to
whatever session is free. A prepared statement would meet another session, and what we set for ours
would be another application's. It is recognised at every connection, and nothing of the kind is
done there.
"""

import math
import time
from collections.abc import Generator
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from reelwatch.config.libpq import unheard, without_environment
from reelwatch.config.servers import IMPATIENT, OWN_PARAMETERS
from reelwatch.errors import SettingsError

IDLE_SECONDS = 10  # how long PostgreSQL lets a transaction of ours do nothing
SILENCE_SECONDS = 30.0  # how long PostgreSQL may take to answer a statement within a transaction
POOL_SIZE = 5
PROVEN_SECONDS = 2.0  # a connection that has worked so lately need not be tried first
ENCODING = "UTF8"  # as PostgreSQL calls it
# What a URL may say otherwise, of a server that does not answer.
PATIENCE = {
    "connect_timeout": "10", "keepalives_idle": "10", "keepalives_interval": "5",
    "keepalives_count": "3", "tcp_user_timeout": "20000",
}  # fmt: skip
PREPARE_AFTER = 5  # executions of a statement, psycopg's own default

NAME = "reelwatch"  # as `pg_stat_activity.application_name` shows it

# A worker that is stopped, or cut off, in the middle of a transaction holds its locks; all others
# would wait for them. Ours are open for milliseconds.
IDLE_LIMIT = f"idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'"

READ_ONLY = "25006"  # read_only_sql_transaction: a standby, or a primary that has become one
# Session and server are of no more use, whatever the driver thinks: read-only; ended by an
# administrator, a crash or a time limit, or just starting (57P..); connection exceptions (08...).
USELESS = (READ_ONLY, "57P", "08", "25P03")

T = TypeVar("T")


class WrongEncoding(SettingsError, SQLAlchemyError):
    """Most of what upstream says could not be stored in this database, ever."""


class _Pipeline(psycopg.Pipeline):
    """Ends with a Sync alone: psycopg sends a Flush after it, which the server takes for a sign of
    life, and from then on its time limit for idle transactions is off.
    """

    def _exit_gen(self) -> Generator[Any, Any, None]:
        self._enqueue_sync()
        try:
            yield from self._communicate_gen()
        finally:  # raised or not: with an answer left over, the connection could not even roll back
            yield from self._fetch_gen(flush=False)


class PostgresConnection(psycopg.Connection[Any]):
    """Knows whether a pooler is in between, and gives up a server that is silent for long.

    The kernel notices a network that loses everything. It does not notice a server, or something
    on the way to it, that takes what is sent and never answers: that would hold a thread for ever.
    """

    silence: float | None = None  # seconds until an OperationalError
    pooled = False

    @classmethod
    def _connect_gen(cls, *args: Any, **options: Any) -> Any:
        """The driver has no other place where single steps can be reached."""
        return unheard(super()._connect_gen(*args, **options))

    @property
    def _pipeline(self) -> Any:
        """What `executemany` sends its rows through; psycopg has no other place to name a class."""
        return self.__dict__.get("pipeline_in_use")

    @_pipeline.setter
    def _pipeline(self, pipeline: Any) -> None:
        if pipeline is not None:
            pipeline.__class__ = _Pipeline
        self.__dict__["pipeline_in_use"] = pipeline

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **options: Any) -> T:
        """All that the driver does over the network passes through here."""
        return super().wait(gen if self.silence is None else self._bounded(gen), *args, **options)

    def _bounded(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        give_up_at = time.monotonic() + (self.silence or 0.0)
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted  # nothing ready: woken up to look at the time
                if not ready and time.monotonic() > give_up_at:
                    self.close()  # else the pool would take it back
                    raise psycopg.OperationalError(f"no answer within {self.silence:g} s")
                wanted = gen.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result


def new_engine(url: str) -> Engine:
    """An engine for a `postgresql+psycopg://` URL.

    Beside what libpq knows its query may have `prepare_threshold` (a number of executions; `0` or
    `none`: no prepared statements, though the connection looks direct) and `pgbouncer=true`, which
    means the same. Raises `SettingsError` for others.
    """
    address, prepare = _read_query(make_url(url))
    made = create_engine(
        # Were it another by the role's or database's own setting, half of all texts would be lost.
        address.update_query_dict({**PATIENCE, **address.query, "client_encoding": ENCODING}),
        pool_size=POOL_SIZE, max_overflow=20, pool_use_lifo=True, pool_recycle=1_800,
        hide_parameters=True,  # an error goes into the log, and they hold callback URLs
    )  # fmt: skip

    def connect(_dialect: object, _record: object, args: list[Any], options: dict[str, Any]) -> Any:
        return _connect(args, options, prepare)

    event.listen(made, "do_connect", connect)
    event.listen(made, "connect", _proven)
    event.listen(made, "checkout", _try)
    event.listen(made, "checkin", _proven)
    event.listen(made, "begin", _begin)
    event.listen(made, "handle_error", _give_up_useless)
    return made


def _read_query(url: URL) -> tuple[URL, int | None]:
    """The URL as the driver takes it, and after how many executions statements are prepared.

    None: never. Without a word about it: the driver's default, or never where a pooler is found.
    """
    query = {
        name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()
    }
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    for name in query.keys() - known - OWN_PARAMETERS:
        raise SettingsError(f"DATABASE_URL: ?{name}= is no option of PostgreSQL's client library")
    said = query.get("prepare_threshold", "0" if query.get("pgbouncer") == "true" else None)
    several = "," in (url.host or "") or len(url.normalized_query.get("host", ())) > 1
    url = url.difference_update_query(OWN_PARAMETERS)
    if several and "target_session_attrs" not in query:
        # Of several servers one is written to; the others would refuse all that we do.
        url = url.update_query_dict({"target_session_attrs": "read-write"})
    return url, _threshold(said)


def _threshold(said: str | None) -> int | None:
    if said is None:
        return PREPARE_AFTER
    if said.casefold() in ("0", "none", ""):
        return None
    if not said.isdecimal():
        raise SettingsError(
            f"DATABASE_URL: ?prepare_threshold={said}: accepted: a number; 0 or none for never"
        )
    return int(said)


def _connect(args: list[Any], options: dict[str, Any], prepare: int | None) -> PostgresConnection:
    made = PostgresConnection.connect(*args, **without_environment(options), autocommit=True)
    try:
        _check_encoding(made)
        made.silence = SILENCE_SECONDS
        # A pooler makes up the number that it tells a client at the beginning.
        (number,) = made.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        made.pooled = number != made.info.backend_pid
        if not made.pooled:
            named = made.info.parameter_status("application_name")
            made.execute(
                f"SET {IDLE_LIMIT}; SET timezone = 'UTC'"  # the zone of what is read: ours is UTC
                + ("" if named else f"; SET application_name = {NAME}")
            )
        made.prepare_threshold = None if made.pooled else prepare
        made.autocommit = False
    except (psycopg.Error, WrongEncoding):
        made.close()
        raise
    return made


def _check_encoding(connection: PostgresConnection) -> None:
    """By what the server says of itself to each client: it costs no statement."""
    found = connection.info.parameter_status("server_encoding")
    if found not in (ENCODING, None):  # None: a pooler that does not hand it on
        raise WrongEncoding(
            f"DATABASE_URL: the encoding of the database {connection.info.dbname} is {found}, "
            f"accepted: {ENCODING}",
            at_command=f"make another: `createdb -T template0 -E {ENCODING} NAME`",
        )


def _begin(connection: Connection) -> None:
    """Migrations may take their time, a worker's statement may not."""
    impatient = connection.get_execution_options().get(IMPATIENT)
    driver: Any = connection.connection.driver_connection
    driver.silence = SILENCE_SECONDS if impatient else None
    if driver.pooled and not driver.autocommit:
        connection.exec_driver_sql(f"SET LOCAL {IDLE_LIMIT}")


def _try(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """As `pool_pre_ping` does, but not before every one of many transactions a second.

    A connection that the server has ended meanwhile is replaced, and nobody notices.
    """
    if time.monotonic() - record.info.get("proven_at", -math.inf) < PROVEN_SECONDS:
        return
    try:
        connection.silence, connection.autocommit = SILENCE_SECONDS, True
        connection.execute("SELECT 1")
        connection.autocommit = False
    except psycopg.Error as error:
        raise DisconnectionError from error


def _proven(connection: Any, record: ConnectionPoolEntry) -> None:
    if connection is not None:  # None: it broke
        record.info["proven_at"] = time.monotonic()


def _give_up_useless(context: ExceptionContext) -> None:
    """Drop the connection, and the pool's others that are as old, when its server is of no use.

    After a failover a session may go on with a server that can only be read: each of its writes
    would fail until somebody ends it.
    """
    state = getattr(context.original_exception, "sqlstate", None)
    if context.connection is None or state is None or not state.startswith(USELESS):
        return
    context.is_disconnect = True
    driver: Any = context.connection.connection.driver_connection
    if state == READ_ONLY and driver.pooled and driver.autocommit:
        # A pooler would hand its session out again. It ends one whose client leaves in the middle
        # of a transaction.
        with suppress(psycopg.Error):
            driver.execute("BEGIN")
