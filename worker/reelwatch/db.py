"""The database: engines that suit SQLite and PostgreSQL, transactions, the clock, migrations."""

import math
import os
import time
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Insert,
    Interval,
    Select,
    String,
    Table,
    bindparam,
    cast,
    column,
    create_engine,
    event,
    func,
    literal,
    make_url,
    select,
    type_coerce,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from reelwatch.errors import Refused
from reelwatch.models import Base, UtcDateTime
from reelwatch.naming import HERE

READ_ONLY = "reelwatch_read_only"
IMPATIENT = "reelwatch_impatient"
BUSY_SECONDS = 30  # how long SQLite waits for another writer
IDLE_SECONDS = 10  # how long PostgreSQL lets a transaction of ours do nothing
SILENCE_SECONDS = 30.0  # how long PostgreSQL may take to answer a statement within a transaction
POOL_SIZE = 5
PROVEN_SECONDS = 2.0  # a connection that has worked so lately need not be tried first

CLOCK = select(func.clock_timestamp(type_=UtcDateTime()))

T = TypeVar("T")


_engines: dict[tuple[str, int], Engine] = {}


def engine(url: str) -> Engine:
    """This process's engine for `url`: made on first use, and anew in a forked child."""
    key = (url, os.getpid())
    return _engines.get(key) or _engines.setdefault(key, _new_engine(url))


def _new_engine(url: str) -> Engine:
    if make_url(url).get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    made = create_engine(
        url, pool_size=POOL_SIZE, max_overflow=20, pool_use_lifo=True, pool_recycle=1_800,
        connect_args={"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5,
                      "keepalives_count": 3, "tcp_user_timeout": 20_000,
                      "application_name": "reelwatch"},
    )  # fmt: skip
    event.listen(made, "do_connect", _connect_postgresql)
    event.listen(made, "connect", _prepare_postgresql)
    event.listen(made, "checkout", _try_postgresql)
    event.listen(made, "checkin", _proven)
    event.listen(made, "begin", _begin_postgresql)
    return made


class _Connection(psycopg.Connection[Any]):
    """Ends with an OperationalError when the server is silent for long, if told to.

    The kernel notices a network that loses everything. It does not notice a server, or something
    on the way to it, that takes what is sent and never answers: that would hold a thread for ever.
    """

    silence: float | None = None  # seconds

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


def _connect_postgresql(
    _dialect: object, _record: object, args: list[Any], options: dict[str, Any]
) -> _Connection:
    made = _Connection.connect(*args, **options)
    made.silence = SILENCE_SECONDS
    return made


def _begin_postgresql(connection: Connection) -> None:
    """Migrations may take their time, a worker's statement may not."""
    impatient = connection.get_execution_options().get(IMPATIENT)
    driver: Any = connection.connection.driver_connection
    driver.silence = SILENCE_SECONDS if impatient else None


def _try_postgresql(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
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


def _prepare_postgresql(connection: Any, record: ConnectionPoolEntry) -> None:
    # A worker that is stopped, or cut off, in the middle of a transaction holds its locks; all
    # others would wait for them. Ours are open for milliseconds.
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'")
    connection.commit()
    _proven(connection, record)


def _sqlite_engine(url: str) -> Engine:
    made = create_engine(
        url, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}, max_overflow=20
    )
    event.listen(made, "connect", _prepare_sqlite)
    event.listen(made, "begin", _begin_sqlite)
    return made


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # None: the driver must not begin transactions by itself, `_begin_sqlite` does.
    connection.isolation_level = None
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",  # what was accepted must survive a power cut, not only a crash
        f"busy_timeout = {BUSY_SECONDS * 1000}",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the lock when it begins: one that reads first and then writes gets refused."""
    read_only = connection.get_execution_options().get(READ_ONLY)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@contextmanager
def transaction(url: str) -> Iterator[Session]:
    """A session whose work is committed at the end, or rolled back by an exception."""
    bound = engine(url).execution_options(**{IMPATIENT: True})
    with Session(bound, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def at_once(url: str) -> Iterator[Session]:
    """A session whose statements are each committed by themselves, where that saves any."""
    if make_url(url).get_backend_name() == "sqlite":
        with transaction(url) as session:
            yield session
        return
    bound = engine(url).execution_options(isolation_level="AUTOCOMMIT", **{IMPATIENT: True})
    with Session(bound, expire_on_commit=False) as session:
        yield session


@contextmanager
def reading(url: str) -> Iterator[Session]:
    """A session that only reads: it takes no writer's lock."""
    bound = engine(url).execution_options(**{READ_ONLY: True, IMPATIENT: True})
    with Session(bound, expire_on_commit=False) as session, session.begin():
        yield session


def clock(session: Session, ahead: timedelta = timedelta(0)) -> ColumnElement[datetime]:
    """The time by the database's clock, or one `ahead` of it, for use within a statement."""
    if dialect(session) == "sqlite":  # a file: one machine, one clock
        return bindparam(None, callable_=lambda: datetime.now(UTC) + ahead, type_=UtcDateTime())
    now: ColumnElement[datetime] = func.clock_timestamp(type_=UtcDateTime())
    return type_coerce(now + literal(ahead, Interval()), UtcDateTime()) if ahead else now


def now(session: Session) -> datetime:
    """The time by the database's clock: the same for all workers, whatever theirs say."""
    if dialect(session) == "sqlite":
        return datetime.now(UTC)
    return session.execute(CLOCK).scalar_one()


def dialect(session: Session) -> str:
    """`sqlite` or `postgresql`."""
    return session.get_bind().dialect.name


def insert_if_absent(dialect: str, table: type[Base] | Table, *columns: str) -> Insert:
    """An INSERT that skips rows whose `columns` (a unique key) exist already."""
    if dialect == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing(index_elements=columns)
    return postgresql.insert(table).on_conflict_do_nothing(index_elements=columns)


def listed(dialect: str, parameter: str, width: int) -> list[ColumnElement[str | None]]:
    """The columns of rows of texts that come as one parameter, a JSON list of lists."""
    rows = bindparam(parameter, type_=String())
    if dialect == "sqlite":
        row = func.json_each(rows).table_valued("value").c.value
        return [func.json_extract(row, f"$[{place}]", type_=String()) for place in range(width)]
    elements = func.jsonb_array_elements(cast(rows, JSONB))
    row = elements.table_valued(column("value", JSONB)).c.value
    return [row[place].astext for place in range(width)]


def tokens_of(table: Table, *, key_share: bool = False) -> Select[Any]:
    """The lease tokens of the rows with these `ids`, to be locked in one order for all."""
    rows = select(table.c.id, table.c.lease_token).where(
        table.c.id.in_(bindparam("ids", expanding=True))
    )
    return rows.order_by(table.c.id).with_for_update(key_share=key_share)


def still_leased(
    session: Session, tokens: Select[Any], claimed: Iterable[Mapping[str, Any] | RowMapping]
) -> Collection[Any]:
    """The ids of the claimed rows, locked, that still bear the token they were claimed with."""
    given = {row["id"]: row["lease_token"] for row in claimed}
    if not given:
        return ()
    rows = session.execute(tokens, {"ids": list(given)})
    return {row.id for row in rows if row.lease_token == given[row.id]}


def dispose() -> None:
    """Close this process's connections; the engines are made anew on next use."""
    for url, pid in list(_engines):
        # What a fork inherited is its parent's: closing it here would end the parent's sessions.
        _engines.pop((url, pid)).dispose(close=pid == os.getpid())


# -------------------------------------------------------------- migrations


def migrations() -> Path:
    """The migration scripts: inside an installed package, or at the top of a checkout."""
    packaged = Path(__file__).parent / "migrations"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "migrations"


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for running the migrations on `connection`."""
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    config.attributes["connection"] = connection
    return config


def migrate(url: str, to: str = "head") -> list[str]:
    """Bring the database to the newest revision, or `to` another; harmless at once from several.

    `base` removes all tables. Returns what is worth telling besides. Raises `NotOurs` where
    somebody else's tables are in the way, nothing is changed then.
    """
    with engine(url).connect() as connection:
        config = alembic_config(connection)
        move = command.upgrade if _ahead(connection, to) else command.downgrade
        move(config, to)
        connection.commit()
        return list(config.attributes["notes"])


def revisions(url: str) -> tuple[str | None, str | None]:
    """The database's revision and the newest one there is."""
    with engine(url).connect() as connection:
        head = ScriptDirectory.from_config(alembic_config(connection)).get_current_head()
        return _revision(connection), head


def _revision(connection: Connection) -> str | None:
    own = {"version_table": HERE.version_table, "version_table_schema": HERE.schema}
    return MigrationContext.configure(connection, opts=own).get_current_revision()


def _ahead(connection: Connection, to: str) -> bool:
    """Is the revision `to` at or after the database's own?"""
    if to in ("head", "base"):
        return to == "head"
    scripts = ScriptDirectory.from_config(alembic_config(connection))
    order = [script.revision for script in scripts.walk_revisions()][::-1]
    now = _revision(connection)
    if to not in order:
        raise Refused(f"revision {to!r}; known: base, {', '.join(order)}, head")
    return now not in order or order.index(to) >= order.index(now)
