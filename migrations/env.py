"""Runs the migrations on the connection that `reelwatch.db` hands over, or on DATABASE_URL.

They have a version table and revision ids of their own: in a producer's database their history
stands beside these, and neither sees the other's.
"""

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from reelwatch.config.naming import HERE
from reelwatch.storage import adoption, db, indexes, migrating
from reelwatch.storage.alembic_filter import is_ours
from reelwatch.storage.models import Base


def run(connection: Connection) -> None:
    """Run all due steps, each DDL statement in the one transaction."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=HERE.version_table,
        version_table_schema=HERE.schema,
        include_schemas=HERE.schema is not None,
        include_name=is_ours,
        render_as_batch=connection.dialect.name == "sqlite",  # SQLite alters by copying
        compare_type=True,
        transactional_ddl=True,  # for SQLite too: `reelwatch.db` begins its transactions itself
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":  # two migrating at once: one waits
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7233735)")
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{migrating.LOCK_SECONDS}s'")
        adopted = adoption.prepare(connection)
        if adopted is not None:
            context.get_context().stamp(context.script, adopted)
            notes.append(adoption.take_over(connection, adopted))
        # A step that makes an index takes one of its name for it, whatever state that is in.
        if set(context.get_context().get_current_heads()) != set(context.script.get_heads()):
            notes.extend(indexes.rebuild(connection))
        try:
            context.run_migrations()
        except DBAPIError as error:
            raise adoption.name_taken(error) or error from None
        notes.extend(f"index {each.name}: {each.advice}" for each in indexes.invalid(connection))
        if not context.get_context().get_current_heads():
            adoption.forget(connection)


notes: list[str] = context.config.attributes.setdefault("notes", [])
given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    from reelwatch.config import secrecy, settings  # only `alembic` on the command line needs them

    secrecy.clean_for_good()
    url = settings.load().database_url
    db.make_file(url)
    with db.engine(url).connect() as connection:
        run(connection)
        connection.commit()
