"""What `doctor` finds out about an SQLite file by writing: a full disk says so at no other time."""

from sqlalchemy import make_url

from reelwatch.storage import db

ROOM = 128 * 1024  # bytes; a tick needs a few pages


def try_writing(url: str) -> None:
    """Write and take it back. Raises SQLAlchemy's error where that fails.

    More than the cache holds: what stays in memory until a commit needs no disk. PostgreSQL is
    asked instead, see `db.read_only`.
    """
    if make_url(url).get_backend_name() != "sqlite":
        return
    with db.engine(url).connect() as connection:
        try:
            connection.exec_driver_sql("PRAGMA cache_size = 1")
            connection.exec_driver_sql("CREATE TABLE reelwatch_doctor (tried BLOB)")
            connection.exec_driver_sql("INSERT INTO reelwatch_doctor VALUES (zeroblob(?))", (ROOM,))
        finally:
            connection.rollback()
            connection.invalidate()  # with its small cache
