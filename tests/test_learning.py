"""Learning from the rows of finished jobs, and what every worker then reads of it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update
from structlog.testing import capture_logs

from reelwatch.app import tasks
from reelwatch.jobs import learning
from reelwatch.rules.timing import fitting
from reelwatch.rules.timing.fitting import Learned, Sample
from reelwatch.rules.timing.hazard import Curve, bin_of
from reelwatch.rules.timing.pace import Pace
from reelwatch.rules.timing.plan import Plan, from_json
from reelwatch.rules.timing.planner import Plans, price_for
from reelwatch.storage import db, forecasts
from reelwatch.storage.models import Heartbeat, Job, table_of
from tests.kinds import forecast
from tests.seeding import Row, add_account, add_job, add_transition

NOW = datetime.now(UTC)
PLANS = Plans(Pace(5, 60), 4.0)
stored = table_of("duration_curves")
KNOWN = forecast(fitting.learn("grok", [Sample(40.0)] * 10).curve)


@pytest.fixture
def url(url: str) -> str:
    """A database with an account, for a process that has read no curve so far."""
    forecasts._read.clear()
    with db.transaction(url) as session:
        add_account(session)
    return url


def now(url: str) -> datetime:
    with db.reading(url) as session:
        return db.now(session)


def add_ended(
    url: str,
    seconds: float,
    count: int = 1,
    ago: float = 60.0,
    state: str = "completed",
    **row: Any,
) -> list[Row]:
    """Jobs that took so long by our clock; the last of them ended `ago` seconds ago."""
    end = now(url) - timedelta(seconds=ago)
    with db.transaction(url) as session:
        return [
            add_job(
                session,
                state,
                tracked_at=end - timedelta(seconds=seconds + place / 100),
                finished_at=end - timedelta(seconds=place / 100),
                **row,
            )
            for place in range(count)
        ]


def add_open(url: str, seconds: float, count: int = 1, **columns: Any) -> None:
    """Jobs that had not ended at that age, which was at the last poll a second ago."""
    polled = now(url) - timedelta(seconds=1)
    row = {"tracked_at": polled - timedelta(seconds=seconds), "last_polled_at": polled}
    with db.transaction(url) as session:
        for _ in range(count):
            add_job(session, **(row | columns))


def add_many(url: str, endings: Iterable[tuple[float, float]]) -> None:
    """Completed jobs by the seconds that they took and how long ago they ended, at once."""
    at = now(url)
    shared = {
        "account": "default", "model": "grok", "state": "completed", "metadata_": {},
        "deadline_at": at, "events": [], "video_url": "https://cdn.example.com/v.mp4",
    }  # fmt: skip
    with db.transaction(url) as session:
        rows = [
            shared
            | {
                "video_id": f"grok:{number}",
                "tracked_at": at - timedelta(seconds=ago + seconds),
                "finished_at": at - timedelta(seconds=ago),
            }
            for number, (seconds, ago) in enumerate(endings)
        ]
        session.execute(insert(Job), rows)


def pass_time(url: str, seconds: float = 60.0) -> None:
    """The last learning was so long ago."""
    with db.transaction(url) as session:
        session.execute(update(Heartbeat).values(at=db.now(session) - timedelta(seconds=seconds)))


def kinds(url: str, account: str = "default") -> Mapping[str, Plan]:
    with db.reading(url) as session:
        return forecasts.kinds(session, account)


def known(url: str) -> Learned:
    """What is learned of the model that jobs are seeded with."""
    with db.reading(url) as session:
        return learning.known_of(session, "default", "grok")


def learned(url: str) -> Curve:
    return known(url).curve


def median(curve: Curve) -> float:
    return curve.age_at(math.log(2))


class TestDurations:
    def test_are_ours_where_upstream_gives_no_times(self, url: str) -> None:
        add_ended(url, 40.0, 50)
        assert median(learned(url)) == pytest.approx(40, rel=0.1)

    def test_are_upstreams_where_it_gives_both(self, url: str) -> None:
        """We saw the job late, and noticed its end later still."""
        at = now(url)
        upstream: Row = {
            "upstream_created_at": at - timedelta(seconds=1_000),
            "upstream_finished_at": at - timedelta(seconds=700),
        }
        add_ended(url, 40.0, 50, **upstream)
        assert median(learned(url)) == pytest.approx(300, rel=0.1)

    def test_go_from_upstreams_beginning_to_our_end_where_it_gives_no_end(self, url: str) -> None:
        add_ended(url, 40.0, 50, upstream_created_at=now(url) - timedelta(seconds=60 + 400))
        assert median(learned(url)) == pytest.approx(400, rel=0.1)

    def test_an_end_before_the_beginning_is_none(self, url: str) -> None:
        at = now(url)
        upstream: Row = {
            "upstream_created_at": at - timedelta(seconds=60 + 400),
            "upstream_finished_at": at - timedelta(seconds=500),
        }
        add_ended(url, 40.0, 50, **upstream)
        assert median(learned(url)) == pytest.approx(400, rel=0.1)

    @pytest.mark.parametrize(
        ("after", "shortest", "longest"),
        [
            (4.0, 3.0, 6.0),  # noticed at the age of 40
            (0.0, 0.0, 2.0),
            (-50.0, 0.0, 2.0),  # our clock is ahead, or it was tracked a little late
            (45.0, 35.0, 45.0),  # our clock is behind
            (-500.0, 35.0, 45.0),  # it may have ended long before, or upstream's clock be wrong
        ],
    )
    def test_are_from_tracking_to_upstreams_end_where_it_gives_no_beginning(
        self, url: str, after: float, shortest: float, longest: float
    ) -> None:
        """As it does for most failures: what fails at once may be noticed late."""
        ended = now(url) - timedelta(seconds=60 + 40 - after)
        add_ended(url, 40.0, 50, state="failed", upstream_finished_at=ended)
        assert shortest < median(learned(url)) < longest

    def test_a_job_that_ended_in_its_first_second_took_half_of_one(self, url: str) -> None:
        at = now(url) - timedelta(seconds=300)
        add_ended(url, 40.0, 50, upstream_created_at=at, upstream_finished_at=at)
        assert median(learned(url)) < 2.0

    def test_a_beginning_in_the_future_is_left_out(self, url: str) -> None:
        add_ended(url, 40.0, 5)
        add_ended(url, 40.0, 50, upstream_created_at=now(url) + timedelta(hours=1))
        assert learned(url).jobs == 5

    @pytest.mark.parametrize(
        ("state", "columns", "counts"),
        [
            ("completed", {}, True),
            ("failed", {}, True),
            ("failed", {"error_code": "content_policy"}, True),
            ("failed", {"error_code": "not_found"}, False),
            ("failed", {"error_code": "no_result"}, False),
            ("cancelled", {}, False),
        ],
    )
    def test_are_those_of_what_upstream_ended(
        self, url: str, state: str, columns: Row, counts: bool
    ) -> None:
        add_ended(url, 40.0, 3)
        add_ended(url, 40.0, 4, state=state, **columns)
        assert learned(url).jobs == (7 if counts else 3)

    def test_an_expired_job_has_none(self, url: str) -> None:
        add_ended(url, 40.0, 3)
        with db.transaction(url) as session:
            add_job(session, "expired", abandoned_at=db.now(session))
        assert learned(url).jobs == 3

    def test_are_told_apart_by_account_and_model(self, url: str) -> None:
        with db.transaction(url) as session:
            add_account(session, "studio")
        for seconds, columns in (
            (30.0, {}),
            (90.0, {"model": "sora-2"}),
            (270.0, {"account": "studio"}),
            (500.0, {"model": None}),
        ):
            add_ended(url, seconds, 50, **columns)
        assert learning.learn(url, PLANS) == 3
        found = {
            (account, model): plan.silent.half[0]
            for account in ("default", "studio")
            for model, plan in kinds(url, account).items()
        }
        assert found == {
            ("default", "grok"): pytest.approx(30, rel=0.1),
            ("default", "sora-2"): pytest.approx(90, rel=0.1),
            ("studio", "grok"): pytest.approx(270, rel=0.1),
        }

    def test_the_newest_count_most(self, url: str) -> None:
        old = [(40.0, 40_000.0 + place) for place in range(500)]
        add_many(url, [*old, *((200.0, 60.0 + place) for place in range(400))])
        curve = learned(url)
        assert curve.jobs == 900
        assert median(curve) == pytest.approx(200, rel=0.1)

    def test_of_few_all_count(self, url: str) -> None:
        old = [(40.0, 40_000.0 + place) for place in range(120)]
        add_many(url, [*old, *((200.0, 60.0 + place) for place in range(80))])
        assert median(learned(url)) < 100

    def test_only_so_many_are_read_and_the_newest(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(learning, "NEWEST", 60)
        add_many(url, ((40.0 if ago < 60 else 400.0, 60.0 + ago) for ago in range(120)))
        curve = learned(url)
        assert curve.jobs == 60
        assert median(curve) == pytest.approx(40, rel=0.2)


class TestOpenJobs:
    """They have lasted so far: not to count them would be to learn from the quick ones alone."""

    @pytest.fixture
    def alone(self, url: str) -> Curve:
        add_ended(url, 40.0, 20)
        curve = learned(url)
        pass_time(url)
        return curve

    @pytest.mark.parametrize(
        "columns",
        [{}, {"state": "pending"}, {"state": "expired", "expired_at": NOW}],
        ids=["running", "pending", "expired, and still polled"],
    )
    def test_count_up_to_the_last_poll(self, url: str, alone: Curve, columns: Row) -> None:
        add_open(url, 300.0, 20, **columns)
        beside = learned(url)
        assert beside.jobs == alone.jobs == 20
        assert alone.still_open(300) < 0.1
        assert beside.still_open(300) > 0.3
        place = bin_of(100_000)
        assert beside.hazards[place] == pytest.approx(alone.hazards[place], rel=1e-3)

    def test_cancelled_ones_count_up_to_the_last_poll_too(self, url: str, alone: Curve) -> None:
        """They took longer than somebody would wait: not to count them is to forget the slow."""
        over = {"next_poll_at": None, "state": "cancelled"}
        add_open(url, 300.0, 40, **over, finished_at=now(url))
        beside = learned(url)
        assert beside.jobs == alone.jobs == 20
        assert beside.still_open(300) > 0.3  # no more of them count than have ended
        assert beside.still_open(300) < 0.6

    def test_cancelled_ones_that_nobody_polled_say_nothing(self, url: str, alone: Curve) -> None:
        over = {"next_poll_at": None, "state": "cancelled", "last_polled_at": None}
        add_open(url, 300.0, 20, **over, finished_at=now(url))
        assert learned(url).hazards == pytest.approx(alone.hazards, rel=0.01)

    def test_count_from_upstreams_beginning(self, url: str, alone: Curve) -> None:
        add_open(url, 2.0, 20, upstream_created_at=now(url) - timedelta(seconds=300))
        assert learned(url).still_open(300) > alone.still_open(300) + 0.2

    @pytest.mark.parametrize(
        "columns",
        [
            {"last_polled_at": None},  # nobody knows
            {"next_poll_at": None, "abandoned_at": NOW, "state": "expired", "expired_at": NOW},
            {"model": "sora-2"},
            {"account": "studio"},
            {"upstream_created_at": NOW + timedelta(days=1)},
        ],
        ids=["never polled", "given up", "of another model", "of another account", "unborn"],
    )
    def test_do_not_count_where_they_say_nothing(
        self, url: str, alone: Curve, columns: Row
    ) -> None:
        with db.transaction(url) as session:
            add_account(session, "studio")
        add_open(url, 300.0, 20, **columns)
        assert learned(url).hazards == pytest.approx(alone.hazards, rel=0.01)

    def test_where_there_are_too_many_some_stand_for_all(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add_ended(url, 40.0, 20)
        add_open(url, 300.0, 40)
        everyone = learned(url)
        pass_time(url)
        monkeypatch.setattr(learning, "OPEN_MOST", 10)
        assert learned(url).hazards == pytest.approx(everyone.hazards, rel=0.01)

    def test_many_of_them_do_not_outweigh_the_ends_of_a_steady_flow(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two begin each second and take 100 s and 200 s; of the ended, few are read."""
        monkeypatch.setattr(learning, "NEWEST", 60)
        monkeypatch.setattr(learning, "HALF_LIFE", 40)
        add_many(url, ((span, 1.0 + ago) for ago in range(100) for span in (100.0, 200.0)))
        at = now(url)
        with db.transaction(url) as session:
            for age in [*range(1, 100), *range(1, 200)]:
                began = at - timedelta(seconds=age)
                add_job(session, tracked_at=began, last_polled_at=at)
        curve = learned(url)
        assert curve.still_open(140) == pytest.approx(0.5, abs=0.1)
        assert curve.still_open(70) > 0.85


class TestStages:
    STEPS = (("queued", 0.0), ("processing", 0.2), ("upsampling", 0.7))

    def add_told(self, url: str, count: int = 4, steps: Any = STEPS, **columns: Any) -> None:
        """Jobs of 100 seconds whose words began at these shares of it."""
        for job in add_ended(url, 100.0, count):
            with db.transaction(url) as session:
                for sequence, (status, share) in enumerate(steps, 1):
                    at = job["tracked_at"] + timedelta(seconds=100 * share)
                    state = "pending" if status == "queued" else "running"
                    step = {"sequence": sequence, "to_status": status, "to_state": state, "at": at}
                    add_transition(session, job, **(step | columns))

    def said(self, found: Learned, status: str) -> Sequence[int]:
        return [step for step, likely in enumerate(found.stages[status]) if likely > 0.5]

    def test_are_learned_from_the_transitions(self, url: str) -> None:
        self.add_told(url)
        curve = known(url)
        assert set(curve.stages) == {"queued", "processing", "upsampling"}
        assert self.said(curve, "queued") == list(range(4))
        assert self.said(curve, "processing") == list(range(4, 14))
        assert self.said(curve, "upsampling") == list(range(14, 20))

    def test_the_first_status_was_true_from_the_beginning(self, url: str) -> None:
        """It is only that nobody had asked before."""
        self.add_told(url, steps=(("queued", 0.15), ("processing", 0.5)))
        assert self.said(known(url), "queued") == list(range(10))

    def test_are_read_for_any_number_of_jobs(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(learning, "IDS_AT_ONCE", 3)
        self.add_told(url, count=8)
        likely = known(url).stages["processing"]
        assert max(likely) > 0.95  # with a word of two jobs in eight it would be 0.3

    def test_begin_when_upstream_says_where_that_is_before_we_saw_it(self, url: str) -> None:
        jobs = add_ended(url, 100.0, 4)
        for job in jobs:
            with db.transaction(url) as session:
                begin = job["tracked_at"]
                for sequence, (status, at, upstream_at) in enumerate(
                    [
                        ("queued", 5, -40),  # before the job began: of no use
                        ("processing", 50, 20),
                        ("upsampling", 80, 95),  # after we saw it: its clock is ahead
                    ],
                    1,
                ):
                    add_transition(
                        session, job, sequence=sequence, to_status=status,
                        at=begin + timedelta(seconds=at),
                        upstream_at=begin + timedelta(seconds=upstream_at),
                    )  # fmt: skip
        curve = known(url)
        assert self.said(curve, "queued") == list(range(4))
        assert self.said(curve, "processing") == list(range(4, 16))
        assert self.said(curve, "upsampling") == list(range(16, 20))

    @pytest.mark.parametrize(
        "columns",
        [{"to_state": "expired"}, {"to_state": "completed"}, {"to_status": None}],
        ids=["of an expired job", "of the end", "without a word"],
    )
    def test_other_transitions_tell_of_none(self, url: str, columns: Row) -> None:
        self.add_told(url, **columns)
        assert known(url).stages == {}

    def test_are_those_of_the_kind_alone(self, url: str) -> None:
        self.add_told(url)
        with db.transaction(url) as session:
            add_transition(session, add_job(session), to_status="still running")
            other = add_job(session, "completed", model="sora-2", finished_at=db.now(session))
            add_transition(session, other, to_status="in_progress")
        assert set(known(url).stages) == {"queued", "processing", "upsampling"}


class TestProgress:
    def add_told(self, url: str, progress: float | None, share: float, count: int = 50) -> None:
        """Jobs of 100 seconds that were said to be so far at a share of that."""
        begin = now(url) - timedelta(seconds=160)
        at = begin + timedelta(seconds=100 * share)
        add_ended(
            url, 100.0, count, upstream_created_at=begin, progress=progress,
            upstream_finished_at=begin + timedelta(seconds=100), progress_at=at,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("progress", "share", "spread"), [(0.5, 0.5, 0.02), (0.2, 0.6, 0.4), (0.0, 0.9, 0.9)]
    )
    def test_is_trusted_as_far_as_it_held(
        self, url: str, progress: float, share: float, spread: float
    ) -> None:
        self.add_told(url, progress, share)
        assert known(url).progress_spread == pytest.approx(spread, abs=0.01)

    @pytest.mark.parametrize(("progress", "share"), [(None, 0.5), (0.9, 1.2), (0.1, -0.2)])
    def test_that_is_missing_or_of_no_time_of_the_job_counts_nothing(
        self, url: str, progress: float | None, share: float
    ) -> None:
        self.add_told(url, progress, share)
        assert known(url).progress_spread is None

    def test_of_a_job_without_a_duration_counts_nothing(self, url: str) -> None:
        add_ended(url, 40.0, 3)
        later: Row = {"upstream_created_at": now(url) + timedelta(hours=1), "progress": 0.5}
        add_ended(url, 40.0, 20, progress_at=now(url), **later)
        assert known(url).progress_spread is None


class TestLearn:
    def priced(self, url: str, target_delay: float) -> float:
        return price_for(learned(url), PLANS.pace.room, target_delay)

    def test_prices_a_poll_by_what_was_learned(self, url: str) -> None:
        add_ended(url, 40.0, 20)
        with capture_logs() as logs:
            assert learning.learn(url, PLANS) == 1
        plan = kinds(url)["grok"]
        assert plan.price == pytest.approx(self.priced(url, PLANS.target_delay), rel=0.05)
        (line,) = logs
        assert (line["event"], line["account"], line["model"]) == ("learned", "default", "grok")
        assert (line["jobs"], line["price"]) == (20, pytest.approx(plan.price, rel=1e-6))

    def test_without_ends_there_is_nothing_to_learn(self, url: str) -> None:
        add_open(url, 300.0, 5)
        assert learning.learn(url, PLANS) == 0
        assert kinds(url) == {}

    def test_of_several_at_once_one_learns(self, url: str) -> None:
        add_ended(url, 40.0, 5)
        for _ in range(2):  # the very first time, and a later one
            with ThreadPoolExecutor(6) as pool:
                counts = list(pool.map(lambda _: learning.learn(url, PLANS), range(6)))
            assert sorted(counts) == [0] * 5 + [1]
            pass_time(url, 61.0)

    def test_again_too_soon_does_nothing(self, url: str) -> None:
        add_ended(url, 40.0, 5)
        learning.learn(url, PLANS)
        add_ended(url, 40.0, 5, ago=0.0)
        assert learning.learn(url, PLANS) == 0
        assert kinds(url)["grok"].jobs == 5

    def test_learns_anew_where_jobs_have_ended_since_and_nowhere_else(self, url: str) -> None:
        add_ended(url, 40.0, 5, ago=600.0)
        add_ended(url, 40.0, 5, ago=600.0, model="sora-2")
        assert learning.learn(url, PLANS) == 2
        pass_time(url)
        assert learning.learn(url, PLANS) == 0
        before = kinds(url)
        pass_time(url)
        add_ended(url, 40.0, 3, ago=1.0, model="sora-2")
        assert learning.learn(url, PLANS) == 1
        after = kinds(url)
        assert after["grok"] is before["grok"]
        assert after["sora-2"].jobs == 8

    def test_what_was_being_committed_while_it_learned_is_not_lost(self, url: str) -> None:
        learning.learn(url, PLANS)
        pass_time(url, 20.0)
        add_ended(url, 40.0, 5, ago=20.0 + learning.APART.total_seconds() / 2)
        assert learning.learn(url, PLANS) == 1

    def test_the_task_learns_by_the_settings(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REELWATCH_TARGET_DELAY", "12s")
        add_ended(url, 100.0, 20)
        tasks.learn()
        plan = kinds(url)["grok"]
        assert plan.price == pytest.approx(self.priced(url, 12.0), rel=0.1)
        assert plan.price > 2 * self.priced(url, 4.0)

    def test_other_settings_solve_the_plans_anew_though_nothing_has_ended(self, url: str) -> None:
        add_ended(url, 40.0, 5, ago=600.0)
        assert learning.learn(url, PLANS) == 1
        pass_time(url)
        assert learning.learn(url, PLANS) == 0
        pass_time(url)
        assert learning.learn(url, Plans(PLANS.pace, 12.0)) == 1
        assert kinds(url)["grok"].price > 2 * self.priced(url, 4.0)

    def test_a_row_of_the_release_before_is_solved_anew(self, url: str) -> None:
        add_ended(url, 40.0, 5, ago=600.0)
        learning.learn(url, PLANS)
        pass_time(url)
        with db.transaction(url) as session:
            session.execute(update(stored).values(plan=None, solved_for=None))
        forecasts._read.clear()
        assert kinds(url) == {}  # the prior goes until then
        assert learning.learn(url, PLANS) == 1
        assert list(kinds(url)) == ["grok"]


class TestManyPrefixes:
    """A producer may make up a prefix for each of its ids; what is learned stays small."""

    def add(self, url: str, prefixes: int, jobs: int, ago: float = 60.0) -> None:
        """Completed jobs of prefixes that no other job has so far."""
        at, begun = now(url), len(stored_jobs(url))
        end = at - timedelta(seconds=ago)
        with db.transaction(url) as session:
            rows = [
                {
                    "account": "default", "model": f"made-up-{begun + prefix}",
                    "video_id": f"made-up-{begun + prefix}:{number}", "state": "completed",
                    "video_url": "https://cdn.example.com/v.mp4",
                    "metadata_": {}, "events": [], "deadline_at": at,
                    "tracked_at": end - timedelta(seconds=40), "finished_at": end,
                }
                for prefix in range(prefixes)
                for number in range(jobs)
            ]  # fmt: skip
            session.execute(insert(Job), rows)

    def test_what_ended_less_often_than_it_takes_leaves_no_curve(self, url: str) -> None:
        self.add(url, 500, 1)
        self.add(url, 100, learning.JOBS_LEAST - 1)
        add_ended(url, 40.0, learning.JOBS_LEAST)
        assert learning.learn(url, PLANS) == 1
        assert list(kinds(url)) == ["grok"]

    def test_a_round_learns_so_many_and_the_next_one_others(self, url: str) -> None:
        self.add(url, 50, learning.JOBS_LEAST)
        seen: set[str] = set()
        for rounds in range(1, 3):
            assert learning.learn(url, PLANS) == learning.KINDS_AT_ONCE
            seen.update(kinds(url))
            assert len(seen) == rounds * learning.KINDS_AT_ONCE
            pass_time(url, 20.0 + 60.0 * rounds)

    def test_of_an_account_those_that_were_learned_last_stay(self, url: str) -> None:
        most = forecasts.KINDS_MOST
        with db.transaction(url) as session:
            add_account(session, "studio")
            at = db.now(session)
            forecasts.keep(session, "studio", "old", KNOWN, at - timedelta(days=1))
            for number in range(most + 30):
                when = at + timedelta(seconds=number)
                forecasts.keep(session, "default", f"m{number}", KNOWN, when)
        assert set(kinds(url)) == {f"m{number}" for number in range(30, most + 30)}
        assert list(kinds(url, "studio")) == ["old"]


def stored_jobs(url: str) -> list[int]:
    with db.reading(url) as session:
        return list(session.execute(select(Job.id)).scalars())


class TestForecasts:
    def keep(self, url: str, model: str = "grok", price: float = 0.5) -> None:
        with db.transaction(url) as session:
            known = replace(KNOWN, plan=replace(KNOWN.plan, price=price))
            forecasts.keep(session, "default", model, known, db.now(session))

    @pytest.fixture
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> list[None]:
        """One item for each plan that is made of what is stored."""
        seen: list[None] = []

        def counted(body: Mapping[str, Any]) -> Plan | None:
            seen.append(None)
            return from_json(body)

        monkeypatch.setattr(forecasts, "from_json", counted)
        return seen

    def test_tell_what_is_known_of_the_accounts_models(self, url: str) -> None:
        self.keep(url)
        self.keep(url, "sora-2", 2.0)
        found = kinds(url)
        assert {model: known.price for model, known in found.items()} == {
            "grok": 0.5, "sora-2": 2.0,
        }  # fmt: skip
        assert kinds(url, "studio") == {}

    def test_the_table_says_from_how_many_jobs_and_when(self, url: str) -> None:
        began = now(url)
        self.keep(url)
        with db.reading(url) as session:
            row = session.execute(select(stored)).mappings().one()
        assert (row["account"], row["model"], row["jobs"]) == ("default", "grok", 10)
        assert began <= row["learned_at"] <= now(url)

    def test_are_read_once_for_each_time_that_they_were_learned(
        self, url: str, reads: list[None]
    ) -> None:
        self.keep(url)
        self.keep(url, "sora-2")
        first = kinds(url)
        assert len(reads) == 2
        assert kinds(url)["grok"] is first["grok"]
        assert len(reads) == 2
        self.keep(url, price=0.7)
        again = kinds(url)
        assert len(reads) == 3
        assert (again["grok"].price, again["sora-2"]) == (0.7, first["sora-2"])

    def test_what_was_replaced_is_forgotten(self, url: str) -> None:
        for _ in range(5):
            self.keep(url)
            self.keep(url, "sora-2")
            kinds(url)
        assert len(forecasts._read) == 2

    def test_a_plan_of_another_release_is_as_good_as_none(
        self, url: str, reads: list[None]
    ) -> None:
        self.keep(url)
        self.keep(url, "sora-2")
        with db.transaction(url) as session:
            mine = stored.c.model == "grok"
            body = session.execute(select(stored.c.plan).where(mine)).scalar_one()
            session.execute(update(stored).where(mine).values(plan={**body, "version": 0}))
        assert list(kinds(url)) == ["sora-2"]
        assert list(kinds(url)) == ["sora-2"]
        assert len(reads) == 2

    def test_of_several_that_keep_at_once_none_fails(self, url: str) -> None:
        for _ in range(2):  # the very first time, and a later one
            with ThreadPoolExecutor(6) as pool:
                list(pool.map(lambda price: self.keep(url, price=price), range(1, 7)))
        with db.reading(url) as session:
            assert session.execute(select(func.count()).select_from(stored)).scalar_one() == 1
        assert 1 <= kinds(url)["grok"].price <= 6
