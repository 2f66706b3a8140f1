"""Who goes first when not all that are due can be polled."""

import math
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.rules.timing import priority
from reelwatch.rules.timing.fitting import Course, Progressed, Sample, learn
from reelwatch.rules.timing.pace import Pace
from reelwatch.rules.timing.plan import Hint
from reelwatch.rules.timing.planner import Plans, solve

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
TOLD = learn(
    "veo3",
    [Sample(60.0 + 4 * n) for n in range(30)],
    [Course([(0.0, "queued"), (0.8, "finishing")])] * 30,
    [Progressed(share / 20, share / 20) for share in range(1, 20)],
)


@cache
def plans() -> Plans:
    return Plans(Pace(5, 60), 3.0, {"veo3": solve(TOLD, Pace(5, 60), 3.0)})


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def row(**columns: Any) -> dict[str, Any]:
    """A running job, 100 s old, polled 20 s ago."""
    return {
        "id": 1,
        "model": "veo3",
        "state": "running",
        "upstream_status": "running",
        "progress": None,
        "progress_at": None,
        "tracked_at": ago(100),
        "upstream_created_at": None,
        "last_polled_at": ago(20),
        "next_poll_at": NOW,
        "deadline_at": ago(-600),
        "resultless_since": None,
    } | columns


def test_the_columns_are_those_that_it_needs() -> None:
    assert set(priority.COLUMNS) == set(row())


@pytest.mark.parametrize(
    ("columns", "hint", "age"),
    [
        pytest.param({}, Hint(80, "running"), 100, id="by tracking"),
        pytest.param({"upstream_created_at": ago(150)}, Hint(130, "running"), 150, id="created"),
        pytest.param({"upstream_status": "queued"}, Hint(80, "queued"), 100, id="a word"),
        pytest.param(
            {"progress": 0.9, "progress_at": ago(20)}, Hint(80, "running", 0.9), 100, id="progress"
        ),
        pytest.param(
            {"progress": 0.9, "progress_at": ago(70)}, Hint(80, "running"), 100, id="said before"
        ),
        pytest.param(
            {"last_polled_at": None, "upstream_status": None}, Hint(0), 100, id="never polled"
        ),
        pytest.param({"model": "sora-2"}, Hint(80, "running"), 100, id="another model"),
        pytest.param({"tracked_at": ago(-5), "last_polled_at": None, "upstream_status": None},
                     Hint(0), 0, id="a clock that was set back"),
    ],
)  # fmt: skip
def test_a_job_is_worth_what_its_plan_says(columns: Any, hint: Hint, age: float) -> None:
    job = row(**columns)
    worth = plans().plan(job["model"]).worth(hint, age - hint.age)
    assert priority.gain(job, plans(), NOW) == pytest.approx(worth)


def test_a_deadline_that_has_passed_comes_first_until_it_is_told() -> None:
    assert priority.gain(row(deadline_at=NOW, next_poll_at=NOW), plans(), NOW) == math.inf
    told = row(deadline_at=NOW, state="expired")
    assert priority.gain(told, plans(), NOW) == priority.gain(row(), plans(), NOW)


def test_a_deadline_whose_poll_was_lost_comes_first_no_more() -> None:
    """Its result may be one that can't be written, today or ever."""
    lost = row(deadline_at=ago(90), next_poll_at=ago(7))
    assert priority.gain(lost, plans(), NOW) == 7


def test_of_a_job_that_has_ended_every_second_counts() -> None:
    assert priority.gain(row(resultless_since=ago(60)), plans(), NOW) == 20


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 900)), max_size=20), st.integers(1, 9))
def test_the_best_are_chosen_and_the_last_of_them_is_the_price(
    waits: list[tuple[float, int]], count: int
) -> None:
    rows = [
        row(id=place, last_polled_at=ago(waited), tracked_at=ago(waited + age))
        for place, (waited, age) in enumerate(waits)
    ]
    order = priority.Order(priority.best_first(rows, plans(), NOW))
    chosen, worth = order.take(count)
    gains = [priority.gain(each, plans(), NOW) for each in rows]
    assert len(set(chosen)) == len(chosen) == min(count, len(rows))
    assert [gains[place] for place in chosen] == sorted(gains, reverse=True)[:count]
    assert worth == (gains[chosen[-1]] if chosen else 0)


def test_of_equal_jobs_those_that_come_first_are_chosen() -> None:
    rows = [row(id=job_id) for job_id in (7, 3, 9, 1)]
    assert [job_id for job_id, _ in priority.best_first(rows, plans(), NOW)] == [7, 3, 9, 1]


def test_an_order_gives_each_job_once_and_holds_while_more_than_wanted_are_left() -> None:
    order = priority.Order(
        priority.best_first([row(id=n) for n in range(5)], plans(), NOW), ago(-1)
    )
    assert order.holds(4, NOW)
    assert order.take(2)[0] == [0, 1]
    assert order.take(2)[0] == [2, 3]
    assert not order.holds(1, NOW)


def test_an_order_holds_for_its_time() -> None:
    ranked = priority.best_first([row(id=n) for n in range(5)], plans(), NOW)
    assert not priority.Order(ranked, NOW).holds(1, NOW)
    assert not priority.Order(ranked).holds(1, NOW)
