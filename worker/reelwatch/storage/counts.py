"""Counts that stop early: no more rows are read than it takes to say "so many or more"."""

from typing import Any

from sqlalchemy import Select, func, select

COUNT_MOST = 10_000


def counted(rows: Select[Any], most: int | None = None) -> Select[int]:
    """How many rows a query finds; at most `most`, or `COUNT_MOST`."""
    few = rows.limit(COUNT_MOST if most is None else most).subquery()
    return select(func.count()).select_from(few)


def at_most(count: int, most: int | None = None) -> str:
    """A count up to `most`, or `COUNT_MOST`, as people read it: `9`, `10000+`."""
    return f"{count}+" if count >= (COUNT_MOST if most is None else most) else str(count)
