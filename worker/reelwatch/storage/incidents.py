"""Incidents, each begun once whoever notices it, and the events that tell the operator of them."""

import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlalchemy import ColumnElement, delete, exists, func, insert, select, update
from sqlalchemy.orm import Session

from reelwatch.config import settings
from reelwatch.rules import counting, events, notices
from reelwatch.rules.changes import Change
from reelwatch.rules.notices import Notice, NoticeType
from reelwatch.rules.retry import DeliveryState
from reelwatch.storage import counters, db
from reelwatch.storage.event_states import SETTLED
from reelwatch.storage.models import Incident, table_of

if TYPE_CHECKING:  # who only hands in ids has no use for what it loads
    from reelwatch.rules.standing import Standing

incidents = table_of("incidents")
deliveries = table_of("deliveries")

CHANNEL = "webhook"
MOST_OF_A_KIND = 100  # subjects that come from outside, such as statuses


def tell(session: Session, notice: Notice | None, at: datetime) -> None:
    """Owe the operator an event, in the transaction that has noticed what it tells.

    It is a delivery like all others, but of no job. None, and nowhere to tell: nothing is owed.
    """
    target = operator_url()
    if notice is None or target is None:
        return
    row = {
        "id": f"evt_{int(at.timestamp() * 1000):012x}{secrets.token_hex(10)}",
        "sequence": 0,
        "event_type": notice.type.value,
        "channel": CHANNEL,
        "target": target,
        "destination": urlsplit(target).netloc.casefold()[:300],
        "body": events.encode(notices.body(notice, at)),
        "state": DeliveryState.PENDING.value,
        "created_at": at,
        "next_attempt_at": at,
    }
    session.execute(insert(deliveries), [row])
    counters.add(session, counting.of_events([row]))


def operator_url() -> str | None:
    """Where the operator is told, by the settings of this process."""
    return settings.handing_in().operator_url


def tell_once(
    session: Session, notice: Notice, subject: str, at: datetime, again: timedelta | None = None
) -> None:
    """Tell it, unless the incident of that subject has been told; after `again` it is another."""
    if operator_url() is None:
        return
    if again is None and _count(session, notice.type.value) >= MOST_OF_A_KIND:
        return
    if begin(session, notice.type.value, subject, at, again):
        tell(session, notice, at)


def tell_novelties(session: Session, changes: Iterable[Change], at: datetime) -> None:
    """Tell what answers hold that this release does not know, each once."""
    for change in changes:
        # Where it goes on so, the first poll of a job has told it.
        first = change.decision.transition or change.decision.errors_in_row == 1
        what = notices.novelty(change.answer) if first else None
        if what is not None:
            data = {name: change.row[name] for name in ("account", "video_id")} | {"what": what}
            tell_once(session, Notice(NoticeType.UPSTREAM_CHANGED, data), what[:200], at)


def begin(
    session: Session, kind: str, subject: str, at: datetime, again: timedelta | None = None
) -> bool:
    """Open an incident; true for the one who does. One that is as old as `again` opens anew."""
    reopened = update(incidents).where(*_is(kind, subject))
    old = incidents.c.at <= at - again if again else ~incidents.c.open
    stamped = reopened.where(old).values(at=at, open=True).returning(incidents.c.kind)
    if session.execute(stamped).first() is not None:
        return True
    new = db.insert_if_absent(db.dialect(session), Incident, "kind", "subject")
    values = new.values(kind=kind, subject=subject, at=at, open=True)
    return session.execute(values.returning(incidents.c.kind)).first() is not None


def begin_anew(session: Session, kind: str, subject: str, at: datetime) -> None:
    """Open an incident now, whether or not anybody closed the one before."""
    end(session, kind, subject)
    begin(session, kind, subject, at)


def begun(session: Session, kind: str) -> Mapping[str, datetime]:
    """Since when there are incidents of that kind, by their subjects."""
    query = select(incidents.c.subject, incidents.c.at).where(incidents.c.kind == kind)
    return {row.subject: row.at for row in session.execute(query.where(incidents.c.open))}


def of_account(
    session: Session, name: str, before: "Standing", after: "Standing", at: datetime
) -> None:
    """Note what begins and what ends as an account comes to stand so, and tell the operator.

    Since when it is paused or slowed is noted whether or not anybody is to be told. A pause by hand
    begins when somebody paused it, also where it rested already: that is no news to the operator.
    """
    if before.slowed_at is None and after.slowed_at is not None:
        begin_anew(session, notices.SLOWED, name, at)
    if before.rests and after.by_hand and not before.by_hand:
        begin_anew(session, NoticeType.ACCOUNT_PAUSED, name, at)
    notice = notices.of_account(name, before, after)
    if notice is None:
        return
    if after.rests:
        begin_anew(session, NoticeType.ACCOUNT_PAUSED, name, at)
    else:
        paused = _is(NoticeType.ACCOUNT_PAUSED, name)
        session.execute(update(incidents).where(*paused).values(open=False, at=at))
    tell(session, notice, at)


def end(session: Session, kind: str, subject: str) -> bool:
    """Close an incident; true for the one who does."""
    closed = update(incidents).where(*_is(kind, subject), incidents.c.open).values(open=False)
    return session.execute(closed.returning(incidents.c.kind)).first() is not None


def is_open(session: Session, kind: str, subject: str) -> bool:
    """Is there such an incident now?"""
    query = select(incidents.c.kind).where(*_is(kind, subject), incidents.c.open)
    return session.execute(query).first() is not None


def reading(session: Session, kind: str, subject: str) -> Mapping[str, Any] | None:
    """What was noted last of the subject, to judge it by."""
    query = select(incidents.c.reading).where(*_is(kind, subject))
    found: Mapping[str, Any] | None = session.execute(query).scalar_one_or_none()
    return found


def note(
    session: Session, kind: str, subject: str, at: datetime, reading: Mapping[str, Any]
) -> None:
    """Note what the subject is to be judged by the next time; opens and closes nothing."""
    absent = db.insert_if_absent(db.dialect(session), Incident, "kind", "subject")
    session.execute(absent.values(kind=kind, subject=subject, at=at, open=False))
    session.execute(update(incidents).where(*_is(kind, subject)).values(reading=reading))


def any_over(session: Session, before: datetime) -> bool:
    """Is there anything to `forget`?"""
    query = select(exists().where(*_over(before)) | exists().where(*_told(before)))
    return bool(session.execute(query).scalar_one())


def forget(session: Session, before: datetime) -> None:
    """Delete the incidents that are over since then, and the operator's events of before."""
    session.execute(delete(incidents).where(*_over(before)))
    session.execute(delete(deliveries).where(*_told(before)))


def _over(before: datetime) -> tuple[ColumnElement[bool], ...]:
    return incidents.c.at < before, ~incidents.c.open


def _told(before: datetime) -> tuple[ColumnElement[bool], ...]:
    return SETTLED, deliveries.c.created_at < before, deliveries.c.job_id.is_(None)


def _count(session: Session, kind: str) -> int:
    of_kind = select(func.count()).select_from(incidents).where(incidents.c.kind == kind)
    return session.execute(of_kind).scalar_one()


def _is(kind: str, subject: str) -> tuple[Any, Any]:
    return incidents.c.kind == kind, incidents.c.subject == subject
