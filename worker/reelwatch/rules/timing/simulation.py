"""What if: jobs of a known course, looked at by a plan, on a clock of numbers. Pure.

One account, one budget: each look has a slot of its own, and when more are due than there are slots
those worth most go first, as the workers do it. What network, database and processes cost is not in
it.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import NamedTuple

from reelwatch.rules.timing.curves import Course, Curve, Hint, Known, Progressed, Sample, learn
from reelwatch.rules.timing.schedule import Plans, price_for

_LEARN_SHARE = 0.25  # more jobs than the last time, until it is learned anew
_LEARN_MOST = 1_000  # finished jobs that a curve is learned from
_HALF_LIFE = 300.0
_SLOT_SHARE = 1.1  # the distance of the slots, as a share of what the rate allows
_CLAIM_SECONDS = 0.5  # of slots that a claim takes
_AT_ONCE_MOST = 64  # looks of one claim


class Video(NamedTuple):
    """A job as upstream has it; times in seconds.

    `stages` are the ages at which a status word begins. `progress` tells the progress at an age.
    """

    created: float
    seconds: float
    model: str | None = None
    stages: Sequence[tuple[float, str]] = ()
    progress: Callable[[float], float | None] = lambda age: None


# The seconds until the next look, for a video of this age at which upstream said this.
Policy = Callable[[Video, float, Hint], float]


@dataclass
class Outcome:
    """What came of it: looks in all, and for each job how late its end was noticed, in seconds."""

    looks: int = 0
    delays: list[float] = field(default_factory=list)
    most_open: int = 0

    @property
    def looks_per_job(self) -> float:
        """The mean number of looks at a job."""
        return self.looks / len(self.delays)

    @property
    def mean_delay(self) -> float:
        """Seconds from an end to the look that notices it, on average."""
        return math.fsum(self.delays) / len(self.delays)

    def delay_at(self, share: float) -> float:
        """The delay that this share of the jobs stays below."""
        ordered = sorted(self.delays)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Learner:
    """The policy of the workers: plans by what has been learned from the jobs that ended so far."""

    def __init__(self, plans: Plans, *, learning: bool = True) -> None:
        self.plans = plans
        self._learning = learning
        self._ended: dict[str, list[tuple[Sample, Course, Progressed | None]]] = {}
        self._due: dict[str, int] = {}  # finished jobs at which a curve is learned anew

    def interval(self, video: Video, age: float, hint: Hint) -> float:
        """Seconds until the next look, without jitter."""
        return self.plans.plan(video.model).interval(age, hint)

    def ended(self, video: Video, hint: Hint | None) -> None:
        """A job has ended, of which upstream said that last while it ran: learn from it."""
        if not self._learning or video.model is None:
            return
        known = self.remember(video, hint)
        if known >= self._due.get(video.model, 1):
            self._due[video.model] = known + max(1, round(_LEARN_SHARE * known))
            self._learn(video.model, self._ended[video.model][-_LEARN_MOST:])

    def remember(self, video: Video, hint: Hint | None) -> int:
        """Keep what is to be learned of a job; returns how many of its model there are."""
        course = Course([(begin / video.seconds, word) for begin, word in _until_end(video)])
        told = None
        if hint is not None and hint.progress is not None and 0 < hint.age <= video.seconds:
            told = Progressed(hint.age / video.seconds, hint.progress)
        known = self._ended.setdefault(video.model or "", [])
        known.append((Sample(video.seconds), course, told))
        return len(known)

    def learn(self) -> None:
        """Learn from all that is remembered."""
        for model, known in self._ended.items():
            self._learn(model, known[-_LEARN_MOST:])

    def _learn(self, model: str, known: Sequence[tuple[Sample, Course, Progressed | None]]) -> None:
        weights = [0.5 ** (rank / _HALF_LIFE) for rank in reversed(range(len(known)))]
        curve = learn(
            model,
            [sample._replace(weight=w) for (sample, _, _), w in zip(known, weights, strict=True)],
            [
                course._replace(weight=w)
                for (_, course, _), w in zip(known, weights, strict=True)
                if course.stages
            ],
            [
                told._replace(weight=w)
                for (_, _, told), w in zip(known, weights, strict=True)
                if told is not None
            ],
        )
        self.know(model, curve)

    def know(self, model: str, curve: Curve) -> None:
        """Go by this curve from now on."""
        price = price_for(curve, self.plans.pace, self.plans.target_delay)
        kinds: Mapping[str, Known] = {**self.plans.kinds, model: Known(curve, price)}
        self.plans = replace(self.plans, kinds=kinds)


def run(
    videos: Iterable[Video],
    policy: Learner | Policy,
    requests_per_second: float = math.inf,
    *,
    first_look: bool = True,
) -> Outcome:
    """Look at all of them until each has ended, within the rate.

    `first_look`: does a video come in with a look at once?
    """
    return _Run(policy, requests_per_second, first_look=first_look).over(videos)


_NOTHING = Hint(0.0)


@dataclass(slots=True)
class _Open:
    """A video that has not been seen to end."""

    video: Video
    due: float
    said: Hint = _NOTHING  # at the last look
    looks: int = 0


class _Run:
    def __init__(
        self, policy: Learner | Policy, requests_per_second: float, *, first_look: bool
    ) -> None:
        self.learner = policy if isinstance(policy, Learner) else None
        self.interval: Policy = policy.interval if isinstance(policy, Learner) else policy
        self.distance = _SLOT_SHARE / requests_per_second
        self.at_once = max(1, round(min(_AT_ONCE_MOST, _CLAIM_SECONDS * requests_per_second)))
        self.first_look = first_look
        self.outcome = Outcome()
        self.slot = 0.0
        self.waiting: list[tuple[float, int, _Open]] = []  # by when they are due
        self.due: list[_Open] = []  # in that order
        self.ties = count()

    def over(self, videos: Iterable[Video]) -> Outcome:
        coming = sorted(videos, key=lambda video: video.created, reverse=True)
        while coming or self.waiting or self.due:
            if not self.due:
                comes = coming[-1].created if coming else math.inf
                falls = self.waiting[0][0] if self.waiting else math.inf
                self.slot = max(self.slot, min(comes, falls))
            while coming and coming[-1].created <= self.slot:
                self._come_in(coming.pop())
            while self.waiting and self.waiting[0][0] <= self.slot:
                self.due.append(heapq.heappop(self.waiting)[2])
            for job in self._claimed():
                self._look(job)
        return self.outcome

    def _come_in(self, video: Video) -> None:
        first = 0.0 if self.first_look else self.interval(video, 0.0, _NOTHING)
        self._wait(_Open(video, video.created + first))
        self.outcome.most_open = max(self.outcome.most_open, len(self.waiting) + len(self.due))

    def _wait(self, job: _Open) -> None:
        heapq.heappush(self.waiting, (job.due, next(self.ties), job))

    def _claimed(self) -> Sequence[_Open]:
        """Those that are looked at next: as many as one claim of a worker takes."""
        learner, due = self.learner, self.due
        if len(due) <= self.at_once:
            self.due = []
            return due
        if learner is None:
            self.due = due[self.at_once :]
            return due[: self.at_once]
        best = heapq.nlargest(self.at_once, due, key=partial(_gain, learner.plans, self.slot))
        chosen = set(map(id, best))
        self.due = [job for job in due if id(job) not in chosen]
        return best

    def _look(self, job: _Open) -> None:
        at = max(self.slot, job.due)
        self.slot = at + self.distance
        self.outcome.looks += 1
        video, said = job.video, job.said if job.looks else None
        age = at - video.created
        if age >= video.seconds:
            self.outcome.delays.append(age - video.seconds)
            if self.learner is not None:
                self.learner.ended(video, said)
            return
        job.looks += 1
        job.said = Hint(age, _word_at(video, age), video.progress(age))
        job.due = at + self.interval(video, age, job.said)
        self._wait(job)


def _gain(plans: Plans, now: float, job: _Open) -> float:
    """What a look at this job is worth now."""
    return plans.gain(job.video.model, job.said, now - job.video.created)


def _until_end(video: Video) -> list[tuple[float, str]]:
    return [(begin, word) for begin, word in video.stages if begin < video.seconds]


def _word_at(video: Video, age: float) -> str | None:
    word = None
    for begin, name in video.stages:
        if begin > age:
            break
        word = name
    return word
