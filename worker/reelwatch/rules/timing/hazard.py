"""How long jobs of a kind take, as a hazard curve. Pure; all spans are seconds.

A curve gives the hazard h(age), the chance per second that a job of that age ends now, as steps on
a logarithmic grid of ages. What upstream says of a running job, its status or its progress, tells
what share of its duration has passed: `Curve.given()` combines that with the curve by Bayes' rule.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import Any

# Medians of published samples by the start of the model's name.
TYPICAL_SECONDS = {"veo3.1-fast": 120.0, "veo": 100.0, "sora": 180.0, "grok": 90.0}
TYPICAL_UNKNOWN = 120.0

RATIO = 1.1
EDGES = (0.0, *(RATIO**power for power in range(-14, 130)))  # 0.26 s to 2.5 days
BINS = len(EDGES) - 1
WIDTHS = tuple(b - a for a, b in pairwise(EDGES))
MIDDLES = tuple((a + b) / 2 for a, b in pairwise(EDGES))
HAZARD_MIN = 1e-9

_QUICK_UNTIL = 10.0  # failures at once
_EARLY_UNTIL, _EARLY_SHARE = 0.5, 0.3  # of the typical duration, and of the hazard
OLD_FROM = 3.0  # typical durations: from there on, the older a job, the longer it may take

_FEW_LEFT = 1e-12  # of all jobs: what lasts longer than all that is known goes by the curve itself


@dataclass(frozen=True)
class Curve:
    """One kind of job. `jobs` is how many finished ones it was learned from, 0 for a prior."""

    hazards: Sequence[float]
    jobs: int = 0

    @cached_property
    def cumulated(self) -> Sequence[float]:
        """The cumulative hazard, -log of the share of jobs that last, at each edge."""
        steps = (h * w for h, w in zip(self.hazards, WIDTHS, strict=True))
        return tuple(accumulate(steps, initial=0.0))

    @cached_property
    def lasting(self) -> Sequence[float]:
        """The restricted mean: the integral of the share that last, from 0 to each edge."""
        parts = (
            math.exp(-c) * mean_lasting(h * w) * w
            for c, h, w in zip(self.cumulated, self.hazards, WIDTHS, strict=False)
        )
        return tuple(accumulate(parts, initial=0.0))

    def ended(self, age: float) -> float:
        """The cumulative hazard at an age."""
        place = bin_of(age)
        return self.cumulated[place] + self.hazards[place] * (age - EDGES[place])

    def still_open(self, age: float) -> float:
        """The share of jobs that last longer than this."""
        return math.exp(-self.ended(age))

    def lasted(self, age: float) -> float:
        """The restricted mean at an age."""
        place = bin_of(age)
        within = age - EDGES[place]
        mean = mean_lasting(self.hazards[place] * within)
        return self.lasting[place] + math.exp(-self.cumulated[place]) * mean * within

    def age_at(self, cumulated: float) -> float:
        """The age at which the cumulative hazard reaches a value; at most the grid's end."""
        place = bisect_right(self.cumulated, cumulated) - 1
        if place >= BINS:
            return EDGES[-1]
        return EDGES[place] + (cumulated - self.cumulated[place]) / self.hazards[place]

    def given(self, age: float, likelihood: Callable[[float], float]) -> "Curve":
        """The curve of those jobs of which upstream would have said at this age what it said.

        `likelihood` gives, by the share of its duration that a job has behind it, how likely
        upstream says that.
        """
        first = bin_of(age)
        lasts = [math.exp(-ended) for ended in self.cumulated[first:]]
        weights = [
            (before - after) * likelihood(min(1.0, age / middle))
            for (before, after), middle in zip(pairwise(lasts), MIDDLES[first:], strict=True)
        ]
        left, hazards = math.fsum(weights), list(self.hazards)
        for place, weight in enumerate(weights, start=first):
            if left <= _FEW_LEFT:
                break
            share = min(weight / left, 1 - 1e-9)
            hazards[place] = max(HAZARD_MIN, -math.log1p(-share) / WIDTHS[place])
            left -= weight
        return Curve(tuple(hazards), self.jobs)

    def to_json(self) -> dict[str, Any]:
        """For the database, and for those who draw it."""
        return {"hazards": [float(f"{hazard:.4g}") for hazard in self.hazards], "jobs": self.jobs}


def from_json(body: Mapping[str, Any]) -> Curve | None:
    """A stored curve; None for one of another release, whose grid differs, or for what is none."""
    hazards = body.get("hazards", ())
    return Curve(tuple(hazards), body["jobs"]) if len(hazards) == BINS else None


def bin_of(age: float) -> int:
    """The grid's step that an age lies in; the last one for all that is beyond."""
    return min(BINS - 1, max(0, bisect_right(EDGES, age) - 1))


def mean_lasting(ends: float) -> float:
    """The mean share that lasts over a step in which the cumulative hazard rises by `ends`."""
    return 1.0 - ends / 2 if ends < 1e-6 else -math.expm1(-ends) / ends


@lru_cache(256)
def typical_seconds(model: str | None) -> float:
    """Prior for the seconds a job of this model takes, by the longest known name it starts with."""
    known = [name for name in TYPICAL_SECONDS if (model or "").casefold().startswith(name)]
    return TYPICAL_SECONDS[max(known, key=len)] if known else TYPICAL_UNKNOWN


def prior(typical: float, old_from: float = OLD_FROM) -> Curve:
    """What is assumed of a model whose jobs typically take so long, before any has finished.

    Close to a constant hazard, which is to say: to polls at equal distances. A guess at a shape
    that turns out to be wrong costs more than such polls; that few jobs end well before the typical
    time, and that old ones may grow much older, is safe to assume.
    """

    def hazard(age: float) -> float:
        if _QUICK_UNTIL < age < _EARLY_UNTIL * typical:
            return _EARLY_SHARE / typical
        return min(1.0, old_from * typical / age) / typical

    return Curve(tuple(hazard(middle) for middle in MIDDLES))
