"""What `reelwatch doctor` says of the work itself: jobs, events, endpoints; and what to do then."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy.orm import Session

from reelwatch.jobs.history import at_most
from reelwatch.rules.troubles import MEANINGS
from reelwatch.rules.wording import clock, span
from reelwatch.storage import findings
from reelwatch.storage.destinations import shown
from reelwatch.storage.findings import Dead, Failing, Refusing, Stuck

OK, WARNING, WRONG = "ok", "warning", "wrong"

ENDPOINTS_SHOWN = 5
_SIGNED = "does it verify with the secret that signs here (`reelwatch test-event URL` tries it)?"
_PLACED = "is the path of its URL right?"
DOUBTS: Mapping[int, str] = {401: _SIGNED, 403: _SIGNED, 404: _PLACED, 405: _PLACED}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: str
    message: str


def of_work(
    session: Session, figures: Mapping[str, Any], slowed: Sequence[str], now: datetime
) -> Iterator[Check]:
    """The checks of what is in the database; `figures` is what `history.summary` found, `slowed`
    the accounts whose rate upstream's 429s have cut.
    """
    yield from _jobs(findings.stuck(session, now), now)
    yield from _dead(findings.dead(session, ENDPOINTS_SHOWN), figures["dead"], now)
    refusing = list(_refusing(findings.refusing(session, ENDPOINTS_SHOWN)))
    failing = list(_failing(findings.failing(session, ENDPOINTS_SHOWN), now))
    yield from refusing
    yield from failing
    if not refusing and not failing:
        yield Check("endpoints", OK, "none is failing, none refuses events")
    yield _late(figures["overdue"], slowed)


def _jobs(found: Sequence[Stuck], now: datetime) -> Iterator[Check]:
    for account, parts in groupby(found, key=lambda each: each.account):
        yield Check(f"jobs of {account}", WARNING, _stuck(account, list(parts), now))
    if not found:
        yield Check("jobs", OK, "none is past its deadline, none brings errors alone")


def _stuck(account: str, parts: Sequence[Stuck], now: datetime) -> str:
    said = []
    overdue = sum(part.overdue for part in parts)
    if overdue:
        oldest = _oldest([part.overdue_since for part in parts], now)
        why = _causes([(part.error, part.overdue) for part in parts])
        said.append(f"{at_most(overdue)} past their deadline, the oldest for {oldest} ({why})")
    in_vain = sum(part.in_vain for part in parts)
    if in_vain:
        oldest = _oldest([part.in_vain_since for part in parts], now)
        why = _causes([(part.error, part.in_vain) for part in parts])
        said.append(f"{at_most(in_vain)} with errors alone, the oldest for {oldest} ({why})")
    state = " --state expired" if overdue else ""
    return f"{'; '.join(said)}: `reelwatch list --account {account}{state}`, `reelwatch show ID`"


def _oldest(since: Sequence[datetime | None], now: datetime) -> str:
    return span((now - min(at for at in since if at is not None)).total_seconds())


def _causes(counts: Sequence[tuple[str | None, int]]) -> str:
    """`upstream refused the account's key`; with counts where there are several."""
    causes = [
        (MEANINGS.get(error, error) if error else "upstream names no end", count)
        for error, count in counts
        if count
    ]
    if len(causes) == 1:
        return causes[0][0]
    return ", ".join(f"{count}: {cause}" for cause, count in causes)


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


def _failing(found: Sequence[Failing], now: datetime) -> Iterator[Check]:
    for each in found:
        message = f"{each.failures} attempts failed in a row; {at_most(each.waiting)} events wait"
        if each.open_until is not None and each.open_until > now:
            until = f"it is not called until {clock(each.open_until, now)} UTC"
            message += f"; {until}; once it is repaired: `reelwatch redeliver --now --endpoint …`"
        yield Check(f"endpoint {shown(each.endpoint)}", WARNING, message)


def _refusing(found: Sequence[Refusing]) -> Iterator[Check]:
    """A receiver that says no works; but a wrong secret or path looks just so, for days."""
    for each in found:
        events = "event" if each.waiting == 1 else "events"
        said = f" ({each.http_status})" if each.http_status else ""
        doubt = DOUBTS.get(each.http_status or 0, "what does it not like of them?")
        message = (
            f"{at_most(each.waiting)} {events} refused{said}, none accepted since: {doubt} "
            "`reelwatch deliveries --state pending` lists what waits; once it is repaired: "
            "`reelwatch redeliver --now --endpoint …`"
        )
        yield Check(f"endpoint {shown(each.endpoint)}", WARNING, message)


def _late(count: int, slowed: Sequence[str]) -> Check:
    if not count:
        return Check("looks", OK, "none is more than a minute late")
    advice = "more workers, or a higher request rate?"
    if slowed:  # a higher rate would be refused
        advice = f"upstream answers 429 to more requests for {', '.join(slowed)}"
    return Check("looks", WARNING, f"{at_most(count)} are more than a minute late: {advice}")
