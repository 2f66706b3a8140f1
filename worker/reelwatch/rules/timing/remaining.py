"""How much longer a job will take, as it is told everywhere. Pure.

A job is a row under the names of the columns of `jobs`. Only what a look has shown is taken for
granted: a job that nobody has looked at for an hour is not known to be an hour slower than others.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from reelwatch.rules.status import State
from reelwatch.rules.timing.curves import Curve, Eta, Hint

FORETOLD = frozenset({State.PENDING, State.RUNNING})
_DIGITS = 1  # of seconds


def remaining(row: Mapping[str, Any], curve: Curve, now: datetime) -> Eta | None:
    """The seconds until upstream ends the job, by the curve of its kind, rounded to tenths.

    None for a job that is neither pending nor running, while too little is known of its kind, and
    while looks at it bring nothing: it may have ended since the last one that did.
    """
    if row["state"] not in FORETOLD or row["errors_in_row"]:
        return None
    said, since = last_said(row, now)
    found = curve.eta(said, said.age)
    if found is None:
        return None
    p50, p90 = (
        round(max(0.0, seconds - since), _DIGITS)
        for seconds in (found.p50_seconds, found.p90_seconds)
    )
    return Eta(p50, p90, found.slower_than_95_percent)


def last_said(row: Mapping[str, Any], now: datetime) -> tuple[Hint, float]:
    """What upstream said at the last look, and how many seconds ago that was.

    Before the first look: nothing, when the job was tracked.
    """
    seen = row["last_polled_at"] or row["tracked_at"]
    begun = row["upstream_created_at"] or row["tracked_at"]
    age = max(0.0, (seen - begun).total_seconds())
    progress = row["progress"] if row["progress_at"] == seen else None
    since = max(0.0, (now - seen).total_seconds())
    return Hint(age, row["upstream_status"], progress), since


def as_json(eta: Eta | None) -> dict[str, Any] | None:
    """The form it has in events and in every `--json`."""
    return None if eta is None else eta._asdict()
