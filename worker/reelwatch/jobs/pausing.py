"""People's hands on an account: pause it until somebody resumes it, and resume it at once."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from reelwatch.config import settings
from reelwatch.errors import Refused
from reelwatch.rules.spelling import nearest
from reelwatch.rules.standing import Standing
from reelwatch.storage import db
from reelwatch.storage.models import table_of

accounts = table_of("accounts")
HELD_BY = {"pause_reason", "paused_until", "slowed_at"}  # what people see of an account's rest
OF_NAME = (
    select(accounts).where(accounts.c.name == bindparam("name")).with_for_update(key_share=True)
)


def pause_account(name: str, reason: str = "") -> bool:
    """Poll none of the account's jobs until somebody resumes it; their deadlines are told as ever.

    `reason` is shown wherever people ask why; without one, that of an earlier pause by hand stays.
    Returns whether that changes anything; nothing is logged, whoever calls it knows. Raises
    `Refused` for an unknown name.
    """
    said = " ".join(reason.split())
    return _change(name, lambda standing, _now: standing.paused(said))


def resume_account(name: str) -> bool:
    """Poll the account's due jobs now, whatever it rested for, or was held or slowed for.

    A rate that upstream was seen to refuse is still kept clear of. Returns whether it had rested,
    or was held or slowed. Raises `Refused` for an unknown name.
    """
    return _change(name, Standing.resumed)


def _change(name: str, change: Callable[[Standing, datetime], Standing]) -> bool:
    configured = settings.handing_in()
    with db.transaction(configured.database_url) as session:
        row = session.execute(OF_NAME, {"name": name}).mappings().one_or_none()
        if row is None and name in configured.accounts:  # no worker has started yet
            rate = configured.accounts[name].requests_per_second
            session.execute(insert(accounts).values(name=name, requests_per_second=rate))
            row = session.execute(OF_NAME, {"name": name}).mappings().one()
        if row is None:
            raise Refused(_unknown(session, configured, name))
        stored = Standing.of(row)
        values = change(stored, db.now(session)).changed(stored)
        if values:
            session.execute(update(accounts).where(accounts.c.name == name).values(values))
    return bool(HELD_BY & values.keys())


def _unknown(session: Session, configured: settings.Settings, name: str) -> str:
    known = sorted({*session.scalars(select(accounts.c.name)), *configured.accounts})
    near = nearest(name, known)
    meant = f" (is {near!r} meant?)" if near else ""
    return f"account: {name!r} is unknown{meant}; known: {', '.join(known)}"
