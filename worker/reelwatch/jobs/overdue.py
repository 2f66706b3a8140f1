"""Deadlines that pass while nobody polls: of accounts that rest, and of those of other workers."""

import math
import time
from datetime import datetime, timedelta

import structlog
from sqlalchemy.orm import Session

from reelwatch.config.accounts import Account as Configured
from reelwatch.config.planning import rules_of
from reelwatch.config.settings import Settings
from reelwatch.rules import deadlines, lifecycle
from reelwatch.rules.changes import Change
from reelwatch.rules.rests import BY_HAND, at_rest
from reelwatch.rules.standing import Standing
from reelwatch.storage import db, job_columns, ledger
from reelwatch.storage.due_jobs import NEVER, OVERDUE, locked_account, resting_accounts

log = structlog.get_logger(__name__)
UNATTENDED = timedelta(seconds=60)  # whom nobody polls for so long is looked after all the same


def tell_at_rest(settings: Settings) -> None:
    """Tell the deadlines of the jobs of all accounts that rest, whatever they rest for.

    But for one at a time nobody polls them.
    """
    rules = rules_of(settings)
    with db.reading(settings.database_url) as session:
        names = session.scalars(resting_accounts(db.now(session))).all()
    for name in names:
        with db.transaction(settings.database_url) as session:
            tell_of_resting(session, name, rules)


def tell_of_resting(
    session: Session, name: str, rules: deadlines.Rules, now: datetime | None = None
) -> None:
    """Tell the deadlines of one account's jobs, if it rests at `now`."""
    account = Standing.of(locked_account(session, name))
    if account.rests:
        # Why somebody paused it is the operator's affair: producers read this.
        why = at_rest(BY_HAND if account.by_hand else account.pause_reason or "")
        refused_for = account.refused_seconds
        tell_overdue(session, name, why, now or db.now(session), rules, refused_for=refused_for)


def tell_overdue(
    session: Session,
    name: str,
    why: str,
    now: datetime,
    rules: deadlines.Rules | None = None,
    *,
    due_for: timedelta = timedelta(0),
    refused_for: float = 0.0,
) -> None:
    """Expire the jobs, due for so long, of an account that nobody polls. Give up those that have
    expired once it has been refused for long enough.
    """
    rules = rules or deadlines.Rules()
    over = refused_for >= rules.abandon_after
    due = {
        "name": name,
        "now": now,
        "due_by": now - due_for,
        "long_ago": now - timedelta(seconds=rules.abandon_after) if over else NEVER,
    }
    jobs_now = [dict(row) for row in session.execute(OVERDUE, due).mappings()]
    decided = [
        (job, lifecycle.overdue(job_columns.job_of(job), now, why, rules, refused_for))
        for job in jobs_now
    ]
    changes = [Change(job, decision) for job, decision in decided if decision]
    if changes:
        ledger.write(session, changes, now)
        log.info("expired_at_rest", account=name, count=len(changes))


def leave_to_others(settings: Settings, name: str, account: Configured | None) -> None:
    """Leave an account whose key this worker has not got to those that have it.

    Where none polls it, the deadlines of its jobs are told all the same.
    """
    missing = "REELWATCH_ACCOUNTS_FILE does not name it"
    if account is not None:
        missing = f"no API key: set {account.api_key_env}"
    with db.transaction(settings.database_url) as session:
        row, now = locked_account(session, name), db.now(session)
        if row["next_slot_at"] is None or row["next_slot_at"] < now - UNATTENDED:
            why = f"no worker polls its account ({missing})"
            tell_overdue(session, name, why, now, due_for=UNATTENDED)
    if _left.get(name, -math.inf) < time.monotonic() - UNATTENDED.total_seconds():
        _left[name] = time.monotonic()
        log.warning("account_left_to_others", account=name, reason=missing)


_left: dict[str, float] = {}  # when that was said last, by this process's monotonic clock
