"""When a poll is late: due for a minute in which its account might have been asked."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from reelwatch.jobs import pausing
from reelwatch.rules import outlook
from reelwatch.rules.metrics import OLDEST_DUE
from reelwatch.rules.standing import Standing
from reelwatch.storage import db, figures, incidents
from reelwatch.storage.gauges import gauges
from reelwatch.storage.models import Account, Incident
from tests import seeding
from tests.test_page import job_of, seen
from tests.web import Web

RESTS = Standing(5.0, pause_reason="quota: used up", paused_until=seeding.at(minutes=1))


def ages_of(url: str) -> tuple[int, float, float]:
    """How many polls are late, and the age of the oldest by the API's stats and by the metrics."""
    with db.reading(url) as session:
        now = db.now(session)
        found = figures.figures_now(session, now)["oldest_due_at"]
        oldest = (now - found).total_seconds()
        late = figures.summary(session, now)["late"]
        return late, oldest, gauges(session, "1")[OLDEST_DUE]["default",]


def passes(url: str, minutes: float) -> None:
    """As if the pause had ended so long ago."""
    with db.transaction(url) as session:
        ended = db.now(session) - timedelta(minutes=minutes)
        session.execute(update(Incident).values(at=ended))


def test_what_a_pause_held_back_is_late_a_minute_after_it(web: Web, url: str) -> None:
    job_of(url, next_poll_at=seeding.at(minutes=10))
    assert "1 poll is late" in seen(web, "/")
    pausing.pause_account("default")
    pausing.resume_account("default")
    assert "no poll is late" in seen(web, "/?resumed")
    assert "late" not in seen(web, "/accounts?resumed")
    late, *oldest = ages_of(url)
    assert late == 0
    assert all(age < 30 for age in oldest)
    passes(url, 1.1)
    assert "1 poll is late, due for more than a minute." in seen(web, "/?later")
    assert "1 poll is late" in seen(web, "/accounts?later")
    late, *oldest = ages_of(url)
    assert late == 1
    assert all(60 < age < 120 for age in oldest)


def test_what_came_due_after_the_pause_is_late_by_its_own_time(web: Web, url: str) -> None:
    job_of(url, next_poll_at=seeding.at(minutes=2))
    pausing.pause_account("default")
    pausing.resume_account("default")
    passes(url, 30)
    late, *oldest = ages_of(url)
    assert late == 1
    assert all(110 < age < 150 for age in oldest)


def test_the_end_of_a_rest_that_a_probe_finds_counts_as_one_by_hand(web: Web, url: str) -> None:
    job_of(url, next_poll_at=seeding.at(minutes=10))
    with db.transaction(url) as session:
        incidents.of_account(session, "default", Standing(5.0), RESTS, seeding.at(minutes=5))
        incidents.of_account(session, "default", RESTS, Standing(5.0), db.now(session))
    assert ages_of(url)[0] == 0
    passes(url, 1.1)
    assert ages_of(url)[0] == 1


@pytest.mark.parametrize(("over", "late"), [(5, 0), (65, 1)])
def test_who_is_about_to_be_probed_may_be_asked_since_the_rest_was_over(
    web: Web, url: str, over: float, late: int
) -> None:
    """Where nobody probes it for a minute, more workers are wanted indeed."""
    job_of(url, next_poll_at=seeding.at(minutes=10))
    with db.transaction(url) as session:
        rests: Mapping[str, Any] = {
            "pause_reason": "quota: used up", "paused_until": seeding.at(seconds=over),
        }  # fmt: skip
        session.execute(update(Account).values(**rests))
    found, *oldest = ages_of(url)
    assert found == late
    assert all(over <= age < over + 30 for age in oldest)
    assert timedelta(minutes=1) == outlook.LATE
