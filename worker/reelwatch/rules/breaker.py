"""How many calls an endpoint and its host get: fewer while they fail, none for a while. Pure.

An *endpoint* is one callback URL, or one task of one queue; it has a circuit breaker. A *host* is
what several endpoints share; it has a limit. Both are rows, so that all workers share them.

- *Closed*: calls go to the endpoint as its host has room. While it refuses events, one at a time.
- *Open*: after `FAILURES` failures in a row nothing goes to it until `open_until`. Its events wait,
  and none of their attempts is spent.
- *Half-open*: when that is over, or somebody has ended it, one call decides, for the event that has
  failed least: a single event that is always refused must not keep the others from being tried.
  While it fails, no attempt of the others is spent.

Calls take long to fail where nothing answers. So a failure counts by when its call began: what
began before a call that was answered, or before the end of a rest, tells of a failure that is known
or over. Else calls that hung and end together would rest an endpoint that answers again.

A new host gets few calls and twice as many with every answer, so that one that hangs binds few
threads.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto

FAILURES = 5  # in a row, over all events for the endpoint
ALLOWANCE_FIRST = 2
ALLOWANCE_MAX = 8
OPEN_FIRST = 30.0  # seconds
OPEN_MAX = 600.0

GIVES_WAY = timedelta(seconds=60)  # so long events for an endpoint that is not well let others go

ASKS_TO_WAIT = frozenset({408, 425, 429})  # the 4xx that say something of the receiver, not of us


class Verdict(Enum):
    """What an attempt says about its endpoint."""

    ACCEPTED = auto()
    REFUSED = auto()  # this event; whoever refuses, works
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Breaker:
    """An endpoint's standing. `openings`: how often it opened since it last worked.

    `failing_since`: when the first attempt began that it did not accept, since it accepted one.
    """

    failures: int = 0
    openings: int = 0
    allowance: int = ALLOWANCE_MAX  # calls at once, where its host has room for them
    open_until: datetime | None = None
    failing_since: datetime | None = None


WELL = Breaker()


def verdict(http_status: int | None, *, arrived: bool) -> Verdict:
    """What an attempt with that answer, None for none, says about its endpoint."""
    if arrived:
        return Verdict.ACCEPTED
    refused = http_status is not None and 400 <= http_status < 500
    return Verdict.REFUSED if refused and http_status not in ASKS_TO_WAIT else Verdict.FAILED


def allowed(breaker: Breaker, now: datetime) -> int:
    """How many calls to the endpoint may be under way at once, now."""
    if breaker.open_until is None:
        return breaker.allowance
    return 1 if now >= breaker.open_until else 0


def after(
    breaker: Breaker,
    verdict: Verdict,
    now: datetime,
    began: datetime,
    answered: datetime | None = None,
) -> Breaker:
    """The endpoint's standing after one attempt more, which `began` then.

    `answered`: when the latest call began that the endpoint answered, of those that are known.
    """
    if verdict is Verdict.FAILED:
        is_news = _is_news(breaker, began, answered)
        return _after_failure(breaker, now, began) if is_news else breaker
    since = breaker.failing_since or began if verdict is Verdict.REFUSED else None
    if verdict is Verdict.REFUSED or breaker.open_until is not None:  # in growing portions
        return Breaker(allowance=1, failing_since=since)
    return Breaker(allowance=min(ALLOWANCE_MAX, breaker.allowance * 2))


def _is_news(breaker: Breaker, began: datetime, answered: datetime | None) -> bool:
    """Does the failure of a call that began then say what was not known, or is over?"""
    if breaker.open_until is not None and began < breaker.open_until:
        return False  # under way when it opened
    return answered is None or began > answered


def released(breaker: Breaker, now: datetime) -> Breaker:
    """The standing of an endpoint that is said to be repaired, and has taken nothing so far.

    One that rests is half-open at once, and would rest as after its first opening. Its failures
    go on being counted: it is told since when they come, and only what it takes begins anew.
    """
    return breaker if breaker.open_until is None else replace(breaker, openings=0, open_until=now)


def _after_failure(breaker: Breaker, now: datetime, began: datetime) -> Breaker:
    """The last of so many failures in a row, or one while half-open, opens it."""
    failures, since = breaker.failures + 1, breaker.failing_since or began
    if breaker.open_until is None and failures < FAILURES:
        fewer = max(1, breaker.allowance // 2)
        return Breaker(failures, breaker.openings, fewer, failing_since=since)
    span = min(OPEN_MAX, OPEN_FIRST * 2.0 ** min(breaker.openings, 16))
    return Breaker(failures, breaker.openings + 1, 1, now + timedelta(seconds=span), since)


def host_allowance(allowance: int, *, answered: bool) -> int:
    """How many calls a host gets at once, after one that it answered, whatever it said, or not."""
    return min(ALLOWANCE_MAX, allowance * 2) if answered else max(1, allowance // 2)


# ------------------------------------------------------------------ whose turn it is


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event that is due. `bound`: do limits hold for a host, and an endpoint, that is well?"""

    id: str
    host: str
    endpoint: str
    failures: int
    due_at: datetime
    bound: bool = True


@dataclass(frozen=True, slots=True)
class Room:
    """How many calls more an endpoint may get, and whether nothing speaks against it."""

    free: int = ALLOWANCE_MAX
    well: bool = True


def share(
    waiting: Iterable[Waiting],
    endpoints: Mapping[str, Room],
    free_at_host: Mapping[str, int],
    limit: int,
    now: datetime,
) -> list[str]:
    """The ids of the events to be sent now, `limit` at most; no endpoint or host gets too many.

    First attempts go before retries; endpoints of a host, and hosts, take turns. What goes to an
    endpoint that is not well lets others go first, for a while.
    """
    ordered = sorted(waiting, key=lambda event: (event.failures, event.due_at, event.id))
    room = {event.endpoint: endpoints.get(event.endpoint, Room()) for event in ordered}

    def rank(event: Waiting) -> int:
        gives_way = not room[event.endpoint].well and now - event.due_at < GIVES_WAY
        return event.failures + gives_way

    may_go = [
        (rank(event), turn, event)
        for turn, event in _turns(ordered, lambda event: (event.host, event.endpoint))
        if turn < room[event.endpoint].free or (room[event.endpoint].well and not event.bound)
    ]
    may_go.sort(key=lambda each: each[:2])
    chosen = [
        (rank(event), turn, event.id)
        for turn, event in _turns((event for _, _, event in may_go), lambda event: event.host)
        if not event.bound or turn < free_at_host.get(event.host, ALLOWANCE_FIRST)
    ]
    chosen.sort(key=lambda each: each[:2])
    return [event_id for _, _, event_id in chosen[:limit]]


def _turns(
    events: Iterable[Waiting], of: Callable[[Waiting], Hashable]
) -> list[tuple[int, Waiting]]:
    """Each event with its place among those of the same endpoint, or host."""
    counts: dict[Hashable, int] = {}
    placed = []
    for event in events:
        key = of(event)
        place = counts.get(key, 0)
        counts[key] = place + 1
        placed.append((place, event))
    return placed


# ------------------------------------------------------------------ when, and why then


class Wait(Enum):
    """What an event that is owed waits for."""

    SCHEDULE = "the schedule of its attempts"
    RESTING = "its endpoint, which failed again and again and rests"
    TURN = "its turn"
    ANSWER = "the answer to an attempt under way"


def next_try(due_at: datetime, breaker: Breaker, now: datetime, *, leased: bool) -> tuple[
    datetime, Wait
]:  # fmt: skip
    """When an event is tried next at the earliest, and what it waits for until then."""
    if leased and due_at > now:
        return due_at, Wait.ANSWER
    if breaker.open_until is not None and breaker.open_until > max(now, due_at):
        return breaker.open_until, Wait.RESTING
    return (due_at, Wait.SCHEDULE) if due_at > now else (now, Wait.TURN)
