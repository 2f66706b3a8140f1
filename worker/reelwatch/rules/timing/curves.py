"""How long jobs of a kind take: hazard curves learned from finished jobs, and what they foretell.
Pure.

A curve gives the hazard h(age), the chance per second that a job of that age ends now, as steps on
a logarithmic grid of ages. It is estimated as events over exposure, both weighted and smoothed over
neighbouring ages, and shrunk towards a prior that counts as a few jobs. Running jobs are censored:
they add exposure and no event. All spans are seconds.

What upstream says of a running job, its status word or its progress, tells what share of its
duration has passed. `Curve.given()` combines that with the curve by Bayes' rule.
"""

import math
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple
from weakref import ref

# Medians of published samples by the start of the model's name.
TYPICAL_SECONDS = {"veo3.1-fast": 120.0, "veo": 100.0, "sora": 180.0, "grok": 90.0}
TYPICAL_UNKNOWN = 120.0

_RATIO = 1.1
EDGES = (0.0, *(_RATIO**power for power in range(-14, 130)))  # 0.26 s to 2.5 days
BINS = len(EDGES) - 1
WIDTHS = tuple(b - a for a, b in pairwise(EDGES))
MIDDLES = tuple((a + b) / 2 for a, b in pairwise(EDGES))
_HAZARD_MIN = 1e-9

PRIOR_JOBS = 3.0  # finished jobs that the prior counts as
_QUICK_UNTIL = 10.0  # failures at once
_EARLY_UNTIL, _EARLY_SHARE = 0.5, 0.3  # of the typical duration, and of the hazard
_OLD_FROM = 3.0  # typical durations: from there on, the older a job, the longer it may take
_OLD_FROM_KNOWN = 2.0  # the same once finished jobs have told what is typical
_BANDWIDTH, _NARROWING = 0.45, 0.25  # of the smoothing, in powers of e: for one job, and its root
_BLUR_SECONDS, _BLUR_MOST = 5.0, 1.5  # of one job's: no sharper than looks are apart

SHARES = 20  # steps of the share of its duration that a job has behind it
_STAGE_JOBS = 3  # finished jobs from which on a stage word, or a progress, tells something
_TELLING = 1.5  # times as likely at one share as at another
_WORDS_MOST = 40  # upstream may make up a new one each time
_TOLD_MOST = 1_024  # curves of what was told, of some 4 kB each, that a process keeps
_NAMES_MOST = 256  # of models, whose priors are found at once
_FEW_LEFT = 16.0  # -log of a share of jobs below which rounding counts
_STAGE_DOUBT = 0.3  # jobs' worth of doubt about a stage at each share
_SPREAD_PRIOR, _SPREAD_WEIGHT, _SPREAD_MIN = 0.15, 1.0, 0.02
_PROGRESS_DOUBT = 0.02

ETA_JOBS = 5  # finished jobs from which on a remaining time is foretold
SLOW_JOBS = 20  # and from which on a job is called slower than 95 % of its kind


class Sample(NamedTuple):
    """One job's duration, or, if it has not `ended`, its age so far.

    `began_ago` is how long before now the job began, for those who forget what is long ago.
    """

    seconds: float
    ended: bool = True
    weight: float = 1.0
    began_ago: float = 0.0


class Course(NamedTuple):
    """When a finished job's status words began: (share of its duration, word), in order."""

    stages: Sequence[tuple[float, str]]
    weight: float = 1.0


class Progressed(NamedTuple):
    """The progress that upstream gave at a share of a job's duration; both 0 to 1."""

    share: float
    progress: float
    weight: float = 1.0


class Hint(NamedTuple):
    """What upstream said last of a running job, and at what age that was."""

    age: float
    word: str | None = None
    progress: float | None = None


class Eta(NamedTuple):
    """The remaining seconds that half, and nine of ten, such jobs will stay below."""

    p50_seconds: float
    p90_seconds: float
    slower_than_95_percent: bool


@dataclass(frozen=True, eq=False)  # equal only to itself: plans are kept by it
class Curve:
    """One kind of job. `jobs` is how many finished ones it was learned from, 0 for a prior."""

    hazards: Sequence[float]
    jobs: int = 0
    stages: Mapping[str, Sequence[float]] = field(default_factory=dict)  # likelihood by share
    progress_spread: float | None = None  # of the share around the progress; None: never given
    _told: dict[Hint, "Curve"] = field(default_factory=dict, init=False, repr=False)

    # Of the chance to last: H = -log S at each edge, and the integral of S up to it. Arrays take a
    # quarter of the memory of tuples, and a process keeps many curves.

    @cached_property
    def cumulated(self) -> Sequence[float]:
        """-log of the share of jobs that last, at each edge."""
        steps = (h * w for h, w in zip(self.hazards, WIDTHS, strict=True))
        return array("d", accumulate(steps, initial=0.0))

    @cached_property
    def lasting(self) -> Sequence[float]:
        """The integral of the share of jobs that last, from 0 to each edge."""
        parts = (
            math.exp(-c) * _mean_lasting(h * w) * w
            for c, h, w in zip(self.cumulated, self.hazards, WIDTHS, strict=False)
        )
        return array("d", accumulate(parts, initial=0.0))

    def at(self, age: float) -> tuple[float, float]:
        """(-log S, integral of S) at an age."""
        place = bin_of(age)
        hazard, within = self.hazards[place], age - EDGES[place]
        cumulated = self.cumulated[place]
        mean = _mean_lasting(hazard * within)
        return cumulated + hazard * within, self.lasting[place] + math.exp(
            -cumulated
        ) * mean * within

    def still_open(self, age: float) -> float:
        """The share of jobs that last longer than this."""
        return math.exp(-self.at(age)[0])

    def awaited(self, since: float, age: float) -> tuple[float, float]:
        """What may have happened from `since`, when a job was still open, to `age`.

        As -log of the chance that it has not ended, and the seconds since its end that are to be
        expected, 0 being those of a job that goes on.
        """
        ended, lasted = self.at(since)
        if ended > _FEW_LEFT:  # so few that rounding would be all that is left
            more = self.hazards[bin_of(since)] * (age - since)
            return more, (age - since) * (1 - _mean_lasting(more))
        ended_then, lasted_then = self.at(age)
        late = age - since - (lasted_then - lasted) * math.exp(ended)
        return ended_then - ended, max(0.0, late)

    def given(self, hint: Hint) -> "Curve":
        """The curve of those jobs of its kind for which upstream would have said this."""
        if hint.progress is not None and self.progress_spread is not None:
            hint = hint._replace(word=None)
        elif (hint.word or "") in self.stages:
            # Of a word only the step of the age matters: many jobs share the answer.
            hint = Hint(MIDDLES[bin_of(hint.age)], hint.word)
        else:
            return self
        told = self._told.get(hint)
        if told is None:
            told = self._told[hint] = self._given(hint)
            _keep(self, hint)
        return told

    def _given(self, hint: Hint) -> "Curve":
        likelihood = self._likelihood(hint)
        first = bin_of(hint.age)
        weights = [0.0] * BINS
        for place in range(first, BINS):
            ends = math.exp(-self.cumulated[place]) - math.exp(-self.cumulated[place + 1])
            weights[place] = ends * likelihood(min(1.0, hint.age / MIDDLES[place]))
        left = sum(weights)
        hazards = list(self.hazards)
        for place in range(first, BINS):
            if left <= 1e-12:
                break
            share = min(weights[place] / left, 1 - 1e-9)
            hazards[place] = max(_HAZARD_MIN, -math.log1p(-share) / WIDTHS[place])
            left -= weights[place]
        return Curve(array("d", hazards), self.jobs)

    def eta(self, hint: Hint, age: float) -> Eta | None:
        """The remaining time of a job of this age; None while too little is known of its kind."""
        if self.jobs < ETA_JOBS:
            return None
        curve = self.given(hint)
        past = curve.at(age)[0]
        p50, p90 = (max(0.0, curve.age_at(past - math.log(left)) - age) for left in (0.5, 0.1))
        slow = self.jobs >= SLOW_JOBS and self.still_open(age) < 0.05
        return Eta(p50, p90, slow)

    def age_at(self, cumulated: float) -> float:
        """The age at which -log S reaches a value; the grid's end where it never does."""
        place = bisect_right(self.cumulated, cumulated) - 1
        if place >= BINS:
            return EDGES[-1]
        return EDGES[place] + (cumulated - self.cumulated[place]) / self.hazards[place]

    def _likelihood(self, hint: Hint) -> Callable[[float], float]:
        """How likely upstream says this at a share of a job's duration."""
        progress, spread = hint.progress, self.progress_spread
        if progress is not None and spread is not None:
            return lambda share: (
                _PROGRESS_DOUBT + math.exp(-0.5 * ((share - progress) / spread) ** 2)
            )
        steps = self.stages[hint.word or ""]
        return lambda share: steps[min(SHARES - 1, int(share * SHARES))]

    def to_json(self) -> dict[str, Any]:
        """For the database; `from_json` reads it."""
        return {
            "hazards": [float(f"{hazard:.4g}") for hazard in self.hazards],
            "jobs": self.jobs,
            "stages": {word: [round(x, 4) for x in steps] for word, steps in self.stages.items()},
            "progress_spread": self.progress_spread,
        }


_kept: deque[tuple[ref[Curve], Hint]] = deque()  # what all curves have been told, the oldest first


def _keep(curve: Curve, hint: Hint) -> None:
    """What a curve was told is kept with it, and goes with it; of all curves' the newest."""
    _kept.append((ref(curve), hint))
    if len(_kept) > _TOLD_MOST:
        oldest, forgotten = _kept.popleft()
        if (owner := oldest()) is not None:
            owner._told.pop(forgotten, None)


@dataclass(frozen=True)
class Known:
    """What is known of one kind of job: its curve, and the price of a poll of it.

    `plans` is where `schedule` keeps what it solved: it goes when something else is known.
    """

    curve: Curve
    price: float
    plans: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)


def from_json(body: Mapping[str, Any]) -> Curve | None:
    """A stored curve; None for one of another release, whose grid differs."""
    if len(body["hazards"]) != BINS:
        return None
    stages = {word: tuple(steps) for word, steps in body["stages"].items()}
    return Curve(tuple(body["hazards"]), body["jobs"], stages, body["progress_spread"])


def bin_of(age: float) -> int:
    """The grid's step that an age lies in; the last one for all that is beyond."""
    return min(BINS - 1, max(0, bisect_right(EDGES, age) - 1))


def _mean_lasting(ends: float) -> float:
    """The mean share that lasts over a step in which -log S rises by `ends`."""
    return 1.0 - ends / 2 if ends < 1e-6 else -math.expm1(-ends) / ends


# ------------------------------------------------------------------- prior


def typical_seconds(model: str | None) -> float:
    """Prior for the seconds a job of this model takes, by the longest known name it starts with."""
    known = [name for name in TYPICAL_SECONDS if (model or "").casefold().startswith(name)]
    return TYPICAL_SECONDS[max(known, key=len)] if known else TYPICAL_UNKNOWN


@lru_cache(_NAMES_MOST)
def prior(model: str | None) -> Curve:
    """What is assumed of a model before any of its jobs has finished."""
    return _prior(typical_seconds(model))


@cache
def _prior(typical: float) -> Curve:
    """Close to a constant hazard, which is to say: to looks at equal distances.

    A guess at a shape that turns out to be wrong costs more than such looks; that few jobs end
    well before the typical time, and that old ones may grow much older, is safe to assume.
    """
    return _guessed(typical, _OLD_FROM)


def _guessed(typical: float, old_from: float) -> Curve:
    return Curve(tuple(_guessed_hazard(middle, typical, old_from) for middle in MIDDLES))


def _guessed_hazard(age: float, typical: float, old_from: float) -> float:
    if _QUICK_UNTIL < age < _EARLY_UNTIL * typical:
        return _EARLY_SHARE / typical
    return min(1.0, old_from * typical / age) / typical


# ---------------------------------------------------------------- learning


def learn(
    model: str | None,
    samples: Iterable[Sample],
    courses: Iterable[Course] = (),
    progressed: Iterable[Progressed] = (),
    half_life: float = math.inf,
    horizon: float = math.inf,
) -> Curve:
    """The curve of a model's jobs. A weight says how much a sample counts.

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
    found = _shrunk(ends, exposure, prior(model))
    if any_ended:
        # What few jobs say of great ages is filled in by a prior of their own scale, not by one of
        # all models' that their name happens to start with.
        typical = found.age_at(math.log(2))
        found = _shrunk(ends, exposure, _guessed(typical, _OLD_FROM_KNOWN))
    return Curve(
        found.hazards,
        jobs=sum(sample.ended for sample in samples),
        stages=_stages(list(courses)),
        progress_spread=_spread(progressed),
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
            max(_HAZARD_MIN, (ends[place] + assumed[place]) / (exposure[place] + lived[place]))
            for place in range(BINS)
        )
    )


def _remembered(ago: float, half_life: float, horizon: float) -> float:
    """How much a moment counts that was so many seconds ago."""
    if ago > horizon:
        return 0.0
    return 1.0 if math.isinf(half_life) else 0.5 ** (max(0.0, ago) / half_life)


def _kernel(age: float, jobs: float) -> Sequence[float]:
    """The weights of a step's neighbours when smoothing, from the step itself outwards.

    Wider for fewer jobs, and for ages so young that their steps are small parts of a second: three
    that failed within two seconds do not say that none fails after five.
    """
    share = max(_BANDWIDTH, min(_BLUR_MOST, _BLUR_SECONDS / age))
    width = max(0.5, share * max(1.0, jobs) ** -_NARROWING / math.log(_RATIO))
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
    """By word and share: of how many jobs upstream says it there."""
    if len(courses) < _STAGE_JOBS:
        return {}
    whole = sum(course.weight for course in courses)
    said: dict[str, list[float]] = {}
    for course in courses:
        begins = [begin for begin, _ in course.stages]
        for (begin, word), end in zip(course.stages, [*begins[1:], 1.0], strict=True):
            steps = said.setdefault(word, [0.0] * SHARES)
            for step in range(SHARES):
                overlap = min(end, (step + 1) / SHARES) - max(begin, step / SHARES)
                steps[step] += course.weight * max(0.0, overlap) * SHARES
    commonest = sorted(said, key=lambda word: -sum(said[word]))[:_WORDS_MOST]
    doubt = _STAGE_DOUBT
    likely = {
        word: tuple((value + doubt) / (whole + 2 * doubt) for value in said[word])
        for word in commonest
    }
    # What upstream says all along tells nothing.
    return {word: steps for word, steps in likely.items() if max(steps) > _TELLING * min(steps)}


def _spread(progressed: Sequence[Progressed]) -> float | None:
    """How far the share of the duration lies from the progress, as a standard deviation."""
    if len(progressed) < _STAGE_JOBS:
        return None
    weight = sum(each.weight for each in progressed)
    squares = sum(each.weight * (each.share - each.progress) ** 2 for each in progressed)
    variance = (squares + _SPREAD_WEIGHT * _SPREAD_PRIOR**2) / (weight + _SPREAD_WEIGHT)
    return max(_SPREAD_MIN, math.sqrt(variance))
