"""What has been learned of durations, as every worker reads it: the table `duration_curves`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from reelwatch.rules.timing import curves
from reelwatch.rules.timing.curves import Known
from reelwatch.storage import db
from reelwatch.storage.models import DurationCurve, table_of

table = table_of("duration_curves")

KINDS_MOST = 100  # of an account: a producer may make up a prefix for each id

_read: dict[tuple[str, str, datetime], Known | None] = {}  # a curve is read once, not at every turn


def kinds(session: Session, account: str) -> Mapping[str, Known]:
    """What is known of the account's models, by model; models without finished jobs are missing."""
    stamps = select(table.c.model, table.c.learned_at).where(table.c.account == account)
    wanted = {(account, model, at) for model, at in session.execute(stamps)}
    for key in list(_read):  # a copy: other threads read on
        if key[0] == account and key not in wanted:
            _read.pop(key, None)  # replaced since
    new = wanted - _read.keys()
    if new:
        _load(session, account, {model for _, model, _ in new})
    return {
        model: known
        for account, model, at in wanted
        if (known := _read.get((account, model, at))) is not None
    }


def _load(session: Session, account: str, models: set[str]) -> None:
    query = select(table).where(table.c.account == account, table.c.model.in_(models))
    for row in session.execute(query).mappings():
        _read[account, row["model"], row["learned_at"]] = _known(row["curve"])


def _known(body: Mapping[str, Any]) -> Known | None:
    curve = curves.from_json(body)
    return None if curve is None else Known(curve, body["price"])


def keep(session: Session, account: str, model: str, known: Known, now: datetime) -> None:
    """Store what was learned in place of what was known before.

    Of an account's kinds the `KINDS_MOST` that were learned last stay. What is dropped costs
    little: the jobs are still there to learn from when another one of the kind ends.
    """
    values = {
        "learned_at": now,
        "jobs": known.curve.jobs,
        "curve": {**known.curve.to_json(), "price": known.price},
    }
    mine = (table.c.account == account, table.c.model == model)
    old = session.execute(update(table).where(*mine).values(values).returning(table.c.model))
    if old.first() is None:
        first = db.insert_if_absent(db.dialect(session), DurationCurve, "account", "model")
        session.execute(first.values(account=account, model=model, **values))
        _drop_oldest(session, account)


def _drop_oldest(session: Session, account: str) -> None:
    newest = select(table.c.model).where(table.c.account == account)
    oldest = newest.order_by(table.c.learned_at.desc(), table.c.model).offset(KINDS_MOST)
    session.execute(delete(table).where(table.c.account == account, table.c.model.in_(oldest)))
