"""Owing events again that were told, or given up: same id and body, all attempts anew."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import ColumnElement, func, insert, or_, select, update
from sqlalchemy.orm import Session

from reelwatch.errors import Refused
from reelwatch.rules.actions import BY_PYTHON, ActionName
from reelwatch.rules.events import timestamp
from reelwatch.rules.retry import DeliveryState
from reelwatch.storage import db, destinations, surveys
from reelwatch.storage.actions import Entry
from reelwatch.storage.destinations import deliveries
from reelwatch.storage.event_states import EVENT_STATES
from reelwatch.storage.filters import EventFilter
from reelwatch.storage.models import table_of
from reelwatch.storage.paging import Page, Place

log = structlog.get_logger(__name__)

redeliveries = table_of("redeliveries")

IDS_AT_ONCE = 500  # events in one statement
LEFT_AFTER = timedelta(seconds=60)  # an order that nobody has worked at for so long is taken up
LEFT_AT_ONCE = 10  # orders
LEFT_SECONDS = 30.0  # of going on with them, then others have their turn
RUNNING = redeliveries.c.state == "running"
TIMES = ("since", "until")  # of what an order chooses


def redeliver(
    session: Session,
    now: datetime,
    ids: Sequence[str],
    *,
    release: bool = False,
    by: str = BY_PYTHON,
) -> list[str]:
    """Owe events again, from the first attempt on. Returns their ids, each once, in order.

    Ids and bodies stay; signature and timestamp are made anew with every attempt. `release` ends
    the rest of endpoints that had failed, for they are repaired. Raises `Refused` for an id that
    does not exist.
    """
    wanted = sorted(set(ids))
    missing = set(wanted)
    entry = Entry(ActionName.REDELIVER, by)
    for at in range(0, len(wanted), IDS_AT_ONCE):
        missing -= set(_owe_again(session, now, wanted[at : at + IDS_AT_ONCE], entry))
    if missing:
        raise Refused(f"redeliver: no event {', '.join(sorted(missing))}")
    if release:  # after all events: who records attempts locks events first, then endpoints
        destinations.release_for(session, wanted)
    return wanted


def redeliver_chosen(
    url: str,
    ids: Sequence[str],
    *,
    states: Collection[str] = EVENT_STATES,
    release: bool = False,
    by: str = BY_PYTHON,
    chosen_by: Mapping[str, Any] | None = None,
) -> Iterator[list[str]]:
    """Owe many events again, some hundreds in one transaction after another; see `redeliver`.

    Gives the ids of each; whoever stops asking for more leaves the others as they are. Those that
    are gone meanwhile, or in none of the states any more, are left out.
    """
    wanted = sorted(set(ids))
    entry = Entry(ActionName.REDELIVER, by, chosen_by=chosen_by)
    for at in range(0, len(wanted), IDS_AT_ONCE):
        with db.transaction(url) as session:
            these = wanted[at : at + IDS_AT_ONCE]
            done = _owe_again(session, db.now(session), these, entry, states)
            if release:
                destinations.release_for(session, done)
        yield done


def _owe_again(
    session: Session,
    now: datetime,
    ids: Sequence[str],
    entry: Entry,
    states: Collection[str] = EVENT_STATES,
) -> list[str]:
    """Those of the events that are there so; their rows are locked in one order for all."""
    chosen = (deliveries.c.id.in_(ids), deliveries.c.state.in_(states))
    query = select(deliveries.c.id, deliveries.c.job_id).where(*chosen).order_by(deliveries.c.id)
    job_of = {row.id: row.job_id for row in session.execute(query.with_for_update(key_share=True))}
    found = list(job_of)
    values = {
        "state": DeliveryState.PENDING.value,
        "next_attempt_at": now,
        "failures": 0,
        "delivered_at": None,
        "lease_token": None,
    }
    session.execute(update(deliveries).where(deliveries.c.id.in_(found)).values(values))
    entry.note(session, now, _by_job(job_of), count=len(found))
    return found


def _by_job(job_of: Mapping[str, int | None]) -> dict[int, dict[str, list[str]]]:
    """The events of each job."""
    found: dict[int, dict[str, list[str]]] = {}
    for event_id, job_id in job_of.items():
        if job_id is not None:  # the operator's events are counted, and are no job's
            found.setdefault(job_id, {"events": []})["events"].append(event_id)
    return found


# ------------------------------------------------------------------- orders


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events an order is about: by default what is dead, and with `release` what is owed too.

    `release`: their endpoints are repaired, and called at once.
    """

    state: str | None = None
    endpoint: str | None = None
    account: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    release: bool = False

    def events(self) -> EventFilter:
        """The filter of these events. Raises `Refused` for what can't be looked for."""
        return EventFilter(
            state=self.state or (None if self.release else DeliveryState.DEAD),
            untold=self.release,
            endpoint=self.endpoint,
            account=self.account,
            since=self.since,
            until=self.until,
        )


def order(url: str, wanted: Wanted, *, by: str, key: str | None = None) -> int:
    """Write down an order to send events again; returns its number. `work` goes through it.

    The same `key` means the same order, however often and by however many it is sent. Raises
    `Refused` for what can't be looked for, and for a key that another order has.
    """
    wanted.events()
    said = {name: _said(value) for name, value in asdict(wanted).items() if value}
    with db.transaction(url) as session:
        now = db.now(session)
        if wanted.since and wanted.since >= now:
            raise Refused(f"since: {wanted.since.isoformat()} is to come: there is no event of it")
        values = {"key": key, "ordered_by": by, "wanted": said, "state": "running"}
        new = insert(redeliveries) if key is None else _unless_known(session)
        made = session.execute(
            new.values(created_at=now, **values).returning(redeliveries.c.id)
        ).scalar_one_or_none()
        if made is not None:
            return int(made)
        [known] = session.execute(select(redeliveries).where(redeliveries.c.key == key)).mappings()
    if _comparable(known["wanted"]) != _comparable(said):
        raise Refused("Idempotency-Key: another order had this key")
    return int(known["id"])


def _said(value: Any) -> str | bool:
    """A value of a choice as it is stored, and told to who asks for the order."""
    if isinstance(value, datetime):
        return str(timestamp(value))
    return value if value is True else str(value)


def _comparable(said: Mapping[str, Any]) -> dict[str, Any]:
    """To compare: the release before wrote true as a text, and times in another form."""
    times = {name: datetime.fromisoformat(said[name]) for name in TIMES if name in said}
    return {name: str(value) for name, value in said.items()} | times


def _unless_known(session: Session) -> Any:
    return db.insert_if_absent(db.dialect(session), redeliveries, "key")


def progress(url: str, number: int) -> dict[str, Any] | None:
    """An order's row, with how many events were `left_out`; None if there is none."""
    with db.reading(url) as session:
        query = select(redeliveries).where(redeliveries.c.id == number)
        row = session.execute(query).mappings().one_or_none()
    if row is None:
        return None
    ended = row["state"] == "done"
    return {**row, "left_out": max(0, row["total"] - row["done"]) if ended else 0}


def is_left(url: str, number: int) -> bool:
    """Is nobody going through the order, though it is not done? Whoever asks first is told so."""
    with db.transaction(url) as session:
        now = db.now(session)
        nobody = or_(redeliveries.c.worked_at.is_(None), _last_touched() < now - LEFT_AFTER)
        left = update(redeliveries).where(RUNNING, redeliveries.c.id == number, nobody)
        taken = session.execute(left.values(worked_at=now).returning(redeliveries.c.id)).first()
    return taken is not None


def work_at_left(url: str, stops: Callable[[], bool], seconds: float = LEFT_SECONDS) -> None:
    """Go through the orders that were left, as by a web process that has ended, for so long.

    Not through one that was only just given: whoever wrote it down is about to. It ends early where
    this process `stops`.
    """
    end = time.monotonic() + seconds

    def is_over() -> bool:
        return stops() or time.monotonic() > end

    with db.at_once(url, only_reads=True) as session:
        left = _last_touched() < db.clock(session, -LEFT_AFTER)
        # One that can't be gone through, for whatever reason, lets all others go first.
        order = (_last_touched(), redeliveries.c.id)
        query = select(redeliveries.c.id).where(RUNNING, left).order_by(*order)
        numbers = session.scalars(query.limit(LEFT_AT_ONCE)).all()
    for number in numbers:
        if not is_over() and is_left(url, number):
            log.warning("redelivery_taken_up", number=number)
            work(url, number, is_over)


def _last_touched() -> ColumnElement[datetime]:
    return func.coalesce(redeliveries.c.worked_at, redeliveries.c.created_at)


def work(url: str, number: int, is_over: Callable[[], bool] = lambda: False) -> None:
    """Go through an order, from where it was left: each event is owed again once.

    It is left again, between two transactions, once the time `is_over`, and to whoever else is
    found to go through it.
    """
    row = progress(url, number)
    if row is None or row["state"] == "done":
        return
    wanted = _of_row(row["wanted"], row["created_at"])
    place = _place_of(row)
    if place is None:
        total = surveys.count_of_events(url, wanted.events())
        with db.transaction(url) as session:
            _changed(session, number, place, {"total": total, "worked_at": db.now(session)})
    entry = Entry(ActionName.REDELIVER, row["ordered_by"], chosen_by=row["wanted"])
    while True:
        with db.reading(url) as session:
            found = surveys.events(session, wanted.events(), place, IDS_AT_ONCE)
        if not _owe_page(url, number, wanted, entry, place, found):
            return
        place = found.next
        if place is None or is_over():
            return


def _owe_page(
    url: str, number: int, wanted: Wanted, entry: Entry, place: Place | None, found: Page
) -> bool:
    """Owe these again and note it with the order; false where somebody else is further."""
    ids = sorted(row["id"] for row in found.rows)
    with db.transaction(url) as session:
        now = db.now(session)
        at, last = found.next or (None, None)
        values: dict[str, Any] = {"worked_at": now, "place_at": at, "place_id": last}
        if found.next is None:
            values |= {"state": "done", "finished_at": now}
        if not _changed(session, number, place, values):
            return False
        done = _owe_again(session, now, ids, entry, wanted.events().states)
        if wanted.release:
            destinations.release_for(session, done)
        counted = update(redeliveries).where(redeliveries.c.id == number)
        session.execute(counted.values(done=redeliveries.c.done + len(done)))
    return True


def _place_of(row: Mapping[str, Any]) -> Place | None:
    return None if row["place_at"] is None else (row["place_at"], row["place_id"])


def _changed(session: Session, number: int, place: Place | None, values: Mapping[str, Any]) -> bool:
    """Write this to the order, which stays locked, if it is still at that place."""
    at, last = place or (None, None)
    there = (
        redeliveries.c.place_at.is_not_distinct_from(at),
        redeliveries.c.place_id.is_not_distinct_from(last),
    )
    chosen = update(redeliveries).where(redeliveries.c.id == number, RUNNING, *there)
    changed = session.execute(chosen.values(values).returning(redeliveries.c.id))
    return changed.first() is not None


def _of_row(said: Mapping[str, Any], ordered_at: datetime) -> Wanted:
    """What was wanted; of events that were there when it was ordered."""
    times = {name: datetime.fromisoformat(said[name]) for name in TIMES if name in said}
    until = min(times.get("until", ordered_at), ordered_at)
    texts = {name: said.get(name) for name in ("state", "endpoint", "account")}
    return Wanted(**texts, since=times.get("since"), until=until, release="release" in said)
