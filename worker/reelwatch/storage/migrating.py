"""Migrations: bringing a database from one revision to another, with Alembic."""

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from reelwatch.errors import NotMigrated, Refused
from reelwatch.storage import holders
from reelwatch.storage.db import engine, make_file, migrations, revision

LOCK_SECONDS = 10.0  # behind one that waits for a table's lock everybody else has to wait as well


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for running the migrations on `connection`."""
    config = Config()
    config.set_main_option("script_location", str(migrations()))
    config.attributes["connection"] = connection
    return config


def goes_back(url: str, to: str) -> bool:
    """Would going to that revision undo some? Raises `Refused` where there is none of that name."""
    if to not in ("head", "base") and to not in (known := _revisions()):
        raise Refused(f"revision {to!r} is unknown; known: base, {', '.join(known)}, head")
    make_file(url)
    with engine(url).connect() as connection:
        return not _ahead(connection, to)


def migrate(url: str, to: str = "head") -> list[str]:
    """Bring the database to the newest revision, or `to` another; harmless at once from several.

    `base` removes all tables. Returns what is worth telling besides. Raises `NotOurs` where
    somebody else's tables are in the way, `NotMigrated` where an index of ours is being built, or
    somebody uses a table for too long: nothing is changed then; `Refused` for an unknown one.
    """
    back = goes_back(url, to)
    with engine(url).connect() as connection:
        config = alembic_config(connection)
        move = command.downgrade if back else command.upgrade
        try:
            move(config, to)
        except DBAPIError as error:
            if said := holders.refusal(connection, error, LOCK_SECONDS):
                raise NotMigrated(said) from None
            raise
        connection.commit()
        return list(config.attributes["notes"])


def _ahead(connection: Connection, to: str) -> bool:
    """Is the revision `to` at or after the database's own?"""
    if to in ("head", "base"):
        return to == "head"
    order, now = _revisions(), revision(connection)
    return now not in order or order.index(to) >= order.index(now)


def _revisions() -> list[str]:
    """Of all there are, the oldest first."""
    scripts = ScriptDirectory(str(migrations()))
    return [script.revision for script in scripts.walk_revisions()][::-1]
