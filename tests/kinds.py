"""Kinds of jobs whose remaining time is easily said, and an account that knows them."""

import math
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from reelwatch.rules.timing.fitting import Learned
from reelwatch.rules.timing.hazard import BINS, Curve
from reelwatch.rules.timing.pace import TARGET_DELAY, Pace
from reelwatch.rules.timing.plan import SLOW_JOBS, Eta, Plan
from reelwatch.rules.timing.planner import solve
from reelwatch.storage import forecasts

LONGEST = 864_000.0  # seconds: no job of a test gets so old


def forecast(curve: Curve, longest: float = LONGEST) -> forecasts.Forecast:
    """As it is learned by the usual settings."""
    plan = solve(Learned(curve, longest=longest), Pace(), TARGET_DELAY)
    return forecasts.Forecast(curve, plan, "the usual")


def constant(half: float, jobs: int = SLOW_JOBS) -> Curve:
    return Curve((math.log(2) / half,) * BINS, jobs)


def steady(half: float, jobs: int = SLOW_JOBS) -> Plan:
    """Of its jobs of any age half end within `half` seconds, nine of ten within 3.32 times that."""
    return forecast(constant(half, jobs)).plan


def foretold(p50: float, p90: float, *, slow: bool = False, jobs: int = SLOW_JOBS) -> Eta:
    """What such a plan tells of a job."""
    return Eta(p50, p90, slow, jobs, LONGEST)


def know(session: Session, plan: Plan, model: str = "grok", account: str = "default") -> datetime:
    """Have the account know this of a model; returns when it was learned."""
    now = datetime.now(UTC)  # no two tests alike: a process keeps what it has read by this
    known = forecasts.Forecast(constant(1.0, plan.jobs), plan, "the usual")
    forecasts.keep(session, account, model, known, now)
    return now
