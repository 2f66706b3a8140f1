"""How an account stands: what answers, time and people's hands make of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reelwatch.rests import Rest, rest_of

NOW = datetime(2026, 2, 6, 4, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


class TestRest:
    @pytest.mark.parametrize(
        ("row", "rest"),
        [
            ({}, None),
            ({"slowed_at": after(-1)}, None),
            ({"slowed_at": after(9)}, Rest(after(9), "upstream asked to slow down")),
            ({"paused_until": after(9), "pause_reason": "quota"}, Rest(after(9), "quota")),
            ({"paused_until": after(-9), "pause_reason": "quota"}, Rest(NOW, "quota")),
            ({"pause_reason": "by hand"}, Rest(None, "by hand")),
        ],
        ids=["works", "slowed", "held", "paused", "may be tried", "by hand"],
    )
    def test_says_until_when_and_why(self, row: dict[str, Any], rest: Rest | None) -> None:
        stored = {"paused_until": None, "pause_reason": None, "slowed_at": None} | row
        assert rest_of(stored, NOW) == rest
