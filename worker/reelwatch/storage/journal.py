"""SQLite's write-ahead log, which a file keeps once it has it."""

import time
from typing import Any

PAUSE_SECONDS = 0.01


def use_wal(connection: Any, seconds: float) -> None:
    """Give the file of a driver's connection its log, or wait so long for whoever is giving it.

    SQLite waits for every other lock by itself, and refuses this one at once: of three that opened
    a new file together, one was refused in every fourth case. Raises the driver's OperationalError.
    """
    from sqlite3 import SQLITE_BUSY, OperationalError  # noqa: PLC0415 - PostgreSQL does without

    end = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == SQLITE_BUSY  # whichever kind of it
            if not busy or time.monotonic() > end:
                raise
            time.sleep(PAUSE_SECONDS)
        else:
            return
