"""Polling jobs: claim those that are due, ask upstream, decide, write down.

A claim pushes `next_poll_at` ahead by the lease and marks the row with a token. A result is written
only while the row still bears that token: a worker that was killed, stopped or too slow changes
nothing, and its jobs come due again when the lease is over.

The rate is kept by the account's row. Every claim reserves *slots* on it, one moment per poll, and
the worker sends each poll in its slot or not at all. So any number of workers stay within it. When
more jobs are due than there are slots, those go first whose polls are worth most.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from reelwatch.config.accounts import Account as Configured
from reelwatch.config.log import of_each as line_of_each
from reelwatch.config.planning import plans_of, rules_of
from reelwatch.config.settings import Settings
from reelwatch.jobs import fanout
from reelwatch.jobs.applying import Polled, apply, apply_quiet, began_to_rest
from reelwatch.jobs.claiming import LEAD_MIN, Claimed, claim
from reelwatch.jobs.overdue import leave_to_others
from reelwatch.net import upstream
from reelwatch.net.calls import Call
from reelwatch.net.http import Outcome, TransferError
from reelwatch.rules.answers import AnswerError, ErrorKind, Report
from reelwatch.rules.changes import Change
from reelwatch.rules.status import ENDS
from reelwatch.rules.timing import priority
from reelwatch.rules.timing.planner import Plans
from reelwatch.storage import db, forecasts, writing

log = structlog.get_logger(__name__)
THREADS = 64
BATCH_SECONDS = 10.0
LEAD_MAX = 2.0
LINGER_ACCOUNTS = 4  # of more, batches that wait for the next due job could bind all processes
# (of which two stay free for deliveries, ticks and new ids in any case).
# Short and ASCII: it has to be writable itself.
UNWRITABLE = "it could not be written down, the worker's log has why (poll_not_written)"

Asker = Callable[[Configured, str, datetime], upstream.Poll]


def poll(
    settings: Settings,
    name: str,
    *,
    nudge: Callable[[], None] = lambda: None,
    hand_over: Callable[[], None] = lambda: None,
    ask: Asker | None = None,
    batch_seconds: float = BATCH_SECONDS,
) -> int:
    """One batch of polls of the due jobs of one account; returns how many results there were.

    `nudge` is called after a commit that owes events, `hand_over` when the batch's time is over and
    the next one should begin: slots that nobody reserves until a tick finds out are lost. `ask` is
    called, in threads, in place of asking over HTTP.
    """
    account = settings.accounts.get(name)
    if account is None or not account.api_key:
        leave_to_others(settings, name, account)
        return 0
    with db.reading(settings.database_url) as session:
        kinds = forecasts.kinds(session, name)
    plans = replace(plans_of(settings), kinds=kinds)
    poller = _Poller(settings, account, plans, nudge, ask)
    return fanout.fan_out(
        poller.claim,
        poller.poll,
        poller.record,
        threads=THREADS,
        batch_seconds=batch_seconds,
        urgent=_brings_more,
        linger=len(settings.accounts) <= min(LINGER_ACCOUNTS, fanout.places - 2),
        hand_over=hand_over,
        overtime=upstream.DEADLINE_SECONDS,
        wire=poller.wire(),
    )


def _brings_more(polled: Polled) -> bool:
    """More than that a job goes on? An end is to be told at once, a 429 slows at once."""
    answer = polled.poll and polled.poll.answer
    return not isinstance(answer, Report) or answer.meaning in ENDS


class _Poller:
    """What one batch knows: whose jobs, and how long a claim has been taking."""

    def __init__(
        self,
        settings: Settings,
        account: Configured,
        plans: Plans,
        nudge: Callable[[], None],
        ask: Asker | None,
    ) -> None:
        self._settings = settings
        self._account = account
        self._nudge = nudge
        self._ask = ask
        self._lead = LEAD_MIN
        self._rests = False  # the account, since what is in hand was claimed
        self._order = priority.Order()
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

    def wire(self) -> fanout.Wire[Claimed, Polled] | None:
        """How polls go over HTTP; None where they don't, or can't, as every poll will say."""
        if self._ask is None:
            with suppress(ValueError):
                client = upstream.client_for(self._account.base_url, os.getpid())
                return fanout.Wire(client, self._call, self._polled, THREADS, self._is_held)
        return None

    def _call(self, claimed: Claimed) -> Call | Polled:
        try:
            request = upstream.request(self._account, claimed.row["video_id"])
        except ValueError as error:  # an id that no URL can hold
            return self._polled(claimed, TransferError(str(error)))
        return Call(request, claimed.slot.opens, claimed.slot.closes)

    def _polled(self, claimed: Claimed, outcome: Outcome | None) -> Polled:
        if outcome is None:
            return Polled(claimed, None)
        now = claimed.slot.now() or datetime.now(UTC)
        poll = upstream.poll_of(self._account, claimed.row["video_id"], outcome, now)
        return Polled(claimed, poll)

    def _is_held(self) -> bool:
        """Is nothing more to be sent of what waits for its slot?"""
        return self._rests or fanout.stopping.is_set()

    def poll(self, claimed: Claimed) -> Polled:
        # Whoever is asked to end sends nothing more: its jobs are given back, and due at once.
        ending = fanout.stopping.wait(max(0.0, claimed.slot.opens - time.monotonic()))
        if ending or self._rests or time.monotonic() > claimed.slot.closes:
            return Polled(claimed, None)
        ask, now = self._ask or upstream.poll, claimed.slot.now() or datetime.now(UTC)
        return Polled(claimed, ask(self._account, claimed.row["video_id"], now))

    def record(self, results: Sequence[Polled]) -> None:
        """Write a group down as one; if one of it can't be written, the others all the same."""
        writing.write_all(self._record, results, self._record_bare)

    def _record_bare(self, polled: Polled) -> None:
        """As a failed poll: one that never counts is made as often for ever, and tells nobody."""
        _not_written(polled)
        if polled.poll:
            error = AnswerError(ErrorKind.BAD_SHAPE, UNWRITABLE, polled.poll.http_status)
            bare = replace(polled, poll=replace(polled.poll, answer=error))
            writing.write_all(self._record, [bare], _not_written)

    def _record(self, results: Sequence[Polled]) -> None:
        url, owed = self._settings.database_url, 0
        changes = apply_quiet(url, self._rules, results)
        if changes is None:
            with db.transaction(url) as session:
                changes, owed = apply(session, self._rules, results)
                self._rests = self._rests or began_to_rest(session, changes)
        line_of_each(__name__, "poll", (_line(change, polled) for change, polled in changes))
        if owed:
            self._nudge()


def _not_written(polled: Polled) -> None:
    log.exception("poll_not_written", job=polled.claimed.row["id"])


def _line(change: Change, polled: Polled) -> dict[str, Any]:
    poll, answer = polled.poll, change.answer
    error = answer if isinstance(answer, AnswerError) else None
    return {
        "job": change.row["id"],
        "video_id": change.row["video_id"],
        "account": change.row["account"],
        "http_status": poll and poll.http_status,
        "status": answer.status if isinstance(answer, Report) else None,
        "error": error and f"{error.kind.value}: {error.message[:200]}",
        "duration_ms": poll and poll.duration_ms,
        "decision": _decision_status(change),
    }


def _decision_status(change: Change) -> str:
    decision = change.decision
    if decision.abandoned:
        return "abandoned"
    if decision.state != change.row["state"]:
        return str(decision.state.value)
    return "status_changed" if decision.transition else "poll_again"
