"""When to look, by simulation: requests per job at equal mean delay, against fixed intervals and
exponential backoff; and 500 jobs on a budget: `python -m benchmarks schedule`.

No network and no database: `reelwatch.rules.timing.simulation` drives the real plans over jobs of
known durations.
The optimum named here is that of a schedule which knows the true hazard of a job's age, looks
often, and is told nothing: (integral of S * sqrt(h))^2 / E[T] of what a fixed interval needs.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from statistics import fmean
from typing import Any

from benchmarks.courses import MODELS, QUICK_FAILURES, QUICK_SECONDS, SLOW, SLOW_FACTOR, courses
from benchmarks.result import Row
from reelwatch.rules.timing.curves import Hint
from reelwatch.rules.timing.pace import Pace
from reelwatch.rules.timing.schedule import Plans
from reelwatch.rules.timing.simulation import Learner, Outcome, Video, run

PACE = Pace(0.5, 600.0)  # wide, so that the plans show and not their bounds
DELAYS = (1.5, 3.0, 6.0)  # seconds
MAIN_DELAY = 3.0  # the default
BACKOFFS = (1.5, 2.0)  # factors
HISTORIES = {
    0: 1,
    100: 40,
    1_000: 10,
}  # by their length; each of other jobs: a short one may be lucky
WORDY_SHARE = 0.65
PROGRESS_ERROR = 0.1  # of the share that has passed


def rows(quick: bool) -> list[Row]:
    """All figures about when to look; on all cores, since nothing here is timed."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        pending = [*_pending(pool, quick=quick)]
        pressure = pool.submit(_under_pressure, quick=quick)
        return [*(made(future.result()) for made, future in pending), *pressure.result()]


Made = Callable[[Any], Row]  # a row, of what was calculated


def _pending(pool: Executor, *, quick: bool) -> Iterator[tuple[Made, Future[Any]]]:
    """The rows to come, in their order, and what each waits for."""
    jobs = 80 if quick else 10_000  # looked at by those who have learned, of all histories
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
            # What upstream said makes a look a thousand times as dear to calculate.
            for said, name, share in (
                ("words", "stage words", 0.2),
                ("progress", "progress", 0.04),
            ):
                finished, few = 100 if quick else 1_000, max(40, int(share * count))
                made = partial(_row, goal, f"with {name}, of fixed, {at}", WORDY_SHARE, 1.0)
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
        outcome = run(fresh, _learned(place, finished, delay, seed, said), first_look=False)
        ours.looks += outcome.looks
        ours.delays += outcome.delays
        jobs += fresh
    fixed = fixed_looks([job.seconds for job in jobs], ours.mean_delay)
    return ours.looks_per_job / fixed, len(jobs)


def _learned(place: int, finished: int, delay: float, seed: int, said: str) -> Learner:
    """One that has seen so many jobs end, and learns no more."""
    learner = Learner(Plans(PACE, delay))
    chance = random.Random(seed)
    for video in videos(place, finished, seed, said):
        age = chance.uniform(0.5, 1.0) * video.seconds  # of the last look before the end
        learner.remember(video, Hint(age, progress=video.progress(age)))
    learner.learn()
    return Learner(learner.plans, learning=False)


def fixed_looks(
    durations: Sequence[float], mean_delay: float, lasted: Sequence[float] | None = None
) -> float:
    """The looks per job of the fixed interval that is that late on average.

    `lasted`: for how long each job was looked at, where some had not ended yet.
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
    looks, late = 0, 0.0
    for job in jobs:
        age, interval = 0.0, 1.0
        while age < job.seconds:
            age, interval, looks = age + interval, interval * factor, looks + 1
        late += age - job.seconds
    late /= len(jobs)
    target = late
    for _ in range(6):  # the plan's mean delay is what it expects, not what it gets
        ours = run(jobs, _learned(place, finished, target, 1, ""), first_look=False)
        if abs(ours.mean_delay / late - 1) < 0.02:
            break
        target *= late / ours.mean_delay
    return ours.looks_per_job / (looks / len(jobs)), ours.mean_delay


def videos(place: int, count: int, seed: int, said: str = "", every: float = 10.0) -> list[Video]:
    """So many jobs of one model, one every so many seconds; upstream says `words` or `progress`."""
    chance = random.Random(seed)
    words = courses(len(MODELS) * count, seed, 1.0, "s", words=said == "words")
    found = []
    for number, course in enumerate(words[place :: len(MODELS)]):
        stages = [(share * course.seconds, word) for share, word in course.stages]
        told = _progress(course.seconds, chance) if said == "progress" else None
        video = Video(number * every, course.seconds, course.model, stages)
        found.append(video._replace(progress=told) if told else video)
    return found


def _progress(seconds: float, chance: random.Random) -> Callable[[float], float]:
    """Whole percents, off by the same part all along."""
    wrong = chance.uniform(1 - PROGRESS_ERROR, 1 + PROGRESS_ERROR)
    return lambda age: min(0.99, round(age / seconds * wrong, 2))


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
    fixed = run(turns[""], lambda *_: 0.0, RATE, first_look=False)
    fixed_delay = _settled(fixed)
    note = f"simulated; {fixed.most_open} open at most, {fixed_delay:.1f} s late on average"
    found.append(Row(goal, "round-robin, mean delay", fixed_delay, "s", None, "lower", note))
    for said, limit in (("", 0.8), ("words", 0.65)):
        ours = run(turns[said], Learner(Plans(Pace(5.0, 60.0))), RATE, first_look=True)
        what = f"ours{' with stage words' if said else ''}, of round-robin"
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
            found.append(video._replace(created=created))
    return found


def _settled(outcome: Outcome) -> float:
    """The mean delay without the first fifth: there were not yet 500 open, and nothing known."""
    return fmean(outcome.delays[len(outcome.delays) // 5 :])
