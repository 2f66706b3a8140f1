"""The remaining time of a job: by what is known of its kind, and by what a look has shown of it."""

import math
from datetime import UTC, datetime, timedelta
from random import Random
from statistics import fmean
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reelwatch.rules.status import State
from reelwatch.rules.timing.curves import (
    ETA_JOBS,
    SLOW_JOBS,
    Course,
    Curve,
    Eta,
    Hint,
    Progressed,
    Sample,
    learn,
    prior,
)
from reelwatch.rules.timing.remaining import as_json, remaining
from tests.kinds import steady

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
STEADY = steady(40.0)  # half of those that are open end within 40 s, nine of ten within 132.9 s

# Nearly all take 100 to 140 s. Upstream says "queued" for the first half, then "upsampling", and
# its progress is right.
TOLD = learn(
    "grok",
    [Sample(100.0 + place) for place in range(40)],
    [Course([(0.0, "queued"), (0.5, "upsampling")])] * 20,
    [Progressed(share / 20, share / 20) for share in range(1, 20)],
)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def job(**columns: Any) -> dict[str, Any]:
    """A job that is 60 s old and was looked at just now."""
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


def eta(curve: Curve = STEADY, **columns: Any) -> Eta:
    found = remaining(job(**columns), curve, NOW)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("columns", "p50", "p90"),
    [
        pytest.param({}, 40.0, 132.9, id="looked at just now"),
        pytest.param({"state": "pending"}, 40.0, 132.9, id="not started"),
        pytest.param({"last_polled_at": ago(15)}, 25.0, 117.9, id="a quarter of a minute ago"),
        pytest.param({"last_polled_at": ago(50)}, 0.0, 82.9, id="half would have ended by now"),
        pytest.param({"last_polled_at": ago(900)}, 0.0, 0.0, id="all would have ended by now"),
        pytest.param({"last_polled_at": None}, 0.0, 72.9, id="never looked at"),
        pytest.param(
            {"last_polled_at": None, "tracked_at": ago(10)}, 30.0, 122.9, id="just tracked"
        ),
        pytest.param({"tracked_at": ago(-9)}, 40.0, 132.9, id="a clock that was set back"),
        pytest.param({"last_polled_at": ago(-9)}, 40.0, 132.9, id="a look from the future"),
        pytest.param({"upstream_created_at": ago(-9)}, 40.0, 132.9, id="a job from the future"),
    ],
)
def test_it_counts_down_from_the_last_look(columns: dict[str, Any], p50: float, p90: float) -> None:
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
    assert remaining(job(), prior("veo3.1-fast"), NOW) is None
    assert remaining(job(), steady(40.0, ETA_JOBS), NOW) is not None


def test_the_age_is_upstreams_where_it_said_when_it_began() -> None:
    created = {"upstream_created_at": ago(90)}
    assert eta(TOLD, tracked_at=ago(30), **created) == eta(TOLD, tracked_at=ago(90))
    assert eta(TOLD, tracked_at=ago(30), **created) != eta(TOLD, tracked_at=ago(30))


def test_what_upstream_said_last_counts_at_the_age_it_said_it() -> None:
    silent = eta(TOLD)
    queued, upsampling = (eta(TOLD, upstream_status=word) for word in ("queued", "upsampling"))
    assert upsampling.p50_seconds < silent.p50_seconds < queued.p50_seconds
    said = {"upstream_status": "upsampling", "last_polled_at": ago(20)}
    at_that_age = TOLD.eta(Hint(40.0, "upsampling"), 40.0)
    assert at_that_age is not None
    assert eta(TOLD, **said).p50_seconds == pytest.approx(at_that_age.p50_seconds - 20, abs=0.05)


def test_progress_tells_more_than_a_word_while_it_is_of_the_last_look() -> None:
    word = {"upstream_status": "upsampling"}
    fresh = eta(TOLD, **word, progress=0.45, progress_at=NOW)
    assert fresh == eta(TOLD, progress=0.45, progress_at=NOW)
    assert fresh != eta(TOLD, **word)
    assert eta(TOLD, **word, progress=0.45, progress_at=ago(5)) == eta(TOLD, **word)


@pytest.mark.parametrize(
    ("columns", "jobs", "slow"),
    [
        pytest.param({"tracked_at": ago(172)}, SLOW_JOBS, False, id="one of the slower"),
        pytest.param({"tracked_at": ago(174)}, SLOW_JOBS, True, id="slower than 95 %"),
        pytest.param({"tracked_at": ago(174)}, SLOW_JOBS - 1, False, id="of how many"),
        pytest.param(
            {"tracked_at": ago(900), "last_polled_at": ago(800)}, SLOW_JOBS, False,
            id="nobody has looked since",
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
    """Whether or not a job has ended since it was looked at: nobody knows that."""
    random = Random(7)

    def seconds() -> float:
        return random.lognormvariate(math.log(90), 0.4)

    curve = learn("grok", [Sample(seconds()) for _ in range(1_000)])
    half, most = [], []
    for _ in range(4_000):
        seen, since, ends = random.uniform(0, 150), random.uniform(0, 30), seconds()
        found = eta(curve, tracked_at=ago(seen + since), last_polled_at=ago(since))
        if ends > seen and found.p50_seconds > 0:  # 0: half of them would have ended already
            half.append(ends <= seen + since + found.p50_seconds)
            most.append(ends <= seen + since + found.p90_seconds)
    assert fmean(half) == pytest.approx(0.5, abs=0.04)
    assert fmean(most) == pytest.approx(0.9, abs=0.03)


def test_its_form_in_json() -> None:
    assert as_json(None) is None
    assert as_json(Eta(41.2, 95.0, slower_than_95_percent=False)) == {
        "p50_seconds": 41.2,
        "p90_seconds": 95.0,
        "slower_than_95_percent": False,
    }


spans = st.floats(-1e4, 1e6) | st.floats(-10, 300)


@given(
    state=st.sampled_from(State),
    word=st.sampled_from([None, "queued", "upsampling", "never heard"]),
    begun=spans,
    tracked=spans,
    seen=st.none() | spans,
    progress=st.none() | st.floats(0, 1),
    errors=st.integers(0, 2),
    jobs=st.integers(0, 30),
)
def test_of_any_job_there_is_nothing_or_a_sensible_answer(
    state: State, word: str | None, begun: float, tracked: float, seen: float | None,
    progress: float | None, errors: int, jobs: int,
) -> None:  # fmt: skip
    columns = {
        "state": state.value, "upstream_status": word, "upstream_created_at": ago(begun),
        "tracked_at": ago(tracked), "last_polled_at": None if seen is None else ago(seen),
        "progress": progress, "progress_at": None if seen is None else ago(seen),
        "errors_in_row": errors,
    }  # fmt: skip
    curve = Curve(TOLD.hazards, jobs, TOLD.stages, TOLD.progress_spread)
    found = remaining(job(**columns), curve, NOW)
    known = state in (State.PENDING, State.RUNNING) and jobs >= ETA_JOBS and not errors
    assert (found is not None) == known
    if found:
        assert 0 <= found.p50_seconds <= found.p90_seconds
        assert [round(each, 1) for each in found[:2]] == list(found[:2])


@given(age=st.floats(0, 500), first=st.floats(0, 300), then=st.floats(0, 300))
def test_between_looks_it_runs_as_the_clock_does(age: float, first: float, then: float) -> None:
    assume(first <= then)
    row = job(tracked_at=ago(age))
    before, after = (
        remaining(row, TOLD, NOW + timedelta(seconds=seconds)) for seconds in (first, then)
    )
    assert before is not None
    assert after is not None
    for place in (0, 1):
        expected = max(0.0, before[place] - (then - first))
        assert after[place] == pytest.approx(expected, abs=0.11)
