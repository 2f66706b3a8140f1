"""The database: engines that suit SQLite and PostgreSQL, transactions, the clock, its revision."""

import atexit
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Insert,
    Interval,
    Pool,
    Select,
    String,
    Table,
    bindparam,
    cast,
    column,
    create_engine,
    event,
    func,
    inspect,
    literal,
    make_url,
    select,
    table,
    text,
    type_coerce,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from reelwatch import errors
from reelwatch.config.naming import HERE
from reelwatch.config.servers import IMPATIENT
from reelwatch.storage import journal, list_parameters
from reelwatch.storage.models import Base, UtcDateTime

READ_ONLY = "reelwatch_read_only"
BUSY_SECONDS = 30  # how long SQLite waits for another writer
OF_SQLITE = {"timeout": BUSY_SECONDS, "check_same_thread": False}

CLOCK = select(func.clock_timestamp(type_=UtcDateTime()))


_engines: dict[tuple[str, int], Engine] = {}
_bound: dict[tuple[str, int, tuple[str, ...]], Engine] = {}  # with execution options; kept: making
# one takes a third of a short transaction
_left: list[Pool] = []  # the parent's connections
_migrated: set[tuple[str, int]] = set()  # what this process has seen at a revision that will do


def engine(url: str) -> Engine:
    """This process's engine for `url`: made on first use, or taken over from what forked it."""
    key = (url, os.getpid())
    return _engines.get(key) or _engines.setdefault(key, _inherited(url) or _new_engine(url))


def _inherited(url: str) -> Engine | None:
    """The parent's engine with what it knows of the server and all statements that it compiled.

    Not its connections: they are neither used here nor closed. None if it did not reach the server.
    """
    for known, pid in _migrated - {(url, os.getpid())}:
        made = _engines.pop((known, pid), None) if known == url else None
        if made is not None:
            _left.append(made.pool)
            made.dispose(close=False)
            _migrated.add((url, os.getpid()))
            return made
    return None


def _with(url: str, *options: str, isolation: str | None = None) -> Engine:
    """The engine with these of our execution options set."""
    key = (url, os.getpid(), (*options, isolation or ""))
    if key not in _bound:
        level = {"isolation_level": isolation} if isolation else {}
        _bound[key] = engine(url).execution_options(**dict.fromkeys(options, True), **level)
    return _bound[key]


def _new_engine(url: str) -> Engine:
    atexit.unregister(dispose)  # once is enough
    atexit.register(dispose)
    if make_url(url).get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    # As SQLAlchemy does: a driver is loaded for the database that is there, not for the other one.
    from reelwatch.storage.postgresql import new_engine  # noqa: PLC0415

    return new_engine(url)


def _sqlite_engine(url: str) -> Engine:
    made = create_engine(url, connect_args=OF_SQLITE, max_overflow=20, hide_parameters=True)
    event.listen(made, "do_connect", _only_existing)
    event.listen(made, "connect", _prepare_sqlite)
    event.listen(made, "begin", _begin_sqlite)
    return made


def _only_existing(_dialect: object, _record: object, args: list[Any], _options: object) -> None:
    """Only migrating makes a file: who is in the wrong folder must not leave an empty one there."""
    if not Path(args[0]).exists():
        from sqlite3 import OperationalError  # noqa: PLC0415 - a driver that PostgreSQL does without

        raise OperationalError(
            f"there is no database at {args[0]} (DATABASE_URL): "
            "`reelwatch up` or `reelwatch migrate` makes it"
        )


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # None: the driver must not begin transactions by itself, `_begin_sqlite` does.
    connection.isolation_level = None
    journal.use_wal(connection, BUSY_SECONDS)
    for pragma in (
        "synchronous = FULL",  # what was accepted must survive a power cut, not only a crash
        f"busy_timeout = {BUSY_SECONDS * 1000}",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the lock when it begins: one that reads first and then writes gets refused."""
    read_only = connection.get_execution_options().get(READ_ONLY)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


# What SQLite and PostgreSQL say of a table, or a column of one, that is not there.
NO_TABLE = ("no such table", "undefinedtable")
NO_COLUMN = ("no such column", "has no column", "undefinedcolumn")


def said_by(error: BaseException | None) -> str:
    """A driver's error as one lower-case text, to look for signs in."""
    return f"{type(error).__name__} {error}".casefold()


class NotMigrated(errors.NotMigrated, SQLAlchemyError):
    """Whoever waits for a database waits for its tables, too."""


def _check_revision(url: str) -> None:
    """Raise `NotMigrated` until the database has been seen at this release's revision.

    At a newer one too: a migration leaves what the release before needs, whose workers go on.
    """
    seen = (url, os.getpid())
    if seen in _migrated:
        return
    with engine(url).execution_options(**{READ_ONLY: True}).connect() as connection:
        found = revision(connection)
    if found is None:
        raise NotMigrated("the database is at no revision: run `reelwatch migrate`")
    if found < newest_revision():
        raise NotMigrated(
            "the database is at an older revision than this program: run `reelwatch migrate`"
        )
    _migrated.add(seen)


@contextmanager
def _at_revision(url: str) -> Iterator[None]:
    """Raises `NotMigrated` when tables or columns turn out to be gone, or were never there."""
    _check_revision(url)
    try:
        yield
    except DBAPIError as error:
        if any(sign in said_by(error.orig) for sign in (*NO_TABLE, *NO_COLUMN)):
            _migrated.discard((url, os.getpid()))
            _check_revision(url)
        raise


@contextmanager
def transaction(url: str) -> Iterator[Session]:
    """A session whose work is committed at the end, or rolled back by an exception."""
    bound = _with(url, IMPATIENT)
    with _at_revision(url), Session(bound, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def at_once(url: str, *, only_reads: bool = False) -> Iterator[Session]:
    """A session whose statements are each committed by themselves, where that saves any.

    One that only reads takes no writer's lock.
    """
    if make_url(url).get_backend_name() == "sqlite":
        with reading(url) if only_reads else transaction(url) as session:
            yield session
        return
    bound = _with(url, IMPATIENT, isolation="AUTOCOMMIT")
    with _at_revision(url), Session(bound, expire_on_commit=False) as session:
        yield session


@contextmanager
def reading(url: str) -> Iterator[Session]:
    """A session that only reads: it takes no writer's lock."""
    bound = _with(url, READ_ONLY, IMPATIENT)
    with _at_revision(url), Session(bound, expire_on_commit=False) as session, session.begin():
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


def dialects_insert(dialect: str, table: type[Base] | Table) -> postgresql.Insert:
    """An INSERT that knows what to do with rows that are there already.

    SQLAlchemy's part for SQLite is loaded where that is used: other processes are smaller without.
    """
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite  # noqa: PLC0415 - see above

        return sqlite.insert(table)  # type: ignore[return-value]  # has the same methods
    return postgresql.insert(table)


def insert_if_absent(dialect: str, table: type[Base] | Table, *columns: str) -> Insert:
    """An INSERT that skips rows whose `columns` (a unique key) exist already."""
    return dialects_insert(dialect, table).on_conflict_do_nothing(index_elements=columns)


def insert_or_update(
    dialect: str, table: Table, key: Mapping[str, Any], values: Mapping[str, Any]
) -> Insert:
    """An INSERT that changes the row of that unique key where there is one."""
    new = dialects_insert(dialect, table).values({**key, **values})
    return new.on_conflict_do_update(index_elements=list(key), set_=values)


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
    """The lease tokens of the rows with these `ids`, locked in one order for all.

    What somebody else has locked is left out: whoever changes a row takes its token away, and a
    producer's open transaction must not hold up the results about other rows.
    """
    rows = select(table.c.id, table.c.lease_token).where(list_parameters.among(table.c.id, "ids"))
    return rows.order_by(table.c.id).with_for_update(key_share=key_share, skip_locked=True)


def tokens_now(session: Session, tokens: Select[Any], ids: Collection[Any]) -> Mapping[Any, Any]:
    """The tokens that rows bear now, by id, the rows locked; by `tokens_of`."""
    if not ids:
        return {}
    return {row.id: row.lease_token for row in session.execute(tokens, {"ids": list(ids)})}


def read_only(url: str) -> bool:
    """Does the server refuse all writing, as a standby does? (SQLite says so by itself.)"""
    if make_url(url).get_backend_name() == "sqlite":
        return False
    with engine(url).connect() as connection:
        return bool(connection.execute(text("SHOW transaction_read_only")).scalar_one() == "on")


def dispose() -> None:
    """Close this process's connections; the engines are made anew on next use."""
    _migrated.clear()
    _bound.clear()
    for url, pid in list(_engines):
        # What a fork inherited is its parent's: closing it here would end the parent's sessions.
        _engines.pop((url, pid)).dispose(close=pid == os.getpid())


# ------------------------------------------------------------ revisions


def migrations() -> Path:
    """The migration scripts: inside an installed package, or at the top of a checkout."""
    packaged = Path(__file__).parents[1] / "migrations"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "migrations"


def newest_revision() -> str:
    """The newest revision there is, by the scripts' names: Alembic takes its time to read them."""
    return max(
        script.stem[: len("reelwatch_0001")]
        for script in (migrations() / "versions").glob("reelwatch_*.py")
    )


def revision(connection: Connection) -> str | None:
    """The database's revision; None before the first migration. Without Alembic, which is slow to
    load: every process asks this once.
    """
    if not inspect(connection).has_table(HERE.version_table, schema=HERE.schema):
        return None
    stamped = table(HERE.version_table, column("version_num"), schema=HERE.schema)
    found: str | None = connection.execute(select(stamped.c.version_num)).scalar_one_or_none()
    return found


def revisions(url: str) -> tuple[str | None, str]:
    """The database's revision and the newest one there is."""
    with engine(url).connect() as connection:
        return revision(connection), newest_revision()


def make_file(url: str) -> None:
    """Make the file of an SQLite database where there is none, readable by its owner alone.

    Prompts, and URLs with tokens, are in it. SQLite gives the files beside it the same mode.
    """
    database = make_url(url).database
    if make_url(url).get_backend_name() != "sqlite" or database is None:
        return
    with suppress(FileExistsError):
        os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        os.chmod(database, 0o600)  # whatever the umask took away
