"""Runs the migrations on the connection that `reelwatch.db` hands over, or on DATABASE_URL."""

from alembic import context
from sqlalchemy import Connection

from reelwatch import db
from reelwatch.models import Base


def run(connection: Connection) -> None:
    """Run all due steps, each DDL statement in the one transaction."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",  # SQLite alters by copying
        compare_type=True,
        transactional_ddl=True,  # for SQLite too: `reelwatch.db` begins its transactions itself
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":  # two migrating at once: one waits
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7233735)")
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    from reelwatch import settings  # only `alembic` on the command line needs them

    with db.engine(settings.load().database_url).connect() as connection:
        run(connection)
        connection.commit()
