"""Watching the whole: upstream's outages and short budgets, told to the operator; deadlines that
pass while nobody polls; and the ping.

Once in a while, by one of all processes: what no single answer shows is judged by what the counters
have gained since the last time.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog
from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from reelwatch.config.settings import Settings
from reelwatch.jobs import overdue
from reelwatch.net.http import TransferError
from reelwatch.net.outbound import Sender
from reelwatch.rules import metrics, notices
from reelwatch.rules.metrics import Tally
from reelwatch.rules.notices import Notice, NoticeType, Reading, Since
from reelwatch.rules.states import State
from reelwatch.storage import counters, db, heartbeat, incidents
from reelwatch.storage.models import table_of

log = structlog.get_logger(__name__)

jobs = table_of("jobs")
accounts = table_of("accounts")

FOLD, PING = "fold", "ping"  # heartbeats
APART = timedelta(seconds=15)
FOLD_APART = timedelta(minutes=5)
PING_APART = timedelta(seconds=55)  # a minute, for whoever looks every 20 seconds
STANDS_STILL = timedelta(minutes=2)  # a job that has been due for so long shows that polls may
PING_SECONDS = 10.0
JOBS_SEEN = 1_000  # at most, to tell an outage from one odd job
TOLD = (State.COMPLETED, State.FAILED)


def watch(settings: Settings, *, ticking: bool = True, now: datetime | None = None) -> None:
    """If nobody has lately: judge what the counters say, tell deadlines that pass while accounts
    rest, and ping, if ticks and polls go on.
    """
    with db.transaction(settings.database_url) as session:
        now = heartbeat.beat(session, heartbeat.WATCH, APART, now)
        if now is None:
            return
        totals = counters.totals(session)
        _watch_upstream(session, totals, now)
        _watch_budgets(session, now)
        goes_on = ticking and _polls_go_on(session, totals, now)
        pings = bool(
            goes_on and settings.ping_url and heartbeat.beat(session, PING, PING_APART, now)
        )
        if heartbeat.beat(session, FOLD, FOLD_APART, now):
            counters.fold(session)
    overdue.tell_at_rest(settings)
    if pings:
        ping(settings)


def ping(settings: Settings) -> None:
    """Ask REELWATCH_PING_URL once; it obeys the rules for callback URLs, WEBHOOK_ALLOW included."""
    assert settings.ping_url is not None
    sender = Sender(settings.allowlist, PING_SECONDS)
    try:
        reply = sender.client.ask(sender.request(settings.ping_url, b"", {}, method="GET"))
    except TransferError as error:
        log.warning("ping_failed", error=str(error))
        return
    finally:
        sender.close()
    log.log(20 if reply.status < 400 else 30, "ping", http_status=reply.status)


# ---------------------------------------------------------------- upstream


def _watch_upstream(session: Session, totals: Tally, now: datetime) -> None:
    for account, found in readings(totals, now).items():
        kind = NoticeType.UPSTREAM_OUTAGE
        stored = incidents.reading(session, kind, account)
        if stored is None:
            incidents.note(session, kind, account, now, found.as_json())
            continue
        before, was_out = Reading.of_json(stored), incidents.is_open(session, kind, account)
        out = notices.judged(before, found, out=was_out)
        if out is None:
            continue
        incidents.note(session, kind, account, now, notices.noted(stored, found))
        out = out and _is_of_upstream(session, account)
        if out is not was_out:
            _tell_upstream(session, account, before, found, out=out)


def _is_of_upstream(session: Session, account: str) -> bool:
    """Do more than one job fail, as far as others can tell? Asked only where nearly all polls do.

    Of many jobs those are seen that are due first: who failed is asked again soon.
    """
    columns = (jobs.c.errors_in_row, jobs.c.errors_since, jobs.c.last_error)
    is_open = (jobs.c.account == account, jobs.c.next_poll_at.is_not(None))
    first = select(*columns).where(*is_open).order_by(jobs.c.next_poll_at).limit(JOBS_SEEN)
    seen = session.execute(first).all()
    failing = [row for row in seen if row.errors_in_row and row.last_error in notices.OUTAGE_KINDS]
    alone = len(failing) == len(seen) == 1
    ended = alone and _have_ended(session, account, failing[0].errors_since)
    return notices.of_upstream(len(failing), len(seen), others_ended=ended)


def _have_ended(session: Session, account: str, since: datetime) -> bool:
    """Has upstream told how jobs of the account ended, since then?"""
    columns = (jobs.c.account, jobs.c.state)
    newest = select(*columns).where(jobs.c.finished_at > since).order_by(jobs.c.finished_at.desc())
    few = newest.limit(JOBS_SEEN).subquery()
    told = exists().where(few.c.account == account, few.c.state.in_(TOLD))
    return bool(session.execute(select(told)).scalar_one())


def _tell_upstream(
    session: Session, account: str, before: Reading, now: Reading, *, out: bool
) -> None:
    changed = incidents.begin if out else _ended
    if not changed(session, NoticeType.UPSTREAM_OUTAGE, account, now.at):
        return
    kind = NoticeType.UPSTREAM_OUTAGE if out else NoticeType.UPSTREAM_RECOVERED
    counts = {"polls": now.polls - before.polls, "failed": now.failed - before.failed}
    said = {"account": account} | {name: int(count) for name, count in counts.items()}
    log.warning(kind.value.replace(".", "_"), **said)
    incidents.tell(session, Notice(kind, said), now.at)


def _ended(session: Session, kind: str, subject: str, _at: datetime) -> bool:
    return incidents.end(session, kind, subject)


def readings(totals: Tally, now: datetime) -> Mapping[str, Reading]:
    """Of each account: how many polls there were, and how many of them upstream failed."""
    polls: dict[str, float] = defaultdict(float)
    failed: dict[str, float] = defaultdict(float)
    for series, value in totals.items():
        labels = dict(series.labels)
        if series.name == f"{metrics.POLLS.name}_total":
            polls[labels["account"]] += value
        of_errors = series.name == f"{metrics.POLL_ERRORS.name}_total"
        if of_errors and labels["kind"] in notices.OUTAGE_KINDS:
            failed[labels["account"]] += value
    return {name: Reading(now, count, failed[name]) for name, count in polls.items()}


# ----------------------------------------------------------------- budgets


def _watch_budgets(session: Session, now: datetime) -> None:
    kind = NoticeType.BUDGET_SHORT
    for row in session.execute(select(accounts)).mappings().all():
        name, short = row["name"], row["look_price"] > 0
        stored = incidents.reading(session, kind, name)
        if stored is None and not short:
            continue  # most accounts never have a row
        before = Since.of_json(stored) if stored else Since(now, not short)
        since = before.now(holds=short, at=now)
        if since != before:
            incidents.note(session, kind, name, now, since.as_json())
        if not since.lasts(now):
            continue
        if not short:
            incidents.end(session, kind, name)
        elif incidents.begin(session, kind, name, now):
            due = _due(session, name, now)
            said = {"account": name, "requests_per_second": row["requests_per_second"], **due}
            log.warning("budget_short", **said)
            incidents.tell(session, Notice(kind, said), now)


def _due(session: Session, account: str, now: datetime) -> Mapping[str, float]:
    """How many jobs are due, and for how long the first of them."""
    due = (jobs.c.account == account, jobs.c.next_poll_at <= now)
    few = select(jobs.c.next_poll_at).where(*due).order_by(jobs.c.next_poll_at).limit(10_000)
    found = few.subquery()
    count, since = session.execute(
        select(func.count(), func.min(found.c.next_poll_at)).select_from(found)
    ).one()
    oldest = round((now - since).total_seconds(), 1) if since else 0.0
    return {"due_jobs": count, "oldest_due_seconds": oldest}


# -------------------------------------------------------------------- ping


def _polls_go_on(session: Session, totals: Tally, now: datetime) -> bool:
    """Are there polls since the last time, or no job that has waited for one for long?"""
    polls = sum(each.polls for each in readings(totals, now).values())
    before = incidents.reading(session, PING, "") or {"polls": 0.0}
    if polls > before["polls"]:
        incidents.note(session, PING, "", now, {"polls": polls})
        return True
    free = or_(accounts.c.paused_until <= now - STANDS_STILL, accounts.c.pause_reason.is_(None))
    waiting = exists().where(
        jobs.c.account == accounts.c.name, jobs.c.next_poll_at <= now - STANDS_STILL
    )
    return session.execute(select(accounts.c.name).where(free, waiting).limit(1)).first() is None
