"""Writing down what polls brought: decide on each, and commit what follows from all of them.

A result is written only while its row still bears the claim's token: a worker that was killed,
stopped or too slow changes nothing, and its jobs come due again when the lease is over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from random import random
from typing import Any

import structlog
from sqlalchemy import update
from sqlalchemy.engine import RowMapping
from sqlalchemy.orm import Session

from reelwatch.jobs.claiming import Claimed
from reelwatch.net import upstream
from reelwatch.rules import counting, deadlines, lifecycle
from reelwatch.rules.answer_errors import ACCOUNT_KINDS
from reelwatch.rules.answers import Answer, AnswerError, Report
from reelwatch.rules.changes import Change
from reelwatch.rules.standing import Asked, Standing
from reelwatch.rules.states import Account as Effect
from reelwatch.storage import db, incidents, job_columns, ledger, mixups, poll_errors
from reelwatch.storage.due_jobs import RESTS, WHOLE, locked_account, write_account
from reelwatch.storage.job_columns import TOKENS, jobs
from reelwatch.storage.quiet import settle

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Polled:
    """A claimed job and what the poll brought; None: its slot was missed and nothing was sent."""

    claimed: Claimed
    poll: upstream.Poll | None


def apply(
    session: Session,
    rules: deadlines.Rules,
    results: Sequence[Polled],
    now: datetime | None = None,
) -> tuple[list[tuple[Change, Polled]], int]:
    """Decide on each result and write it down, unless its row has been taken from it meanwhile.

    Returns the changes that were written, each with its poll, and the number of events they owe.
    """
    # Whoever else writes to a job takes the token away: what the claim has read still holds.
    # One job can be among them twice: a process that was stopped for long has claimed it anew.
    rows = [polled.claimed.row for polled in results]
    tokens = db.tokens_now(session, TOKENS, {row["id"] for row in rows})
    at = now or db.now(session)
    ours = [
        polled
        for polled, row in zip(results, rows, strict=True)
        if row["id"] in tokens and tokens[row["id"]] == row["lease_token"]
    ]
    _release(session, [polled.claimed for polled in ours if polled.poll is None], at)
    answered = [(polled, polled.poll.answer) for polled in ours if polled.poll is not None]
    account = _account_in_question(session, ours)
    worked_at = None if account is None else account["worked_at"]
    asked_for = [(polled.claimed.row, answer) for polled, answer in answered]
    answers = mixups.sorted_out(session, asked_for, rules.plans.kinds.keys())
    same = poll_errors.repeats(session, asked_for)
    changes = [
        (_decided(polled.claimed.row, answer, rules, at, same, worked_at), polled)
        for (polled, _), answer in zip(answered, answers, strict=True)
    ]
    changes = _completed(session, changes)
    if account is not None:
        _apply_to_account(session, account, changes, at)
    written = [change for change, _ in changes]
    incidents.tell_novelties(session, written, at)
    seconds = [polled.poll.duration_ms / 1000 for _, polled in changes if polled.poll]
    return changes, ledger.write(session, written, at, rules.plans.kinds, seconds)


def apply_quiet(
    url: str, rules: deadlines.Rules, results: Sequence[Polled]
) -> list[tuple[Change, Polled]] | None:
    """The same, in a transaction of its own, where nothing is new but when to poll again.

    None, and nothing is written, if more is, or if a row has been taken meanwhile. The time is the
    database's, as it goes on since the claim: asking for it would cost as much again.
    """
    at = results[-1].claimed.slot.now()
    if at is None or any(map(_has_news, results)):
        return None
    changes, rows, seconds = [], [], []
    for polled in results:
        assert polled.poll
        change = _decided(polled.claimed.row, polled.poll.answer, rules, at, {}, None)
        row = ledger.postponed(change)
        if row is None:
            return None
        changes.append((change, polled))
        rows.append(row)
        seconds.append(polled.poll.duration_ms / 1000)
    tally = counting.of_changes([change for change, _ in changes], at, seconds)
    with db.at_once(url) as session:
        return changes if settle(session, rows, at, tally) else None


def _has_news(polled: Polled) -> bool:
    """Is there anything new at a glance? Then deciding on it twice is spared."""
    answer = polled.poll and polled.poll.answer
    if not isinstance(answer, Report) or _bears_on_account(polled):
        return True
    return bool(answer.status != polled.claimed.row["upstream_status"])


def _decided(
    row: Mapping[str, Any],
    answer: Answer,
    rules: deadlines.Rules,
    now: datetime,
    same: Mapping[int, tuple[int, datetime]],
    worked_at: datetime | None,
) -> Change:
    job = job_columns.job_of(row)
    if worked_at or row["id"] in same:
        count, since = same.get(row["id"], (0, None))
        job = job._replace(same_count=count, same_since=since, account_worked_at=worked_at)
    jitter = random()  # noqa: S311 - spreads polls, guards nothing
    decision = lifecycle.decide(job, answer, now, rules, jitter)
    if isinstance(answer, Report) and decision.errors_in_row:  # it was not believed
        return Change(row, decision, decision.error)
    return Change(row, decision, answer)


def _completed(
    session: Session, changes: list[tuple[Change, Polled]]
) -> list[tuple[Change, Polled]]:
    """The changes, with whole rows for those that are more than another poll."""
    ids = [change.row["id"] for change, _ in changes if change.moved]
    if not ids:
        return changes
    rows: dict[int, Mapping[str, Any]] = {
        row["id"]: dict(row) for row in session.execute(WHOLE, {"ids": ids}).mappings()
    }
    return [
        (replace(change, row=rows.get(change.row["id"], change.row)), polled)
        for change, polled in changes
    ]


def _release(session: Session, missed: Sequence[Claimed], now: datetime) -> None:
    """Give back the jobs whose slots were missed; their rows are locked."""
    if not missed:
        return
    freed = jobs.c.id.in_([claimed.row["id"] for claimed in missed])
    session.execute(update(jobs).where(freed).values(next_poll_at=now, lease_token=None))
    if any(claimed.probe for claimed in missed):  # another probe may go at once
        account = locked_account(session, missed[0].row["account"])
        standing = Standing.of(account)
        write_account(session, account, standing.unsent(now).changed(standing))
    log.info("slots_missed", account=missed[0].row["account"], count=len(missed))


def _account_in_question(session: Session, polls: Sequence[Polled]) -> RowMapping | None:
    """The row of the account that these polls were made with, locked, if they say anything of it.

    Most say no more than that it works, as all know, and cost nothing here.
    """
    asked = [polled for polled in polls if polled.poll is not None]
    if not any(map(_bears_on_account, asked)):
        return None
    return locked_account(session, asked[0].claimed.row["account"])  # a batch is one account's


def _bears_on_account(polled: Polled) -> bool:
    claimed, answer = polled.claimed, polled.poll and polled.poll.answer
    refused = isinstance(answer, AnswerError) and answer.kind in ACCOUNT_KINDS
    return refused or claimed.probe or claimed.suspected


def _apply_to_account(
    session: Session,
    row: RowMapping,
    changes: Sequence[tuple[Change, Polled]],
    now: datetime,
) -> None:
    """Write down what the answers, in the order of their polls, make of the account's standing."""
    before = standing = Standing.of(row)
    for change, polled in sorted(changes, key=_sent_at):
        decision = change.decision
        asked = Asked(
            change.row["id"], decision.account, decision.error,
            probe=polled.claimed.probe, in_row=decision.errors_in_row,
            well=change.row["polls"] > change.row["errors_in_row"],
        )  # fmt: skip
        # One that was under way when something was refused does not show that it works since.
        told = standing.after(asked, now)
        _log_standing(row["name"], standing, told)
        standing = told
    write_account(session, row, standing.changed(before))
    incidents.of_account(session, row["name"], before, standing, now)


def _sent_at(each: tuple[Change, Polled]) -> float:
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


def began_to_rest(session: Session, changes: Sequence[tuple[Change, Polled]]) -> bool:
    """Does the account rest since these answers? What is not sent yet had better not be."""
    effects = {change.decision.account for change, _ in changes}
    if not effects & {Effect.PAUSE, Effect.SLOW}:
        return False
    name = changes[0][0].row["account"]
    return session.execute(RESTS, {"name": name}).scalar_one_or_none() is not None
