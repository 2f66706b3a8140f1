"""Jobs of known courses, played: what a schedule would have cost, and how late it was."""

import math
import random
from dataclasses import replace
from statistics import fmean

import pytest

from reelwatch.rules.timing.pace import Pace
from reelwatch.rules.timing.plan import Hint
from reelwatch.rules.timing.planner import Plans
from reelwatch.rules.timing.simulator import Learner, Video, run


class Every(Learner):
    """At a fixed interval; of those that are due, the first."""

    def __init__(self, seconds: float) -> None:
        super().__init__(Plans())
        self.seconds = seconds
        self.said: list[Hint] = []

    def interval(self, video: Video, said: Hint) -> float:
        self.said.append(said)
        return self.seconds

    def worth(self, video: Video, said: Hint, waited: float) -> float:
        return 0.0


def lognormal(count: int, seed: int = 1, apart: float = 20.0) -> list[Video]:
    chance = random.Random(seed)
    return [
        Video(number * apart, 90 * chance.lognormvariate(0, 0.35), "veo3")
        for number in range(count)
    ]


class TestFixedIntervals:
    @pytest.mark.parametrize(
        ("seconds", "polls", "delay"), [(9.0, 2, 1.0), (10.0, 2, 0.0), (10.5, 3, 9.5), (0.0, 1, 0)]
    )
    def test_a_job_is_polled_until_it_has_ended(
        self, seconds: float, polls: int, delay: float
    ) -> None:
        outcome = run([Video(5.0, seconds)], Every(10.0), math.inf)
        assert (outcome.polls, outcome.delays) == (polls, [delay])

    def test_have_the_figures_of_a_known_case(self) -> None:
        outcome = run([Video(0, 7.0), Video(100, 9.0)], Every(10.0), math.inf)
        assert (outcome.polls_per_job, outcome.mean_delay) == (2.0, 2.0)
        assert (outcome.delay_at(0.0), outcome.delay_at(0.99)) == (1.0, 3.0)


def test_polls_wait_for_their_slots_in_the_order_of_their_due_times() -> None:
    videos = [Video(0.0, 0.5), Video(0.0, 0.5), Video(0.1, 0.5)]
    outcome = run(videos, Every(10.0), requests_per_second=1.1)
    # One a second: at 0 and 1 the first two, at 2 the third; the first again when it is due.
    assert outcome.delays == pytest.approx([0.5, 1.4, 9.5])
    assert outcome.polls == 4


def test_a_hint_says_what_upstream_said_at_that_age() -> None:
    policy = Every(10.0)
    run([Video(0.0, 25.0, "m", [(0.0, "queued"), (15.0, "running")])], policy, math.inf)
    assert policy.said == [Hint(0.0, "queued"), Hint(10.0, "queued"), Hint(20.0, "running")]


@pytest.mark.usefixtures("uncounted")
class TestPlayedAtLength:
    def test_needs_fewer_polls_than_a_fixed_interval_that_is_as_late(self) -> None:
        videos = lognormal(300)
        ours = run(videos, Learner(Plans(Pace(1.0, 60.0))), math.inf)
        fixed = run(videos, Every(2 * ours.mean_delay), math.inf)
        assert fixed.mean_delay == pytest.approx(ours.mean_delay, rel=0.15)
        assert ours.polls < 0.85 * fixed.polls

    def test_what_upstream_says_saves_polls(self) -> None:
        silent = lognormal(200)
        telling = [
            replace(video, stages=[(0.0, "queued"), (0.8 * video.seconds, "finishing")])
            for video in silent
        ]
        plans = Plans(Pace(1.0, 60.0))
        dumb, told = (run(videos, Learner(plans), math.inf) for videos in (silent, telling))
        assert told.polls < 0.8 * dumb.polls
        assert told.mean_delay < 1.2 * dumb.mean_delay

    def test_a_short_budget_is_shared_better_than_in_turns(self) -> None:
        videos = lognormal(1_000, apart=0.5)
        turns = run(videos, Every(0.0), 5.0)
        ours = run(videos, Learner(Plans()), 5.0)
        assert len(ours.delays) == len(videos)  # none is forgotten
        late = [fmean(outcome.delays[300:]) for outcome in (ours, turns)]
        assert late[0] < late[1]


class TestLearner:
    def test_learns_from_what_has_ended(self) -> None:
        learner = Learner(Plans(Pace(1.0, 60.0)))
        run(lognormal(30), learner, math.inf)
        assert learner.plans.kinds["veo3"].jobs >= 20

    def test_a_job_of_no_model_teaches_nothing(self) -> None:
        learner = Learner(Plans())
        run([Video(0.0, 9.0)], learner, math.inf)
        assert not learner.plans.kinds

    def test_shares_a_short_budget_so_that_every_job_gets_its_polls(self) -> None:
        learner = Learner(Plans(Pace(1.0, 60.0)))
        outcome = run([Video(0.0, 5.0, "veo3") for _ in range(12)], learner, 1.0)
        assert len(outcome.delays) == 12
        assert run([Video(0.0, 0.5) for _ in range(12)], Every(10.0), 1.0).polls >= 12
