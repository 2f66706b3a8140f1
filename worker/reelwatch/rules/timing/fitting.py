"""Learning from finished jobs how long the next ones take, and what upstream's statuses tell. Pure.

The hazard is estimated as events over exposure, both weighted and smoothed over neighbouring ages,
and shrunk towards a prior that counts as a few jobs. Running jobs are censored: they add exposure
and no event. All spans are seconds.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from reelwatch.rules.timing.hazard import (
    BINS,
    EDGES,
    HAZARD_MIN,
    MIDDLES,
    RATIO,
    WIDTHS,
    Curve,
    bin_of,
    prior,
    typical_seconds,
)

NEWEST = 1_000  # finished jobs that a curve is learned from
HALF_LIFE = 300  # jobs later, a job counts half
PRIOR_JOBS = 3.0  # finished jobs that the prior counts as
_OLD_FROM_KNOWN = 2.0  # as `hazard.OLD_FROM`, once finished jobs have told what is typical
_BANDWIDTH, _NARROWING = 0.45, 0.25  # of the smoothing, in powers of e: for one job, and its root
_BLUR_SECONDS, _BLUR_MOST = 5.0, 1.5  # of one job's: no sharper than polls are apart

SHARES = 20  # steps of the share of its duration that a job has behind it
_STAGE_JOBS = 3  # finished jobs from which on a status, or a progress, tells something
_TELLING = 1.5  # times as likely at one share as at another
_STATUSES_MOST = 40  # upstream may make up a new one each time
_STAGE_DOUBT = 0.3  # jobs' worth of doubt about a stage at each share
_SPREAD_PRIOR, _SPREAD_WEIGHT, _SPREAD_MIN = 0.15, 1.0, 0.02
_PROGRESS_DOUBT = 0.02

Likelihood = Callable[[float], float]  # by the share of its duration that a job has behind it


class Sample(NamedTuple):
    """One job's duration, or, if it has not `ended`, its age so far.

    `began_ago` is how long before now the job began, for those who forget what is long ago.
    """

    seconds: float
    ended: bool = True
    weight: float = 1.0
    began_ago: float = 0.0


class Course(NamedTuple):
    """When a finished job's statuses began: (share of its duration, status), in order."""

    stages: Sequence[tuple[float, str]]
    weight: float = 1.0


class Progressed(NamedTuple):
    """The progress that upstream gave at a share of a job's duration; both 0 to 1."""

    share: float
    progress: float
    weight: float = 1.0


@dataclass(frozen=True)
class Learned:
    """One kind of job: its curve, and at which shares of a job's duration upstream says what."""

    curve: Curve
    stages: Mapping[str, Sequence[float]] = field(default_factory=dict)  # likelihood by share
    progress_spread: float | None = None  # of the share around the progress; None: never given
    longest: float = math.inf  # seconds that an ended job took at most, if any has ended

    def by_status(self, status: str) -> Likelihood:
        """How likely upstream says this status."""
        steps = self.stages[status]
        return lambda share: steps[min(SHARES - 1, int(share * SHARES))]

    def by_progress(self, progress: float) -> Likelihood:
        """How likely upstream gives this progress (0 to 1)."""
        spread = self.progress_spread or _SPREAD_PRIOR
        return lambda share: _PROGRESS_DOUBT + math.exp(-0.5 * ((share - progress) / spread) ** 2)


def learn(
    model: str | None,
    samples: Iterable[Sample],
    courses: Iterable[Course] = (),
    progressed: Iterable[Progressed] = (),
    half_life: float = math.inf,
    horizon: float = math.inf,
) -> Learned:
    """What a model's jobs tell. A weight says how much a sample counts.

    What happened `half_life` seconds ago counts half, and what is older than `horizon` nothing:
    each moment of a job's life by itself, or the young lives of jobs that go on would outweigh
    those of the jobs that have ended.
    """
    samples, progressed = list(samples), list(progressed)
    at_risk, ends, exposure = [0.0] * BINS, [0.0] * BINS, [0.0] * BINS
    for sample in samples:
        last = bin_of(sample.seconds)
        for place in range(last):
            share = _remembered(sample.began_ago - MIDDLES[place], half_life, horizon)
            at_risk[place] += sample.weight * share
            exposure[place] += sample.weight * share * WIDTHS[place]
        share = sample.weight * _remembered(sample.began_ago - sample.seconds, half_life, horizon)
        at_risk[last] += share
        exposure[last] += share * max(0.0, sample.seconds - EDGES[last])
        ends[last] += share if sample.ended else 0.0
    any_ended = any(ends)
    # Of a hundred jobs two may be slow; what these say of an age goes for others near it.
    counts = [math.sqrt(left * max(at_risk)) for left in at_risk]
    kernels = [_kernel(age, count) for age, count in zip(MIDDLES, counts, strict=True)]
    ends, exposure = _smoothed(ends, kernels), _smoothed(exposure, kernels)
    found = _shrunk(ends, exposure, prior(typical_seconds(model)))
    if any_ended:
        # What few jobs say of great ages is filled in by a prior of their own scale, not by one of
        # all models' that their name happens to start with.
        typical = found.age_at(math.log(2))
        found = _shrunk(ends, exposure, prior(typical, _OLD_FROM_KNOWN))
    took = [sample.seconds for sample in samples if sample.ended]
    return Learned(
        Curve(found.hazards, len(took)),
        _stages(list(courses)),
        _spread(progressed),
        max(took, default=math.inf),
    )


def _shrunk(ends: Sequence[float], exposure: Sequence[float], towards: Curve) -> Curve:
    """The hazards of what ended and lived in each step, and of the prior's jobs.

    These live and end by the prior: of few of them is left at great ages.
    """
    shares = pairwise(math.exp(-cumulated) for cumulated in towards.cumulated)
    assumed = [PRIOR_JOBS * (before - after) for before, after in shares]
    lived = [PRIOR_JOBS * (after - before) for before, after in pairwise(towards.lasting)]
    return Curve(
        tuple(
            max(HAZARD_MIN, (ends[place] + assumed[place]) / (exposure[place] + lived[place]))
            for place in range(BINS)
        )
    )


def _remembered(ago: float, half_life: float, horizon: float) -> float:
    """How much a moment counts that was so many seconds ago."""
    return 0.0 if ago > horizon else 0.5 ** (max(0.0, ago) / half_life)


def _kernel(age: float, jobs: float) -> Sequence[float]:
    """The weights of a step's neighbours when smoothing, from the step itself outwards.

    Wider for fewer jobs, and for ages so young that their steps are small parts of a second: three
    that failed within two seconds do not say that none fails after five.
    """
    share = max(_BANDWIDTH, min(_BLUR_MOST, _BLUR_SECONDS / age))
    width = max(0.5, share * max(1.0, jobs) ** -_NARROWING / math.log(RATIO))
    return [math.exp(-0.5 * (away / width) ** 2) for away in range(math.ceil(3 * width) + 1)]


def _smoothed(values: Sequence[float], kernels: Sequence[Sequence[float]]) -> list[float]:
    """By step, the weighted mean of the values around it."""
    smooth = []
    for place, kernel in enumerate(kernels):
        whole = kernel[0] * values[place]
        for away, part in enumerate(kernel[1:], start=1):
            below, above = max(0, place - away), min(BINS - 1, place + away)
            whole += part * (values[below] + values[above])
        smooth.append(whole / (2 * sum(kernel) - kernel[0]))
    return smooth


def _stages(courses: Sequence[Course]) -> dict[str, tuple[float, ...]]:
    """By status and share: of how many jobs upstream says it there."""
    if len(courses) < _STAGE_JOBS:
        return {}
    whole = sum(course.weight for course in courses)
    said: dict[str, list[float]] = {}
    for course in courses:
        begins = [begin for begin, _ in course.stages]
        for (begin, status), end in zip(course.stages, [*begins[1:], 1.0], strict=True):
            steps = said.setdefault(status, [0.0] * SHARES)
            for step in range(SHARES):
                overlap = min(end, (step + 1) / SHARES) - max(begin, step / SHARES)
                steps[step] += course.weight * max(0.0, overlap) * SHARES
    commonest = sorted(said, key=lambda status: -sum(said[status]))[:_STATUSES_MOST]
    doubt = _STAGE_DOUBT
    likely = {
        status: tuple((value + doubt) / (whole + 2 * doubt) for value in said[status])
        for status in commonest
    }
    # What upstream says all along tells nothing.
    return {status: steps for status, steps in likely.items() if max(steps) > _TELLING * min(steps)}


def _spread(progressed: Sequence[Progressed]) -> float | None:
    """How far the share of the duration lies from the progress, as a standard deviation."""
    if len(progressed) < _STAGE_JOBS:
        return None
    weight = sum(each.weight for each in progressed)
    squares = sum(each.weight * (each.share - each.progress) ** 2 for each in progressed)
    variance = (squares + _SPREAD_WEIGHT * _SPREAD_PRIOR**2) / (weight + _SPREAD_WEIGHT)
    return max(_SPREAD_MIN, math.sqrt(variance))
