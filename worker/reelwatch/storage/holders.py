"""Who keeps a migration from the locks that it needs, and what to do about it."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from reelwatch.config.naming import HERE
from reelwatch.rules.wording import plain, span
from reelwatch.storage import db
from reelwatch.storage.models import Base

LOCK_NOT_AVAILABLE = "55P03"
SHOWN_MOST = 5

# Of other users' sessions PostgreSQL tells the number alone, unless one may read all statistics.
_HOLDERS = text(
    "SELECT DISTINCT a.pid, a.application_name, a.usename, host(a.client_addr), a.state,"
    " a.xact_start, clock_timestamp() AS now FROM pg_locks l"
    " JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_class c ON c.oid = l.relation"
    " JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE l.granted AND l.pid <> pg_backend_pid() AND c.relname = ANY (:tables)"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND n.nspname = coalesce(:schema, current_schema())"
    " AND coalesce(a.xact_start, '-infinity') < clock_timestamp() - make_interval(secs => :seconds)"
    " ORDER BY a.xact_start NULLS LAST"
)


class Holder(NamedTuple):
    """A session of PostgreSQL with an open transaction that uses our tables."""

    pid: int
    application: str | None
    user: str | None
    address: str | None
    state: str | None
    since: datetime | None
    now: datetime

    def __str__(self) -> str:
        """As a message names it: `4711 (psql of app at 10.0.0.3, idle in transaction, 3m10s)`."""
        who = [self.application or "", f"of {self.user}" if self.user else ""]
        who += [f"at {self.address}"] if self.address else []
        told = [plain(" ".join(filter(None, who))), self.state or ""]
        told += [span((self.now - self.since).total_seconds())] if self.since else []
        return f"{self.pid} ({', '.join(filter(None, told)) or 'of another user'})"


def refusal(connection: Connection, error: DBAPIError, seconds: float) -> str | None:
    """What is said where a step got no lock within so many seconds; None: it failed otherwise.

    Rolls back what the connection has begun.
    """
    connection.rollback()
    if getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE:
        found = holders(connection, seconds)
        connection.rollback()
        return _told(found, seconds)
    if "database is locked" in db.said_by(error.orig):
        said = "nothing is changed: another process has been writing to the file for"
        said += f" {db.BUSY_SECONDS} s"
        return f"{said}; `lsof` with its name says which; run this again once that has ended"
    return None


def holders(connection: Connection, seconds: float) -> Sequence[Holder]:
    """Who has used our tables for so many seconds in one transaction, the longest first."""
    tables = [table.name for table in Base.metadata.tables.values()]
    asked = {"tables": [*tables, HERE.version_table], "schema": HERE.schema, "seconds": seconds}
    return [Holder(*row) for row in connection.execute(_HOLDERS, asked)]


def _told(found: Sequence[Holder], seconds: float) -> str:
    said = f"nothing is changed: a table that is to change was in use for {seconds:g} s"
    if not found:
        return f"{said}, and is not any more: run this again"
    which = "process" if len(found) == 1 else "processes"
    named = "; ".join(map(str, found[:SHOWN_MOST]))
    return (
        f"{said}, by the database's {which} {named}; pg_stat_activity has its statement, by its "
        f"pid. Let the transaction end, or end it by SELECT pg_terminate_backend({found[0].pid}), "
        "and run this again"
    )
