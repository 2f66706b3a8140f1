"""What the pages say is true, and says what to do."""

from datetime import timedelta
from typing import Any

from reelwatch.jobs import redelivery
from reelwatch.storage import db
from reelwatch.storage.models import Account, Heartbeat
from tests import seeding
from tests.processes import eventually
from tests.test_page import job_of, seen
from tests.web import Web


def url_that_ends(url: str, hours: float) -> str:
    with db.reading(url) as session:
        end = int((db.now(session) + timedelta(hours=hours)).timestamp())
    return f"https://cdn.example.net/v.mp4?Expires={end}"


def tick(url: str) -> None:
    with db.transaction(url) as session:
        seeding.add(session, Heartbeat, {"name": "tick", "at": db.now(session)})


def test_a_video_whose_url_has_ended_is_not_offered_to_be_played(web: Web, url: str) -> None:
    """Nor would a recheck ask for another: the page says what is left to do."""
    job = job_of(url, "completed", video_url=url_that_ends(url, -2))
    for query in ("", "?show=video"):
        page = web.get(f"/jobs/{job['id']}{query}").text
        assert "Play it here" not in page
        assert "<video" not in page
        assert "Take it up again" not in page
    said = seen(web, f"/jobs/{job['id']}")
    assert "where its URL stopped working 2h" in said
    assert f"ask upstream for {job['video_id']} ; it may give another" in said


def test_a_video_whose_url_still_works_is_played(web: Web, url: str) -> None:
    job = job_of(url, "completed", video_url=url_that_ends(url, 2))
    assert "Play it here" in seen(web, f"/jobs/{job['id']}")
    assert "<video" in web.get(f"/jobs/{job['id']}?show=video").text


def ordered(url: str, **wanted: Any) -> str:
    number = redelivery.order(url, redelivery.Wanted(state="dead", **wanted), by="local")
    redelivery.work(url, number)
    return f"/redeliveries/{number}"


def test_an_order_says_that_its_lists_hold_other_events_too(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        event = seeding.add_owed(session, state="dead", next_attempt_at=None)
    others = "those of this order and others: waiting"
    assert f"These lists show all events, {others}" in seen(web, ordered(url))
    said = f"These lists show all events of account default, {others}"
    assert said in seen(web, ordered(url, account="default"))
    said = f"These lists show all events that go to the same endpoint, {others}"
    assert said in seen(web, ordered(url, endpoint=event["target"]))


def test_a_job_that_was_polled_before_is_not_said_to_have_been_taken_by_nobody(
    web: Web, url: str
) -> None:
    """Its account has only just been resumed, and it was due all the while."""
    tick(url)
    due = seeding.at(minutes=5)
    job = job_of(url, polls=4, last_polled_at=seeding.at(minutes=5), next_poll_at=due)
    with db.transaction(url) as session:
        session.get_one(Account, "default").pause_reason = "by hand: a new key"
    web.post("/accounts/default/resume")
    said = seen(web, f"/jobs/{job['id']}")
    assert "no worker has taken it since" in said


def test_a_job_that_waits_for_its_accounts_rate_leads_to_that_account(web: Web, url: str) -> None:
    tick(url)
    for _ in range(12):
        job_of(url, next_poll_at=seeding.at(seconds=5))
    page = web.get("/jobs").text
    assert '<a href="/accounts#default">rate short: 12 jobs of account default' in page


def test_a_job_leads_to_its_account_and_to_what_holds_it_up_there(web: Web, url: str) -> None:
    path = f"/jobs/{job_of(url)['id']}"
    with db.transaction(url) as session:
        session.get_one(Account, "default").pause_reason = "by hand: a new <key>"
    page = web.get(path).text
    assert 'account <a href="/accounts#default">default</a>' in page
    assert 'not known (<a href="/accounts#default">account default is paused by hand' in page
    assert "a new &lt;key&gt;</a>)" in page


def test_an_order_whose_events_are_not_counted_yet_does_not_say_that_there_is_none(
    web: Web, url: str
) -> None:
    wanted = redelivery.Wanted(state="dead")
    number = redelivery.order(url, wanted, by="local")
    said = seen(web, f"/redeliveries/{number}")
    assert "under way Its events are being counted." in said
    assert "0 of 0" not in said
    redelivery.work(url, number)
    path = f"/redeliveries/{number}"
    eventually(lambda: "0 of 0 events are owed again" in seen(web, path), 20.0)


def test_where_there_is_nothing_the_page_leads_on(web: Web) -> None:
    page = web.get("/deliveries/redeliver?state=dead").text
    assert 'there is none. <a href="/deliveries?state=dead">Back to the list</a>' in page
    assert "so far: Now says how one is handed in" in seen(web, "/jobs")
