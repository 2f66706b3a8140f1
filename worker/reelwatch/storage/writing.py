"""Writing a group of items as one, and what it says when that fails."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, OperationalError

Item = TypeVar("Item")


GIVE_WAY = ("40P01", "40001")  # SQLSTATEs: a deadlock, and what could not be serialized


WRITE_TRIES = 4  # each loses once PostgreSQL's `deadlock_timeout`, a second


def is_away(error: Exception) -> bool:
    """Is it the database that is away or can't be written to, and not a value that is odd?"""
    if _gave_way(error):
        return False
    return isinstance(error, OperationalError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def _gave_way(error: Exception) -> bool:
    """Was it rolled back for another transaction's sake, and can it be done anew at once?"""
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    return state in GIVE_WAY


def write_all(
    write: Callable[[Sequence[Item]], None],
    items: Sequence[Item],
    give_up: Callable[[Item], None],
) -> None:
    """Write a group as one; if one of it can't be written, the others all the same.

    Raises what says that the database is away; for whatever else an item brings, it is given up.
    What was rolled back for another transaction's sake is written again.
    """
    try:
        _write_again(write, items)
    except Exception as error:
        if is_away(error):
            raise
        if len(items) == 1:
            give_up(items[0])
            return
        for item in items:
            write_all(write, [item], give_up)


def _write_again(write: Callable[[Sequence[Item]], None], items: Sequence[Item]) -> None:
    for _ in range(WRITE_TRIES - 1):
        try:
            return write(items)
        except DBAPIError as error:
            if not _gave_way(error):
                raise
    return write(items)
