"""What if: jobs of a known course, polled by a plan, on a clock of numbers. Pure.

One account, one budget: each poll has a slot of its own, and when more are due than there are slots
those worth most go first, as the workers do it. What network, database and processes cost is not in
it.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from reelwatch.rules.timing.fitting import HALF_LIFE, NEWEST, Course, Sample, learn
from reelwatch.rules.timing.plan import Hint
from reelwatch.rules.timing.planner import Plans, solve

_LEARN_SHARE = 0.25  # more jobs than the last time, until it is learned anew
_SLOT_SHARE = 1.1  # the distance of the slots, as a share of what the rate allows
_CLAIM_SECONDS = 0.5  # of slots that a claim takes
_AT_ONCE_MOST = 64  # polls of one claim
_NOTHING = Hint(0.0)


@dataclass(frozen=True)
class Video:
    """A job as upstream has it. `stages`: the ages at which its statuses begin. All in seconds."""

    created: float
    seconds: float
    model: str | None = None
    stages: Sequence[tuple[float, str]] = ()

    def said(self, age: float) -> Hint:
        """What upstream says of it at an age."""
        begun = [status for begin, status in self.stages if begin <= age]
        return Hint(age, begun[-1] if begun else None)

    def course(self, weight: float) -> Course:
        """Its statuses, by the share of its duration."""
        begun = [(begin, status) for begin, status in self.stages if begin < self.seconds]
        return Course([(begin / self.seconds, status) for begin, status in begun], weight)


@dataclass
class Outcome:
    """What came of it: polls in all, and for each job how late its end was noticed, in seconds."""

    polls: int = 0
    delays: list[float] = field(default_factory=list)

    @property
    def polls_per_job(self) -> float:
        """The mean number of polls of a job."""
        return self.polls / len(self.delays)

    @property
    def mean_delay(self) -> float:
        """Seconds from an end to the poll that notices it, on average."""
        return math.fsum(self.delays) / len(self.delays)

    def delay_at(self, share: float) -> float:
        """The delay that this share of the jobs stays below."""
        ordered = sorted(self.delays)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Learner:
    """The policy of the workers: plans by what has been learned from the jobs that ended so far."""

    def __init__(self, plans: Plans) -> None:
        self.plans = plans
        self._ended: dict[str, list[Video]] = {}
        self._due: dict[str, int] = {}  # finished jobs at which a curve is learned anew

    def first(self, video: Video) -> float:
        """Seconds until the first poll of a video that comes in."""
        return 0.0

    def interval(self, video: Video, said: Hint) -> float:
        """Seconds until the next poll, without jitter."""
        return self.plans.plan(video.model).interval(said)

    def worth(self, video: Video, said: Hint, waited: float) -> float:
        """What a poll is worth so many seconds after the last one."""
        return self.plans.plan(video.model).worth(said, waited)

    def ended(self, video: Video) -> None:
        """A job has ended: learn from it."""
        if video.model is None:
            return
        known = self._ended.setdefault(video.model, [])
        known.append(video)
        if len(known) >= self._due.get(video.model, 1):
            self._due[video.model] = len(known) + max(1, round(_LEARN_SHARE * len(known)))
            self._learn(video.model, known[-NEWEST:])

    def _learn(self, model: str, known: Sequence[Video]) -> None:
        weighed = [(video, 0.5 ** (rank / HALF_LIFE)) for rank, video in enumerate(known[::-1])]
        samples = [Sample(video.seconds, weight=weight) for video, weight in weighed]
        courses = [course for video, weight in weighed if (course := video.course(weight)).stages]
        plan = solve(learn(model, samples, courses), self.plans.pace, self.plans.target_delay)
        self.plans = replace(self.plans, kinds={**self.plans.kinds, model: plan})


def run(videos: Iterable[Video], policy: Learner, requests_per_second: float) -> Outcome:
    """Poll all of them until each has ended, within the rate."""
    return _Run(policy, requests_per_second).over(videos)


@dataclass(slots=True)
class _Open:
    """A video that has not been seen to end."""

    video: Video
    due: float
    said: Hint = _NOTHING  # at the last poll


class _Run:
    def __init__(self, policy: Learner, requests_per_second: float) -> None:
        self.policy = policy
        self.distance = _SLOT_SHARE / requests_per_second
        self.at_once = max(1, round(min(_AT_ONCE_MOST, _CLAIM_SECONDS * requests_per_second)))
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
                video = coming.pop()
                self._wait(_Open(video, video.created + self.policy.first(video)))
            while self.waiting and self.waiting[0][0] <= self.slot:
                self.due.append(heapq.heappop(self.waiting)[2])
            for job in self._claimed():
                self._poll(job)
        return self.outcome

    def _wait(self, job: _Open) -> None:
        heapq.heappush(self.waiting, (job.due, next(self.ties), job))

    def _claimed(self) -> Sequence[_Open]:
        """Those that are polled next: as many as one claim of a worker takes."""
        best = self.due
        if len(best) > self.at_once:
            best = heapq.nlargest(self.at_once, best, key=self._worth)
        chosen = set(map(id, best))
        self.due = [job for job in self.due if id(job) not in chosen]
        return best

    def _worth(self, job: _Open) -> float:
        return self.policy.worth(job.video, job.said, self.slot - job.video.created - job.said.age)

    def _poll(self, job: _Open) -> None:
        at = max(self.slot, job.due)
        self.slot = at + self.distance
        self.outcome.polls += 1
        video, age = job.video, at - job.video.created
        if age >= video.seconds:
            self.outcome.delays.append(age - video.seconds)
            self.policy.ended(video)
            return
        job.said = video.said(age)
        job.due = at + self.policy.interval(video, job.said)
        self._wait(job)
