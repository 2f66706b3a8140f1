"""Jobs of known courses, played: what a schedule would have cost, and how late it was."""

import random
from statistics import fmean

import pytest

from reelwatch.rules.timing.curves import Hint
from reelwatch.rules.timing.pace import Pace
from reelwatch.rules.timing.schedule import Plans
from reelwatch.rules.timing.simulation import Learner, Policy, Video, run


def every(seconds: float) -> Policy:
    return lambda _video, _age, _hint: seconds


def lognormal(count: int, seed: int = 1, apart: float = 20.0) -> list[Video]:
    chance = random.Random(seed)
    return [
        Video(number * apart, 90 * chance.lognormvariate(0, 0.35), "veo3")
        for number in range(count)
    ]


class TestFixedIntervals:
    @pytest.mark.parametrize(
        ("seconds", "looks", "delay"), [(9.0, 2, 1.0), (10.0, 2, 0.0), (10.5, 3, 9.5), (0.0, 1, 0)]
    )
    def test_a_job_is_looked_at_until_it_has_ended(
        self, seconds: float, looks: int, delay: float
    ) -> None:
        outcome = run([Video(5.0, seconds)], every(10.0))
        assert (outcome.looks, outcome.delays) == (looks, [delay])

    def test_without_a_first_look(self) -> None:
        outcome = run([Video(5.0, 9.0)], every(10.0), first_look=False)
        assert (outcome.looks, outcome.delays) == (1, [1.0])

    def test_figures(self) -> None:
        outcome = run([Video(0, 7.0), Video(100, 9.0)], every(10.0))
        assert (outcome.looks_per_job, outcome.mean_delay) == (2.0, 2.0)
        assert (outcome.delay_at(0.0), outcome.delay_at(0.99)) == (1.0, 3.0)
        assert outcome.most_open == 1


def test_looks_wait_for_their_slots_in_the_order_of_their_due_times() -> None:
    videos = [Video(0.0, 0.5), Video(0.0, 0.5), Video(0.1, 0.5)]
    outcome = run(videos, every(10.0), requests_per_second=1.1)
    # One a second: at 0 and 1 the first two, at 2 the third; the first again when it is due.
    assert outcome.delays == pytest.approx([0.5, 1.4, 9.5])
    assert outcome.looks == 4


def test_a_hint_says_what_upstream_said_at_that_age() -> None:
    seen: list[Hint] = []

    def policy(_video: Video, age: float, hint: Hint) -> float:
        seen.append(hint)
        return 10.0

    run(
        [Video(0.0, 25.0, "m", [(0.0, "queued"), (15.0, "running")], lambda age: age / 100)], policy
    )
    assert seen == [
        Hint(0.0, "queued", 0.0), Hint(10.0, "queued", 0.1), Hint(20.0, "running", 0.2),
    ]  # fmt: skip


@pytest.mark.usefixtures("uncounted")
class TestPlayedAtLength:
    def test_needs_fewer_looks_than_a_fixed_interval_that_is_as_late(self) -> None:
        videos = lognormal(300)
        ours = run(videos, Learner(Plans(Pace(1.0, 60.0))))
        fixed = run(videos, every(2 * ours.mean_delay))
        assert fixed.mean_delay == pytest.approx(ours.mean_delay, rel=0.15)
        assert ours.looks < 0.85 * fixed.looks

    @pytest.mark.parametrize("said", ["words", "progress"])
    def test_what_upstream_says_saves_looks(self, said: str) -> None:
        def telling(video: Video) -> Video:
            if said == "words":
                begins = [(0.0, "queued"), (0.8 * video.seconds, "finishing")]
                return video._replace(stages=begins)
            return video._replace(progress=lambda age: round(age / video.seconds, 2))

        silent = lognormal(200)
        plans = Plans(Pace(1.0, 60.0))
        dumb, told = run(silent, Learner(plans)), run(map(telling, silent), Learner(plans))
        assert told.looks < 0.8 * dumb.looks
        assert told.mean_delay < 1.2 * dumb.mean_delay

    def test_a_short_budget_is_shared_better_than_in_turns(self) -> None:
        videos = lognormal(1_000, apart=0.5)
        turns = run(videos, every(0.0), 5.0, first_look=False)
        ours = run(videos, Learner(Plans()), 5.0)
        assert len(ours.delays) == len(videos)  # none is forgotten
        late = [fmean(outcome.delays[300:]) for outcome in (ours, turns)]
        assert late[0] < late[1]


class TestLearner:
    def test_learns_from_what_has_ended_and_only_if_it_should(self) -> None:
        for learning in (True, False):
            learner = Learner(Plans(Pace(1.0, 60.0)), learning=learning)
            run(lognormal(30), learner)
            assert bool(learner.plans.kinds) is learning

    def test_a_job_of_no_model_teaches_nothing(self) -> None:
        learner = Learner(Plans())
        run([Video(0.0, 9.0)], learner)
        assert not learner.plans.kinds
