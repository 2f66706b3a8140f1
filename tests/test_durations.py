"""Spans and moments as people write them."""

from datetime import UTC, datetime, timedelta

import pytest

from reelwatch.rules.durations import parse_moment

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", NOW - timedelta(hours=2)),
        ("90S", NOW - timedelta(seconds=90)),
        ("2026-02-05", datetime(2026, 2, 5, tzinfo=UTC)),
        ("2026-02-05T12:00", datetime(2026, 2, 5, 12, tzinfo=UTC)),
        ("2026-02-05T12:00+02:00", datetime(2026, 2, 5, 10, tzinfo=UTC)),
        ("2026-02-05T12:00Z", datetime(2026, 2, 5, 12, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_time_or_a_span_before_now(text: str, moment: datetime) -> None:
    found = parse_moment(text, NOW)
    assert found == moment
    assert found.tzinfo is UTC


@pytest.mark.parametrize("text", ["", "yesterday", "90", "2026-13-01", "99999999h", "\u0663h"])
def test_what_is_neither_is_refused(text: str) -> None:
    """A number without a unit is a date that was cut off, or a mistake."""
    with pytest.raises((ValueError, OverflowError)):
        parse_moment(text, NOW)
