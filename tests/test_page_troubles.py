"""What a browser is shown where something goes wrong: a page that says what, and leads on."""

import re
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest
from requests import Response
from structlog.testing import capture_logs

from reelwatch.config import settings
from reelwatch.storage import db
from reelwatch.storage.models import Endpoint
from reelwatch.web.pages import listing, now
from tests import scenes, seeding
from tests.web import TOKENS, Web

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PROGRAM = {"Accept": "*/*"}
PROBLEM = "application/problem+json"
BEGAN = datetime(2026, 2, 6, tzinfo=UTC)
FAILS = {"host": "a.example:443", "failures": 4, "openings": 0, "allowance": 1,
         "failing_since": BEGAN, "changed_at": BEGAN}  # fmt: skip


def asked(web: Web, method: str, path: str, **options: Any) -> Response:
    headers = {**BROWSER, **options.pop("headers", {})}
    return web.ask(method, path, headers=headers, **options)


def read(answer: Response) -> str:
    """What people read of a page in the style of all others."""
    assert answer.headers["content-type"].startswith("text/html"), answer.text
    assert '<nav aria-label="Pages">' in answer.text
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", answer.text)))


def links(answer: Response) -> dict[str, str]:
    found = re.findall(r'<a class="button" href="([^"]*)">([^<]*)</a>', answer.text)
    return {name: unescape(href) for href, name in found}


@pytest.mark.parametrize(
    ("method", "path", "status", "said", "link"),
    [
        ("GET", "/jobs/4711", 404, "There is no such thing here", "/jobs"),
        ("GET", "/jobs/99999999999999999999", 404, "There is no such thing here", "/jobs"),
        ("GET", "/redeliveries/4711", 404, "There is no such thing here", "/"),
        ("GET", "/nowhere", 404, "There is nothing at this path.", "/"),
        ("GET", "/jobs/17/cancel", 405, "This address is for a form", "/jobs/17"),
        ("GET", "/accounts/default/pause", 405, "This address is for a form", "/accounts"),
        ("GET", "/jobs?before=never", 422, "Before: no place in a list.", "/jobs"),
        ("GET", "/deliveries?before=never", 422, "Before: no place in a list.", "/deliveries"),
        ("GET", "/jobs//17", 400, "This path is not written plainly.", "/"),
        ("POST", "/jobs/4711/cancel", 404, "Nothing was changed.", "/jobs/4711"),
        ("POST", "/deliveries/evt_none/redeliver", 404, "Nothing was changed.", "/deliveries"),
    ],
)
def test_it_says_what_is_wrong_and_leads_on(
    web: Web, method: str, path: str, status: int, said: str, link: str
) -> None:
    answer = asked(web, method, path)
    assert answer.status_code == status
    assert said in read(answer)
    assert link in links(answer).values()


def test_programs_get_problems_and_the_api_gives_nothing_else(web: Web) -> None:
    for path in ("/nowhere", "/jobs/4711", "/jobs/1/cancel"):
        assert web.get(path, headers=PROGRAM).headers["content-type"] == PROBLEM
    for path in ("/api/v1/nowhere", "/api/v1/jobs/4711", "/api/v1/jobs?state=odd"):
        assert asked(web, "GET", path).headers["content-type"] == PROBLEM
    assert "/api/v1/docs" in web.get("/nowhere", headers=PROGRAM).json()["detail"]


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        ("text/html", True),
        ("TEXT/HTML", True),
        ("application/xml, Text/Html ; charset=utf-8 ; Q=0.1", True),
        ("text/html, application/json", True),
        ("text/html;q=0.8, application/json;q=0.5", True),
        ("text/html;q=0, application/json", False),
        ("text/html; q=0.000", False),
        ("text/html;q=0.5, application/json", False),
        ("application/json, */*", False),
        ("text/html-sandboxed", False),
        ("application/json;profile=text/html", False),
        ("", False),
    ],
)
def test_a_page_is_for_whoever_wants_it_no_less_than_json(
    web: Web, accept: str, page: bool
) -> None:
    """In any case of letters; what has the weight 0 is not wanted at all."""
    kind = web.get("/nowhere", headers={"Accept": accept}).headers["content-type"]
    assert (kind == PROBLEM) is not page
    assert kind.startswith("text/html") is page


def test_what_another_site_sent_is_refused_in_a_page(web: Web) -> None:
    answer = asked(web, "GET", "/jobs", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert "A page of another site sent this; open the address by hand." in read(answer)


def test_a_role_that_is_too_low_is_told_which_is_needed(guarded_web: Web) -> None:
    answer = asked(guarded_web, "POST", "/jobs/17/cancel", role="read")
    assert answer.status_code == 403
    said = "The role of 'read-caller' is read; operate is needed for this. Nothing was changed."
    assert said in read(answer)
    assert links(answer)["Sign in"] == "/sign-in?next=/jobs/17"
    answer = asked(guarded_web, "GET", "/jobs", role="produce")
    assert "is produce; read or operate is needed" in read(answer)


def test_a_form_that_is_sent_after_signing_out_says_so(guarded_web: Web) -> None:
    answer = asked(guarded_web, "POST", "/accounts/default/pause")
    assert answer.status_code == 401
    assert "Nobody has signed in with this browser." in read(answer)
    assert links(answer)["Sign in"] == "/sign-in?next=/accounts"
    assert TOKENS["read"] not in answer.text


def test_a_page_that_breaks_says_so_in_a_page(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a secret of the house")

    monkeypatch.setattr(listing, "view", broken)
    with capture_logs() as logged:
        answer = asked(web, "GET", "/jobs?state=open")
    assert [each["event"] for each in logged] == ["request_failed"]
    assert answer.status_code == 500
    assert "Something broke" in read(answer)
    assert "a secret of the house" not in answer.text
    assert links(answer)["The same again"] == "/jobs?state=open"


def test_a_database_that_is_away_is_told_in_a_page(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise db.NotMigrated(settings.current().database_url)

    monkeypatch.setattr(now, "view", away)
    answer = asked(web, "GET", "/")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "Not at the moment" in read(answer)


def test_a_tab_whose_job_was_pruned_says_so_in_its_place(web: Web) -> None:
    """What a script asks for is a part of the page, and nothing is watched any more."""
    answer = asked(web, "GET", "/jobs/4711", headers={"HX-Request": "true"})
    assert answer.status_code == 404
    assert answer.text.lstrip().startswith('<main id="page" tabindex="-1" data-topics=""')


def test_a_form_that_is_refused_keeps_what_was_typed(web: Web, url: str) -> None:
    """And its links lead on from the job: nothing can be got from the form's own address."""
    with db.transaction(url) as session:
        seeding.add_account(session, "default")
        number = seeding.add_job(session, "running")["id"]
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    typed = "webhook_url=http%3A%2F%2F10.0.0.1%2F%3Fa%3D%22%3E"
    page = asked(web, "POST", f"/jobs/{number}/update", data=typed, headers=form).text
    assert 'value="http://10.0.0.1/?a=&#34;&gt;"' in page
    assert "<details open>" in page
    assert 'href="?' not in page
    assert f'data-at="/jobs/{number}"' in page
    whole = asked(web, "GET", f"/jobs/{number}").text
    assert "<details open>" not in whole
    assert "data-at" not in whole


def test_a_model_that_nobody_knows_is_not_said_to_be_the_only_one(web: Web, url: str) -> None:
    assert "Nothing is known so far" in read(asked(web, "GET", "/models"))
    with db.transaction(url) as session:
        scenes.quiet(session)
    page = read(asked(web, "GET", "/models?account=default&model=none"))
    assert "Nothing is known of that model at that account" in page
    assert "Other models" in page


def test_now_says_that_more_endpoints_fail_than_it_names(web: Web, url: str) -> None:
    more = "More endpoints are not well"
    with db.transaction(url) as session:
        for number in range(now.ENDPOINTS_MOST):
            seeding.add(session, Endpoint, {**FAILS, "name": f"https://a.example/{number}"})
    assert more not in read(asked(web, "GET", "/"))
    with db.transaction(url) as session:
        seeding.add(session, Endpoint, {**FAILS, "name": "https://a.example/one-more"})
    page = asked(web, "GET", "/?ids=")
    assert more in read(page)
    assert len(re.findall("It has taken nothing since", page.text)) == now.ENDPOINTS_MOST


@pytest.mark.parametrize("most", [1_000, 7], ids=["all are counted", "the newest are"])
def test_whose_events_are_dead_is_said_of_the_first_and_the_rest_is_counted(
    web: Web, url: str, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("reelwatch.storage.overviews.COUNT_MOST", most)
    monkeypatch.setattr("reelwatch.web.pages.now.COUNT_MOST", most)
    with db.transaction(url) as session:
        for host, count in {"a": 1, "b": 3, "c": 2, "d": 1, "e": 1}.items():
            for _ in range(count):
                seeding.add_owed(
                    session, f"https://{host}.example/", state="dead", next_attempt_at=None
                )
    said = {
        1_000: "8 events are dead: 3 for b.example, 2 for c.example, 1 for a.example, 2 for others",
        7: "7+ events are dead, of the newest 7: ",
    }
    assert said[most] in read(asked(web, "GET", "/"))
