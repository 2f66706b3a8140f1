"""The databases of this test process: one of each kind, which every test finds as if new.

Making a database for each test, connecting to it, and writing all statements anew for an engine of
its own would cost most tests more than what they are about.
"""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator

from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError

from reelwatch.storage import db, migrating
from reelwatch.storage.models import Base
from tests.processes import Folder, in_plain_environment
from tests.servers import PostgresServer, roomy_memory

# The revision, and what a change of the schema leaves behind in PostgreSQL's catalogues: how many
# rows about objects of ours there are, and the transaction that has written the newest of them.
SCHEMA_NOW = "SELECT version_num, " + ", ".join(
    f"(SELECT (count(*), max(xmin::text::bigint))::text FROM {catalogue} WHERE {number} >= 16384)"
    for catalogue, number in {
        "pg_attribute": "attrelid", "pg_class": "oid", "pg_constraint": "oid", "pg_proc": "oid",
        "pg_index": "indexrelid", "pg_namespace": "oid", "pg_trigger": "oid",
    }.items()
) + " FROM reelwatch_version"  # fmt: skip

# Rows that were deleted still take room, which every scan of a table goes through.
BYTES = "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND oid >= 16384"
MOST_BYTES = 2 * 1024**2

TABLES = Base.metadata.sorted_tables
EMPTY = " ".join(
    [
        "DO $$ BEGIN SET LOCAL lock_timeout = '2s';",
        *(f"DELETE FROM {table.fullname};" for table in reversed(TABLES)),
        "PERFORM setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'; END $$",
    ]
)

_kept: set[str] = set()  # URLs


def forget_others() -> None:
    """Forget what this process knows of databases, but for those that are made as if new."""
    engines = {key: made for key, made in db._engines.items() if key[0] in _kept}
    migrated = {key for key in db._migrated if key[0] in _kept}
    for key in engines:
        del db._engines[key]
    db.dispose()
    db._engines.update(engines)
    db._migrated.update(migrated)


class SqliteFile:
    """A file, in memory where there is room; every test gets a new copy of a migrated one."""

    def __init__(self) -> None:
        self._folder = Folder("sqlite", parent=roomy_memory())
        self._migrated = self._folder.path / "migrated.db"
        self._file = self._folder.path / "reelwatch.db"
        self.url = f"sqlite:///{self._file}"
        migrate(f"sqlite:///{self._migrated}")
        with contextlib.closing(sqlite3.connect(self._migrated)) as connection:
            # What is still in the log beside it would not be copied.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def renewed(self) -> str:
        """Its URL, once it is as if new."""
        db.engine(self.url).dispose()
        fresh = self._folder.path / "fresh.db"
        shutil.copy(self._migrated, fresh)  # with its mode
        for beside in ("-wal", "-shm"):
            self._file.with_name(self._file.name + beside).unlink(missing_ok=True)
        os.replace(fresh, self._file)  # whoever still has the old one open does no harm
        _kept.add(self.url)
        return self.url

    def close(self) -> None:
        _kept.discard(self.url)
        db.dispose()
        self._folder.remove()


class PostgresDatabase:
    """A database that is emptied for every test, and now and then made anew."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._server.start()
        self._migrated = server.create_database()
        migrate(self._migrated)
        with connections_closed(self._migrated), db.engine(self._migrated).connect() as connection:
            self._schema = connection.exec_driver_sql(SCHEMA_NOW).one()
            rows = {table: connection.execute(select(table)).mappings() for table in TABLES}
            self._rows = {table: made for table in TABLES if (made := list(map(dict, rows[table])))}
        server.seal_database(self._migrated)
        self.url = ""

    def renewed(self) -> str:
        """Its URL, once it is as if new."""
        self._server.start()  # a test may have stopped it
        if not self._emptied():
            self._remove()
            self.url = self._server.create_database(self._migrated)
            _kept.add(self.url)
        return self.url

    def close(self) -> None:
        self._server.start()
        self._remove()
        self._server.drop_database(self._migrated)

    def _emptied(self) -> bool:
        if not self.url:
            return False
        with contextlib.suppress(DBAPIError), db.engine(self.url).begin() as connection:
            if connection.exec_driver_sql(SCHEMA_NOW).one() != self._schema:
                return False
            if connection.exec_driver_sql(BYTES).scalar_one() > MOST_BYTES:
                return False
            connection.exec_driver_sql(EMPTY)
            for table, rows in self._rows.items():
                connection.execute(insert(table), rows)
            return True
        return False

    def _remove(self) -> None:
        if self.url:
            _kept.discard(self.url)
            db.dispose()
            self._server.drop_database(self.url)
            self.url = ""


@contextlib.contextmanager
def new_database(server: PostgresServer, template: str = "") -> Iterator[str]:
    """The URL of a database of its own for what can't share one: empty, or a copy."""
    server.start()
    url = server.create_database(template)
    try:
        yield url
    finally:
        server.start()  # the test may have stopped it
        server.drop_database(url)


def migrate(url: str) -> None:
    with in_plain_environment(), connections_closed(url):
        migrating.migrate(url)


@contextlib.contextmanager
def connections_closed(url: str) -> Iterator[None]:
    """Ends with the package's connections closed: else they add up, and hold up DROP DATABASE."""
    try:
        yield
    finally:
        db.engine(url).dispose()
        forget_others()
