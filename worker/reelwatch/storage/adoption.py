"""Before migrating: whose tables are these? Ours go on, from an older release's bookkeeping too.

Releases before `reelwatch_version` kept their revision in `alembic_version`, where a producer's own
history may stand as well. Their tables are known by their columns, not by what that table says.
"""

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import (
    Column,
    Connection,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, ProgrammingError

from reelwatch.config.naming import HERE, VARIABLE
from reelwatch.errors import NotOurs, first_line
from reelwatch.storage.models import Base

OLD_VERSION_TABLE = "alembic_version"
FIRST = "reelwatch_0001"
SECOND = "reelwatch_0002"  # `accounts.refused_rate` besides
OLD_NAMES = {FIRST: "0001", SECOND: "0002"}  # before these revisions had names of their own

# What the tables held then; a column that was added by hand since does no harm.
OLD_COLUMNS: Mapping[str, str] = {
    "accounts": "name requests_per_second next_slot_at slowed_at paused_until pause_reason "
    "pauses_in_row look_price",
    "duration_curves": "account model learned_at jobs curve",
    "heartbeats": "name at",
    "destinations": "name failures openings allowance open_until",
    "jobs": "id account video_id model state upstream_status video_url error_code error_message "
    "error_request_id metadata sequence polls progress progress_at tracked_at upstream_created_at "
    "upstream_finished_at finished_at next_poll_at last_polled_at deadline_at expired_at "
    "abandoned_at webhook_url callback_task callback_queue events lease_token errors_in_row "
    "last_error last_error_id not_found_count not_found_since resultless_count resultless_since",
    "poll_errors": "id job_id kind http_status message request_id first_at last_at count",
    "transitions": "id job_id sequence from_state to_state from_status to_status at upstream_at "
    "answer",
    "deliveries": "id job_id transition_id sequence event_type channel target destination body "
    "state attempts failures created_at next_attempt_at delivered_at lease_token",
    "attempts": "id delivery_id at http_status error duration_ms response_excerpt",
}


def prepare(connection: Connection) -> str | None:
    """Make the schema if need be; returns the revision of tables that an older release left here.

    None: there are none, or their revision is written down. Raises `NotOurs` where a table of
    somebody else's has a name that is needed.
    """
    _make_schema(connection)
    if _written_down(connection):
        return None
    there = set(inspect(connection).get_table_names(HERE.schema))
    found = [name for name in OLD_COLUMNS if HERE.table(name) in there]
    if not found:
        _refuse_taken_names(connection)
        return None
    for name in found:
        if missing := set(OLD_COLUMNS[name].split()) - _columns(connection, name):
            raise NotOurs(_refusal(f"table {HERE.table(name)}", f"no column {min(missing)}"))
    if lost := set(OLD_COLUMNS) - set(found):
        raise NotOurs(
            f"Reelwatch's table {HERE.table(found[0])} is here, its table {min(lost)} is not: "
            "nothing is changed; restore it from a backup"
        )
    return SECOND if "refused_rate" in _columns(connection, "accounts") else FIRST


def take_over(connection: Connection, revision: str) -> str:
    """Remove the older release's entry in `alembic_version`, if it is ours; says what was done."""
    adopted = f"tables of an older release are taken over at {revision}"
    old = Table(OLD_VERSION_TABLE, MetaData(), Column("version_num", String), schema=HERE.schema)
    inspector = inspect(connection)
    if not inspector.has_table(OLD_VERSION_TABLE, HERE.schema):
        return adopted
    entries = list(connection.execute(select(old.c.version_num)).scalars())
    ours = {*map(HERE.table, OLD_COLUMNS), HERE.version_table, OLD_VERSION_TABLE}
    strangers = set(inspector.get_table_names(HERE.schema)) - ours
    if entries == [OLD_NAMES[revision]] and not strangers:
        old.drop(connection)
        return f"{adopted}; {OLD_VERSION_TABLE}, which only they used, is removed"
    return (
        f"{adopted}; {OLD_VERSION_TABLE} stays as it is, for it may be another project's: "
        "Reelwatch does not read it any more"
    )


def name_taken(error: DBAPIError) -> NotOurs | None:
    """The refusal, if a step failed because a name that it needs is somebody else's."""
    reason = first_line(error.orig or error)
    return (
        NotOurs(_refusal("a name that Reelwatch needs", reason))
        if "already exists" in reason
        else None
    )


def forget(connection: Connection) -> None:
    """Remove the version table, when no table of ours is left."""
    Table(HERE.version_table, MetaData(), schema=HERE.schema).drop(connection, checkfirst=True)


def _make_schema(connection: Connection) -> None:
    if HERE.schema is None or inspect(connection).has_schema(HERE.schema):
        return
    try:
        connection.execute(text(f"CREATE SCHEMA {HERE.schema}"))
    except ProgrammingError as error:
        reason = first_line(error.orig or error)
        raise NotOurs(
            f"{VARIABLE}={HERE.schema}: there is no such schema, and it can't be made ({reason}); "
            f"have its owner run CREATE SCHEMA {HERE.schema} AUTHORIZATION …"
        ) from None


def _written_down(connection: Connection) -> bool:
    if not inspect(connection).has_table(HERE.version_table, HERE.schema):
        return False
    version = Table(
        HERE.version_table, MetaData(), Column("version_num", String), schema=HERE.schema
    )
    return connection.execute(select(version.c.version_num)).first() is not None


def _columns(connection: Connection, name: str) -> set[str]:
    return {each["name"] for each in inspect(connection).get_columns(HERE.table(name), HERE.schema)}


def _refuse_taken_names(connection: Connection) -> None:
    """Indexes share one space of names with tables."""
    taken = sorted(set(_needed_names()) & set(_relations(connection)))
    if taken:
        raise NotOurs(_refusal(taken[0], "it belongs to no table of Reelwatch's"))


def _needed_names() -> Iterator[str]:
    yield HERE.version_table
    for table in Base.metadata.tables.values():
        yield table.name
        for named in (*table.indexes, *table.constraints):
            if isinstance(named, Index | PrimaryKeyConstraint | UniqueConstraint) and named.name:
                yield str(named.name)


def _relations(connection: Connection) -> Sequence[str]:
    if connection.dialect.name == "sqlite":
        return connection.execute(text("SELECT name FROM sqlite_master")).scalars().all()
    query = text(
        "SELECT relname::text FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE nspname = coalesce(:schema, current_schema())"
    )
    return connection.execute(query, {"schema": HERE.schema}).scalars().all()


def _refusal(what: str, why: str) -> str:
    return (
        f"{what} is in this database already and is not Reelwatch's ({why}); nothing is changed. "
        f"Set {VARIABLE} to the name of a schema, or of a prefix for all tables, for every process "
        "that uses Reelwatch, and migrate again"
    )
