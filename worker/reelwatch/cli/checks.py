"""What `reelwatch doctor` says of the work itself: jobs, events, endpoints; and what to do then."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy.orm import Session

from reelwatch.rules.endpoints import SIGNATURES, How, answer_in_short, doubt, said
from reelwatch.rules.outlook import why_late
from reelwatch.rules.wording import clock, span
from reelwatch.storage import figures, findings
from reelwatch.storage.counts import at_most
from reelwatch.storage.destinations import shown
from reelwatch.storage.findings import Dead, Unwell
from reelwatch.storage.indexes import Invalid
from reelwatch.storage.stuck import Stuck, in_words, stuck

OK, WARNING, WRONG = "ok", "warning", "wrong"

ENDPOINTS_SHOWN = 5
REPAIRED = "once it is repaired: `reelwatch redeliver --now --endpoint …`"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was examined."""

    name: str
    status: str
    message: str


def of_work(
    session: Session,
    found: Mapping[str, Any],
    accounts: Collection[Mapping[str, Any]],
    now: datetime,
) -> Iterator[Check]:
    """The checks of what is in the database: `found` by `figures.summary`, with these accounts."""
    yield from _jobs(stuck(session, now), now)
    yield from _dead(findings.dead(session, ENDPOINTS_SHOWN), found["dead"], now)
    unwell = findings.unwell(session, now, ENDPOINTS_SHOWN)
    yield from (_unwell(each, now) for each in unwell)
    if not unwell:
        yield Check("endpoints", OK, "none is failing, none refuses events")
    yield _late(found["late"], figures.slowed_and_late(session, accounts, now))


def of_indexes(found: Sequence[Invalid]) -> Iterator[Check]:
    """What has to be said of those that are not read."""
    for each in found:
        yield Check(f"index {each.name}", WARNING if each.in_progress else WRONG, each.advice)


def _jobs(found: Sequence[Stuck], now: datetime) -> Iterator[Check]:
    for account, parts in groupby(found, key=lambda each: each.account):
        yield Check(f"jobs of {account}", WARNING, _stuck(account, list(parts), now))
    if not found:
        yield Check("jobs", OK, "none is past its deadline, none brings errors alone")


def _stuck(account: str, parts: list[Stuck], now: datetime) -> str:
    state = " --state expired" if any(part.overdue for part in parts) else ""
    lists = f"`reelwatch list --account {account}{state}`, `reelwatch show ID`"
    return f"{'; '.join(in_words(parts, now))}: {lists}"


def _dead(found: Sequence[Dead], count: int, now: datetime) -> Iterator[Check]:
    if not found:
        yield Check("dead events", OK, "none")
        return
    lists, sends = "`reelwatch deliveries --state dead`", "`reelwatch redeliver --dead`"
    advice = f"{lists} lists them, {sends} sends them again"
    yield Check("dead events", WARNING, f"{at_most(count)} never reached their receiver: {advice}")
    for each in found:
        ago = span((now - each.last_at).total_seconds())
        said = f", and it said: {each.error}" if each.error else ""
        message = f"{at_most(each.count)}, the last {ago} old{said}"
        yield Check(f"dead events of {shown(each.endpoint)}", WARNING, message)


def _unwell(each: Unwell, now: datetime) -> Check:
    """A receiver that says no works; but a wrong secret or path looks just so, for days."""
    status = each.last_http_status
    refuses, answer = each.how is How.REFUSING, answer_in_short(status, each.last_error)
    message = said(each.how, each.failures, status)
    message += f"; it has taken nothing for {span((now - each.since).total_seconds())}"
    message += f" (the last answer: {answer})" if answer else ""
    message += f"; {_events(each.waiting)} {'waits' if each.waiting == 1 else 'wait'}"
    message += f", {at_most(each.dead)} {'is' if each.dead == 1 else 'are'} dead" * bool(each.dead)
    if each.how is How.RESTING and each.open_until is not None:
        message += f", and it is tried again at {clock(each.open_until, now)} UTC"
    tries = " `reelwatch test-event URL` tries it;" if refuses and status in SIGNATURES else ""
    advice = f"{doubt(each.how, status)}{tries} {REPAIRED}"
    return Check(f"endpoint {shown(each.endpoint)}", WARNING, f"{message}; {advice}")


def _events(count: int) -> str:
    return f"{at_most(count)} event{'' if count == 1 else 's'}"


def _late(count: int, slowed: Sequence[str]) -> Check:
    if not count:
        return Check("polls", OK, "none is late")
    said = f"{at_most(count)} are late, due for more than a minute: {why_late(slowed)}"
    return Check("polls", WARNING, said)
