"""Looking at jobs: claim those that are due, ask upstream, decide, write down.

A claim pushes `next_poll_at` ahead by the lease and marks the row with a token. A result is written
only while the row still bears that token: a worker that was killed, stopped or too slow changes
nothing, and its jobs come due again when the lease is over.

The rate is kept by the account's row. Every claim reserves *slots* on it, one moment per look, and
the worker sends each look in its slot or not at all. So any number of workers stay within it. When
more jobs are due than there are slots, those go first whose looks are worth most.
"""

import math
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from random import random
from typing import Any

import structlog
from sqlalchemy import Select, Update, and_, bindparam, exists, or_, select, update
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from reelwatch.config.accounts import Account as Configured
from reelwatch.config.planning import plans_of, rules_of
from reelwatch.config.settings import Settings
from reelwatch.jobs import fanout
from reelwatch.net import upstream
from reelwatch.net.calls import Call
from reelwatch.net.http import Outcome, TransferError
from reelwatch.rules import lifecycle, status
from reelwatch.rules.answers import Answer, Report, Trouble
from reelwatch.rules.lifecycle import ACCOUNT_PAUSES, ACCOUNT_SLOWS
from reelwatch.rules.standing import Asked, Standing
from reelwatch.rules.status import Account as Effect
from reelwatch.rules.timing import ranking, schedule
from reelwatch.rules.words import ENDS
from reelwatch.storage import db, forecasts, ledger, lists, mixups
from reelwatch.storage.ledger import jobs
from reelwatch.storage.models import table_of

log = structlog.get_logger(__name__)

accounts = table_of("accounts")

LEASE = timedelta(seconds=30)  # longer than waiting for a slot, asking and writing down together
THREADS = 64
TURN_SECONDS = 10.0
HORIZON = 1.0  # seconds ahead that slots are reserved
SLACK = 0.1  # seconds that a look may reach upstream late; the slots' distance makes up for it
LATE = 0.05  # seconds of them that the worker itself may be late for a slot
LEAD_MIN = 0.02  # seconds from a claim to its first slot: what the commit takes, at least
LEAD_MAX = 2.0
LINGER_ACCOUNTS = 4  # of more, turns that wait for the next due job could bind all processes
# (of which two stay free for deliveries, ticks and new ids in any case).
TRICKLE_AGAIN = 0.25  # seconds until one that found less than it could have taken asks again
IDLE_AGAIN = 0.5  # seconds until a turn that found nothing due, with looks in hand, asks again
UNATTENDED = timedelta(
    seconds=60
)  # an account nobody polls for so long is looked after all the same

# What only a step is written from: most looks bring none, and need not read it.
STEP_COLUMNS = (
    jobs.c.video_url, jobs.c.metadata, jobs.c.webhook_url, jobs.c.callback_task,
    jobs.c.callback_queue, jobs.c.events, jobs.c.error_message, jobs.c.deadline_seconds,
    jobs.c.error_request_id, jobs.c.upstream_finished_at, jobs.c.finished_at, jobs.c.abandoned_at,
)  # fmt: skip
CLAIM_COLUMNS = tuple(column for column in jobs.c if column not in set(STEP_COLUMNS))
# Statements are made once: putting one together takes as long as the database takes for it.
ACCOUNT = (
    select(accounts)
    .where(accounts.c.name == bindparam("name"))
    # NO KEY: a producer's open transaction, whose new job refers to this row, must not block looks.
    .with_for_update(key_share=True)
)
DUE = (
    select(*CLAIM_COLUMNS)
    .where(jobs.c.account == bindparam("name"), jobs.c.next_poll_at <= bindparam("now"))
    .order_by(jobs.c.next_poll_at, jobs.c.id)
    .limit(bindparam("count"))
    .with_for_update(skip_locked=True, key_share=True)
)
# Who finds out whether an account works again: a job that was well, or has the fewest errors.
PROBE = DUE.order_by(None).order_by(
    jobs.c.errors_in_row, jobs.c.last_polled_at.is_(None), jobs.c.next_poll_at, jobs.c.id
)
LEASED = (
    update(jobs)
    .where(lists.among(jobs.c.id, "ids"))
    .values(next_poll_at=bindparam("until"), lease_token=bindparam("token"))
)
RESTS = select(accounts.c.name).where(
    accounts.c.name == bindparam("name"), accounts.c.pause_reason.is_not(None)
)
TOKENS = db.tokens_of(jobs, key_share=True)
STEPS = select(jobs.c.id, *STEP_COLUMNS).where(lists.among(jobs.c.id, "ids"))

# A claim that free threads and not slots make small comes often: to rank jobs for it costs more
# than it gains.
RANKED_LEAST = 16
RANKED_MOST = 500  # due jobs that claims choose from, the longest due ones
RANKED_FOR = timedelta(seconds=1)  # how long they go by one order
PRICE_MOST = 1e6  # seconds; a deadline that has passed is beyond all price
SHORT = 4.0  # times its price: so much more worth are looks that a short budget makes wait
RIVALS = (
    select(*(jobs.c[name] for name in ranking.COLUMNS))
    .where(jobs.c.account == bindparam("name"), jobs.c.next_poll_at <= bindparam("now"))
    .order_by(jobs.c.next_poll_at, jobs.c.id)
    .limit(RANKED_MOST)
)
CHOSEN = (
    select(*CLAIM_COLUMNS)
    .where(lists.among(jobs.c.id, "ids"), jobs.c.next_poll_at <= bindparam("now"))
    .order_by(jobs.c.next_poll_at, jobs.c.id)
    .with_for_update(skip_locked=True, key_share=True)
)

NEVER = datetime(1970, 1, 1, tzinfo=UTC)
OVERDUE_MOST = 500
OVERDUE = (
    select(jobs)
    .where(
        jobs.c.account == bindparam("name"),
        jobs.c.next_poll_at <= bindparam("due_by"),
        jobs.c.deadline_at <= bindparam("now"),
        or_(
            jobs.c.state.in_([status.State.PENDING, status.State.RUNNING]),
            and_(jobs.c.state == status.State.EXPIRED, jobs.c.tracked_at <= bindparam("long_ago")),
        ),
    )
    .order_by(jobs.c.next_poll_at, jobs.c.id)
    .limit(OVERDUE_MOST)
    .with_for_update(skip_locked=True, key_share=True)
)

Asker = Callable[[Configured, str, datetime], upstream.Look]


@dataclass(frozen=True, slots=True)
class Slot:
    """When, by this process's monotonic clock, a look may be sent."""

    opens: float
    closes: float
    at: datetime | None = None  # when it opens, by the database's clock

    def now(self) -> datetime | None:
        """What the database's clock says now; None if that is not known."""
        return self.at and self.at + timedelta(seconds=time.monotonic() - self.opens)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job to look at."""

    row: Mapping[str, Any]  # CLAIM_COLUMNS of it
    slot: Slot
    probe: bool = False  # the account was paused: this look finds out whether it works again
    suspected: bool = False  # something was refused: does this poll work?


@dataclass(frozen=True, slots=True)
class Looked:
    """A claimed job and what the look brought; None: its slot was missed and nothing was sent."""

    claimed: Claimed
    look: upstream.Look | None


def due_accounts(now: datetime) -> Select[str]:
    """The accounts that have jobs due, may ask, and whose present no worker has reserved."""
    due = exists().where(jobs.c.account == accounts.c.name, jobs.c.next_poll_at <= now)
    return select(accounts.c.name).where(
        or_(accounts.c.paused_until.is_(None), accounts.c.paused_until <= now),
        or_(accounts.c.next_slot_at.is_(None), accounts.c.next_slot_at <= now),
        due,
    )


def poll(
    settings: Settings,
    name: str,
    *,
    nudge: Callable[[], None] = lambda: None,
    hand_over: Callable[[], None] = lambda: None,
    ask: Asker | None = None,
    turn_seconds: float = TURN_SECONDS,
) -> int:
    """One turn of looks at the due jobs of one account; returns how many results there were.

    `nudge` is called after a commit that owes events, `hand_over` when the turn's time is over and
    the next one should begin: slots that nobody reserves until a tick finds out are lost. `ask` is
    called, in threads, in place of asking over HTTP.
    """
    account = settings.accounts.get(name)
    if account is None or not account.api_key:
        _leave(settings, name, account)
        return 0
    with db.reading(settings.database_url) as session:
        kinds = forecasts.kinds(session, name)
    plans = replace(plans_of(settings), kinds=kinds)
    plans.prepare()
    poller = _Poller(settings, account, plans, nudge, ask)
    return fanout.fan_out(
        poller.claim,
        poller.look,
        poller.record,
        threads=THREADS,
        turn_seconds=turn_seconds,
        urgent=_brings_more,
        linger=len(settings.accounts) <= min(LINGER_ACCOUNTS, fanout.places - 2),
        hand_over=hand_over,
        overtime=upstream.DEADLINE_SECONDS,
        wire=poller.wire(),
    )


def _brings_more(looked: Looked) -> bool:
    """More than that a job goes on? An end is to be told at once, a 429 slows at once."""
    answer = looked.look and looked.look.answer
    return not isinstance(answer, Report) or answer.meaning in ENDS


class _Poller:
    """What one turn knows: whose jobs, and how long a claim has been taking."""

    def __init__(
        self,
        settings: Settings,
        account: Configured,
        plans: schedule.Plans,
        nudge: Callable[[], None],
        ask: Asker | None,
    ) -> None:
        self._settings = settings
        self._account = account
        self._nudge = nudge
        self._ask = ask
        self._lead = LEAD_MIN
        self._rests = False  # the account, since what is in hand was claimed
        self._order = ranking.Order()
        self._rules = replace(rules_of(settings), plans=plans)

    def claim(self, limit: int) -> fanout.Batch[Claimed]:
        started = time.monotonic()
        with db.transaction(self._settings.database_url) as session:
            batch = claim(
                session, self._account, limit, self._lead, rules=self._rules, order=self._order
            )
        if batch.items:
            self._rests = False
        took = time.monotonic() - started
        # The first slot must not be over before the claim is committed, however slow the disk.
        self._lead = min(LEAD_MAX, max(LEAD_MIN, 1.5 * took, 0.9 * self._lead))
        return batch

    def wire(self) -> fanout.Wire[Claimed, Looked] | None:
        """How looks go over HTTP; None where they don't, or can't, as every look will say."""
        if self._ask is None:
            with suppress(ValueError):
                client = upstream.client_for(self._account.base_url, os.getpid())
                return fanout.Wire(client, self._call, self._looked, THREADS, self._is_held)
        return None

    def _call(self, claimed: Claimed) -> Call | Looked:
        try:
            request = upstream.request(self._account, claimed.row["video_id"])
        except ValueError as error:  # an id that no URL can hold
            return self._looked(claimed, TransferError(str(error)))
        return Call(request, claimed.slot.opens, claimed.slot.closes)

    def _looked(self, claimed: Claimed, outcome: Outcome | None) -> Looked:
        if outcome is None:
            return Looked(claimed, None)
        now = claimed.slot.now() or datetime.now(UTC)
        look = upstream.look_of(self._account, claimed.row["video_id"], outcome, now)
        return Looked(claimed, look)

    def _is_held(self) -> bool:
        """Is nothing more to be sent of what waits for its slot?"""
        return self._rests or fanout.stopping.is_set()

    def look(self, claimed: Claimed) -> Looked:
        # Whoever is asked to end sends nothing more: its jobs are given back, and due at once.
        ending = fanout.stopping.wait(max(0.0, claimed.slot.opens - time.monotonic()))
        if ending or self._rests or time.monotonic() > claimed.slot.closes:
            return Looked(claimed, None)
        ask, now = self._ask or upstream.look, claimed.slot.now() or datetime.now(UTC)
        return Looked(claimed, ask(self._account, claimed.row["video_id"], now))

    def record(self, results: Sequence[Looked]) -> None:
        """Write a group down as one; if one of it can't be written, the others all the same."""
        db.write_all(self._record, results, _not_written)

    def _record(self, results: Sequence[Looked]) -> None:
        self._prepare(results)
        with db.transaction(self._settings.database_url) as session:
            changes, owed = apply(session, self._rules, results)
            self._rests = self._rests or _began_to_rest(session, changes)
        for change, looked in changes:
            _log_look(change, looked)
        if owed:
            self._nudge()

    def _prepare(self, results: Sequence[Looked]) -> None:
        """Solve plans here and not while rows are locked."""
        for looked in results:
            if looked.look is not None and isinstance(looked.look.answer, Report):
                self._rules.plans.plan(looked.claimed.row["model"] or looked.look.answer.model)


def _not_written(looked: Looked) -> None:
    log.exception("look_not_written", job=looked.claimed.row["id"])


# ------------------------------------------------------------------- claim


def claim(
    session: Session,
    account: Configured,
    limit: int,
    lead: float = LEAD_MIN,
    now: datetime | None = None,
    rules: lifecycle.Rules | None = None,
    order: ranking.Order | None = None,
) -> fanout.Batch[Claimed]:
    """Take up to `limit` due jobs of the account, each with a slot within its rate.

    If the rate allows no more while more are due, those whose looks are worth most by the rules'
    plans: who is likely to have ended for a while. The `order` is the one of the claim before, and
    is kept up to date.
    """
    rules = rules or lifecycle.Rules()
    row = _locked_account(session, account.name)
    clock = _Clock.read(session, now)
    stored = Standing.of(row)
    if stored.by_hand:
        return _look_after(session, row, clock.now)
    if stored.paused_until is not None and stored.paused_until > clock.now:
        return fanout.Batch([], (stored.paused_until - clock.now).total_seconds())
    probe = stored.rests
    if probe:
        why, refused_for = f"its account rests, {row['pause_reason']}", stored.refused_seconds
        _tell_overdue(session, account.name, why, clock.now, rules, refused_for=refused_for)
    standing = stored.now(account.requests_per_second, clock.now)
    distance = timedelta(seconds=(1 + SLACK) / standing.requests_per_second)
    first = max(clock.now + timedelta(seconds=lead), standing.next_slot_at or clock.now)
    free = _slots_within(first - clock.now, distance, max(HORIZON, lead))
    wanted = min(1 if probe else limit, free)
    taken, price = _take(
        session, row, wanted, clock.now, rules.plans, order or ranking.Order(),
        ranked=free <= limit or wanted >= RANKED_LEAST, probe=probe,
    )  # fmt: skip
    slots = [first + distance * place for place in range(len(taken) + 1)]
    if taken:
        standing = replace(standing, next_slot_at=slots[-1])
    if taken and probe:  # one at a time; the next one if this one's worker dies
        standing = standing.probing(clock.now + LEASE)
    looked_for = {"look_price": price} if wanted and not probe else {}
    _write_account(session, row, standing.changed(stored) | looked_for)
    token = secrets.token_hex(16)
    _lease(session, [each["id"] for each in taken], clock.now, token)
    claimed = [
        Claimed({**each, "lease_token": token}, clock.slot(at), probe, standing.suspected)
        for each, at in zip(taken, slots, strict=False)
    ]
    return fanout.Batch(claimed, _again(claimed, wanted, slots[-1] - clock.now))


def _look_after(session: Session, row: RowMapping, now: datetime) -> fanout.Batch[Claimed]:
    """Tell the deadlines of an account that nobody polls; once a minute."""
    until = row["next_slot_at"]
    if until is None or until <= now:
        _tell_overdue(session, row["name"], f"its account rests, {row['pause_reason']}", now)
        _write_account(session, row, {"next_slot_at": now + UNATTENDED})
    return fanout.Batch([], UNATTENDED.total_seconds())


@dataclass(frozen=True, slots=True)
class _Clock:
    """Ties the database's clock to this process's monotonic one, whatever its wall clock says.

    The database read `now` somewhere between `before` and `after`. A slot therefore opens by the
    later bound and closes by the earlier one: the look is sent neither early nor late.
    """

    now: datetime
    before: float
    after: float

    @classmethod
    def read(cls, session: Session, now: datetime | None) -> "_Clock":
        """The database's time, or the given one. To be read when nothing is left to wait for."""
        before = time.monotonic()
        return cls(now or db.now(session), before, time.monotonic())

    def slot(self, at: datetime) -> Slot:
        wait = (at - self.now).total_seconds()
        return Slot(self.after + wait, self.before + wait + LATE, at)


def _locked_account(session: Session, name: str) -> RowMapping:
    return session.execute(ACCOUNT, {"name": name}).mappings().one()


def _slots_within(wait: timedelta, distance: timedelta, horizon: float) -> int:
    """How many slots, the first of them after `wait`, open within the horizon."""
    ahead = timedelta(seconds=horizon) - wait
    return int(ahead / distance) + 1 if ahead >= timedelta(0) else 0


def _tell_overdue(
    session: Session,
    name: str,
    why: str,
    now: datetime,
    rules: lifecycle.Rules | None = None,
    *,
    due_for: timedelta = timedelta(0),
    refused_for: float = 0.0,
) -> None:
    """Expire the jobs, due for so long, of an account that rests: but for one at a time nobody
    polls them. Give up those that have expired once it has been refused for long enough.
    """
    rules = rules or lifecycle.Rules()
    over = refused_for >= rules.abandon_after
    due = {
        "name": name,
        "now": now,
        "due_by": now - due_for,
        "long_ago": now - timedelta(seconds=rules.abandon_after) if over else NEVER,
    }
    jobs_now = [dict(row) for row in session.execute(OVERDUE, due).mappings()]
    decided = [
        (job, lifecycle.overdue(ledger.job_of(job), now, why, rules, refused_for))
        for job in jobs_now
    ]
    changes = [ledger.Change(job, decision) for job, decision in decided if decision]
    if changes:
        ledger.write(session, changes, now)
        log.info("expired_at_rest", account=name, count=len(changes))


def _take(
    session: Session,
    account: RowMapping,
    count: int,
    now: datetime,
    plans: schedule.Plans,
    order: ranking.Order,
    *,
    ranked: bool,
    probe: bool,
) -> tuple[Sequence[RowMapping], float]:
    """Up to so many due jobs, locked; and the price of a look: 0 while there are slots enough.

    If there are more, those that are worth most, or, not `ranked`, those that are due longest.
    """
    if not count:
        return [], 0.0
    due = {"name": account["name"], "now": now}
    if probe:
        return session.execute(PROBE, {**due, "count": count}).mappings().all(), 0.0
    if not (ranked and account["look_price"]):
        rows = session.execute(DUE, {**due, "count": count + 1}).mappings().all()
        if len(rows) <= count:
            return rows, 0.0
        if not ranked:
            last = rows[count - 1]
            return rows[:count], _price(ranking.gain(dict(last), plans, now), plans)
    if order.holds(count, now):
        rows, worth = _next_of(session, order, count, now)
        if len(rows) == count:
            return rows, _price(worth, plans)
        # Others have taken some of them meanwhile: more may be due.
    found = session.execute(RIVALS, due)
    rivals = [dict(zip(ranking.COLUMNS, row, strict=True)) for row in found]
    order.ranked, order.until = ranking.best_first(rivals, plans, now), now + RANKED_FOR
    rows, worth = _next_of(session, order, count, now)
    return rows, _price(worth, plans) if len(rivals) > count else 0.0


def _next_of(
    session: Session, order: ranking.Order, count: int, now: datetime
) -> tuple[Sequence[RowMapping], float]:
    """The rows of the next so many, locked, as far as they are free and due still; and what the
    last of them is worth.
    """
    ids, worth = order.take(count)
    rows = session.execute(CHOSEN, {"ids": ids, "now": now}).mappings().all() if ids else []
    return rows, worth


def _price(worth: float, plans: schedule.Plans) -> float:
    """What a look costs where the last one to be made is worth that; 0: no more than usual."""
    return min(worth, PRICE_MOST) if worth > SHORT * plans.least_price else 0.0


def _lease(session: Session, job_ids: Sequence[int], now: datetime, token: str) -> None:
    if job_ids:
        values = {"ids": job_ids, "until": now + LEASE, "token": token}
        session.connection().execute(LEASED, values)


def _write_account(session: Session, row: RowMapping, values: Mapping[str, Any]) -> None:
    if any(row[name] != value for name, value in values.items()):
        session.execute(_account_update(tuple(values)), {"of": row["name"], **values})


@lru_cache(20)
def _account_update(columns: tuple[str, ...]) -> Update:
    values: dict[str, Any] = {name: bindparam(name) for name in columns}
    return update(accounts).where(accounts.c.name == bindparam("of")).values(values)


def _again(claimed: Sequence[Claimed], wanted: int, ahead: timedelta) -> float:
    """Seconds until the next claim: before the reserved slots run out, or when more may be due."""
    least = 0.0 if len(claimed) == wanted else TRICKLE_AGAIN if claimed else IDLE_AGAIN
    return max(least, ahead.total_seconds() - HORIZON / 2)


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
    # Whoever else writes to a job takes the token away: what the claim has read still holds.
    rows = {looked.claimed.row["id"]: looked.claimed.row for looked in results}
    tokens = db.tokens_now(session, TOKENS, rows)
    held = {job_id for job_id, token in tokens.items() if token == rows[job_id]["lease_token"]}
    at = now or db.now(session)
    ours = [looked for looked in results if looked.claimed.row["id"] in held]
    _release(session, [looked.claimed for looked in ours if looked.look is None], at)
    answered = [(looked, looked.look.answer) for looked in ours if looked.look is not None]
    account = _account_in_question(session, ours)
    worked_at = None if account is None else account["worked_at"]
    asked_for = [(looked.claimed.row, answer) for looked, answer in answered]
    answers = mixups.sorted_out(session, asked_for, rules.plans.kinds.keys())
    same = ledger.repeats(session, asked_for)
    changes = [
        (_decided(looked.claimed.row, answer, rules, at, same, worked_at), looked)
        for (looked, _), answer in zip(answered, answers, strict=True)
    ]
    changes = _completed(session, changes)
    if account is not None:
        _apply_to_account(session, account, changes, at)
    written = [change for change, _ in changes]
    return changes, ledger.write(session, written, at, rules.plans.curve)


def _decided(
    row: Mapping[str, Any],
    answer: Answer,
    rules: lifecycle.Rules,
    now: datetime,
    same: Mapping[int, tuple[int, datetime]],
    worked_at: datetime | None,
) -> ledger.Change:
    count, since = same.get(row["id"], (0, None))
    job = replace(
        ledger.job_of(row), same_count=count, same_since=since, account_worked_at=worked_at
    )
    jitter = random()  # noqa: S311 - spreads looks, guards nothing
    decision = lifecycle.decide(job, answer, now, rules, jitter)
    if isinstance(answer, Report) and decision.errors_in_row:  # it was not believed
        return ledger.Change(row, decision, decision.trouble)
    return ledger.Change(row, decision, answer)


def _completed(
    session: Session, changes: list[tuple[ledger.Change, Looked]]
) -> list[tuple[ledger.Change, Looked]]:
    """The changes, with what their rows lack for those that are more than another look."""
    ids = [change.row["id"] for change, _ in changes if change.moved]
    if not ids:
        return changes
    rest = {row["id"]: row for row in session.execute(STEPS, {"ids": ids}).mappings()}
    return [
        (replace(change, row={**change.row, **rest.get(change.row["id"], {})}), looked)
        for change, looked in changes
    ]


def _release(session: Session, missed: Sequence[Claimed], now: datetime) -> None:
    """Give back the jobs whose slots were missed; their rows are locked."""
    if not missed:
        return
    freed = jobs.c.id.in_([claimed.row["id"] for claimed in missed])
    session.execute(update(jobs).where(freed).values(next_poll_at=now, lease_token=None))
    if any(claimed.probe for claimed in missed):  # another probe may go at once
        account = _locked_account(session, missed[0].row["account"])
        standing = Standing.of(account)
        _write_account(session, account, standing.unsent(now).changed(standing))
    log.info("slots_missed", account=missed[0].row["account"], count=len(missed))


def _account_in_question(session: Session, looks: Sequence[Looked]) -> RowMapping | None:
    """The row of the account that these polls were made with, locked, if they say anything of it.

    Most say no more than that it works, as all know, and cost nothing here.
    """
    asked = [looked for looked in looks if looked.look is not None]
    if not any(map(_bears_on_account, asked)):
        return None
    return _locked_account(session, asked[0].claimed.row["account"])  # a batch is one account's


def _bears_on_account(looked: Looked) -> bool:
    claimed, answer = looked.claimed, looked.look and looked.look.answer
    refused = isinstance(answer, Trouble) and answer.kind in ACCOUNT_PAUSES | ACCOUNT_SLOWS
    return refused or claimed.probe or claimed.suspected


def _apply_to_account(
    session: Session,
    row: RowMapping,
    changes: Sequence[tuple[ledger.Change, Looked]],
    now: datetime,
) -> None:
    """Write down what the answers, in the order of their polls, make of the account's standing."""
    before = standing = Standing.of(row)
    for change, looked in sorted(changes, key=_sent_at):
        decision = change.decision
        asked = Asked(
            change.row["id"], decision.account, decision.trouble,
            probe=looked.claimed.probe, in_row=decision.errors_in_row,
            well=change.row["polls"] > change.row["errors_in_row"],
        )  # fmt: skip
        # One that was under way when something was refused does not show that it works since.
        told = standing.after(asked, now)
        _log_standing(row["name"], standing, told)
        standing = told
    _write_account(session, row, standing.changed(before))


def _sent_at(each: tuple[ledger.Change, Looked]) -> float:
    return each[1].claimed.slot.opens


def _log_standing(name: str, before: Standing, after: Standing) -> None:
    if after.slowed_at != before.slowed_at and after.slowed_at is not None:
        rate, until = after.requests_per_second, after.slowed_at.isoformat()
        log.warning("account_slowed", account=name, requests_per_second=rate, until=until)
    if after.rests and after.paused_until is not None and after.pause_reason != before.pause_reason:
        until = after.paused_until.isoformat()
        log.warning("account_paused", account=name, reason=after.pause_reason, until=until)
    if before.rests and not after.rests:
        log.warning("account_resumed", account=name)


def _began_to_rest(session: Session, changes: Sequence[tuple[ledger.Change, Looked]]) -> bool:
    """Does the account rest since these answers? What is not sent yet had better not be."""
    effects = {change.decision.account for change, _ in changes}
    if not effects & {Effect.PAUSE, Effect.SLOW}:
        return False
    name = changes[0][0].row["account"]
    return session.execute(RESTS, {"name": name}).scalar_one_or_none() is not None


# ---------------------------------------------------------- accounts of others


def _leave(settings: Settings, name: str, account: Configured | None) -> None:
    """Leave an account whose key this worker has not got to those that have it.

    Where none polls it, the deadlines of its jobs are told all the same.
    """
    missing = "REELWATCH_ACCOUNTS_FILE does not name it"
    if account is not None:
        missing = f"no API key: set {account.api_key_env}"
    with db.transaction(settings.database_url) as session:
        row, now = _locked_account(session, name), db.now(session)
        if row["next_slot_at"] is None or row["next_slot_at"] < now - UNATTENDED:
            why = f"no worker polls its account ({missing})"
            _tell_overdue(session, name, why, now, due_for=UNATTENDED)
    if _left.get(name, -math.inf) < time.monotonic() - UNATTENDED.total_seconds():
        _left[name] = time.monotonic()
        log.warning("account_left_to_others", account=name, reason=missing)


_left: dict[str, float] = {}  # when that was said last, by this process's monotonic clock


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
