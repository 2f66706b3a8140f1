"""How things stand: what is well and what is not, in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from statistics import quantiles
from typing import Any
from urllib.parse import urlencode

from sqlalchemy.orm import Session

from reelwatch.rules import outlook
from reelwatch.rules.answer_errors import MEANINGS
from reelwatch.rules.endpoints import How, said
from reelwatch.rules.rests import rest_of
from reelwatch.rules.wording import page_in_short, plain, span
from reelwatch.storage import (
    db,
    figures,
    findings,
    heartbeat,
    overviews,
    standings,
    stuck,
)
from reelwatch.storage.counts import COUNT_MOST as FOUND_MOST
from reelwatch.storage.overviews import COUNT_MOST, Counts
from reelwatch.web.pages.facts import APART_MOST, Fact, account_fact, begun, some, together
from reelwatch.web.pages.words import (
    KINDS,
    NOTHING,
    answered,
    capitalized,
    many,
    named,
    number,
    question,
    took,
)

CHANGES = 12
ENDPOINTS_MOST = 5
DEAD_MOST = 3  # endpoints that are named
ERRORS_SINCE = timedelta(minutes=10)
ERRORS_IN_ROW = 3  # polls of one job; fewer happen every day and pass by themselves
OF_ACCOUNT = ("unauthorized", "forbidden", "quota")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """A number with its name; `note` says what it is made of."""

    name: str
    value: str
    note: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Now:
    """The page. `newer`: how many changes came since those that are held."""

    facts: Sequence[Fact]
    figures: Sequence[Figure]
    changes: Sequence[Row]
    newer: int
    empty: bool
    most: int = COUNT_MOST

    @property
    def amiss(self) -> Sequence[Fact]:
        """The worst first."""
        return sorted((fact for fact in self.facts if fact.kind != "well"), key=_rank)

    @property
    def well(self) -> Sequence[Fact]:
        """The others."""
        return [fact for fact in self.facts if fact.kind == "well"]


def _rank(fact: Fact) -> int:
    return ("bad", "odd").index(fact.kind)


def view(session: Session, ids: Sequence[int] | None = None) -> Now:
    """How things stand now; with `ids` of changes these and no others, so that nothing moves."""
    now = db.now(session)
    accounts = standings.rows_now(session, now)
    counts = overviews.counts(session, now)
    changes = overviews.latest_changes(session, CHANGES, ids)
    newer = overviews.changes_since(session, max(ids)) if ids else 0
    facts = [
        *_ticks(session, now),
        *_accounts(session, accounts, now),
        *_polls(session, counts, accounts, now),
        *_stuck(session, now),
        *_endpoints(session, now),
        *_dead(session, counts),
    ]
    empty = not changes and not counts.open
    return Now(facts, list(_figures(session, counts, accounts, now)), changes, newer, empty)


def _ticks(session: Session, now: datetime) -> Iterator[Fact]:
    ticks = heartbeat.ticks(session, now)
    if ticks.standby:
        hint = "A beat and a broker that takes its messages make them: `reelwatch doctor`."
        yield Fact("odd", f"Workers run, without ticks: {ticks.standby}.", hint, of="ticks")
    elif ticks.missing is None:
        yield Fact("well", "Workers run: the last tick came", since=ticks.last, of="ticks")
    else:
        hint = "Start `reelwatch up`, or a worker and a beat; nothing is lost meanwhile."
        text = f"Nothing is polled and nobody is told: {ticks.missing}."
        yield Fact("bad", text, hint, of="ticks")


def _accounts(session: Session, rows: Sequence[Row], now: datetime) -> Iterator[Fact]:
    since = begun(session)
    odd = [fact for row in rows if (fact := account_fact(row, now, since))]
    if rows and not odd:
        yield Fact(
            "well", f"{many(len(rows), 'account')}: none is paused or slowed.", of="accounts"
        )
    yield from together(odd)


def _polls(
    session: Session, counts: Counts, accounts: Sequence[Row], now: datetime
) -> Iterator[Fact]:
    if counts.late:
        late, verb = many(counts.late, "poll", COUNT_MOST), "is" if counts.late == 1 else "are"
        why = outlook.why_late(figures.slowed_and_late(session, accounts, now))
        text = f"{late} {verb} late, due for more than a minute."
        yield Fact("odd", text, capitalized(why), "/accounts", of="late")
    elif counts.open:
        text = f"{many(counts.open, 'open job', COUNT_MOST)}: no poll is late."
        yield Fact("well", text, "", "/jobs", of="late")
    yield from _errors(session, now)


def _stuck(session: Session, now: datetime) -> Iterator[Fact]:
    """Jobs without an end or without news, in the words of `reelwatch doctor`."""
    found = stuck.stuck(session, now, COUNT_MOST)
    groups = groupby(found, key=lambda each: each.account)
    by_account = {account: list(parts) for account, parts in groups}
    if len(by_account) > APART_MOST:
        text = f"Jobs of {number(len(by_account))} accounts are past their deadline, or their "
        text += f"polls bring errors alone: {some([*by_account])}."
        state = "expired" if any(part.overdue for part in found) else "open"
        yield Fact("odd", text, "", f"/jobs?state={state}", of="stuck")
        return
    for account, parts in by_account.items():
        state = "expired" if any(part.overdue for part in parts) else "open"
        text = f"Jobs of {account}: {'; '.join(stuck.in_words(parts, now, COUNT_MOST))}."
        link = "/jobs?" + urlencode({"account": account, "state": state})
        yield Fact("odd", text, "", link, of=f"stuck {account}")


def _errors(session: Session, now: datetime) -> Iterator[Fact]:
    """Errors of polls: those that go on, or are about the account, are for somebody to look at.

    Such leads to the jobs that have the error now, and says how many these are.
    """
    found = overviews.latest_errors(session, now - ERRORS_SINCE)
    having = overviews.in_error(session, [row["kind"] for row in found], ERRORS_IN_ROW)
    for row in found:
        kind, still = row["kind"], having[row["kind"]]
        jobs = many(row["jobs"], "job", row["jobs"] if row["cut"] else None)
        text = f"{kind}: {MEANINGS.get(kind, 'a poll failed')}, in polls of {jobs}"
        text += " within 10 minutes; "
        last = f"The last: {plain(page_in_short(row['message'], None))}"
        if kind not in OF_ACCOUNT and not still.going:
            yield Fact("well", f"{text}polls go on.", last, of=kind)
        elif still.jobs:
            now_in = many(still.jobs, "job", COUNT_MOST)
            text += f"{now_in} {'has' if still.jobs == 1 else 'have'} it now."
            link = "/jobs?" + urlencode({"error": kind, "state": "open"})
            yield Fact("odd", text, last, link, of=kind)
        else:
            yield Fact("odd", f"{text}none has it now.", last, of=kind)


def _endpoints(session: Session, now: datetime) -> Iterator[Fact]:
    unwell = findings.unwell(session, now, ENDPOINTS_MOST + 1)
    for each in unwell[:ENDPOINTS_MOST]:
        status = each.last_http_status
        text = f"{named(each.endpoint)} {said(each.how, each.failures, status)}. That began"
        answer = answered(each.endpoint, status, each.last_error)
        waiting = many(each.waiting, "event", FOUND_MOST)
        detail = "It has taken nothing since. " + (f"Its last answer: {answer}. " if answer else "")
        detail += f"{waiting} {'waits' if each.waiting == 1 else 'wait'} for it"
        detail += f", {number(each.dead, FOUND_MOST)} dead. " if each.dead else ". "
        detail += question(each.how, status)
        until = each.open_until if each.how is How.RESTING else None
        of = f"unwell {named(each.endpoint)}"
        yield Fact(KINDS[each.how], text, detail, "/endpoints", each.since, until, of=of)
    for each in unwell[ENDPOINTS_MOST:]:
        text = "More endpoints are not well: all are on the page Endpoints."
        yield Fact(KINDS[each.how], text, "", "/endpoints", of="unwell others")
    if not unwell:
        text = "Every endpoint takes what it is sent."
        yield Fact("well", text, "", "/endpoints", of="endpoints")


def _dead(session: Session, counts: Counts) -> Iterator[Fact]:
    if not counts.dead:
        yield Fact("well", "No event is dead.", "", "/deliveries", of="dead")
        return
    found = findings.dead(session, DEAD_MOST + 1, COUNT_MOST)
    whose = [f"{number(each.count)} for {named(each.endpoint)}" for each in found[:DEAD_MOST]]
    if len(found) > DEAD_MOST:
        others = min(counts.dead, COUNT_MOST) - sum(each.count for each in found[:DEAD_MOST])
        whose.append(f"{number(others)} for others")
    newest = f", of the newest {COUNT_MOST:,}" if counts.dead >= COUNT_MOST else ""
    text = f"{many(counts.dead, 'event', COUNT_MOST)} {'is' if counts.dead == 1 else 'are'} dead"
    text += f"{newest}: {', '.join(whose)}."
    detail = "All attempts failed. Redeliver when the endpoint is repaired."
    yield Fact("bad", text, detail, "/deliveries?state=dead", of="dead")


def _figures(
    session: Session, counts: Counts, accounts: Sequence[Row], now: datetime
) -> Iterator[Figure]:
    yield Figure(
        "open job" if counts.open == 1 else "open jobs",
        _count(counts.open),
        link="/jobs?state=open",
    )
    yield Figure("due now", _count(counts.due), f"{_count(counts.late)} late")
    yield _pace(session, accounts, now)
    delays = figures.delays(session, now, overviews.SAMPLE)
    if len(delays) > 1:
        cut = quantiles(delays, n=100, method="inclusive")
        said = f"95 %: {took(cut[94])} · 99 %: {took(cut[98])}, of {many(len(delays), 'end')}"
        yield Figure("delay, last hour", took(cut[49]), said)
    else:
        yield Figure("delay, last hour", NOTHING, "upstream's end to our notice")
    oldest = figures.oldest_undelivered(session)
    age = f"oldest: {span((now - oldest).total_seconds())}" if oldest else "nothing waits"
    yield Figure(
        "event owed" if counts.pending == 1 else "events owed",
        _count(counts.pending),
        age,
        "/deliveries?state=pending",
    )
    yield Figure(
        "dead event" if counts.dead == 1 else "dead events",
        _count(counts.dead),
        link="/deliveries?state=dead",
    )


def _pace(session: Session, accounts: Sequence[Row], now: datetime) -> Figure:
    asked = [row for row in accounts if rest_of(row, now) is None]
    budget = sum(row["requests_per_second"] for row in asked)
    pace = overviews.polls_per_second(session, now)
    value = NOTHING if pace is None else f"{pace:.1f}"
    who = (
        "all accounts"
        if len(asked) == len(accounts)
        else f"{len(asked)} of {len(accounts)} accounts"
    )
    most = f"of {round(budget, 2):g} that {who} may"
    return Figure("polls per second", value, most, "/accounts")


def _count(count: int) -> str:
    return number(count, COUNT_MOST)
