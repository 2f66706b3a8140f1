"""Which events are owed, settled or dead, in the words by which a database knows their indexes.

A partial index is used if its condition is found in a statement; SQLite compares the very words, so
that they stand in the statement and not in its parameters.
"""

from sqlalchemy import ColumnElement, FromClause, and_, literal_column

from reelwatch.rules.retry import DeliveryState
from reelwatch.storage.models import table_of

deliveries = table_of("deliveries")

EVENT_STATES = tuple(DeliveryState)
SETTLED_STATES = (DeliveryState.DELIVERED, DeliveryState.DEAD)

IN_WORDS: ColumnElement[str] = literal_column(f"'{DeliveryState.PENDING}'")
SETTLED: ColumnElement[bool] = deliveries.c.state != IN_WORDS


def is_pending(rows: FromClause) -> ColumnElement[bool]:
    """Of `deliveries` by any name: is the event owed?"""
    return rows.c.state == IN_WORDS


PENDING = is_pending(deliveries)


def is_in(state: str) -> ColumnElement[bool]:
    """The events in a state, by the index that holds them."""
    if state == DeliveryState.PENDING:
        return PENDING
    return and_(deliveries.c.state == state, SETTLED)


DEAD = is_in(DeliveryState.DEAD)


def event_parts(state: str | None) -> list[ColumnElement[bool]]:
    """The events in a state, or in any, as parts with an index each."""
    return [is_in(each) for each in (EVENT_STATES if state is None else (state,))]
