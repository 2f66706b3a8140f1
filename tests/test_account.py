"""Slots of an account, as a table: how many are free, when they open, what is reserved then."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reelwatch.rules.account import HORIZON, SLACK, reserve, room
from reelwatch.rules.standing import Standing

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)
LEAD = 0.02


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("rate", "reserved_until", "lead", "first", "count"),
    [
        pytest.param(5.0, None, LEAD, LEAD, 5, id="nothing is reserved"),
        pytest.param(5.0, -60.0, LEAD, LEAD, 5, id="what was reserved is over"),
        pytest.param(5.0, 0.5, LEAD, 0.5, 3, id="others have reserved half of the horizon"),
        pytest.param(5.0, HORIZON, LEAD, HORIZON, 1, id="the last slot within the horizon"),
        pytest.param(5.0, 1.001, LEAD, 1.001, 0, id="all of the horizon is reserved"),
        pytest.param(0.1, None, LEAD, LEAD, 1, id="slots further apart than the horizon"),
        pytest.param(100.0, None, LEAD, LEAD, 90, id="many within the horizon"),
        pytest.param(5.0, None, 2.0, 2.0, 1, id="commits that take longer than the horizon"),
    ],
)
def test_free_slots_begin_after_the_lead_and_end_with_the_horizon(
    rate: float, reserved_until: float | None, lead: float, first: float, count: int
) -> None:
    until = None if reserved_until is None else after(reserved_until)
    found = room(Standing(rate, next_slot_at=until), NOW, lead)
    assert (found.first, found.count) == (after(first), count)
    assert found.distance == timedelta(seconds=(1 + SLACK) / rate)


def test_slots_follow_each_other_and_the_next_claim_goes_on_behind_them() -> None:
    standing = Standing(5.0)
    free = room(standing, NOW, LEAD)
    reserved, slots = reserve(standing, 3, free)
    assert slots == [free.first, free.first + free.distance, free.first + 2 * free.distance]
    assert reserved.next_slot_at == slots[-1] + free.distance
    assert room(reserved, NOW, LEAD).first == reserved.next_slot_at
    assert replace(reserved, next_slot_at=None) == standing


def test_no_slot_is_reserved_for_nothing() -> None:
    standing = Standing(5.0, next_slot_at=after(0.3))
    assert reserve(standing, 0, room(standing, NOW, LEAD)) == (standing, [])


def test_the_rate_in_force_is_the_configured_one_unless_it_was_cut() -> None:
    cut = Standing(2.0, slowed_at=NOW, refused_rate=10.0)
    assert Standing(2.0).now(7.0, NOW).requests_per_second == 7.0
    assert cut.now(7.0, NOW).requests_per_second == 2.0
