"""Forms that are sent twice: the second of a double click changes nothing, a later one does."""

import re
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from typing import Any
from urllib.parse import urlencode

import pytest
from requests import Response
from sqlalchemy import select

from reelwatch.storage import db
from reelwatch.storage.models import Action, Delivery, Job, RedeliveryOrder
from reelwatch.web.pages import once
from tests import scenes, seeding
from tests.processes import eventually
from tests.test_page import fill, job_of
from tests.web import Web

HOOK = "https://hooks.example.com/in"
FORM = re.compile(r'<form[^>]*?method="post"[^>]*? action="([^"]*)">(.*?)</form>', re.S)
KEY = re.compile(r'<input type="hidden" name="once" value="([\w-]{12})">')


def key_of(web: Web, path: str) -> str:
    found = KEY.search(web.get(path).text)
    assert found
    return found[1]


def send(web: Web, path: str, **fields: Any) -> Response:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return web.ask("POST", path, data=urlencode(fields, doseq=True), headers=form)


def twice(web: Web, path: str, **fields: Any) -> list[Response]:
    """By two connections at once."""
    with ThreadPoolExecutor(2) as threads:
        sent = [threads.submit(send, Web(web.server), path, **fields) for _ in range(2)]
        return [each.result() for each in sent]


def done(url: str) -> list[str]:
    with db.reading(url) as session:
        return list(session.scalars(select(Action.action).order_by(Action.id)))


@pytest.fixture
def owed(url: str) -> dict[str, Any]:
    with db.transaction(url) as session:
        return seeding.add_owed(session, HOOK, state="dead", next_attempt_at=None)


def test_every_form_that_changes_something_bears_the_key_of_its_page(web: Web, url: str) -> None:
    fill(url, scenes.bad)
    with db.reading(url) as session:
        job_ids = [session.scalars(select(Delivery.job_id).limit(1)).one()]
        job_ids += session.scalars(select(Job.id).where(Job.state == "running").limit(1))
    found = {}
    for path in ("/accounts", "/deliveries", "/deliveries/redeliver?state=dead",
                 *(f"/jobs/{number}" for number in job_ids)):  # fmt: skip
        for action, inside in FORM.findall(web.get(path).text):
            assert KEY.search(inside), (path, action)
            found[re.sub(r"\d+|tenant-\w|evt_\w+|\?.*", "", unescape(action))] = path
    assert len(found) >= 8, found


@pytest.mark.parametrize("what", ["recheck", "cancel", "update"])
def test_a_double_click_on_a_job_is_one_action(web: Web, url: str, what: str) -> None:
    path = f"/jobs/{job_of(url)['id']}"
    more = {"webhook_url": HOOK} if what == "update" else {}
    answers = twice(web, f"{path}/{what}", once=key_of(web, path), **more)
    assert [(each.status_code, each.headers["location"]) for each in answers] == [(303, path)] * 2
    assert done(url) == [what]


def test_a_double_click_sends_an_event_once(web: Web, url: str, owed: Any) -> None:
    page = f"/jobs/{owed['job_id']}"
    twice(web, f"/deliveries/{owed['id']}/redeliver", once=key_of(web, page))
    assert done(url) == ["redeliver"]
    key = key_of(web, "/deliveries")
    answers = twice(web, "/deliveries/redeliver?state=pending", event=[owed["id"]], once=key)
    assert {each.headers["location"] for each in answers} == {"/deliveries?state=pending&sent=1"}
    assert done(url) == ["redeliver"] * 2


def test_a_double_click_is_one_order(web: Web, url: str, owed: Any) -> None:
    asked = f"state=dead&endpoint={owed['id']}"
    key = key_of(web, f"/deliveries/redeliver?{asked}")
    answers = twice(web, f"/deliveries/redeliver/all?{asked}", once=key)
    assert {each.headers["location"] for each in answers} == {"/redeliveries/1"}
    with db.reading(url) as session:
        assert session.scalars(select(RedeliveryOrder.id)).all() == [1]
    eventually(lambda: done(url) == ["redeliver"], 20.0)
    with db.reading(url) as session:
        assert session.get_one(Delivery, owed["id"]).state == "pending"


def test_a_double_click_pauses_once(web: Web, url: str) -> None:
    job_of(url)
    for what, more in (("pause", {"reason": "a new key"}), ("resume", {})):
        for each in twice(web, f"/accounts/default/{what}", once=key_of(web, "/accounts"), **more):
            assert each.headers["location"] == "/accounts#default"
    assert done(url) == ["pause", "resume"]


def test_what_is_meant_again_is_done_again(
    web: Web, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a page that was shown afterwards, from the same one after a moment, or by a program."""
    path = f"/jobs/{job_of(url)['id']}"
    first = key_of(web, path)
    for key in (first, key_of(web, path), first):
        send(web, f"{path}/recheck", once=key)
    assert done(url) == ["recheck"] * 2
    monkeypatch.setattr(once, "MOMENT_SECONDS", 0.0)
    send(web, f"{path}/recheck", once=first)
    assert done(url) == ["recheck"] * 3
    for _ in range(2):
        web.post(f"{path}/recheck")
    assert done(url) == ["recheck"] * 5


def test_another_form_of_the_same_page_is_another(web: Web, url: str) -> None:
    path = f"/jobs/{job_of(url)['id']}"
    key = key_of(web, path)
    for what, more in (("recheck", {}), ("update", {"webhook_url": HOOK}),
                       ("update", {"webhook_url": f"{HOOK}/2"})):  # fmt: skip
        assert send(web, f"{path}/{what}", once=key, **more).status_code == 303
    assert done(url) == ["recheck", "update", "update"]


def test_a_form_that_was_refused_is_tried_again(web: Web, url: str) -> None:
    """The same may be accepted a moment later: the account is known by then."""
    job_of(url)
    key = key_of(web, "/accounts")
    assert send(web, "/accounts/new/pause", once=key).status_code == 422
    with db.transaction(url) as session:
        seeding.add_account(session, "new")
    assert send(web, "/accounts/new/pause", once=key).status_code == 303
    assert done(url) == ["pause"]
