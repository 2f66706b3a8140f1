"""When to poll, by simulation: requests per job at equal mean delay, against fixed intervals and
exponential backoff; and 500 jobs on a budget: `python -m benchmarks schedule`.

No network and no database: `reelwatch.rules.timing.simulator` drives the real plans over jobs of
known durations.
The optimum named here is that of a schedule which knows the true hazard of a job's age, polls
often, and is told nothing: (integral of S * sqrt(h))^2 / E[T] of what a fixed interval needs.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from statistics import fmean
from typing import Any

from benchmarks.courses import MODELS, QUICK_FAILURES, QUICK_SECONDS, SLOW, SLOW_FACTOR, courses
from benchmarks.result import Row
from reelwatch.rules.timing.fitting import HALF_LIFE, Progressed, Sample, learn
from reelwatch.rules.timing.hazard import BINS, bin_of
from reelwatch.rules.timing.pace import Pace
from reelwatch.rules.timing.plan import Hint
from reelwatch.rules.timing.planner import Plans, solve
from reelwatch.rules.timing.simulator import Learner, Outcome, Video, run

PACE = Pace(0.5, 600.0)  # wide, so that the plans show and not their bounds
DELAYS = (1.5, 3.0, 6.0)  # seconds
MAIN_DELAY = 3.0  # the default
BACKOFFS = (1.5, 2.0)  # factors
HISTORIES = {
    0: 1,
    100: 40,
    1_000: 10,
}  # by their length; each of other jobs: a short one may be lucky
STATUS_SHARE = 0.65
PROGRESS_ERROR = 0.1  # of the share that has passed


def rows(quick: bool) -> list[Row]:
    """All figures about when to poll; on all cores, since nothing here is timed."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        pending = [*_pending(pool, quick=quick)]
        pressure = pool.submit(_under_pressure, quick=quick)
        return [*(made(future.result()) for made, future in pending), *pressure.result()]


Made = Callable[[Any], Row]  # a row, of what was calculated


def _pending(pool: Executor, *, quick: bool) -> Iterator[tuple[Made, Future[Any]]]:
    """The rows to come, in their order, and what each waits for."""
    jobs = 80 if quick else 10_000  # polled by those who have learned, of all histories
    for place, (_, median, _sigma) in enumerate(MODELS):
        goal = f"1. requests per job, median {median:g} s"
        best = optimum(place)
        made = partial(_row, goal, "the optimum by age alone, of fixed", None, best)
        yield made, pool.submit(float, 1)
        for delay in DELAYS:
            most = delay == MAIN_DELAY
            if quick and not most:
                continue
            at = f"at a target of {delay:g} s"
            count = jobs * (5 if most else 1)
            few = max(40, count // 10)
            made = partial(_row, goal, f"no history, of fixed, {at}", 1.0, 1.0)
            yield made, pool.submit(_of_fixed, place, 0, delay, few)
            for finished, limit in ((100, 1.05), (1_000, 1.02))[: 1 if quick else 2]:
                what = f"{finished} finished jobs, of that optimum, {at}"
                made = partial(_row, goal, what, limit, 1 / best)
                yield made, pool.submit(_of_fixed, place, finished, delay, count)
                if most:
                    what = f"the same by the plain interval sqrt(2c/h), {at}"
                    made = partial(_row, goal, what, None, 1 / best)
                    yield made, pool.submit(_plain_of_fixed, place, finished, delay, count // 10)
            # What upstream said makes a poll a thousand times as dear to calculate.
            for said, name, share in (
                ("words", "statuses", 0.2),
                ("progress", "progress", 0.04),
            ):
                finished, few = 100 if quick else 1_000, max(40, int(share * count))
                made = partial(_row, goal, f"with {name}, of fixed, {at}", STATUS_SHARE, 1.0)
                if most:
                    yield made, pool.submit(_of_fixed, place, finished, delay, few, said)
        for factor in BACKOFFS:
            made = partial(_backoff_row, goal, factor)
            yield made, pool.submit(_of_backoff, place, factor, jobs // 10, jobs // 2)


def _row(
    goal: str, what: str, limit: float | None, scale: float, found: tuple[float, int] | float
) -> Row:
    ratio, jobs = found if isinstance(found, tuple) else (found, 0)
    note = f"{jobs:,} jobs" if jobs else ""
    return Row(goal, what, ratio * scale, "", limit, "lower", note)


def _backoff_row(goal: str, factor: float, found: tuple[float, float]) -> Row:
    ratio, delay = found
    note = f"its first interval 1 s, no ceiling; both {delay:.1f} s late on average"
    return Row(goal, f"of exponential backoff by {factor:g}", ratio, "", 0.5, "lower", note)


# ------------------------------------------------------------------- goal 1


def _of_fixed(
    place: int, finished: int, delay: float, count: int, said: str = ""
) -> tuple[float, int]:
    """Our requests per job as a share of the best fixed interval's at our mean delay, and the jobs.

    Of `count` jobs in all, shared among the histories that were learned from.
    """
    jobs, ours = [], Outcome()
    histories = min(HISTORIES[finished], count // 40)
    for seed in range(histories):
        fresh = videos(place, count // histories, 1_000 + seed, said)
        outcome = run(fresh, _learned(place, finished, delay, seed, said), math.inf)
        ours.polls += outcome.polls
        ours.delays += outcome.delays
        jobs += fresh
    fixed = fixed_polls([job.seconds for job in jobs], ours.mean_delay)
    return ours.polls_per_job / fixed, len(jobs)


def _plain_of_fixed(place: int, finished: int, delay: float, count: int) -> tuple[float, int]:
    """The same of the interval that is best while the hazard stays what it is at the job's age."""
    jobs, ours = [], Outcome()
    for seed in range(4):
        samples = [Sample(video.seconds) for video in videos(place, finished, seed)]
        hazards = learn(MODELS[place][0], samples).curve.hazards
        fresh = videos(place, max(10, count // 4), 1_000 + seed)
        price = 2 * delay**2 / fmean(video.seconds for video in fresh)
        for _ in range(6):
            best = [PACE.clamp(math.sqrt(2 * price / hazard)) for hazard in hazards]
            outcome = run(fresh, ByAge(best), math.inf)
            price *= (delay / outcome.mean_delay) ** 2
        ours.polls += outcome.polls
        ours.delays += outcome.delays
        jobs += fresh
    fixed = fixed_polls([job.seconds for job in jobs], ours.mean_delay)
    return ours.polls_per_job / fixed, len(jobs)


class Learned(Learner):
    """Learns no more, and nothing polls a video at once."""

    def first(self, video: Video) -> float:
        """As for one that has just been polled."""
        return self.interval(video, Hint(0.0))

    def ended(self, video: Video) -> None:
        """Teaches nothing."""


class ByAge(Learned):
    """At intervals by age alone; of those that are due, the first."""

    def __init__(self, intervals: Sequence[float]) -> None:
        super().__init__(Plans())
        self._intervals = intervals

    def interval(self, video: Video, said: Hint) -> float:
        """Whatever upstream says."""
        return self._intervals[bin_of(said.age)]

    def worth(self, video: Video, said: Hint, waited: float) -> float:
        """All are worth the same."""
        return 0.0


class RoundRobin(ByAge):
    """One after the other, as fast as the rate allows."""

    def __init__(self) -> None:
        super().__init__((0.0,) * BINS)
        self._open = self.most_open = 0

    def first(self, video: Video) -> float:
        """At once, in its turn."""
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        return 0.0

    def ended(self, video: Video) -> None:
        """Is not polled again."""
        self._open -= 1


def _learned(place: int, finished: int, delay: float, seed: int, said: str) -> Learned:
    """One that has seen so many jobs end."""
    plans, model = Plans(PACE, delay), MODELS[place][0]
    chance = random.Random(seed)
    samples, stages, told = [], [], []
    for number, video in enumerate(videos(place, finished, seed, said), start=1):
        weight = 0.5 ** ((finished - number) / HALF_LIFE)
        samples.append(Sample(video.seconds, weight=weight))
        stages.append(video.course(weight))
        share = chance.uniform(0.5, 1.0)  # of its duration, at the last poll before the end
        progress = video.said(share * video.seconds).progress
        if progress is not None:
            told.append(Progressed(share, progress, weight))
    if not samples:
        return Learned(plans)
    plan = solve(learn(model, samples, stages, told), PACE, delay)
    return Learned(replace(plans, kinds={model: plan}))


def fixed_polls(
    durations: Sequence[float], mean_delay: float, lasted: Sequence[float] | None = None
) -> float:
    """The polls per job of the fixed interval that is that late on average.

    `lasted`: for how long each job was polled, where some had not ended yet.
    """
    low, high = mean_delay, 4 * mean_delay
    for _ in range(40):
        interval = (low + high) / 2
        late = fmean(math.ceil(each / interval) * interval - each for each in durations)
        low, high = (interval, high) if late < mean_delay else (low, interval)
    return fmean(math.ceil(each / interval) for each in lasted or durations)


def _of_backoff(place: int, factor: float, finished: int, count: int) -> tuple[float, float]:
    """Our requests per job as a share of an exponential backoff's at its mean delay, and that."""
    jobs = videos(place, count, 1_000)
    polls, late = 0, 0.0
    for job in jobs:
        age, interval = 0.0, 1.0
        while age < job.seconds:
            age, interval, polls = age + interval, interval * factor, polls + 1
        late += age - job.seconds
    late /= len(jobs)
    target = late
    for _ in range(6):  # the plan's mean delay is what it expects, not what it gets
        ours = run(jobs, _learned(place, finished, target, 1, ""), math.inf)
        if abs(ours.mean_delay / late - 1) < 0.02:
            break
        target *= late / ours.mean_delay
    return ours.polls_per_job / (polls / len(jobs)), ours.mean_delay


def videos(place: int, count: int, seed: int, said: str = "", every: float = 10.0) -> list[Video]:
    """So many jobs of one model, one every so many seconds; upstream says `words` or `progress`."""
    chance = random.Random(seed)
    statuses = courses(len(MODELS) * count, seed, 1.0, "s", statuses=said == "words")
    found = []
    for number, course in enumerate(statuses[place :: len(MODELS)]):
        stages = [(share * course.seconds, status) for share, status in course.stages]
        named = (number * every, course.seconds, course.model, stages)
        wrong = chance.uniform(1 - PROGRESS_ERROR, 1 + PROGRESS_ERROR)
        found.append(Telling(*named, wrong) if said == "progress" else Video(*named))
    return found


@dataclass(frozen=True)
class Telling(Video):
    """Tells its progress in whole percents, off by the same part all along."""

    wrong: float = 1.0

    def said(self, age: float) -> Hint:
        """With the progress."""
        progress = min(0.99, round(age / self.seconds * self.wrong, 2))
        return super().said(age)._replace(progress=progress)


def optimum(place: int) -> float:
    """The least requests of any schedule by age alone, as a share of the best fixed interval's."""
    step = 0.05
    ages = [step * number for number in range(int(40 * MODELS[place][1] / step))]
    lasting = [_lasting(place, age) for age in ages]
    roots = math.fsum(
        math.sqrt(max(0.0, (a - b) * (a + b) / 2 * step)) for a, b in pairwise(lasting)
    )
    return roots**2 / (math.fsum(lasting) * step)


def _lasting(place: int, age: float) -> float:
    """The share of a model's jobs that take longer than this."""
    _, median, sigma = MODELS[place]

    def body(median: float) -> float:
        return 0.5 * math.erfc(math.log(age / median) / sigma / math.sqrt(2)) if age else 1.0

    first, last = QUICK_SECONDS
    quick = 1 - min(1.0, max(0.0, (age - first) / (last - first)))
    usual = 1 - QUICK_FAILURES - SLOW
    return QUICK_FAILURES * quick + SLOW * body(SLOW_FACTOR * median) + usual * body(median)


# ------------------------------------------------------------------- goal 2

RATE = 5.0
OPEN = 500


def _under_pressure(*, quick: bool) -> list[Row]:
    """About 500 open jobs of both models on one key at 5 requests a second."""
    goal = f"2. {OPEN} open jobs at {RATE:g} requests/s"
    count = 100 if quick else 6_000
    found = []
    turns = {said: _mixed(count, said) for said in ("", "words")}
    in_turn = RoundRobin()
    fixed_delay = _settled(run(turns[""], in_turn, RATE))
    note = f"simulated; {in_turn.most_open} open at most, {fixed_delay:.1f} s late on average"
    found.append(Row(goal, "round-robin, mean delay", fixed_delay, "s", None, "lower", note))
    for said, limit in (("", 0.8), ("words", 0.65)):
        ours = run(turns[said], Learner(Plans(Pace(5.0, 60.0))), RATE)
        what = f"ours{' with statuses' if said else ''}, of round-robin"
        note = f"{_settled(ours):.1f} s late on average, learning as it goes"
        found.append(Row(goal, what, _settled(ours) / fixed_delay, "", limit, "lower", note))
    return found


def _mixed(count: int, said: str) -> list[Video]:
    """Both models in turn, coming as fast as round-robin with about 500 of them open allows."""
    half = [videos(place, count // 2, 7, said) for place in range(len(MODELS))]
    mean = fmean(video.seconds for each in half for video in each)
    chance = random.Random(3)
    created, found = 0.0, []
    for pair in zip(*half, strict=True):
        for video in pair:
            created += chance.expovariate(OPEN / (mean + OPEN / RATE / 2))
            found.append(replace(video, created=created))
    return found


def _settled(outcome: Outcome) -> float:
    """The mean delay without the first fifth: there were not yet 500 open, and nothing known."""
    return fmean(outcome.delays[len(outcome.delays) // 5 :])
