"""Owing events again that were told, or given up: same id and body, all attempts anew."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from reelwatch.errors import Refused
from reelwatch.storage import db, destinations
from reelwatch.storage.destinations import deliveries
from reelwatch.storage.filters import EVENT_STATES

IDS_AT_ONCE = 500  # events in one statement


def redeliver(
    session: Session, now: datetime, ids: Sequence[str], *, release: bool = False
) -> list[str]:
    """Owe events again, from the first attempt on. Returns their ids, each once, in order.

    Ids and bodies stay; signature and timestamp are made anew with every attempt. `release` ends
    the rest of endpoints that had failed, for they are repaired. Raises `Refused` for an id that
    does not exist.
    """
    wanted = sorted(set(ids))
    missing = set(wanted)
    for at in range(0, len(wanted), IDS_AT_ONCE):
        missing -= set(_owe_again(session, now, wanted[at : at + IDS_AT_ONCE]))
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
) -> Iterator[list[str]]:
    """Owe many events again, some hundreds in one transaction after another; see `redeliver`.

    Gives the ids of each; whoever stops asking for more leaves the others as they are. Those that
    are gone meanwhile, or in none of the states any more, are left out.
    """
    wanted = sorted(set(ids))
    for at in range(0, len(wanted), IDS_AT_ONCE):
        with db.transaction(url) as session:
            these = wanted[at : at + IDS_AT_ONCE]
            done = _owe_again(session, db.now(session), these, states)
            if release:
                destinations.release_for(session, done)
        yield done


def _owe_again(
    session: Session, now: datetime, ids: Sequence[str], states: Collection[str] = EVENT_STATES
) -> list[str]:
    """Those of the events that are there so; their rows are locked in one order for all."""
    chosen = (deliveries.c.id.in_(ids), deliveries.c.state.in_(states))
    query = select(deliveries.c.id).where(*chosen).order_by(deliveries.c.id)
    found = list(session.scalars(query.with_for_update(key_share=True)))
    values = {
        "state": "pending",
        "next_attempt_at": now,
        "failures": 0,
        "delivered_at": None,
        "lease_token": None,
    }
    session.execute(update(deliveries).where(deliveries.c.id.in_(found)).values(values))
    return found
