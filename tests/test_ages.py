"""How old a job is, how long it took, how late that was noticed: one answer everywhere."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelwatch.rules import ages
from reelwatch.rules.states import State

TRACKED = datetime(2026, 2, 6, 3, 54, 42, tzinfo=UTC)


def at(offset: float | None) -> datetime | None:
    return None if offset is None else TRACKED + timedelta(seconds=offset)


def job(
    created: float | None = None,
    ended: float | None = None,
    noticed: float | None = None,
    state: str = "completed",
) -> dict[str, Any]:
    """A job by the times that are known of it, in seconds after it was tracked."""
    return {
        "state": state if noticed is not None else "running",
        "tracked_at": TRACKED,
        "upstream_created_at": at(created),
        "upstream_finished_at": at(ended),
        "finished_at": at(noticed),
    }


@pytest.mark.parametrize(
    ("row", "seconds", "words"),
    [
        pytest.param(job(), None, "", id="open"),
        pytest.param(job(0, 100), None, "", id="open-though-upstream-is-done"),
        pytest.param(job(10, 110.5, 200), 100.5, "1m40s, noticed 1m29s later", id="all-is-known"),
        pytest.param(job(-900, -600, 2), 300.0, "5m00s, noticed 10m02s later", id="tracked-late"),
        pytest.param(job(10, 10, 12), 0.0, "0s, noticed 2s later", id="at-once"),
        pytest.param(job(0, 1.23456, 2), 1.235, "1s, noticed 0s later", id="rounded"),
        pytest.param(job(5, 205, 200), 200.0, "3m20s, noticed 0s later", id="their-clock-ahead"),
        pytest.param(job(None, 110, 200), 110.0, "1m50s, noticed 1m30s later", id="no-beginning"),
        pytest.param(job(None, -50, 200), 0.0, "0s, noticed 3m20s later", id="just-before"),
        pytest.param(job(None, 300, 200), 200.0, "3m20s until it was noticed", id="none-and-ahead"),
        pytest.param(job(None, -500, 9), 9.0, "9s until it was noticed", id="long-before"),
        pytest.param(job(10, None, 200), 190.0, "3m10s until it was noticed", id="no-end"),
        pytest.param(job(noticed=200), 200.0, "3m20s until it was noticed", id="ours-alone"),
        pytest.param(job(110, 10, 200), 90.0, "1m30s until it was noticed", id="backwards"),
        pytest.param(job(noticed=-5), 0.0, "0s until it was noticed", id="ours-set-back"),
        pytest.param(job(10, None, 200, "cancelled"), None, "", id="cancelled"),
        pytest.param(job(10, 60, 61, "failed"), 50.0, "50s, noticed 1s later", id="failed"),
    ],
)
def test_a_duration_is_upstreams_as_far_as_it_tells(
    row: dict[str, Any], seconds: float | None, words: str
) -> None:
    assert ages.duration_seconds(row) == seconds
    assert ages.in_words(row) == words


@pytest.mark.parametrize(
    ("row", "seconds"),
    [
        pytest.param(job(), 300.0, id="open"),
        pytest.param(job(-60), 360.0, id="begun-before-it-was-tracked"),
        pytest.param(job(400), 0.0, id="begins-in-the-future"),
        pytest.param(job(10, 110, 200), 100.0, id="ended"),
        pytest.param(job(10, None, 200, "cancelled"), 190.0, id="cancelled"),
    ],
)
def test_any_job_has_one_time(row: dict[str, Any], seconds: float) -> None:
    assert ages.time_seconds(row, TRACKED + timedelta(seconds=300)) == seconds


@pytest.mark.parametrize(
    ("ended", "noticed", "seconds"),
    [
        pytest.param(100, 103, 3.0, id="noticed-after-the-end"),
        pytest.param(-86_400, 2, 2.0, id="had-ended-before-it-was-tracked"),
        pytest.param(205, 200, 0.0, id="their-clock-ahead"),
    ],
)
def test_the_delay_of_a_notice_begins_when_it_could_be_had(
    ended: float, noticed: float, seconds: float
) -> None:
    """Old jobs that are handed in say nothing about how late ends are noticed now."""
    times = (TRACKED + timedelta(seconds=each) for each in (ended, 0, noticed))
    assert ages.notice_delay(*times) == seconds


offsets = st.none() | st.floats(-1e6, 1e6)


@given(offsets, offsets, st.floats(-1e6, 1e6), st.sampled_from(State))
def test_no_time_is_negative(
    created: float | None, ended: float | None, noticed: float, state: State
) -> None:
    row = job(created, ended, noticed, state.value)
    took = ages.duration_seconds(row)
    assert took is None or took >= 0
    assert ages.time_seconds(row, TRACKED) >= 0
    span = ages.lasted(row)
    assert span is None or span[0] <= span[1]
