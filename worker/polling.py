"""Looking at jobs: claim those that are due, ask upstream, decide, write down.

A claim pushes `next_poll_at` ahead by the lease and marks the row with a token. A result is written
only while the row still bears that token: a worker that was killed, stopped or too slow changes
nothing, and its jobs come due again when the lease is over.

The rate is kept by the account's row. Every claim reserves *slots* on it, one moment per look, and
the worker sends each look in its slot or not at all. So any number of workers stay within it.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import random
from typing import Any

import structlog
from sqlalchemy import Select, and_, exists, or_, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from worker import db, fanout, ledger, lifecycle, schedule, upstream
from worker.answers import Report, Trouble
from worker.ledger import jobs
from worker.models import Base
from worker.settings import Account as Configured
from worker.settings import Settings

log = structlog.get_logger(__name__)

accounts = Base.metadata.tables["accounts"]

LEASE = timedelta(seconds=45)  # longer than waiting for a slot, asking and writing down together
THREADS = 64
TURN_SECONDS = 10.0
HORIZON = 1.0  # seconds ahead that slots are reserved
SLACK = 0.1  # seconds that a look may be late for its slot; the slots' distance makes up for it
LEAD_MIN = 0.02  # seconds from a claim to its first slot: what the commit takes, at least
LEAD_MAX = 2.0
IDLE_AGAIN = 0.5  # seconds until a turn that found nothing due, with looks in hand, asks again

Asker = Callable[[Configured, str, datetime], upstream.Look]


@dataclass(frozen=True, slots=True)
class Slot:
    """When, by this process's monotonic clock, a look may be sent."""

    opens: float
    closes: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job to look at."""

    row: RowMapping
    slot: Slot
    probe: bool  # the account was paused: this look finds out whether it works again


@dataclass(frozen=True, slots=True)
class Looked:
    """A claimed job and what the look brought; None: its slot was missed and nothing was sent."""

    claimed: Claimed
    look: upstream.Look | None


def due_accounts(session: Session, now: datetime) -> list[str]:
    """The accounts that have jobs due, may ask, and whose present no worker has reserved."""
    due = exists().where(jobs.c.account == accounts.c.name, jobs.c.next_poll_at <= now)
    query = select(accounts.c.name).where(
        or_(accounts.c.paused_until.is_(None), accounts.c.paused_until <= now),
        or_(accounts.c.next_slot_at.is_(None), accounts.c.next_slot_at <= now),
        due,
    )
    return list(session.execute(query).scalars())


def poll(
    settings: Settings,
    name: str,
    *,
    nudge: Callable[[], None] = lambda: None,
    ask: Asker = upstream.look,
    turn_seconds: float = TURN_SECONDS,
) -> int:
    """One turn of looks at the due jobs of one account; returns how many results there were.

    `nudge` is called after a commit that owes events.
    """
    account = settings.accounts.get(name)
    if account is None or not account.api_key:
        _pause_keyless(settings, name, account)
        return 0
    poller = _Poller(settings, account, nudge, ask)
    return fanout.fan_out(
        poller.claim, poller.look, poller.record, threads=THREADS, turn_seconds=turn_seconds
    )


class _Poller:
    """What one turn knows: whose jobs, and how long a claim has been taking."""

    def __init__(
        self, settings: Settings, account: Configured, nudge: Callable[[], None], ask: Asker
    ) -> None:
        self._settings = settings
        self._account = account
        self._nudge = nudge
        self._ask = ask
        self._lead = LEAD_MIN

    def claim(self, limit: int) -> fanout.Batch[Claimed]:
        started = time.monotonic()
        with db.transaction(self._settings.database_url) as session:
            batch = claim(session, self._account, limit, self._lead)
        took = time.monotonic() - started
        # The first slot must not be over before the claim is committed, however slow the disk.
        self._lead = min(LEAD_MAX, max(LEAD_MIN, 1.5 * took, 0.9 * self._lead))
        return batch

    def look(self, claimed: Claimed) -> Looked:
        time.sleep(max(0.0, claimed.slot.opens - time.monotonic()))
        if time.monotonic() > claimed.slot.closes:
            return Looked(claimed, None)
        return Looked(claimed, self._ask(self._account, claimed.row["video_id"], _utc_now()))

    def record(self, results: Sequence[Looked]) -> None:
        with db.transaction(self._settings.database_url) as session:
            changes, owed = apply(session, self._settings.rules, results)
        for change, looked in changes:
            _log_look(change, looked)
        if owed:
            self._nudge()


# ------------------------------------------------------------------- claim


def claim(
    session: Session,
    account: Configured,
    limit: int,
    lead: float = LEAD_MIN,
    now: datetime | None = None,
) -> fanout.Batch[Claimed]:
    """Take up to `limit` due jobs of the account, each with a slot within its rate."""
    before = time.monotonic()
    row = _locked_account(session, account)
    now = now or db.now(session)
    clock = _Clock(now, before, time.monotonic())
    if row["paused_until"] is not None and row["paused_until"] > now:
        return fanout.Batch([], (row["paused_until"] - now).total_seconds())
    probe = row["pause_reason"] is not None
    rate, slowed_at = _rate_now(row, account, now)
    distance = timedelta(seconds=(1 + SLACK) / rate)
    first = max(now + timedelta(seconds=lead), row["next_slot_at"] or now)
    count = min(1 if probe else limit, _slots_within(first, distance, now))
    taken = _take(session, account.name, count, now) if count > 0 else []
    next_slot = first + distance * len(taken)
    _write_account(session, row, rate, slowed_at, next_slot if taken else row["next_slot_at"],
                   now + LEASE if probe and taken else None)  # fmt: skip
    claimed = [
        Claimed(job, clock.slot(first + distance * place), probe) for place, job in enumerate(taken)
    ]
    return fanout.Batch(claimed, _again(claimed, next_slot, now))


@dataclass(frozen=True, slots=True)
class _Clock:
    """Ties the database's clock to this process's monotonic one, whatever its wall clock says.

    The database read `now` somewhere between `before` and `after`. A slot therefore opens by the
    later bound and closes by the earlier one: the look is sent neither early nor late.
    """

    now: datetime
    before: float
    after: float

    def slot(self, at: datetime) -> Slot:
        wait = (at - self.now).total_seconds()
        return Slot(self.after + wait, self.before + wait + SLACK)


def _locked_account(session: Session, account: Configured) -> RowMapping:
    # NO KEY: a producer's open transaction, whose new job refers to this row, must not block looks.
    query = select(accounts).where(accounts.c.name == account.name)
    return session.execute(query.with_for_update(key_share=True)).mappings().one()


def _rate_now(row: RowMapping, account: Configured, now: datetime) -> tuple[float, datetime | None]:
    """The account's rate as of now, and since when it has been quiet (None: nothing to recover)."""
    configured = account.requests_per_second
    slowed_at = row["slowed_at"]
    if slowed_at is None:
        return configured, None
    quiet = (now - slowed_at).total_seconds()
    rate = schedule.recovered(row["requests_per_second"], configured, quiet)
    if rate >= configured:
        return configured, None
    steps = max(0, int(quiet // schedule.QUIET_SECONDS))
    return rate, slowed_at + timedelta(seconds=steps * schedule.QUIET_SECONDS)


def _slots_within(first: datetime, distance: timedelta, now: datetime) -> int:
    ahead = timedelta(seconds=HORIZON) - (first - now)
    return int(ahead / distance) + 1 if ahead >= timedelta(0) else 0


def _take(session: Session, account: str, count: int, now: datetime) -> list[RowMapping]:
    token = secrets.token_hex(16)
    values = {"next_poll_at": now + LEASE, "lease_token": token}
    statement = (
        update(jobs).where(jobs.c.id.in_(_due_ids(account, count, now))).values(values)
    ).returning(*jobs.c)
    # RETURNING keeps no order; the longest waiting of a claim gets its first slot.
    rows = session.execute(statement).mappings().all()
    return sorted(rows, key=lambda row: (row["last_polled_at"] or row["tracked_at"], row["id"]))


def _due_ids(account: str, count: int, now: datetime) -> Select[Any]:
    return (
        select(jobs.c.id)
        .where(jobs.c.account == account, jobs.c.next_poll_at <= now)
        .order_by(jobs.c.next_poll_at)
        .limit(count)
        .with_for_update(skip_locked=True, key_share=True)
    )


def _write_account(
    session: Session,
    row: RowMapping,
    rate: float,
    slowed_at: datetime | None,
    next_slot_at: datetime | None,
    paused_until: datetime | None,
) -> None:
    values: dict[str, Any] = {
        "requests_per_second": rate,
        "slowed_at": slowed_at,
        "next_slot_at": next_slot_at,
    }
    if paused_until is not None:  # one probe at a time; the next one if this one's worker dies
        values["paused_until"] = paused_until
    if any(row[name] != value for name, value in values.items()):
        session.execute(update(accounts).where(accounts.c.name == row["name"]).values(values))


def _again(claimed: Sequence[Claimed], next_slot: datetime, now: datetime) -> float:
    """Seconds until the next claim: before the reserved slots run out, or when one comes free."""
    ahead = (next_slot - now).total_seconds()
    return max(0.0, ahead - HORIZON / 2) if claimed else max(IDLE_AGAIN, ahead - HORIZON / 2)


# ------------------------------------------------------------------- apply


def apply(
    session: Session,
    rules: lifecycle.Rules,
    results: Sequence[Looked],
    now: datetime | None = None,
) -> tuple[list[tuple[ledger.Change, Looked]], int]:
    """Decide on each result and write it down, unless its row has been taken from it meanwhile.

    Returns the changes that were written, each with its look, and the number of events they owe.
    """
    now = now or db.now(session)
    held = _held(session, results)
    _release(session, [r.claimed for r in results if r.look is None], now)
    changes = []
    for looked in results:
        row = held.get(looked.claimed.row["id"])
        if (
            looked.look is None
            or row is None
            or row["lease_token"] != looked.claimed.row["lease_token"]
        ):
            continue
        answer = looked.look.answer
        decision = lifecycle.decide(ledger.job_of(row), answer, now, rules, random())  # noqa: S311 - jitter
        changes.append((ledger.Change(row, decision, answer), looked))
    _apply_to_accounts(session, changes, now)
    return changes, ledger.write(session, [change for change, _ in changes], now)


def _held(session: Session, results: Sequence[Looked]) -> Mapping[int, RowMapping]:
    """The rows of the results as they are now, locked."""
    ids = [looked.claimed.row["id"] for looked in results if looked.look is not None]
    if not ids:
        return {}
    query = select(jobs).where(jobs.c.id.in_(ids)).order_by(jobs.c.id)
    rows = session.execute(query.with_for_update(key_share=True)).mappings()
    return {row["id"]: row for row in rows}


def _release(session: Session, missed: Sequence[Claimed], now: datetime) -> None:
    for claimed in missed:
        mine = and_(
            jobs.c.id == claimed.row["id"], jobs.c.lease_token == claimed.row["lease_token"]
        )
        values = {"next_poll_at": now, "lease_token": None}
        session.execute(update(jobs).where(mine).values(values))
    if missed:
        log.info("slots_missed", account=missed[0].row["account"], count=len(missed))


def _apply_to_accounts(
    session: Session, changes: Sequence[tuple[ledger.Change, Looked]], now: datetime
) -> None:
    for change, looked in changes:
        effect, probe = change.decision.account, looked.claimed.probe
        if probe or effect in (lifecycle.Account.SLOW, lifecycle.Account.PAUSE):
            trouble = change.answer if isinstance(change.answer, Trouble) else None
            _affect(session, change.row["account"], effect, trouble, probe, now)


def _affect(
    session: Session,
    name: str,
    effect: lifecycle.Account,
    trouble: Trouble | None,
    probe: bool,
    now: datetime,
) -> None:
    query = select(accounts).where(accounts.c.name == name).with_for_update(key_share=True)
    row = session.execute(query).mappings().one()
    values: dict[str, Any] = {}
    if effect is lifecycle.Account.SLOW and trouble is not None:
        values = _slowed(row, trouble, now)
    refused = trouble is not None and trouble.kind in lifecycle.ACCOUNT_PAUSES
    if refused and (probe or effect is lifecycle.Account.PAUSE) and trouble is not None:
        values = _paused(row, f"{trouble.kind.value}: {trouble.message}", now, probe=probe)
    elif probe and effect in (lifecycle.Account.WORKS, lifecycle.Account.SLOW):
        values |= {"paused_until": None, "pause_reason": None, "pauses_in_row": 0}
        log.warning("account_resumed", account=name)
    elif probe:  # no news of the key: ask again soon
        values = {"paused_until": now + timedelta(seconds=schedule.PAUSE_FIRST)}
    if values:
        session.execute(update(accounts).where(accounts.c.name == name).values(values))


def _slowed(row: RowMapping, trouble: Trouble, now: datetime) -> dict[str, Any]:
    """Cut the rate once for a burst of 429s, and hold the account for as long as was asked."""
    hold = trouble.retry_after if trouble.retry_after is not None else schedule.HOLD_SECONDS
    held_until = now + timedelta(seconds=hold)
    values = {"next_slot_at": max(row["next_slot_at"] or now, held_until)}
    burst = timedelta(seconds=schedule.HOLD_SECONDS)
    if row["slowed_at"] is None or now - row["slowed_at"] > burst:
        rate = schedule.slower(row["requests_per_second"])
        values |= {"requests_per_second": rate, "slowed_at": now}
        log.warning(
            "account_slowed", account=row["name"], requests_per_second=rate, hold_seconds=hold
        )
    return values


def _paused(row: RowMapping, reason: str, now: datetime, *, probe: bool) -> dict[str, Any]:
    """Rest the account; looks that were under way when it was refused count once."""
    if row["pause_reason"] is not None and not probe:
        return {}
    pauses = row["pauses_in_row"] + 1
    until = now + timedelta(seconds=schedule.pause_seconds(pauses))
    log.warning("account_paused", account=row["name"], reason=reason, until=until.isoformat())
    return {"paused_until": until, "pause_reason": reason, "pauses_in_row": pauses}


def _pause_keyless(settings: Settings, name: str, account: Configured | None) -> None:
    reason = (
        f"no API key: set {account.api_key_env}"
        if account is not None
        else "not configured: REELWATCH_ACCOUNTS_FILE does not name it"
    )
    with db.transaction(settings.database_url) as session:
        until = db.now(session) + timedelta(seconds=schedule.PAUSE_FIRST)
        values = {"paused_until": until, "pause_reason": reason}
        session.execute(update(accounts).where(accounts.c.name == name).values(values))
    log.warning("account_paused", account=name, reason=reason, until=until.isoformat())


# --------------------------------------------------------------------- log


def _log_look(change: ledger.Change, looked: Looked) -> None:
    look, answer = looked.look, change.answer
    trouble = answer if isinstance(answer, Trouble) else None
    log.info(
        "look",
        job=change.row["id"],
        video_id=change.row["video_id"],
        account=change.row["account"],
        http_status=look and look.http_status,
        status=answer.word if isinstance(answer, Report) else None,
        error=trouble and f"{trouble.kind.value}: {trouble.message[:200]}",
        duration_ms=look and look.duration_ms,
        decision=_decision_word(change),
    )


def _decision_word(change: ledger.Change) -> str:
    decision = change.decision
    if decision.abandoned:
        return "abandoned"
    if decision.state != change.row["state"]:
        return str(decision.state.value)
    return "status_changed" if decision.step else "look_again"


def _utc_now() -> datetime:
    return datetime.now().astimezone()
