"""What the first page says of errors is true, and is what it leads to."""

import re
from html import unescape
from typing import Any

import pytest
from sqlalchemy import update

from reelwatch.storage import db, overviews
from reelwatch.storage.models import Job
from tests import seeding
from tests.test_page import job_of, seen
from tests.web import Web


def failing(url: str, **columns: Any) -> dict[str, Any]:
    since: dict[str, Any] = {"last_error": "server_error", "errors_since": seeding.at()}
    return job_of(url, deadline_at=seeding.at(hours=-1), **{"errors_in_row": 3, **since, **columns})


def errors_of(url: str, job: dict[str, Any], rows: int) -> None:
    with db.transaction(url) as session:
        now = db.now(session)
        for _ in range(rows):
            seeding.add_error(session, job, kind="server_error", first_at=now, last_at=now)


def test_a_job_with_many_errors_is_one_job_and_those_that_have_one_now_are_linked(
    web: Web, url: str
) -> None:
    """Errors that differ, or come again after an answer, are rows of their own."""
    lasting = [failing(url), failing(url, errors_in_row=1)]
    passed = job_of(url)
    for job in (*lasting, passed):
        errors_of(url, job, 2)
    said = "in polls of 3 jobs within 10 minutes; 2 jobs have it now."
    assert f"server_error: upstream had an error of its own, {said}" in seen(web, "/")
    linked = unescape(re.findall(r'href="(/jobs\?error[^"]+)"', web.get("/").text)[0])
    assert web.get(linked).text.count('<tr id="job-') == 2


def test_an_open_job_whose_id_upstream_did_not_know_is_found_beside_those_that_ended_so(
    web: Web, url: str
) -> None:
    open_one = failing(url, last_error="not_found")
    ended = job_of(url, "failed", error_code="not_found")
    asked = {
        query: {int(each) for each in re.findall(r'<tr id="job-(\d+)', web.get(query).text)}
        for query in ("/jobs?error=not_found&state=open", "/jobs?error=not_found")
    }
    assert list(asked.values()) == [{open_one["id"]}, {ended["id"]}]


def test_what_nobody_has_now_leads_to_no_empty_list(web: Web, url: str) -> None:
    job = job_of(url)
    with db.transaction(url) as session:
        now = db.now(session)
        seeding.add_error(session, job, kind="quota", first_at=now, last_at=now)
    assert "in polls of 1 job within 10 minutes; none has it now." in seen(web, "/")
    assert "error=quota" not in web.get("/").text


def test_where_counting_stopped_there_may_be_more(
    web: Web, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overviews, "COUNT_MOST", 4)
    for job in (job_of(url), job_of(url)):
        errors_of(url, job, 3)
    assert "in polls of 2+ jobs within 10 minutes; polls go on." in seen(web, "/")


def test_a_job_that_was_given_up_is_not_counted(web: Web, url: str) -> None:
    for job in (failing(url), failing(url)):
        errors_of(url, job, 1)
    with db.transaction(url) as session:
        given_up = update(Job).where(Job.id == job["id"])
        over = {"state": "expired", "error_code": "deadline", "expired_at": seeding.at()}
        over |= {"abandoned_at": seeding.at(), "next_poll_at": None}
        session.execute(given_up.values(over))
    assert "in polls of 2 jobs within 10 minutes; 1 job has it now." in seen(web, "/")
