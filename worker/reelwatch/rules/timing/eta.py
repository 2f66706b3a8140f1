"""How much longer a job will take, as it is told everywhere. Pure.

A job is a row under the names of the columns of `jobs`. Only what a poll has shown is taken for
granted: a job that nobody has polled for an hour is not known to be an hour slower than others.

Rows that are read have it as `eta`, as `as_json` makes it. What people read is made of that by the
functions at the end.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from math import ceil
from typing import Any

from reelwatch.rules import ages
from reelwatch.rules.states import State
from reelwatch.rules.timing.plan import ETA_JOBS, Eta, Hint, Plan
from reelwatch.rules.wording import span

FORETOLD = frozenset({State.PENDING, State.RUNNING})
_DIGITS = 1  # of seconds
_ANY_MOMENT = "may end any moment"
UNHEARD = "no estimate while its polls bring no news: it may have ended since"
_OVER = "has probably ended since its last poll"

Row = Mapping[str, Any]


def remaining(row: Row, plan: Plan, now: datetime) -> Eta | None:
    """The seconds until upstream ends the job, by the plan of its kind, rounded to tenths.

    None for a job that is neither pending nor running, while too little is known of its kind, and
    while polls of it bring nothing: it may have ended since the last one that did.
    """
    if row["state"] not in FORETOLD or row["errors_in_row"]:
        return None
    said, since = last_said(row, now)
    found = plan.eta(said)
    if found is None:
        return None
    p50, p90 = (
        None if seconds is None else round(max(0.0, seconds - since), _DIGITS)
        for seconds in (found.p50_seconds, found.p90_seconds)
    )
    longest = round(found.longest_seconds, _DIGITS)
    return found._replace(p50_seconds=p50, p90_seconds=p90, longest_seconds=longest)


def last_said(row: Row, now: datetime) -> tuple[Hint, float]:
    """What upstream said at the last poll, and how many seconds ago that was.

    Before the first poll: nothing, when the job was tracked.
    """
    seen = row["last_polled_at"] or row["tracked_at"]
    age = ages.age_seconds(row, seen)
    progress = row["progress"] if row["progress_at"] == seen else None
    since = max(0.0, (now - seen).total_seconds())
    return Hint(age, row["upstream_status"], progress), since


def as_json(eta: Eta | None) -> dict[str, Any] | None:
    """The form it has in events and in every `--json`."""
    return None if eta is None else eta._asdict()


# ------------------------------------------------------------- for people


def in_short(row: Row) -> str:
    """For a column: `~41s`, which half of such jobs stay below, `soon`, `?`, or nothing."""
    eta = row.get("eta")
    if not eta:
        return ""
    half = eta["p50_seconds"]
    if half is None:
        return "?"
    return f"~{span(half)}" if half >= 1 else "soon"


def in_passing(row: Row) -> str:
    """On a line with other things: `~41s left`, or nothing."""
    short = in_short(row)
    return f"{short} left" if short.startswith("~") else ""


def too_few(ended: int) -> str:
    """Why there is no estimate, where so few jobs of a kind have ended."""
    return f"no estimate yet: {ended} of {ETA_JOBS} jobs of this model at this account have ended"


def in_words(row: Row, left: Callable[[float], str] = span) -> str:
    """For whoever sees it for the first time: all that is known, and how well; empty: nothing.

    `left` says how many seconds are left, where that is shown while they pass.
    """
    eta = row.get("eta")
    if not eta:
        return ""
    half, most = eta["p50_seconds"], eta["p90_seconds"]
    measured, longest = f"{eta['measured']:,}", span(eta["longest_seconds"])
    if half is None:
        seen = ages.age_seconds(row, row["last_polled_at"] or row["tracked_at"])
        longer = "longer" if seen > eta["longest_seconds"] else "probably longer"
        return f"{longer} than any of the {measured} measured (longest {longest}); no estimate"
    parts = [f"about {left(half)} left (half of such jobs)" if half >= 1 else _ANY_MOMENT]
    if most is not None:
        parts = [_OVER] if most < 1 else [*parts, f"90 % within {left(ceil(most))}"]
    if eta["slower_than_95_percent"]:
        parts.append("slower than 95 % of its kind")
    return f"{', '.join(parts)}; measured on {measured} jobs, the longest took {longest}"
