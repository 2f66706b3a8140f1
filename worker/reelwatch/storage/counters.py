"""Counters as rows: added to in the transaction that writes the facts they count.

So they are exact whatever process dies when. Each connection adds to rows of its own, a *shard*: no
transaction ever waits for another one's. Now and then all that nobody holds are folded into one.
"""

import json
import secrets
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Insert,
    Integer,
    String,
    bindparam,
    column,
    delete,
    func,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from reelwatch.rules.metrics import BOUNDED, OTHER, Series, Tally, bounded, unplaced
from reelwatch.storage import db
from reelwatch.storage.models import table_of

counters = table_of("counters")
KEY = ("name", "labels", "shard")
SHARD = "reelwatch_shard"  # where a connection keeps its own
FOLDED = 0  # the shard that the others are folded into

TOTALS = select(
    counters.c.name, counters.c.labels, func.sum(counters.c.value).label("value")
).group_by(counters.c.name, counters.c.labels)
LABELS = select(counters.c.labels).distinct()
LOOSE = select(*(counters.c[name] for name in KEY)).where(counters.c.shard != FOLDED)
FOLD = (
    delete(counters)
    .where(tuple_(*(counters.c[name] for name in KEY)).in_(LOOSE.with_for_update(skip_locked=True)))
    .returning(counters.c.name, counters.c.labels, counters.c.value)
)

_known: dict[str, dict[str, set[str]]] = {}  # by database: the values of labels that have a place


def add(session: Session, tally: Tally) -> None:
    """Add to the counters, in one statement; to be called last in a transaction."""
    if not tally:
        return
    lite = db.dialect(session) == "sqlite"  # one writer at a time: there is nobody to wait for
    _write(session, _bounded(session, tally), FOLDED if lite else _shard(session))


def lists(session: Session, tally: Tally) -> dict[str, Any]:
    """The parameters of a PostgreSQL statement that adds such a tally as `all_at_once` has it."""
    return _lists(_bounded(session, tally), _shard(session))


def fold(session: Session) -> None:
    """Bring what connections have added, those that are gone too, together into one shard."""
    if db.dialect(session) == "sqlite":
        return
    loose = Tally()
    for name, labels, value in session.execute(FOLD):
        series = _series(name, labels)
        loose[series] = loose.get(series, 0.0) + value
    _write(session, loose, FOLDED)


def totals(session: Session) -> Tally:
    """All counters as of now."""
    rows = session.execute(TOTALS)
    return Tally({_series(name, labels): value for name, labels, value in rows})


def forget() -> None:
    """Forget which values of labels are known to have a place."""
    _known.clear()


def _shard(session: Session) -> int:
    """The connection's own: it is in one transaction at a time, whoever uses it."""
    shard: int = session.connection().info.setdefault(SHARD, 1 + secrets.randbelow(2**31 - 1))
    return shard


def _bounded(session: Session, tally: Tally) -> Tally:
    where = session.get_bind().engine.url.render_as_string(hide_password=False)
    known = _known.setdefault(where, {name: set() for name in BOUNDED})
    if unplaced(tally, known):
        for labels in session.scalars(LABELS):
            for name, value in json.loads(labels).items():
                if name in BOUNDED and value != OTHER:
                    known[name].add(value)
    return bounded(tally, known)


def _series(name: str, labels: str) -> Series:
    return Series(name, tuple(json.loads(labels).items()))


def _write(session: Session, tally: Tally, shard: int) -> None:
    if not tally:
        return
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        rows = [
            {"name": name, "labels": labels, "shard": shard, "value": by}
            for name, labels, by in _rows(tally)
        ]
        connection.execute(_one_by_one(), rows)
    else:
        connection.execute(ALL_AT_ONCE, _lists(tally, shard))


def _rows(tally: Tally) -> list[tuple[str, str, float]]:
    return [
        (series.name, json.dumps(dict(series.labels), ensure_ascii=False), by)
        for series, by in sorted(tally.items())
    ]


def _lists(tally: Tally, shard: int) -> dict[str, Any]:
    names, labels, values = map(list, zip(*_rows(tally), strict=True))
    return {"names": names, "label_sets": labels, "by": values, "of_shard": shard}


@cache
def _one_by_one() -> Insert:
    new = db.dialects_insert("sqlite", counters)
    return new.on_conflict_do_update(
        index_elements=KEY, set_={"value": counters.c.value + new.excluded.value}
    )


def all_at_once(*conditions: ColumnElement[bool]) -> Insert:
    """PostgreSQL's statement that adds `lists` to the counters, if these conditions hold."""
    kinds: dict[str, TypeEngine[Any]] = {"names": String(), "label_sets": String(), "by": Float()}
    lists = [bindparam(name, type_=ARRAY(kind)) for name, kind in kinds.items()]
    columns = [column(name, kind) for name, kind in kinds.items()]
    given = func.unnest(*lists).table_valued(*columns, name="given").render_derived()
    rows = select(
        given.c.names, given.c.label_sets, bindparam("of_shard", type_=Integer()), given.c.by
    ).where(*conditions)
    new = db.dialects_insert("postgresql", counters).from_select([*KEY, "value"], rows)
    return new.on_conflict_do_update(
        index_elements=KEY, set_={"value": counters.c.value + new.excluded.value}
    )


ALL_AT_ONCE = all_at_once()
