"""The remaining time of a job: by what is known of its kind, and by what a poll has shown of it."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from statistics import fmean
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reelwatch.rules.states import State
from reelwatch.rules.timing.eta import as_json, in_passing, in_short, in_words, remaining
from reelwatch.rules.timing.fitting import Course, Progressed, Sample, learn
from reelwatch.rules.timing.pace import Pace
from reelwatch.rules.timing.plan import ETA_JOBS, SLOW_JOBS, Eta, Hint, Plan
from reelwatch.rules.timing.planner import assumed, solve
from tests.kinds import steady

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
STEADY = steady(40.0)  # half of those that are open end within 40 s, nine of ten within 132.9 s


# Nearly all take 100 to 140 s. Upstream says "queued" for the first half, then "upsampling", and
# its progress is right.
@cache
def told() -> Plan:
    return solve(
        learn(
            "grok",
            [Sample(100.0 + place) for place in range(40)],
            [Course([(0.0, "queued"), (0.5, "upsampling")])] * 20,
            [Progressed(share / 20, share / 20) for share in range(1, 20)],
        ),
        Pace(),
        3.0,
    )


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def job(**columns: Any) -> dict[str, Any]:
    """A job that is 60 s old and was polled just now."""
    return {
        "state": "running",
        "upstream_status": None,
        "tracked_at": ago(60),
        "upstream_created_at": None,
        "last_polled_at": NOW,
        "errors_in_row": 0,
        "progress": None,
        "progress_at": None,
    } | columns


def eta(plan: Plan = STEADY, **columns: Any) -> Eta:
    found = remaining(job(**columns), plan, NOW)
    assert found is not None
    return found


def half(found: Eta) -> float:
    assert found.p50_seconds is not None
    return found.p50_seconds


@pytest.mark.parametrize(
    ("columns", "p50", "p90"),
    [
        pytest.param({}, 40.0, 132.9, id="polled just now"),
        pytest.param({"state": "pending"}, 40.0, 132.9, id="not started"),
        pytest.param({"last_polled_at": ago(15)}, 25.0, 117.9, id="a quarter of a minute ago"),
        pytest.param({"last_polled_at": ago(50)}, 0.0, 82.9, id="half would have ended by now"),
        pytest.param({"last_polled_at": ago(900)}, 0.0, 0.0, id="all would have ended by now"),
        pytest.param({"last_polled_at": None}, 0.0, 72.9, id="never polled"),
        pytest.param(
            {"last_polled_at": None, "tracked_at": ago(10)}, 30.0, 122.9, id="just tracked"
        ),
        pytest.param({"tracked_at": ago(-9)}, 40.0, 132.9, id="a clock that was set back"),
        pytest.param({"last_polled_at": ago(-9)}, 40.0, 132.9, id="a poll from the future"),
        pytest.param({"upstream_created_at": ago(-9)}, 40.0, 132.9, id="a job from the future"),
    ],
)
def test_it_counts_down_from_the_last_poll(columns: dict[str, Any], p50: float, p90: float) -> None:
    assert eta(**columns)[:2] == (p50, p90)


@pytest.mark.parametrize(
    "columns",
    [
        *({"state": state} for state in ("expired", "completed", "failed", "cancelled")),
        {"errors_in_row": 1},
    ],
)
def test_nothing_is_foretold_of_what_has_ended_or_may_have(columns: dict[str, Any]) -> None:
    assert remaining(job(**columns), STEADY, NOW) is None


def test_nothing_is_foretold_of_a_kind_too_little_is_known_of() -> None:
    assert remaining(job(), steady(40.0, ETA_JOBS - 1), NOW) is None
    assert remaining(job(), assumed(120.0, Pace(), 3.0), NOW) is None
    assert remaining(job(), steady(40.0, ETA_JOBS), NOW) is not None


def test_the_age_is_upstreams_where_it_said_when_it_began() -> None:
    created = {"upstream_created_at": ago(90)}
    assert eta(told(), tracked_at=ago(30), **created) == eta(told(), tracked_at=ago(90))
    assert eta(told(), tracked_at=ago(30), **created) != eta(told(), tracked_at=ago(30))


def test_what_upstream_said_last_counts_at_the_age_it_said_it() -> None:
    silent = eta(told())
    queued, upsampling = (
        eta(told(), upstream_status=status) for status in ("queued", "upsampling")
    )
    assert half(upsampling) < half(silent) < half(queued)
    said = {"upstream_status": "upsampling", "last_polled_at": ago(20)}
    at_that_age = told().eta(Hint(40.0, "upsampling"))
    assert at_that_age is not None
    assert half(eta(told(), **said)) == pytest.approx(half(at_that_age) - 20, abs=0.05)


def test_progress_tells_more_than_a_status_while_it_is_of_the_last_poll() -> None:
    status = {"upstream_status": "upsampling"}
    fresh = eta(told(), **status, progress=0.45, progress_at=NOW)
    assert fresh == eta(told(), progress=0.45, progress_at=NOW)
    assert fresh != eta(told(), **status)
    assert eta(told(), **status, progress=0.45, progress_at=ago(5)) == eta(told(), **status)


@pytest.mark.parametrize(
    ("columns", "jobs", "slow"),
    [
        pytest.param({"tracked_at": ago(172)}, SLOW_JOBS, False, id="one of the slower"),
        pytest.param({"tracked_at": ago(174)}, SLOW_JOBS, True, id="slower than 95 %"),
        pytest.param({"tracked_at": ago(174)}, SLOW_JOBS - 1, False, id="of how many"),
        pytest.param(
            {"tracked_at": ago(900), "last_polled_at": ago(800)}, SLOW_JOBS, False,
            id="nobody has polled since",
        ),
        pytest.param(
            {"tracked_at": ago(900), "last_polled_at": ago(700)}, SLOW_JOBS, True,
            id="it was slow then",
        ),
    ],
)  # fmt: skip
def test_a_job_is_called_slow_by_what_was_seen(
    columns: dict[str, Any], jobs: int, slow: bool
) -> None:
    assert eta(steady(40.0, jobs), **columns).slower_than_95_percent is slow


def test_half_of_the_jobs_and_nine_of_ten_keep_to_it() -> None:
    """Whether or not a job has ended since it was polled: nobody knows that."""
    random = Random(7)

    def seconds() -> float:
        return random.lognormvariate(math.log(90), 0.4)

    plan = solve(learn("grok", [Sample(seconds()) for _ in range(1_000)]), Pace(), 3.0)
    sooner, most = [], []
    for _ in range(4_000):
        seen, since, ends = random.uniform(0, 150), random.uniform(0, 30), seconds()
        found = eta(plan, tracked_at=ago(seen + since), last_polled_at=ago(since))
        if ends > seen and half(found) > 0:  # 0: half of them would have ended already
            sooner.append(ends <= seen + since + half(found))
            if found.p90_seconds is not None:
                most.append(ends <= seen + since + found.p90_seconds)
    assert len(most) > 0.9 * len(sooner)
    assert fmean(sooner) == pytest.approx(0.5, abs=0.04)
    assert fmean(most) == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize(
    ("half", "most", "columns", "words", "short"),
    [
        (41.2, 94.1, {}, "about 41s left (half of such jobs), 90 % within 1m35s; "
         "measured on 12 jobs, the longest took 2m10s", "~41s"),
        (41.2, None, {}, "about 41s left (half of such jobs); "
         "measured on 12 jobs, the longest took 2m10s", "~41s"),
        (125.4, 600.0, {"slow": True, "measured": 1_000},
         "about 2m05s left (half of such jobs), 90 % within 10m00s, slower than 95 % of its kind; "
         "measured on 1,000 jobs, the longest took 2m10s", "~2m05s"),
        (0.9, 12.0, {}, "may end any moment, 90 % within 12s; "
         "measured on 12 jobs, the longest took 2m10s", "soon"),
        (0.0, None, {}, "may end any moment; "
         "measured on 12 jobs, the longest took 2m10s", "soon"),
        (0.0, 0.9, {}, "has probably ended since its last poll; "
         "measured on 12 jobs, the longest took 2m10s", "soon"),
        (None, None, {"tracked_at": ago(131)},
         "longer than any of the 12 measured (longest 2m10s); no estimate", "?"),
        (None, None, {"tracked_at": ago(130)},
         "probably longer than any of the 12 measured (longest 2m10s); no estimate", "?"),
        (None, None, {"tracked_at": ago(300), "last_polled_at": ago(200)},
         "probably longer than any of the 12 measured (longest 2m10s); no estimate", "?"),
        (None, None, {"tracked_at": ago(60), "upstream_created_at": ago(131), "slow": True},
         "longer than any of the 12 measured (longest 2m10s); no estimate", "?"),
    ],
)  # fmt: skip
def test_what_people_read_says_no_more_than_was_measured(
    half: float | None, most: float | None, columns: dict[str, Any], words: str, short: str
) -> None:
    given = dict(columns)
    told = Eta(half, most, given.pop("slow", False), given.pop("measured", 12), 130.9)
    row = job(**given, eta=as_json(told))
    assert in_words(row) == words
    assert in_short(row) == short
    assert in_passing(row) == (f"{short} left" if short.startswith("~") else "")


def test_of_what_is_not_foretold_people_read_nothing() -> None:
    for row in (job(), job(eta=None)):
        assert (in_words(row), in_short(row), in_passing(row)) == ("", "", "")


def test_its_form_in_json() -> None:
    assert as_json(None) is None
    assert as_json(
        Eta(41.2, 95.0, slower_than_95_percent=False, measured=120, longest_seconds=310.4)
    ) == {
        "p50_seconds": 41.2,
        "p90_seconds": 95.0,
        "slower_than_95_percent": False,
        "measured": 120,
        "longest_seconds": 310.4,
    }


spans = st.floats(-1e4, 1e6) | st.floats(-10, 300)


@given(
    state=st.sampled_from(State),
    status=st.sampled_from([None, "queued", "upsampling", "never heard"]),
    begun=spans,
    tracked=spans,
    seen=st.none() | spans,
    progress=st.none() | st.floats(0, 1),
    errors=st.integers(0, 2),
    jobs=st.integers(0, 30),
)
def test_of_any_job_there_is_nothing_or_a_sensible_answer(
    state: State, status: str | None, begun: float, tracked: float, seen: float | None,
    progress: float | None, errors: int, jobs: int,
) -> None:  # fmt: skip
    columns = {
        "state": state.value, "upstream_status": status, "upstream_created_at": ago(begun),
        "tracked_at": ago(tracked), "last_polled_at": None if seen is None else ago(seen),
        "progress": progress, "progress_at": None if seen is None else ago(seen),
        "errors_in_row": errors,
    }  # fmt: skip
    found = remaining(job(**columns), replace(told(), jobs=jobs), NOW)
    known = state in (State.PENDING, State.RUNNING) and jobs >= ETA_JOBS and not errors
    assert (found is not None) == known
    if found:
        times = [each for each in found[:2] if each is not None]
        assert times == sorted(times)
        assert all(each >= 0 and round(each, 1) == each for each in times)


@given(age=st.floats(0, 500), first=st.floats(0, 300), then=st.floats(0, 300))
def test_between_polls_it_runs_as_the_clock_does(age: float, first: float, then: float) -> None:
    assume(first <= then)
    row = job(tracked_at=ago(age))
    before, after = (
        remaining(row, told(), NOW + timedelta(seconds=seconds)) for seconds in (first, then)
    )
    assert before is not None
    assert after is not None
    for earlier, later in zip(before[:2], after[:2], strict=True):
        assert (earlier is None) == (later is None)
        if earlier is not None:
            assert later == pytest.approx(max(0.0, earlier - (then - first)), abs=0.11)
