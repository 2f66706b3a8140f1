"""Indexes of ours that PostgreSQL writes and never reads, for they were not built to their end.

A `CREATE INDEX CONCURRENTLY` that is cancelled leaves one; `IF NOT EXISTS` is content with it.
One that somebody is just building looks the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from reelwatch.config.naming import HERE
from reelwatch.errors import NotMigrated
from reelwatch.storage.models import Base

_INVALID = text(
    "SELECT i.indexrelid::regclass::text, i.indrelid::regclass::text, EXISTS ("
    "SELECT FROM pg_stat_progress_create_index p WHERE p.datname = current_database()"
    " AND coalesce(p.relid, i.indrelid) = i.indrelid)"  # NULL: another user's, of any table
    " FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class t ON t.oid = i.indrelid"
    " WHERE NOT i.indisvalid AND c.relname = ANY (:names) AND t.relname = ANY (:tables)"
    " AND n.nspname = coalesce(:schema, current_schema()) ORDER BY 1"
)


class Invalid(NamedTuple):
    """One of them, and whether an index of its table is being built; names as SQL takes them."""

    name: str
    table: str
    in_progress: bool

    @property
    def advice(self) -> str:
        """What is the matter with it, and what to run."""
        if self.in_progress:
            return f"not read yet: an index of {self.table} is being built"
        said = "written and never read, for it was not built to its end"
        return f"{said}: run REINDEX INDEX CONCURRENTLY {self.name}"


def invalid(connection: Connection) -> Sequence[Invalid]:
    """Those that are there, by name. SQLite has none."""
    if connection.dialect.name != "postgresql":
        return []
    tables = Base.metadata.tables.values()
    named = {
        "names": [str(index.name) for table in tables for index in table.indexes],
        "tables": [table.name for table in tables],
        "schema": HERE.schema,
    }
    return [Invalid(*row) for row in connection.execute(_INVALID, named)]


def rebuild(connection: Connection) -> list[str]:
    """Build them anew in this transaction; returns what was done.

    Raises `NotMigrated` where somebody is building one. Waiting for them would not do: they may
    have to wait for this transaction, and PostgreSQL would end either of the two.
    """
    found = invalid(connection)
    for each in found:
        if each.in_progress:
            said = f"nothing is changed: index {each.name} is {each.advice}"
            raise NotMigrated(f"{said}; run `reelwatch migrate` once that has ended")
    for each in found:
        connection.exec_driver_sql(f"REINDEX INDEX {each.name}")
    return [f"index {each.name}: not built to its end before, built anew" for each in found]
