"""The jobs that all trackers of a benchmark get alike: how long each takes, and how it ends. Pure.

Durations are lognormal, as published samples of such services are: half of the jobs of a model with
a median of 90 s, half of one with 240 s. A few fail at once, a few take five times as long.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

MODELS = (("veo3.1-fast", 90.0, 0.35), ("veo3.1-pro", 240.0, 0.5))  # name, median seconds, sigma
QUICK_FAILURES = 0.07
QUICK_SECONDS = (1.0, 8.0)
SLOW = 0.02
SLOW_FACTOR = 5.0
ENDLESS = 1e7

# When the stages begin, as shares of a job's duration; each job's own lie around these.
STAGES = (
    (0.05, "image_downloading"),
    (0.12, "video_generating"),
    (0.65, "video_generation_completed"),
    (0.7, "video_upsampling"),
)
STAGE_SPREAD = 0.25  # ± share of each


@dataclass(frozen=True, slots=True)
class Course:
    """What one job will do. `seconds` is from its start to its end, in the benchmark's own time."""

    video_id: str
    seconds: float
    fails: bool
    stages: Sequence[tuple[float, str]]  # shares of the duration, and the word from then on

    @property
    def model(self) -> str:
        """The model that its id names."""
        return self.video_id.partition(":")[0]


def courses(count: int, seed: int, scale: float, prefix: str, *, statuses: bool) -> list[Course]:
    """So many jobs, all spans divided by `scale`; equal seeds give equal durations.

    With `words` a job goes through upstream's stages, else it says `video_generating` all the time.
    """
    chance = random.Random(seed)
    return [_course(chance, number, scale, prefix, statuses=statuses) for number in range(count)]


def instant(count: int, prefix: str) -> list[Course]:
    """Jobs that are over by the first poll; of a model of their own: others learn nothing of it."""
    stages = ((0.0, "video_generating"),)
    return [Course(f"instant:{prefix}{n}", 0.001, False, stages) for n in range(count)]


def endless(count: int, prefix: str) -> list[Course]:
    """Jobs that run for longer than any benchmark."""
    stages = ((0.0, "video_generating"),)
    return [Course(f"veo3.1-fast:{prefix}{n}", ENDLESS, False, stages) for n in range(count)]


def _course(
    chance: random.Random, number: int, scale: float, prefix: str, *, statuses: bool
) -> Course:
    model, median, sigma = MODELS[number % len(MODELS)]
    seconds = chance.lognormvariate(math.log(median), sigma)
    fate, quick = chance.random(), chance.uniform(*QUICK_SECONDS)
    fails = fate < QUICK_FAILURES
    if fails:
        seconds = quick
    elif fate < QUICK_FAILURES + SLOW:
        seconds *= SLOW_FACTOR
    stages = _stages(chance) if statuses else ((0.0, "video_generating"),)
    return Course(f"{model}:{prefix}{number}", seconds / scale, fails, stages)


def _stages(chance: random.Random) -> Sequence[tuple[float, str]]:
    begins = sorted(min(0.95, at * chance.uniform(1 - STAGE_SPREAD, 1 + STAGE_SPREAD))
                    for at, _ in STAGES)  # fmt: skip
    return tuple(zip(begins, (status for _, status in STAGES), strict=True))
