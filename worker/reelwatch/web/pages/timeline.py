"""A job's life drawn to scale: bars and marks, each at its share of the whole time. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from reelwatch.rules.retry import DeliveryState
from reelwatch.rules.states import State
from reelwatch.rules.wording import plain, span
from reelwatch.web.pages.words import covered

Row = Mapping[str, Any]

TICKS_MOST = 6
ROUND = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1_800,
    3_600,
    7_200,
    10_800,
    21_600,
    43_200,
    86_400,
    172_800,
    432_000,
    864_000,
    2_592_000,
)
LEAST = 2.0  # seconds: what is younger is drawn as if it were this old
MARGIN = 0.015  # of the whole, behind the last thing that is drawn


@dataclass(frozen=True, slots=True)
class Bar:
    """From one place to another, in percent of the whole; `kind` is its style."""

    left: float
    width: float
    kind: str
    label: str
    title: str


@dataclass(frozen=True, slots=True)
class Mark:
    """At one place, in percent of the whole."""

    left: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """What is drawn, in lanes, over an axis whose ticks are ages of the job."""

    ticks: Sequence[tuple[float, str]]
    statuses: Sequence[Bar]
    errors: Sequence[Bar]
    attempts: Sequence[Mark]
    deadline: float | None
    now: float | None
    seconds: float
    shortened: bool  # is there something behind the end that is drawn?


@dataclass(frozen=True, slots=True)
class _Scale:
    begin: datetime
    seconds: float

    def place(self, at: datetime) -> float:
        """In percent, two digits, never outside."""
        share = (at - self.begin).total_seconds() / self.seconds
        return round(100 * min(1.0, max(0.0, share)), 2)


def drawn(story: Mapping[str, Any], now: datetime, *, until_end: bool = False) -> Timeline:
    """The timeline of a story; `until_end`: no further than the end of the job itself."""
    job = story["job"]
    begin = min(job["upstream_created_at"] or job["tracked_at"], job["tracked_at"])
    whole = _last(story, now)
    last = min(whole, job["finished_at"] or whole) if until_end else whole
    seconds = max(LEAST, (last - begin).total_seconds()) * (1 + MARGIN)
    scale = _Scale(begin, seconds)
    deadline = job["deadline_at"]
    return Timeline(
        ticks=list(_ticks(seconds)),
        statuses=list(_statuses(story, scale, last)),
        errors=[_error(row, scale) for row in story["poll_errors"]],
        attempts=list(_attempts(story["deliveries"], scale, last)),
        deadline=scale.place(deadline) if begin < deadline <= last else None,
        now=scale.place(now) if last == now else None,
        seconds=seconds,
        shortened=last < whole,
    )


def _last(story: Mapping[str, Any], now: datetime) -> datetime:
    """Until when something happened; while it goes on, now."""
    job = story["job"]
    owed = any(delivery["state"] == DeliveryState.PENDING for delivery in story["deliveries"])
    if job["next_poll_at"] is not None or owed:
        return now
    times = [job["finished_at"] or job["abandoned_at"] or now]
    times += [row["at"] for row in story["transitions"]]
    times += [tried["at"] for row in story["deliveries"] for tried in row["attempts_log"]]
    return max(times)


def _ticks(seconds: float) -> Iterator[tuple[float, str]]:
    apart = next((each for each in ROUND if seconds / each <= TICKS_MOST), ROUND[-1])
    for number in range(int(seconds // apart) + 1):
        yield round(100 * number * apart / seconds, 2), _age(number * apart)


def _age(seconds: int) -> str:
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds and seconds % unit == 0:
            return f"{seconds // unit}{name}"
    return span(seconds) if seconds else "0"


def _statuses(story: Mapping[str, Any], scale: _Scale, last: datetime) -> Iterator[Bar]:
    """What upstream called it, from each transition to the next; before the first: nothing yet."""
    job, errors = story["job"], story["poll_errors"]
    at, state, status = job["tracked_at"], State.PENDING.value, None
    for row in story["transitions"]:
        if row["at"] > at:
            yield _bar(scale, at, row["at"], state, status or _unsaid(state, errors, row["at"]))
        at, state, status = row["at"], row["to_state"], row["to_status"]
    end = job["finished_at"] or job["abandoned_at"]
    if end is None or end > at:
        end = min(end or last, last)
        yield _bar(scale, at, end, state, status or _unsaid(state, errors, end))


def _unsaid(state: str, errors: Sequence[Row], end: datetime) -> str:
    """What stands where upstream had said no status until `end`."""
    if state != State.PENDING:
        return state
    polled = any(each["first_at"] < end for each in errors)
    return "no status yet" if polled else "waits for its first poll"


def _bar(scale: _Scale, begin: datetime, end: datetime, state: str, label: str) -> Bar:
    left, right = scale.place(begin), scale.place(end)
    label = plain(label)
    lasted = span((end - begin).total_seconds())
    return Bar(left, max(0.3, round(right - left, 2)), state, label, f"{label}, {state}: {lasted}")


def _error(row: Row, scale: _Scale) -> Bar:
    left, right = scale.place(row["first_at"]), scale.place(row["last_at"])
    count = f"{row['count']} × " if row["count"] > 1 else ""  # noqa: RUF001 - a count
    label = f"{count}{row['kind']}"
    return Bar(left, max(0.6, round(right - left, 2)), "error", label, label)


def _attempts(deliveries: Sequence[Row], scale: _Scale, last: datetime) -> Iterator[Mark]:
    for row in deliveries:
        log = row["attempts_log"]
        for number, tried in enumerate(log, 1):
            if tried["at"] > last + timedelta(seconds=1):
                continue
            said = covered(tried["error"] or "delivered", [row["target"]])
            kind = "bad" if tried["error"] else "well"
            title = f"{row['event_type']}, attempt {number}: {plain(said)}"
            yield Mark(scale.place(tried["at"]), kind, title)
