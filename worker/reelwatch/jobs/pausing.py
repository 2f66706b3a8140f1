"""People's hands on an account: pause it until somebody resumes it, and resume it at once."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import bindparam, insert, select, update

from reelwatch.config import settings
from reelwatch.errors import Refused
from reelwatch.rules.actions import BY_PYTHON, ActionName
from reelwatch.rules.cleaning import unstorable
from reelwatch.rules.standing import Standing
from reelwatch.storage import db, incidents
from reelwatch.storage.actions import Entry
from reelwatch.storage.knowing import unknown_account
from reelwatch.storage.models import table_of

accounts = table_of("accounts")
HELD_BY = {"pause_reason", "paused_until", "slowed_at"}  # what people see of an account's rest
OF_NAME = (
    select(accounts).where(accounts.c.name == bindparam("name")).with_for_update(key_share=True)
)


def pause_account(name: str, reason: str = "", *, by: str = BY_PYTHON) -> bool:
    """Poll none of the account's jobs until somebody resumes it; their deadlines are told as ever.

    `reason` is shown wherever people ask why; without one, that of an earlier pause by hand stays.
    `by`: who does it, as `actions` keeps it.
    Returns whether that changes anything; nothing is logged, whoever calls it knows. Raises
    `Refused` for an unknown name, and for a reason that no database stores.
    """
    said = " ".join(reason.split())
    if found := unstorable(said):
        raise Refused(f"reason: {found}")
    entry = Entry(ActionName.PAUSE, by, name, details={"reason": said} if said else None)
    return _change(name, lambda standing, _now: standing.paused(said), entry)


def resume_account(name: str, *, by: str = BY_PYTHON) -> bool:
    """Poll the account's due jobs now, whatever it rested for, or was held or slowed for.

    A rate that upstream was seen to refuse is still kept clear of. Returns whether it had rested,
    or was held or slowed. Raises `Refused` for an unknown name.
    """
    return _change(name, Standing.resumed, Entry(ActionName.RESUME, by, name))


def _change(name: str, change: Callable[[Standing, datetime], Standing], entry: Entry) -> bool:
    configured = settings.handing_in()
    with db.transaction(configured.database_url) as session:
        row = session.execute(OF_NAME, {"name": name}).mappings().one_or_none()
        if row is None and name in configured.accounts:  # no worker has started yet
            rate = configured.accounts[name].requests_per_second
            session.execute(insert(accounts).values(name=name, requests_per_second=rate))
            row = session.execute(OF_NAME, {"name": name}).mappings().one()
        if row is None:
            raise Refused(str(unknown_account(session, name, configured.accounts)))
        stored = Standing.of(row)
        now = db.now(session)
        changed = change(stored, now)
        values = changed.changed(stored)
        if values:
            session.execute(update(accounts).where(accounts.c.name == name).values(values))
        incidents.of_account(session, name, stored, changed, now)
        entry.note(session, now, {}, count=1 if HELD_BY & values.keys() else 0)
    return bool(HELD_BY & values.keys())
