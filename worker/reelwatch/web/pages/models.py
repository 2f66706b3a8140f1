"""Models: how long their jobs take, against what was learned; how many fail; how late we notice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import log
from statistics import quantiles
from typing import Any

from sqlalchemy.orm import Session

from reelwatch.rules import ages
from reelwatch.rules.states import State
from reelwatch.rules.timing.hazard import Curve
from reelwatch.rules.wording import plain
from reelwatch.storage import db, forecasts, overviews

DAYS = 14
A_DAY = 40  # jobs, the last of each day
SAMPLE = 300  # jobs that ended last
POINTS = 60  # of a curve that is drawn
SHARES = (0.5, 0.9, 0.99)
KINDS_MOST = 12  # on one page; the others by their address

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Curves:
    """Shares of jobs that have ended by an age: as measured, and as learned; seconds and 0 to 1."""

    ages: Sequence[float]
    measured: Sequence[float]
    learned: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Day:
    """Delays of one day (UTC), in seconds: from upstream's end to our notice."""

    at: datetime
    count: int
    half: float | None
    most: float | None  # 90 % are below


@dataclass(frozen=True, slots=True)
class Model:
    """One model of one account."""

    account: str
    name: str
    learned_from: int
    learned_at: datetime
    sample: int
    failed: Sequence[tuple[str, int]]
    measured: Sequence[float | None]  # 50 %, 90 %, 99 %
    learned: Sequence[float | None]  # the same
    curves: Curves
    days: Sequence[Day]

    @property
    def failures(self) -> float:
        """The share of the sample that failed, 0 to 1."""
        return sum(count for _, count in self.failed) / self.sample if self.sample else 0.0


@dataclass(frozen=True, slots=True)
class Models:
    """The page; `others` are those that are not on it."""

    models: Sequence[Model]
    others: Sequence[Row]
    a_day: int = A_DAY


def view(session: Session, account: str = "", model: str = "") -> Models:
    """The models that were learned of last, or the one that is asked for."""
    now = db.now(session)
    kinds = overviews.kinds(session)
    if account or model:
        chosen = [kind for kind in kinds if kind["account"] == account and kind["model"] == model]
    else:
        chosen = sorted(kinds, key=lambda kind: kind["learned_at"], reverse=True)[:KINDS_MOST]
    chosen.sort(key=lambda kind: (kind["account"], kind["model"]))
    others = [kind for kind in kinds if kind not in chosen]
    return Models([_model(session, kind, now) for kind in chosen], others)


def _model(session: Session, kind: Row, now: datetime) -> Model:
    account, name = kind["account"], kind["model"]
    ended = overviews.ended_last(session, account, name, SAMPLE)
    codes = Counter(row["error_code"] or "?" for row in ended if row["state"] == State.FAILED)
    took = (ages.duration_seconds(row) for row in ended)
    seconds = sorted(max(0.1, each) for each in took if each is not None)
    curve = forecasts.curve(session, account, name)
    return Model(
        account,
        plain(name),
        kind["jobs"],
        kind["learned_at"],
        len(ended),
        codes.most_common(),
        [_quantile(seconds, share) for share in SHARES],
        [_learned_at(curve, share) for share in SHARES],
        _curves(seconds, curve),
        _days(session, account, name, now),
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    place = min(len(ordered) - 1, int(share * len(ordered)))
    return ordered[place] if ordered else None


def _learned_at(curve: Curve | None, share: float) -> float | None:
    return None if curve is None else float(curve.age_at(-log(1.0 - share)))


def _curves(ordered: Sequence[float], curve: Curve | None) -> Curves:
    if not ordered:
        return Curves((), (), ())
    longest = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] * 1.15
    ages = [round(longest * number / POINTS, 2) for number in range(POINTS + 1)]
    measured = [round(sum(each <= age for each in ordered) / len(ordered), 4) for age in ages]
    learned = [round(1.0 - curve.still_open(age), 4) if curve else None for age in ages]
    return Curves(ages, measured, learned)


def _days(session: Session, account: str, name: str, now: datetime) -> list[Day]:
    today = datetime(now.year, now.month, now.day, tzinfo=UTC)
    days = [today - timedelta(days=ago) for ago in range(DAYS - 1, -1, -1)]
    found = overviews.delays_by_day(session, account, name, days, A_DAY)
    return [
        Day(day, len(delays), *_half_and_most(delays))
        for day, delays in zip(days, found, strict=True)
    ]


def _half_and_most(delays: Sequence[float]) -> tuple[float | None, float | None]:
    if len(delays) < 2:
        return (delays[0], delays[0]) if delays else (None, None)
    cut = quantiles(delays, n=10, method="inclusive")
    return round(cut[4], 2), round(cut[8], 2)
