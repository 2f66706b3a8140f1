"""Migrations: bringing a database from one revision to another, with Alembic."""

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from reelwatch.errors import Refused
from reelwatch.storage.db import engine, make_file, migrations, revision


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
    make_file(url)
    with engine(url).connect() as connection:
        config = alembic_config(connection)
        move = command.upgrade if _ahead(connection, to) else command.downgrade
        move(config, to)
        connection.commit()
        return list(config.attributes["notes"])


def _ahead(connection: Connection, to: str) -> bool:
    """Is the revision `to` at or after the database's own?"""
    if to in ("head", "base"):
        return to == "head"
    scripts = ScriptDirectory.from_config(alembic_config(connection))
    order = [script.revision for script in scripts.walk_revisions()][::-1]
    now = revision(connection)
    if to not in order:
        raise Refused(f"revision {to!r}; known: base, {', '.join(order)}, head")
    return now not in order or order.index(to) >= order.index(now)
