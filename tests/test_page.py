"""The pages as they are served: what stands on them, what does not, and what forms do."""

import asyncio
import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from reelwatch.cli.checks import of_work
from reelwatch.config import settings
from reelwatch.jobs import pausing, watching
from reelwatch.rules.breaker import Verdict
from reelwatch.rules.metrics import POLLS, Tally
from reelwatch.storage import counters, db, destinations, surveys
from reelwatch.storage.destinations import Call
from reelwatch.storage.models import Account, Delivery, Endpoint, Heartbeat, Job, RedeliveryOrder
from reelwatch.web.pages.watching import Watcher
from reelwatch.web.pages.words import NOTHING, named
from tests import scenes, seeding
from tests.processes import eventually
from tests.web import TOKENS, Web

PAGES = ("/", "/jobs", "/deliveries", "/endpoints", "/accounts", "/models", "/search?q=nothing")
NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
SECRET_HOOK = "https://hooks.example.com/in?token=s3cret-token"


def fill(url: str, scene: Callable[[Session], None]) -> None:
    with db.transaction(url) as session:
        scene(session)


def seen(web: Web, path: str, status: int = 200) -> str:
    """What people read of a page."""
    answer = web.get(path)
    assert answer.status_code == status, answer.text
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text)))


def job_of(url: str, state: str = "running", **columns: Any) -> dict[str, Any]:
    with db.transaction(url) as session:
        session.merge(Account(name="default", requests_per_second=5.0))
        session.flush()
        return seeding.add_job(session, state, **columns)


@pytest.fixture
def owed(url: str) -> dict[str, Any]:
    """A dead event."""
    with db.transaction(url) as session:
        return seeding.add_owed(session, SECRET_HOOK, state="dead", next_attempt_at=None)


@pytest.mark.parametrize("scene", scenes.NAMES)
def test_every_page_can_be_read_whatever_there_is(web: Web, url: str, scene: str) -> None:
    fill(url, scenes.SCENES[scene])
    for path in PAGES:
        assert web.get(path).status_code == 200, path


@pytest.mark.parametrize("path", ["/", "/accounts"])
def test_a_slowed_account_says_when_the_first_429_came(web: Web, url: str, path: str) -> None:
    fill(url, scenes.bad)
    said = "Account tenant-a is slowed to 0.8/s by upstream's 429s; the first came 41m"
    assert said in seen(web, path)


def test_nothing_is_inline_and_nothing_comes_from_elsewhere(web: Web, url: str) -> None:
    """What the policy would refuse is not there to be refused."""
    fill(url, scenes.bad)
    for path in (*PAGES, "/jobs/1", "/jobs/1?show=video&show=url&show=receiver"):
        answer = web.get(path)
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", answer.text)
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", answer.text))
        linked = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]*)"', answer.text)
        assert linked
        assert all(each.startswith("/assets/") for each in linked)


def test_a_page_plays_what_comes_from_elsewhere_only_when_it_is_asked_to(
    web: Web, url: str
) -> None:
    path = f"/jobs/{job_of(url, 'completed')['id']}"
    for query, media in (("", "'none'"), ("?show=url", "'none'"), ("?show=video", "http: https:")):
        policy = web.get(f"{path}{query}").headers["content-security-policy"]
        assert f"media-src {media};" in policy


def test_assets_are_kept_for_ever_and_packed(web: Web) -> None:
    page = web.get("/").text
    for address in sorted(set(re.findall(r'"(/assets/[^"]+)"', page))):
        answer = web.get(address, headers={"Accept-Encoding": "gzip"})
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["content-encoding"] == "gzip"
        plain = web.get(address, headers={"Accept-Encoding": "gzip;q=0"})
        assert "content-encoding" not in plain.headers
        assert plain.content == answer.content
    assert web.get("/assets/page.000000000000.css").status_code == 404


def test_what_foreigners_wrote_is_shown_as_text(web: Web, url: str) -> None:
    job = job_of(
        url,
        "failed",
        video_id=f"grok:{NASTY}",
        model=NASTY,
        upstream_status=NASTY,
        error_message=NASTY,
        error_request_id=NASTY,
        metadata={"note": NASTY},
    )
    with db.transaction(url) as session:
        step = seeding.add_transition(session, job, to_state="failed", answer={NASTY: NASTY})
        event = seeding.add_delivery(session, job, step, body=NASTY)
        seeding.add_attempt(session, event, error=NASTY, response_excerpt=NASTY)
        seeding.add_error(session, job, message=NASTY, request_id=NASTY)
    for path in ("/", "/jobs", f"/jobs/{job['id']}", "/deliveries", "/search?q=" + NASTY):
        page = web.get(path).text
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "&lt;script&gt;alert(1)" in page


def test_events_are_found_by_what_the_last_attempt_was_answered(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        for answers in ((500, 502), (502, 500), (None,), ()):
            event = seeding.add_owed(session, state="dead", next_attempt_at=None)
            for code in answers:
                seeding.add_attempt(session, event, http_status=code, error="no")
    for status, found in (("502", 1), ("500", 1), ("none", 1), ("404", 0)):
        page = web.get(f"/deliveries?status={status}").text
        assert page.count("<tr id=") == found, status


def polled(url: str, account: str, polls: int) -> None:
    tally = Tally()
    tally.count(POLLS, account, by=polls)
    with db.transaction(url) as session:
        counters.add(session, tally)


def test_now_says_how_many_polls_a_second_there_are_and_may_be(web: Web, url: str) -> None:
    """Over the time since the counters were read, or since before that, if that was just now."""
    with db.transaction(url) as session:
        now = db.now(session)
        for name in ("default", "other"):
            session.merge(Account(name=name, requests_per_second=2.5))
    assert f"{NOTHING} polls per second of 7.5 " in seen(web, "/?before")
    for name in ("default", "other"):
        polled(url, name, 5)
    watching.watch(settings.current(), now=now - timedelta(seconds=100))
    for name in ("default", "other"):
        polled(url, name, 120)
    assert re.search(r" 2\.[34] polls per second of 7.5 ", seen(web, "/?old"))
    watching.watch(settings.current(), now=now)
    assert re.search(r" 2\.[34] polls per second of 7.5 ", seen(web, "/?young"))


def test_urls_that_hold_secrets_are_shown_by_host_until_asked_for(web: Web, url: str) -> None:
    signed = "https://cdn.example.net/v.mp4?Signature=s1gned"
    job = job_of(url, "completed", video_url=signed, webhook_url=SECRET_HOOK)
    with db.transaction(url) as session:
        step = seeding.add_transition(session, job, from_state="running", to_state="completed")
        seeding.add_delivery(session, job, step, target=SECRET_HOOK)
    path = f"/jobs/{job['id']}"
    for page in (web.get(path).text, web.get("/deliveries").text, web.get("/endpoints").text):
        assert "s3cret" not in page
        assert "s1gned" not in page
    assert "cdn.example.net" in web.get(path).text
    assert "hooks.example.com" in web.get(path).text
    assert "s1gned" in web.get(f"{path}?show=url").text
    assert "s3cret" in web.get(f"{path}?show=receiver").text
    playing = web.get(f"{path}?show=video")
    assert "<video" in playing.text
    assert "media-src http: https:" in playing.headers["content-security-policy"]


SECRET_PATH = "https://hooks.example.com/services/T0/s3cretPath"


def test_no_page_holds_the_path_of_a_callback_url_unless_it_is_asked_for(
    web: Web, url: str
) -> None:
    """In no sentence, title or link; two URLs of one host are told apart by a mark."""
    other = SECRET_PATH + "Other?x=1"
    with db.transaction(url) as session:
        rest = db.now(session) + timedelta(minutes=5)
        seeding.add(session, Heartbeat, {"name": "tick", "at": db.now(session)})
        for target in (SECRET_PATH, other):
            owed = seeding.add_owed(session, target, failures=1, attempts=1)
            seeding.add_attempt(session, owed, error=f"503 from {target}", http_status=503)
            row = {"name": target, "host": owed["destination"], "failures": 7, "openings": 1}
            row |= {"allowance": 1, "open_until": rest, "changed_at": db.now(session)}
            seeding.add(session, Endpoint, row)
    job = job_of(url, webhook_url=SECRET_PATH)
    with db.reading(url) as session:
        numbers = [number for (number,) in session.query(Job.id)]
    assert job["id"] in numbers
    linked = re.findall(r'href="(/deliveries\?[^"]+)"', web.get("/endpoints").text)
    assert linked
    asking = [unescape(link).replace("?", "/redeliver?") for link in linked]
    for path in (*PAGES, *map(unescape, linked), *asking, *(f"/jobs/{each}" for each in numbers)):
        assert "s3cret" not in web.get(path).text, path
    marks = set(re.findall(r"hooks\.example\.com/…[0-9a-f]{4}", seen(web, "/endpoints")))
    assert len(marks) == 2
    assert len(re.findall('<tr id="evt_', web.get(unescape(linked[0])).text)) == 1


def test_an_endpoint_that_fails_tells_what_it_answered_and_since_when(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        now = db.now(session)
        owed = seeding.add_owed(session, SECRET_HOOK, failures=3, attempts=3)
        for minutes, status in ((90, 404), (7, 500), (2, 503)):
            at = now - timedelta(minutes=minutes, seconds=30)
            seeding.add_attempt(session, owed, at=at, error=f"HTTP {status}", http_status=status)
        row = {"name": SECRET_HOOK, "host": owed["destination"], "failures": 2, "openings": 1}
        row |= {"allowance": 1, "open_until": now + timedelta(minutes=5), "changed_at": now}
        row["failing_since"] = now - timedelta(minutes=90, seconds=30)
        seeding.add(session, Endpoint, row)
    for path in ("/", "/endpoints"):
        page = seen(web, path)
        assert "Its last answer: HTTP 503." in page
        assert re.search(r"That began 1h30m ago", page), page
        assert "taken nothing since" in page
        assert re.search(r"It is tried again in [45]m", page)
    assert "1 event waits for it" in seen(web, "/")


def test_an_endpoint_that_refuses_says_so_in_the_same_words_everywhere(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        now = db.now(session)
        owed = seeding.add_owed(session, SECRET_HOOK, failures=2, attempts=2)
        for minutes in (42, 2):
            at = now - timedelta(minutes=minutes, seconds=30)
            seeding.add_attempt(session, owed, at=at, error="HTTP 401", http_status=401)
        refuses = {"failures": 0, "openings": 0, "allowance": 1, "open_until": None}
        row = {"name": SECRET_HOOK, "host": owed["destination"], **refuses}
        row["changed_at"] = row["failing_since"] = now - timedelta(minutes=42)
        seeding.add(session, Endpoint, row)
        recovers = seeding.add_owed(session, "https://recovers.example/")
        row |= {"name": recovers["target"], "host": recovers["destination"], "changed_at": now}
        seeding.add(session, Endpoint, row)
    for path in ("/", "/endpoints"):
        page = seen(web, path)
        assert "refuses events with 401" in page
        assert re.search(r"That began 42m\d\ds ago", page), page
        assert "Its last answer: HTTP 401." in page
        assert "Does it verify with the secret that signs here?" in page
    assert "1 event waits for it." in seen(web, "/")
    assert "takes what it is sent" in page  # the one that recovers


def test_an_endpoint_whose_events_are_dead_is_not_well_until_it_takes_one(
    web: Web, url: str
) -> None:
    """What it refused is not owed any more: so nothing speaks of it but the dead events."""

    def call(verdict: Verdict, minutes: int = 0) -> None:
        with db.transaction(url) as session:
            now = db.now(session)
            began = now - timedelta(minutes=minutes)
            judged = Call(dead["destination"], SECRET_HOOK, verdict, True, began)
            destinations.judge(session, [judged], now)

    with db.transaction(url) as session:
        dead = seeding.add_owed(session, SECRET_HOOK, state="dead", next_attempt_at=None)
        seeding.add_attempt(session, dead, error="HTTP 404", http_status=404)
        untold = seeding.add_owed(session, "https://other.example/", state="dead",
                                  next_attempt_at=None)  # fmt: skip
    call(Verdict.REFUSED, minutes=20)
    call(Verdict.REFUSED)
    for path in ("/", "/endpoints"):
        page = seen(web, path)
        assert "refuses events with 404" in page
        assert re.search(r"That began 20m\d\ds ago", page), page
        assert "Its last answer: HTTP 404." in page
    page = seen(web, "/")
    assert "0 events wait for it, 1 dead. Is the path of its URL right?" in page
    assert "Every endpoint" not in page
    hook, other = (named(row["target"]) for row in (dead, untold))
    assert re.search(rf"2 events are dead: 1 for ({hook}|{other}), 1 for ({hook}|{other})\.", page)
    call(Verdict.ACCEPTED)
    assert "Every endpoint takes what it is sent." in seen(web, "/?again=1")
    assert "refuses" not in seen(web, "/endpoints?again=1")


def test_workers_that_do_without_ticks_are_not_called_idle(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        seeding.add(session, Heartbeat, {"name": "watch", "at": db.now(session)})
    page = seen(web, "/")
    assert "Workers run, without ticks: no tick has come so far: workers poll and deliver" in page
    assert "Nothing is polled" not in page


def test_an_odd_answer_that_went_by_itself_needs_nobody(web: Web, url: str) -> None:
    """What goes on, or is about the account, does."""
    ahead: dict[str, Any] = {"deadline_at": seeding.at(hours=-1)}
    since: dict[str, Any] = {"last_error": "not_json", "errors_since": seeding.at()}
    jobs = [job_of(url, **ahead), job_of(url, **ahead)]
    with db.transaction(url) as session:
        now = db.now(session)
        seeding.add(session, Heartbeat, {"name": "tick", "at": now})
        session.execute(update(Job).values(next_poll_at=now + timedelta(minutes=1)))
        seeding.add_error(session, jobs[0], kind="not_json", first_at=now, last_at=now)
    page = seen(web, "/")
    assert "All is well" in page
    assert "not_json: the answer was no JSON, in polls of 1 job" in page
    with db.transaction(url) as session:
        error = seeding.add_error(session, jobs[1], kind="not_json", first_at=now, last_at=now)
        named = update(Job).where(Job.id == jobs[1]["id"])
        session.execute(named.values(errors_in_row=3, last_error_id=error["id"], **since))
    page = seen(web, "/?again=1")  # a reading is shared for two seconds
    assert "One thing needs a look" in page
    assert "in polls of 2 jobs within 10 minutes; 1 job has it now." in page


def test_how_long_its_url_works_stands_beside_the_video(web: Web, url: str) -> None:
    with db.reading(url) as session:
        end = int((db.now(session) + timedelta(hours=2)).timestamp())
    job = job_of(url, "completed", video_url=f"https://cdn.example.net/v.mp4?Expires={end}")
    assert "its URL stops working in" in seen(web, f"/jobs/{job['id']}")


def test_a_job_tells_what_happened_to_it_and_why(web: Web, url: str) -> None:
    job = job_of(url, "failed", error_code="content_policy", error_message="may violate")
    page = seen(web, f"/jobs/{job['id']}")
    assert "Failed. It took 2m00s until it was noticed." in page
    assert "content_policy: may violate" in page


def test_a_job_that_was_told_late_says_how_late(web: Web, url: str) -> None:
    end = seeding.at(minutes=20)
    with db.transaction(url) as session:
        seeding.add_account(session)
        ended = {"finished_at": end, "upstream_finished_at": end - timedelta(seconds=4)}
        done = seeding.add_job(session, "completed", tracked_at=seeding.at(minutes=30), **ended)
        step = seeding.add_transition(session, done, to_state="completed", at=end)
        event = seeding.add_delivery(session, done, step, attempts=3)
        for minutes, error in ((19, "no connection"), (12, "no connection"), (6, None)):
            seeding.add_attempt(session, event, at=seeding.at(minutes=minutes), error=error)
    page = seen(web, f"/jobs/{done['id']}")
    assert re.search(r"has video.completed, told 14m0\ds after its end, at attempt 3", page)


def test_nobody_is_told_of_a_cancellation(web: Web, url: str) -> None:
    job = job_of(url, "cancelled", webhook_url="https://h.example.com/x")
    page = seen(web, f"/jobs/{job['id']}")
    assert "Nobody is told of a cancellation." in page
    assert "Nobody was to be told" not in page


def test_the_tab_of_a_job_bears_its_id(web: Web, url: str) -> None:
    job = job_of(url)
    page = web.get(f"/jobs/{job['id']}").text
    assert f"<title>{job['video_id']} · Reelwatch</title>" in page


def test_what_goes_on_is_shown_as_a_time_that_counts(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        seeding.add(session, Heartbeat, {"name": "tick", "at": seeding.at()})
    job = job_of(url, "running", tracked_at=seeding.at(minutes=11), next_poll_at=seeding.at())
    page = web.get(f"/jobs/{job['id']}").text
    assert "No estimate yet: 0 of 5 jobs of this model at this account have ended." in page
    assert re.search(r'Under way for <time [^>]*data-count="up">11m0\ds</time>\.', page)
    assert re.search(r'Next poll: <time [^>]*data-count="soon">now</time>\.', page)


def test_what_a_list_expects_is_told_anew_as_time_passes(web: Web) -> None:
    """A hold that ends by itself, and a remaining time, change though no row does."""
    topics = re.search(r'data-topics="([^"]*)"', web.get("/jobs").text)
    assert topics
    assert "time" in topics[1].split(",")


def test_how_long_a_job_took_is_one_thing_on_every_page_and_in_the_api(web: Web, url: str) -> None:
    with db.reading(url) as session:
        noticed = db.now(session)
    ended = noticed - timedelta(seconds=30)
    job = job_of(
        url, "completed", upstream_created_at=ended - timedelta(minutes=5), finished_at=noticed,
        upstream_finished_at=ended, tracked_at=ended - timedelta(minutes=4),
    )  # fmt: skip
    assert "Completed. It took 5m00s, noticed 30s later." in seen(web, f"/jobs/{job['id']}")
    assert " 5m00s " in seen(web, "/jobs")
    assert web.get(f"/api/v1/jobs/{job['id']}").json()["job"]["duration_seconds"] == 300.0


def test_an_answer_is_shown_by_what_it_changed(web: Web, url: str) -> None:
    job = job_of(url)
    with db.transaction(url) as session:
        seeding.add_transition(session, job, sequence=1, answer={"status": "queued", "id": 7})
        seeding.add_transition(session, job, sequence=2, answer={"status": "going", "id": 7})
    assert "status queued going" in seen(web, f"/jobs/{job['id']}").replace('"', "")


@pytest.mark.parametrize("path", ["/jobs", "/deliveries"])
def test_a_list_goes_on_page_by_page_until_its_end(web: Web, url: str, path: str) -> None:
    fill(url, scenes.quiet)
    found: list[str] = []
    ours: str | None = path
    while ours:
        page = web.get(ours).text
        found += re.findall(r'<tr id="([^"]+)"', page)
        older = re.search(r'rel="next" href="([^"]+)"', page)
        ours = unescape(older[1]) if older else None
    assert len(found) == len(set(found))
    assert len(found) == (scenes.ENDED + 14 if path == "/jobs" else scenes.ENDED)


FILTERS = {
    "/jobs?state=open": 14,
    "/jobs?state=running": 14,
    "/jobs?state=cancelled": 0,
    "/jobs?metadata=tenant=acme&state=open": 14,
    "/jobs?metadata=tenant=other": 0,
    "/jobs?account=studio": 0,
    "/jobs?model=unknown": 0,
    "/deliveries?state=dead": 0,
    "/deliveries?endpoint=nobody.example": 0,
}


def test_filters_leave_what_they_say(web: Web, url: str) -> None:
    fill(url, scenes.quiet)
    for path, count in FILTERS.items():
        assert len(re.findall('<tr id="', web.get(path).text)) == count, path
    failed = web.get("/jobs?error=content_policy").text
    rows = re.findall(r'<tr id="job-\d+">.*?</tr>', failed, re.S)
    assert rows
    assert all("content_policy" in row for row in rows)


@pytest.mark.parametrize("number", ["%C2%B2", "0", "-1", "9" * 20, "9" * 5_000, "x", "%D9%A3"])
def test_a_number_that_no_row_has_is_of_nothing(web: Web, number: str) -> None:
    assert web.get(f"/jobs?ids={number}").status_code == 200
    assert web.get(f"/deliveries?ids={number}").status_code == 200
    for path in (f"/jobs/{number}", f"/redeliveries/{number}"):
        assert web.get(path).status_code == 404, path
    for path in (f"/jobs?before=2026-02-06T00:00:00Z,{number}", f"/deliveries?status={number}"):
        assert web.get(path).status_code in (200, 422), path
    for path in (f"/jobs/{number}/cancel", f"/jobs/{number}/recheck"):
        assert web.post(path).status_code in (404, 422), path
    for path in (
        "jobs/{}",
        "redeliveries/{}",
        "deliveries/{}",
        "deliveries?job={}",
        "actions?before={}",
        "events?after={}",
        "jobs?cursor={}",
        "jobs?limit={}",
    ):
        assert web.get(f"/api/v1/{path.format(number)}").status_code in (200, 404, 422), path


@pytest.mark.parametrize(
    "path",
    [
        "/jobs?since=soon",
        "/jobs?metadata=x",
        "/jobs?state=odd",
        "/jobs?error=odd",
        "/deliveries?status=five",
    ],
)
def test_a_filter_that_can_not_be_is_refused_on_the_page(web: Web, path: str) -> None:
    assert "accepted" in seen(web, path)


UNKNOWN = {
    "/jobs?account=nope": ("No account “nope” is known; known: default", "/jobs?account=default"),
    "/jobs?model=nope&state=open": ("No model “nope” is known; known: ", "/jobs?model=veo3.1-fast"),
    "/deliveries?account=nope": ("No account “nope” is known; known: default", "/deliveries"),
    "/deliveries?endpoint=nope.example": ("No event goes to “nope.example”", "/deliveries"),
}


@pytest.mark.parametrize("path", UNKNOWN)
def test_a_name_that_nothing_goes_by_is_named_beside_those_that_are_known(
    web: Web, url: str, path: str
) -> None:
    """It does not pass for a list that happens to be empty."""
    fill(url, scenes.quiet)
    said, link = UNKNOWN[path]
    assert said in seen(web, path)
    assert f'<a href="{link}">' in web.get(path).text
    assert "No job matches." not in web.get(path).text


def test_a_known_name_that_nothing_has_so_far_is_no_mistake(web: Web) -> None:
    """An account that is configured and has no row, since nothing was handed in for it."""
    assert "No job matches." in seen(web, "/jobs?account=default")
    assert "No event matches." in seen(web, "/deliveries?account=default")


def test_a_list_that_is_shown_again_has_the_same_rows_in_the_same_order(web: Web, url: str) -> None:
    """A row that has left the filter meanwhile, and jobs that came, move nothing."""
    jobs = [job_of(url) for _ in range(3)]
    ids = ",".join(str(job["id"]) for job in reversed(jobs))
    with db.transaction(url) as session:
        seeding.add_job(session, "running", tracked_at=db.now(session))
        gone = session.get_one(Job, jobs[1]["id"])
        gone.state, gone.finished_at, gone.next_poll_at = "cancelled", gone.tracked_at, None
    page = web.get(f"/jobs?state=open&ids={ids}").text
    assert re.findall(r'<tr id="job-(\d+)"', page) == ids.split(",")
    assert "Newer jobs are there" in page
    assert "cancelled" in page


# ------------------------------------------------------------------- search


def test_the_search_finds_a_job_by_whatever_one_has_in_hand(web: Web, url: str) -> None:
    wanted = job_of(
        url, "failed", error_request_id="req-77", metadata={"order": 4711, "who": "Ann B"}
    )
    going = job_of(url, metadata={"ticket": "T-9"})
    job_of(url, metadata={"order": 4712})
    with db.transaction(url) as session:
        step = seeding.add_transition(session, wanted, to_state="failed")
        event = seeding.add_delivery(session, wanted, step)
        seeding.add_error(session, going, request_id="req-78")
    cases = {
        event["id"]: wanted,
        "req-77": wanted,
        "req-78": going,
        "4711": wanted,
        "Ann B": wanted,
        "T-9": going,
    }
    for asked, job in cases.items():
        page = web.get(f"/search?q={asked}").text
        assert re.findall(r'href="/jobs/(\d+)"', page) == [str(job["id"])], asked
    assert "Nothing." in seen(web, '/search?q=" || true')


def test_a_video_id_leads_to_the_job_itself_unless_several_accounts_have_it(
    web: Web, url: str
) -> None:
    job = job_of(url, video_id="grok:twin")
    answer = web.get("/search?q=grok:twin")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job['id']}")
    with db.transaction(url) as session:
        seeding.add_account(session, "studio")
        seeding.add_job(session, account="studio", video_id="grok:twin")
    assert web.get("/search?q=grok:twin").text.count('<th scope="row" class="video">') == 2


# ------------------------------------------------------------------ actions


def test_all_that_match_are_sent_again_and_the_page_tells_how_far_it_is(
    web: Web, url: str, owed: Any
) -> None:
    asked = f"state=dead&endpoint={owed['id']}"
    hook = named(SECRET_HOOK)
    page = seen(web, f"/deliveries/redeliver?{asked}")
    assert f"All dead events that go to {hook} are sent again" in page
    assert re.search(rf"1 event ?, made .*: 1 for {hook} ?\.", page), page
    answer = web.post(f"/deliveries/redeliver/all?{asked}")
    assert answer.status_code == 303
    order = answer.headers["location"]
    eventually(lambda: "1 of 1 event is owed again" in seen(web, order), 20.0)
    assert "Ordered without a token, from this machine" in seen(web, order)
    assert f'href="/deliveries?state=delivered&amp;endpoint={owed["id"]}"' in web.get(order).text
    assert "s3cret" not in web.get(order).text
    with db.reading(url) as session:
        assert session.get_one(Delivery, owed["id"]).state == "pending"


def test_an_order_says_at_least_how_many_it_is_about_where_they_are_many(
    web: Web, url: str, owed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveys, "PAGE", 2)
    with db.transaction(url) as session:
        for _ in range(2):
            seeding.add_owed(session, SECRET_HOOK, state="dead", next_attempt_at=None)
    assert "At least 2 events" in seen(web, "/deliveries/redeliver?state=dead")
    assert "there is none" in seen(web, "/deliveries/redeliver?state=dead&account=other")
    assert "<button>Send them" not in web.get("/deliveries/redeliver?account=other").text


@pytest.mark.parametrize("asked", ["state=dead&status=404", "state=dead&endpiont=h"])
def test_an_order_refuses_what_it_would_not_heed(web: Web, url: str, owed: Any, asked: str) -> None:
    """Else it would be about more events than were meant."""
    name = asked.split("&")[1].split("=", maxsplit=1)[0]
    said = f"{name.capitalize()}: an order chooses events by state, endpoint, since, account alone"
    browser = {"Accept": "text/html"}
    for method, path in (("GET", "redeliver"), ("POST", "redeliver/all")):
        answer = web.ask(method, f"/deliveries/{path}?{asked}", headers=browser)
        assert answer.status_code == 422
        assert said in unescape(answer.text)
    with db.reading(url) as session:
        assert session.get_one(Delivery, owed["id"]).state == "dead"
        assert session.scalars(select(RedeliveryOrder)).all() == []


def test_a_dead_event_is_sent_again_from_the_page_of_its_job(web: Web, url: str, owed: Any) -> None:
    answer = web.post(f"/deliveries/{owed['id']}/redeliver")
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/jobs/{owed['job_id']}#{owed['id']}"
    with db.reading(url) as session:
        assert session.get_one(Delivery, owed["id"]).state == "pending"


def test_the_selected_events_are_sent_again(web: Web, url: str, owed: Any) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with db.transaction(url) as session:
        other = seeding.add_owed(session, SECRET_HOOK, state="dead", next_attempt_at=None)
    chosen = f"event={owed['id']}&event={other['id']}"
    answer = web.ask("POST", "/deliveries/redeliver", data=chosen, headers=form)
    assert answer.status_code == 303
    assert "2 events will be sent again" in seen(web, answer.headers["location"])
    filtered = "/deliveries/redeliver?state=pending&status=500"
    for sent, said in (
        (f"event={owed['id']}", "✓ 1 event will be"),
        ("", "! Nothing was selected"),
    ):
        answer = web.ask("POST", filtered, data=sent, headers=form)
        there = answer.headers["location"]
        assert there.startswith("/deliveries?state=pending&status=500&sent=")
        assert said in seen(web, there)
    with db.reading(url) as session:
        states = [session.get_one(Delivery, each["id"]).state for each in (owed, other)]
    assert states == ["pending", "pending"]


@pytest.mark.parametrize("selected", [True, False])
def test_whoever_sends_again_from_a_page_has_the_endpoint_called_at_once(
    web: Web, url: str, owed: Any, selected: bool
) -> None:
    """What was read a moment ago is not shown again."""
    with db.transaction(url) as session:
        standing = {"failures": 9, "openings": 1, "allowance": 1, "changed_at": db.now(session)}
        rest = seeding.at(minutes=-10)
        name, host = owed["target"], owed["destination"]
        session.add(Endpoint(name=name, host=host, open_until=rest, **standing))
    before = seen(web, "/endpoints")
    assert "9" in before
    if selected:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        web.ask("POST", "/deliveries/redeliver", data=f"event={owed['id']}", headers=form)
    else:
        web.post(f"/deliveries/{owed['id']}/redeliver")
    with db.reading(url) as session:
        until = session.get_one(Endpoint, owed["target"]).open_until
        assert until is not None
        assert until <= db.now(session)
    assert seen(web, "/endpoints") != before


def test_a_job_is_cancelled_and_taken_up_again(web: Web, url: str) -> None:
    job = job_of(url)
    for action, state in (("cancel", "cancelled"), ("recheck", "pending")):
        assert web.post(f"/jobs/{job['id']}/{action}").status_code == 303
        with db.reading(url) as session:
            assert session.get_one(Job, job["id"]).state == state
    page = seen(web, f"/jobs/{job['id']}")
    assert "cancelled by local: not tracked any more" in page
    assert "taken up again by local: pending" in page
    assert " cancel by" not in page
    web.post(f"/jobs/{job['id']}/recheck")
    assert "poll it now: asked by local" in seen(web, f"/jobs/{job['id']}")


def test_a_button_that_came_too_late_says_that_nothing_was_changed(web: Web, url: str) -> None:
    """On a page that was opened while the job went on."""
    job = job_of(url, "completed")
    for action in ("cancel", "recheck"):
        answer = web.post(f"/jobs/{job['id']}/{action}")
        assert answer.status_code == 422
        assert "nothing was changed: the job has ended, completed" in answer.text


def test_another_url_is_told_from_now_on_unless_it_is_refused(web: Web, url: str) -> None:
    job = job_of(url)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    to = f"/jobs/{job['id']}/update"
    good = web.ask("POST", to, data="webhook_url=https%3A%2F%2Fnew.example.com%2Fin", headers=form)
    assert good.status_code == 303
    bad = web.ask("POST", to, data="webhook_url=ftp%3A%2F%2Fx", headers=form)
    assert bad.status_code == 422
    assert 'role="alert"' in bad.text
    with db.reading(url) as session:
        assert session.get_one(Job, job["id"]).webhook_url == "https://new.example.com/in"


def test_an_account_is_paused_with_a_reason_and_resumed(web: Web, url: str) -> None:
    job = job_of(url)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert "Poll it now" in seen(web, f"/jobs/{job['id']}")
    web.ask("POST", "/accounts/default/pause", data="reason=bill+unpaid", headers=form)
    assert "Poll it when the account default is resumed" in seen(web, f"/jobs/{job['id']}")
    page = seen(web, "/accounts")
    assert "Account default is paused by hand. That began " in page
    assert "Account default is paused by hand. That began " in seen(web, "/")
    assert "bill unpaid" in page
    assert "Paused by local." in page
    web.post("/accounts/default/resume")
    assert "Account default is paused" not in seen(web, "/accounts")
    web.ask("POST", "/accounts/default/pause", data=f"reason={'x' * 300}", headers=form)
    assert re.search(r"(?<!x)x{200}(?!x)", seen(web, "/accounts"))


def test_the_rate_of_a_slowed_account_is_the_same_wherever_it_is_read(
    web: Web, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_of(url)
    with db.transaction(url) as session:
        now = db.now(session)
        row = session.get_one(Account, "default")
        row.requests_per_second, row.slowed_at = 0.25, now - timedelta(seconds=40)
    monkeypatch.setattr(db, "now", lambda _: now)
    [told] = web.get("/api/v1/accounts").json()["accounts"]
    rate = told["requests_per_second"]
    assert 0.25 < rate < 5.0
    page = seen(web, "/accounts")
    assert f"is slowed to {rate:.3g}/s" in page
    assert f"Rate in force {rate:.3g}/s" in page
    assert f"is slowed to {rate:.3g}/s" in seen(web, "/")
    assert f'requests_per_second{{account="default"}} {rate:.3g}' in web.get("/metrics").text


def test_polls_of_an_account_that_rests_are_not_late(web: Web, url: str) -> None:
    job_of(url, next_poll_at=seeding.at(minutes=2))
    with db.transaction(url) as session:
        for name in ("rests", "held"):
            seeding.add_account(session, name)
            for _ in range(3):
                seeding.add_job(session, account=name, next_poll_at=seeding.at(minutes=2))
        session.get_one(Account, "rests").pause_reason = "by hand"
        session.get_one(Account, "held").slowed_at = seeding.at(seconds=-60)
    page = seen(web, "/")
    assert "1 poll is late, due for more than a minute." in page
    assert "More workers, or a higher request rate?" in page
    assert "1 due now 1 late" in page
    assert "of 5 that 1 of 3 accounts may" in page
    page = seen(web, "/accounts")
    cards = re.findall(r"Due now (\d|none: its jobs wait)( , 1 late)?", page)
    assert cards == [("none: its jobs wait", ""), ("0", ""), ("1", " , 1 late")]
    assert re.findall("Rate in force ([^ ]+)", page) == ["none", "5/s", "5/s"]
    stats = web.get("/api/v1/stats").json()
    assert stats["due"] == 1
    with db.transaction(url) as session:
        later = {"next_poll_at": seeding.at(hours=-1)}
        session.execute(update(Job).where(Job.account == "default").values(later))
    stats = web.get("/api/v1/stats").json()
    assert (stats["due"], stats["oldest_due_at"]) == (0, None)


def test_jobs_past_their_deadline_are_told_as_by_doctor(web: Web, url: str) -> None:
    refused: dict[str, Any] = {
        "errors_in_row": 9, "last_error": "unauthorized", "errors_since": seeding.at(hours=1),
    }  # fmt: skip
    job_of(url, "expired", deadline_at=seeding.at(hours=3))
    job_of(url, "expired", deadline_at=seeding.at(hours=2), **refused)
    page = seen(web, "/")
    refusal = "upstream refused the account's key"
    said = f"2 past their deadline, the oldest for 3h00m (1: upstream names no end, 1: {refusal})"
    assert (
        f"Jobs of default: {said}; 1 with errors alone, the oldest for 1h00m ({refusal})." in page
    )
    with db.reading(url) as session:
        [check] = [each for each in of_work(session, {"dead": 0, "late": 0}, [], db.now(session))
                   if each.name == "jobs of default"]  # fmt: skip
    assert said in check.message
    assert "account=default&amp;state=expired" in web.get("/").text


def test_changes_that_are_held_stay_and_newer_ones_are_counted(web: Web, url: str) -> None:
    job = job_of(url)
    with db.transaction(url) as session:
        rows = [
            seeding.add_transition(session, job, sequence=n + 1, to_status=f"at {n} %")
            for n in range(14)
        ]
    first, *_, last = rows
    page = seen(web, f"/?ids={first['id']},{rows[1]['id']},no")
    assert "at 0 %" in page and "at 1 %" in page and "at 2 %" not in page  # noqa: PT018
    assert "12 newer: show them" in page
    page = seen(web, f"/?ids={last['id']}")
    assert "at 13 %" in page
    assert "newer" not in page
    assert "newer" not in seen(web, "/")


def test_a_job_whose_account_is_paused_leads_to_that_account(web: Web, url: str) -> None:
    job_of(url)
    with db.transaction(url) as session:
        session.get_one(Account, "default").pause_reason = "by hand: a new key"
    assert re.search(
        r'<a href="/accounts#default">account default is paused by', web.get("/jobs").text
    )


def test_models_of_the_same_name_are_told_apart_by_their_accounts(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        for name in ("default", "studio"):
            seeding.add_account(session, name)
            scenes.learned(session, "grok", [120.0] * 20, db.now(session), account=name)
    page = seen(web, "/models")
    assert "account default · learned" in page
    assert "account studio · learned" in page


def test_an_account_that_nobody_polls_is_slowed_no_longer_than_others(web: Web, url: str) -> None:
    job_of(url, next_poll_at=seeding.at(hours=-1))
    with db.transaction(url) as session:
        row = session.get_one(Account, "default")
        row.requests_per_second, row.refused_rate, row.slowed_at = 3.5, 5.0, seeding.at(hours=1)
    [told] = web.get("/api/v1/accounts").json()["accounts"]
    assert (told["requests_per_second"], told["slowed_at"]) == (5.0, None)
    assert "polls as configured" in seen(web, "/accounts")
    assert "1 account: none is paused or slowed." in seen(web, "/")
    assert 'requests_per_second{account="default"} 5' in web.get("/metrics").text


def rows_of(page: str) -> list[list[str]]:
    """The cells of each row of all tables."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.S)
    return [
        [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[dh].*?</t[dh]>", row, re.S)]
        for row in rows
    ]


def test_models_tell_how_late_ends_were_noticed_on_each_of_the_last_days(
    web: Web, url: str
) -> None:
    """By the days of UTC, in a table that needs no script; of more than enough jobs the last."""
    with db.transaction(url) as session:
        seeding.add_account(session)
        scenes.learned(session, "grok", [120.0] * 20, db.now(session))
        noon = db.now(session).replace(hour=12, minute=0, second=0, microsecond=0)
        for ago, delays in {1: [9.0, *range(1, 12)], 13: [4.0], 14: [70.0]}.items():
            for number, delay in enumerate(delays):
                end = noon - timedelta(days=ago, minutes=-number)
                noticed = end + timedelta(seconds=delay)
                seeding.add_job(
                    session, "completed", upstream_finished_at=end, finished_at=noticed,
                    tracked_at=end - timedelta(minutes=2),
                )  # fmt: skip
    rows = rows_of(web.get("/models").text)

    def day(ago: int) -> str:
        return (noon - timedelta(days=ago)).strftime("%d %b")

    assert [day(1), "6.5s", "9.9s", "12"] in rows
    assert [day(13), "4.0s", "4.0s", "1"] in rows
    assert day(14) not in [row[0] for row in rows]


def test_how_an_attempt_was_signed_is_shown_to_those_who_may_send_it_again(
    guarded_web: Web, lite: str
) -> None:
    """Whoever has a signature can send its event again; both read the page at the same moment."""
    with db.transaction(lite) as session:
        event = seeding.add_owed(session, state="dead", next_attempt_at=None)
        signed = f"webhook-id: {event['id']}\nwebhook-timestamp: 17\nwebhook-signature: v1,c2lnbmVk"
        seeding.add_attempt(session, event, request_headers=signed)
        seeding.add_attempt(session, event)
    path = f"/jobs/{event['job_id']}"
    page = guarded_web.get(path, role="operate").text
    assert signed in page
    assert "webhook-signature: v1,… (not kept)" in page
    page = guarded_web.get(path, role="read").text
    assert "webhook-signature: v1,… (shown to the role operate)" in page
    assert "c2lnbmVk" not in page
    story, told = f"/api/v1/jobs/{event['job_id']}", f"/api/v1/deliveries/{event['id']}"
    for role, path in (("read", story), ("produce", story), ("read", told)):
        assert "c2lnbmVk" not in guarded_web.get(path, role=role).text
    [tried, _] = guarded_web.get(told, role="operate").json()["attempts_log"]
    assert tried["request_headers"] == signed
    [delivery] = guarded_web.get(story, role="operate").json()["deliveries"]
    assert delivery["attempts_log"][0]["request_headers"] == signed
    assert "c2lnbmVk" not in guarded_web.get("/api/v1/deliveries", role="operate").text


def test_who_may_only_read_sees_no_buttons_and_can_not_act(guarded_web: Web, lite: str) -> None:
    job = job_of(lite)
    path = f"/jobs/{job['id']}"
    page = guarded_web.get(path, role="read").text
    assert 'action="/jobs' not in page
    assert 'action="/jobs' in guarded_web.get(path, role="operate").text
    for action in (
        f"{path}/cancel",
        f"{path}/recheck",
        f"{path}/update",
        "/accounts/default/pause",
        "/accounts/default/resume",
        "/deliveries/redeliver",
        "/deliveries/evt_x/redeliver",
    ):
        assert guarded_web.post(action, role="read").status_code == 403
    assert guarded_web.get(path).status_code == 303  # to where one signs in


def test_another_sites_page_can_post_nothing(web: Web, url: str) -> None:
    job = job_of(url)
    for sent in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert web.post(f"/jobs/{job['id']}/cancel", headers=sent).status_code == 403
    with db.reading(url) as session:
        assert session.get_one(Job, job["id"]).state == "running"


# ---------------------------------------------------------------- live pages


def token_of(page: str) -> tuple[str, str]:
    token, topics = (
        re.search(r'data-token="(\w+)"', page),
        re.search(r'data-topics="([^"]+)"', page),
    )
    assert token
    assert topics
    return token[1], topics[1]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reelwatch.web.pages.watching.WAIT_SECONDS", 3.0)


@pytest.mark.usefixtures("impatient")
def test_a_page_hears_of_what_happens_to_its_job_and_of_nothing_else(web: Web, url: str) -> None:
    mine, other = job_of(url), job_of(url)
    token, topics = token_of(web.get(f"/jobs/{mine['id']}").text)
    asked = f"/changes?token={token}&topics={topics}"

    def polled(job: Any) -> None:
        with db.transaction(url) as session:
            session.get_one(Job, job["id"]).polls += 1

    polled(other)
    assert web.get(asked).json() == {"changed": False}
    polled(mine)
    assert web.get(asked).json() == {"changed": True}


def test_what_commits_after_a_younger_row_is_seen_all_the_same(pg: str) -> None:
    """Ids are given before the commit: the highest one alone would hide the older row."""
    from reelwatch.storage import topics  # noqa: PLC0415

    job = job_of(pg)
    with db.transaction(pg) as slow:
        first = seeding.add_transition(slow, job, sequence=1)
        with db.transaction(pg) as quick:
            second = seeding.add_transition(quick, job, sequence=2)
        with db.reading(pg) as session:
            before = topics.marks(session)["transitions"]
    assert first["id"] < second["id"]
    with db.reading(pg) as session:
        assert topics.marks(session)["transitions"] != before


def test_a_pause_is_seen_by_whoever_watches_the_accounts(url: str) -> None:
    from reelwatch.storage import topics  # noqa: PLC0415

    job_of(url)
    with db.reading(url) as session:
        before = topics.marks(session)
    pausing.pause_account("default")
    with db.reading(url) as session:
        after = topics.marks(session)
    assert {topic for topic in after if after[topic] != before[topic]} == {"accounts"}


def test_only_the_part_that_changes_is_sent_to_a_script(web: Web) -> None:
    part = web.get("/jobs", headers={"HX-Request": "true"}).text
    assert part.lstrip().startswith("<main")
    assert "<html" not in part


def test_tokens_open_pages_too(guarded_web: Web, lite: str) -> None:
    assert guarded_web.get("/", role="read").status_code == 200
    assert TOKENS["read"] not in guarded_web.get("/", role="read").text


def test_no_database_is_asked_for_a_job_that_there_can_not_be() -> None:
    """One reading is for all who watch: an id that it fails for would leave all pages behind."""
    asked: list[frozenset[int]] = []

    def read(ids: frozenset[int]) -> dict[str, Any]:
        asked.append(ids)
        return {}

    topics = ["job:7", f"job:{'9' * 20}", "job:\u00b2", "job:-1", "job:", "jobs"]
    asyncio.run(Watcher(read).token(topics))
    assert asked == [frozenset({7})]
