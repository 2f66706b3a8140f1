"""Stamps of what must keep happening, in the database where every process sees them."""

from datetime import datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from worker import db
from worker.models import Heartbeat

TICK = "tick"


def beat(session: Session, name: str, now: datetime, apart: timedelta) -> bool:
    """Stamp `name`, unless it was stamped less than `apart` ago; says whether it was stamped.

    A stamp of the future is none: the clock has been set back since.
    """
    # One that is a little ahead was made by somebody who asked for the time after us.
    old = or_(Heartbeat.at <= now - apart, Heartbeat.at > now + apart)
    stale = update(Heartbeat).where(Heartbeat.name == name, old)
    if session.execute(stale.values(at=now).returning(Heartbeat.name)).first() is not None:
        return True
    first = db.insert_if_absent(session, Heartbeat, "name").values(name=name, at=now)
    return session.execute(first.returning(Heartbeat.name)).first() is not None


def age(session: Session, name: str, now: datetime) -> timedelta | None:
    """How long ago `name` was stamped; None: never."""
    at = last(session, name)
    return None if at is None else now - at


def last(session: Session, name: str) -> datetime | None:
    """When `name` was stamped; None: never."""
    return session.execute(select(Heartbeat.at).where(Heartbeat.name == name)).scalar_one_or_none()
