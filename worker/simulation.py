"""What if: jobs of a known course, looked at by a plan, on a clock of numbers. Pure.

One account, one budget: looks are made in order of their due times, each in a slot of its own, as
the workers do it; the price of looks follows the waits as it does there. What network, database and
processes cost is not in it.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import NamedTuple

from worker.curves import Course, Curve, Hint, Progressed, Sample, learn
from worker.schedule import Known, Plans, look_price, price_for

_LEARN_SHARE = 0.25  # more jobs than the last time, until it is learned anew
_LEARN_MOST = 1_000  # finished jobs that a curve is learned from
_HALF_LIFE = 300.0
_SLOT_SHARE = 1.1  # the distance of the slots, as a share of what the rate allows


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


class _Run:
    def __init__(
        self, policy: Learner | Policy, requests_per_second: float, *, first_look: bool
    ) -> None:
        self.learner = policy if isinstance(policy, Learner) else None
        self.interval: Policy = policy.interval if isinstance(policy, Learner) else policy
        self.distance = _SLOT_SHARE / requests_per_second
        self.first_look = first_look
        self.outcome = Outcome()
        self.slot = 0.0
        # (due, tie, since when, the last word before, video)
        self.queue: list[tuple[float, int, float, Hint | None, Video]] = []
        self.ties = count()

    def over(self, videos: Iterable[Video]) -> Outcome:
        coming = sorted(videos, key=lambda video: video.created, reverse=True)
        while coming or self.queue:
            while coming and (not self.queue or coming[-1].created <= self._next_at()):
                self._come_in(coming.pop())
            due, _, since, said, video = heapq.heappop(self.queue)
            if not self._put_off(due, since, said, video):
                self._look(due, since, said, video)
        return self.outcome

    def _next_at(self) -> float:
        """When the next look will be made."""
        return max(self.slot, self.queue[0][0])

    def _come_in(self, video: Video) -> None:
        due = video.created
        if not self.first_look:
            due += self.interval(video, 0.0, Hint(0.0))
        self._push(due, video.created, None, video)
        self.outcome.most_open = max(self.outcome.most_open, len(self.queue))

    def _push(self, due: float, since: float, said: Hint | None, video: Video) -> None:
        heapq.heappush(self.queue, (due, next(self.ties), since, said, video))

    def _put_off(self, due: float, since: float, said: Hint | None, video: Video) -> bool:
        """While looks are dear, a first one waits until it is worth its price."""
        learner = self.learner
        if learner is None or not learner.plans.short or due > video.created:
            return False
        later = video.created + learner.plans.first_look(video.model)
        if later <= max(self.slot, due):
            return False
        self._push(later, since, said, video)
        return True

    def _look(self, due: float, since: float, said: Hint | None, video: Video) -> None:
        at = max(self.slot, due)
        self._price(video, said, due, since, at)
        self.slot = at + self.distance
        self.outcome.looks += 1
        age = at - video.created
        if age >= video.seconds:
            self.outcome.delays.append(age - video.seconds)
            if self.learner is not None:
                self.learner.ended(video, said)
            return
        hint = Hint(age, _word_at(video, age), video.progress(age))
        self._push(at + self.interval(video, age, hint), at, hint, video)

    def _price(self, video: Video, said: Hint | None, due: float, since: float, at: float) -> None:
        if self.learner is None or not self.distance:
            return
        plans = self.learner.plans
        unused = max(0.0, (due - self.slot) / self.distance)
        waits = [(due - since, at - due)] if said is not None else []
        price = look_price(plans.look_price, plans.least_price, waits, unused)
        if price != plans.look_price:
            self.learner.plans = replace(plans, look_price=price)


def _until_end(video: Video) -> list[tuple[float, str]]:
    return [(begin, word) for begin, word in video.stages if begin < video.seconds]


def _word_at(video: Video, age: float) -> str | None:
    word = None
    for begin, name in video.stages:
        if begin > age:
            break
        word = name
    return word
