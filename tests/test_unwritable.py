"""A poll whose answer the database refuses: a failed one, and no other job's affair."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from reelwatch.config import settings
from reelwatch.jobs import applying, polling, tracking
from reelwatch.jobs.applying import Polled
from reelwatch.storage import db
from reelwatch.storage.models import Delivery, Job, PollError
from tests.environment import set_variables
from tests.test_polling import DONE, add_jobs, break_deliveries, job, polled, poller_of, rows

NOW = datetime.now(UTC)


@pytest.fixture
def poller(url: str, monkeypatch: pytest.MonkeyPatch) -> polling._Poller:
    set_variables(monkeypatch, REELWATCH_POLL_MIN="50ms", REELWATCH_POLL_MAX="1h")
    tracking.sync_accounts(settings.current())
    return poller_of(settings.current())


def poll_again(url: str, poller: polling._Poller, **columns: Any) -> None:
    """Upstream says that they are done; the jobs have these columns, and are due."""
    with db.transaction(url) as session:
        session.execute(update(Job).values(next_poll_at=NOW, **columns))
    poller.record([polled(each, DONE) for each in poller.claim(5).items])


def test_is_told_as_its_deadline_is_and_polled_less_and_less_often(
    url: str, poller: polling._Poller
) -> None:
    add_jobs(url, ["veo3:a"], webhook_url="https://hooks.example.com/a")
    break_deliveries(url)
    waits = []
    for _ in range(4):
        poll_again(url, poller, deadline_at=datetime.max.replace(tzinfo=UTC))
        row = job(url, "veo3:a")
        waits.append((row["next_poll_at"] - row["last_polled_at"]).total_seconds())
    assert (row["state"], row["polls"], row["errors_in_row"]) == ("pending", 4, 4)
    assert all(later > 1.3 * sooner for sooner, later in pairwise(waits))
    (error,) = rows(url, PollError)
    assert (error["kind"], error["message"]) == ("bad_shape", polling.UNWRITABLE)
    assert (error["http_status"], error["count"]) == (DONE.http_status, 4)
    poll_again(url, poller, deadline_at=NOW)
    (owed,) = rows(url, Delivery)
    assert owed["event_type"] == "video.expired"
    assert polling.UNWRITABLE in job(url, "veo3:a")["error_message"]


def test_that_can_not_even_be_written_as_failed_stops_no_other(
    url: str, poller: polling._Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = applying.apply

    def broken(session: Any, rules: Any, results: Sequence[Polled]) -> Any:
        if any(each.claimed.row["video_id"] == "veo3:a" for each in results):
            "视频".encode("latin-1")
        return real(session, rules, results)

    add_jobs(url, ["veo3:a", "veo3:b"])
    monkeypatch.setattr(polling, "apply", broken)
    with capture_logs() as logs:
        poll_again(url, poller)
    assert {row["video_id"]: row["state"] for row in rows(url, Job)} == {
        "veo3:a": "pending", "veo3:b": "completed",
    }  # fmt: skip
    assert [line["event"] for line in logs].count("poll_not_written") == 2
