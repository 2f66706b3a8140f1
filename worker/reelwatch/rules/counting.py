"""Which counters grow by what is written down: pure sums over facts, by their labels."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reelwatch.rules import metrics
from reelwatch.rules.ages import notice_delay
from reelwatch.rules.breaker import Verdict
from reelwatch.rules.changes import Change
from reelwatch.rules.metrics import Tally
from reelwatch.rules.states import FINAL, State

ENDED = frozenset({*FINAL, State.EXPIRED})
NO_CODE = "none"


def of_changes(changes: Sequence[Change], at: datetime, seconds: Sequence[float] = ()) -> Tally:
    """What changes written at that time add, and the polls that took so long.

    All polls are of one account.
    """
    tally = Tally()
    polled = Counter(change.row["account"] for change in changes if change.answer is not None)
    for account, count in polled.items():
        tally.count(metrics.POLLS, account, by=count)
        tally.observe_all(metrics.POLL_SECONDS, seconds, account)
    for change in changes:
        if change.decision.error is not None:
            kind = change.decision.error.kind.value
            tally.count(metrics.POLL_ERRORS, change.row["account"], kind)
        if change.answer is not None and not change.row["polls"]:
            tally.count(metrics.FIRST_POLLS, change.row["account"])
        if change.decision.transition:
            _count_transition(tally, change, at)
    return tally


def _count_transition(tally: Tally, change: Change, at: datetime) -> None:
    account, decision = change.row["account"], change.decision
    tally.count(metrics.TRANSITIONS, account, decision.state.value)
    if decision.state == change.row["state"] or decision.state not in ENDED:
        return
    code = decision.failure.code if decision.failure else NO_CODE
    tally.count(metrics.ENDS, account, decision.state.value, code)
    report = change.report
    ended = report and (report.completed_at or report.updated_at)
    if decision.final and ended:
        delay = notice_delay(ended, change.row["tracked_at"], at)
        tally.observe_all(metrics.NOTICE_SECONDS, [delay], account)


def of_events(rows: Iterable[Mapping[str, Any]]) -> Tally:
    """What new rows of `deliveries` add."""
    tally = Tally()
    for row in rows:
        tally.count(metrics.EVENTS, str(row["event_type"]), row["channel"])
    return tally


@dataclass(frozen=True, slots=True)
class Attempted:
    """An attempt as it counts. `settled`: the state that its delivery has for good, by this one."""

    channel: str
    host: str
    verdict: Verdict
    seconds: float
    settled: str | None = None
    delay: float | None = None  # seconds from the event to its receiver's yes


def of_attempts(attempts: Iterable[Attempted]) -> Tally:
    """What attempts add."""
    tally = Tally()
    for each in attempts:
        tally.count(metrics.ATTEMPTS, each.channel, each.host, each.verdict.name.casefold())
        tally.observe_all(metrics.ATTEMPT_SECONDS, [each.seconds], each.channel)
        if each.settled is not None:
            tally.count(metrics.SETTLED, each.channel, each.settled)
        if each.delay is not None:
            tally.observe_all(metrics.DELIVERY_SECONDS, [each.delay], each.channel)
    return tally
