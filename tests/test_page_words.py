"""What the pages say is true, and says what to do."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest

from reelwatch.config import settings
from reelwatch.jobs import pausing, redelivery, watching
from reelwatch.rules.wording import short_name
from reelwatch.storage import db, forecasts, job_models
from reelwatch.storage.models import Account, Delivery, Heartbeat, Job
from tests import seeding
from tests.processes import eventually
from tests.test_page import SECRET_HOOK, job_of, seen
from tests.web import Web

Row = dict[str, Any]


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


def test_the_last_429_is_the_last_that_was_noted_and_a_resume_forgets_it(
    web: Web, url: str
) -> None:
    job_of(url)
    with db.transaction(url) as session:
        session.get_one(Account, "default").limited_at = db.now(session)
    assert "Last 429 noted now" in seen(web, "/accounts")
    pausing.resume_account("default")
    assert "Last 429 noted none noted" in seen(web, "/accounts?resumed")
    assert "a resume forgets it" in web.get("/accounts").text


def times_of(web: Web, job: Row, query: str) -> tuple[str, str]:
    """What the list calls the time of a job, and the word before the exact one."""
    row = web.get(f"/jobs?{query}").text.split(f'<tr id="job-{job["id"]}">')[1]
    [found] = re.findall(r'data-name="(\w+)" title="(\w+) ', row.split("</tr>")[0])
    return found[0], found[1]


def test_an_open_job_of_a_paused_account_has_an_age_and_no_end(web: Web, url: str) -> None:
    is_open, ended = job_of(url), job_of(url, "completed")
    for query in ("open", "paused"):
        assert times_of(web, is_open, query) == ("age", "tracked")
        assert times_of(web, ended, query) == ("took", "ended")
        pausing.pause_account("default")


def test_whoever_looks_first_sees_the_events_that_an_order_is_about(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        seeding.add_owed(session, state="dead", next_attempt_at=None)
    page = web.get("/deliveries/redeliver?since=1h").text
    assert 'href="/deliveries?state=dead&amp;since=1h">Look at them first' in page
    assert 'action="/deliveries/redeliver/all?since=1h"' in page


def test_that_an_account_rested_is_told_as_past_and_its_event_says_what_was_so(
    web: Web, url: str
) -> None:
    """Somebody reads the page when the account has long been resumed."""
    job = job_of(url, callback_task="shop.done", next_poll_at=seeding.at(minutes=5))
    pausing.pause_account("default")
    watching.watch(settings.current())
    pausing.resume_account("default")
    with db.reading(url) as session:
        body = session.scalars(Delivery.__table__.select().with_only_columns(Delivery.body)).one()
        assert session.get_one(Job, job["id"]).state == "expired"
    assert "its account rests, by hand" in body
    for path, events in ((f"/jobs/{job['id']}", 1), ("/jobs", 0)):
        page = seen(web, path)
        assert ": its account rested then, by hand" in page
        assert page.count("its account rests") == events  # as it was sent


def offered(web: Web, query: str = "") -> list[str]:
    form = web.get(f"/jobs{query}").text.split('<select name="model">')[1].split("</select>")[0]
    return re.findall(r"<option>([^<]+)", form)


def test_the_models_that_jobs_have_are_offered_whether_or_not_they_were_learned(
    web: Web, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_models, "NEWEST", 2)
    for model in ("b", "a", "b", None, ""):
        job_of(url, "completed", model=model, tracked_at=seeding.at(days=1))
    with db.transaction(url) as session:
        seeding.add_account(session, "other")
        seeding.add_job(
            session, "failed", account="other", model="c", tracked_at=seeding.at(days=1)
        )
    job_of(url, model="grok")
    assert offered(web) == ["a", "b", "c", "grok"]
    page = seen(web, "/jobs?model=no")
    assert "known: a , b , c , grok" in page


def test_of_very_many_models_some_are_offered(
    web: Web, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most in (("NEWEST", 1), ("OF_ACCOUNT_MOST", 3), ("WALKED_MOST", 4)):
        monkeypatch.setattr(job_models, name, most)
    for model in "abcdef":
        job_of(url, "completed", model=model, tracked_at=seeding.at(days=1))
    assert offered(web) == ["a", "b", "c", "f"]


def test_signed_urls_stand_in_no_folded_part_of_a_job_until_asked_for(web: Web, url: str) -> None:
    """What upstream said, what changed in it, what is sent and was answered, and metadata."""
    signed = [f"https://cdn.example.net/v.mp4?it's=s1gned{number}" for number in range(2)]
    said = {"status": "failed", "error": {"message": f"no such file {SECRET_HOOK}"}}
    metadata = {"from": [signed[1].replace("https", "HTTPS")]}
    job = job_of(url, "completed", video_url=signed[1], metadata_=metadata)
    with db.transaction(url) as session:
        for number, given in enumerate(signed):
            step = seeding.add_transition(
                session, job, sequence=number + 1, from_state="running", to_state="completed",
                answer=said | {"video_url": given},
            )  # fmt: skip
        body = json.dumps({"type": "video.completed", "data": {"video_url": signed[1]}})
        event = seeding.add_delivery(session, job, step, target=SECRET_HOOK, body=body)
        seeding.add_attempt(session, event, response_excerpt=f"got {SECRET_HOOK}&v=s1gned1")
    path = f"/jobs/{job['id']}"
    page = web.get(path).text
    assert "s1gned" not in page
    assert "s3cret" not in page
    assert page.count(f"cdn.example.net/…{short_name(signed[1])[-4:]}") >= 4
    assert "1 change against" in page
    whole = web.get(f"{path}?show=url").text
    assert whole.count("s1gned1") >= 5


def test_what_a_finished_video_without_a_url_waits_for_is_told(web: Web, url: str) -> None:
    """And that it is under way: for a part of that time it waited to begin."""
    with db.reading(url) as session:
        since = db.now(session)
    until = since + timedelta(seconds=settings.handing_in().result_grace)
    job = job_of(url, upstream_status="completed", resultless_count=2, resultless_since=since)
    said = seen(web, f"/jobs/{job['id']}")
    assert "Under way for" in said
    assert "Running for" not in said
    told = f"shows no video URL yet: one is looked for until {until:%H:%M:%S} UTC"
    assert told in said
    other = job_of(url)
    with db.reading(url) as session:
        assert told in forecasts.awaited(session, job)
        assert forecasts.awaited(session, other) == ""


def test_an_attempt_that_never_connected_is_not_shown_as_sent(web: Web, url: str) -> None:
    """Of one that hung nobody knows."""
    with db.transaction(url) as session:
        seeding.add_account(session)
        event = seeding.add_owed(session, state="dead", next_attempt_at=None)
        for error in ("no connection to a.example port 443: refused", "no complete answer in 10 s"):
            seeding.add_attempt(session, event, error=error, http_status=None)
        seeding.add_attempt(session, event, error="503 no", http_status=503)
    page = web.get(f"/jobs/{event['job_id']}").text
    for told in ("Nothing was sent; it would have been", "Perhaps sent", "Sent"):
        assert page.count(f"<h4>{told}</h4>") == 1
