"""Kinds of jobs whose remaining time is easily said, and an account that knows them."""

import math
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from reelwatch.rules.timing.curves import BINS, SLOW_JOBS, Curve, Known
from reelwatch.storage import forecasts


def steady(half: float, jobs: int = SLOW_JOBS) -> Curve:
    """Of its jobs of any age half end within `half` seconds, nine of ten within 3.32 times that."""
    return Curve((math.log(2) / half,) * BINS, jobs)


def know(session: Session, curve: Curve, model: str = "grok", account: str = "default") -> datetime:
    """Have the account know this of a model; returns when it was learned."""
    now = datetime.now(UTC)  # no two tests alike: a process keeps what it has read by this
    forecasts.keep(session, account, model, Known(curve, 1.0), now)
    return now
