"""Stamps of what must keep happening, in the database where every process sees them."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from reelwatch.rules.outlook import Ticks
from reelwatch.storage import db
from reelwatch.storage.models import Heartbeat

TICK = "tick"
WATCH = "watch"  # of the whole, by one of all processes


def beat(
    session: Session, name: str, apart: timedelta, now: datetime | None = None
) -> datetime | None:
    """Stamp `name`, unless it was stamped less than `apart` ago; returns the time it was given.

    None: it was stamped lately. A stamp of the future is none: the clock has been set back since.
    """

    def clock(ahead: timedelta = timedelta(0)) -> Any:
        return db.clock(session, ahead) if now is None else now + ahead

    # One that is a little ahead was made by somebody who asked for the time after us.
    old = or_(Heartbeat.at <= clock(-apart), Heartbeat.at > clock(apart))
    stale = update(Heartbeat).where(Heartbeat.name == name, old).values(at=clock())
    stamped = session.execute(stale.returning(Heartbeat.at)).scalar_one_or_none()
    if stamped is not None:
        return stamped
    first = db.insert_if_absent(db.dialect(session), Heartbeat, "name").values(
        name=name, at=clock()
    )
    return session.execute(first.returning(Heartbeat.at)).scalar_one_or_none()


def age(session: Session, name: str, now: datetime | None = None) -> timedelta | None:
    """How long ago `name` was stamped; None: never."""
    query = select(Heartbeat.at, db.clock(session)).where(Heartbeat.name == name)
    row = session.execute(query).one_or_none()
    return None if row is None else (now or row[1]) - row[0]


def ticks(session: Session, now: datetime) -> Ticks:
    """When the last tick was, and whether workers do without."""
    names = Heartbeat.name.in_((TICK, WATCH))
    query = select(Heartbeat.name, Heartbeat.at).where(names)
    at = {row.name: row.at for row in session.execute(query)}
    return Ticks(at.get(TICK), now, at.get(WATCH))


def last(session: Session, name: str) -> datetime | None:
    """When `name` was stamped; None: never."""
    return session.execute(select(Heartbeat.at).where(Heartbeat.name == name)).scalar_one_or_none()
