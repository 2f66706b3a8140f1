"""The feed over HTTP: the same bodies as webhooks, and many who wait at little cost."""

import json
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier, Event
from typing import Any

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.exc import OperationalError

from reelwatch.jobs import feed, pruning, tracking
from reelwatch.storage import db
from reelwatch.storage.models import Delivery, Job
from reelwatch.web.waiting import Waiting
from tests import seeding
from tests.servers import eventually
from tests.test_feed import complete, ready
from tests.web import VARIABLE, Web, received, served

FEED = "/api/v1/events"
TYPES = ("completed", "failed")


@pytest.fixture
def web(url: str) -> Iterator[Web]:
    ready(url)
    with served() as running:
        yield running


def test_the_bodies_are_those_of_webhooks_to_the_byte(web: Web, url: str) -> None:
    complete(url, "grok:a", webhook_url="https://hooks.example.com/x")
    answer = web.get(FEED)
    with db.reading(url) as session:
        (delivery,) = session.execute(select(Delivery)).scalars()
    assert answer.status_code == 200
    assert f'"id":"{delivery.id}"' in answer.text
    assert delivery.body in answer.text
    (told,) = answer.json()["events"]
    assert told["cursor"] == answer.json()["next"]
    assert answer.json()["more"] is False


def test_pages_follow_each_other_by_their_cursors(web: Web, url: str) -> None:
    for number in range(5):
        complete(url, f"grok:{number}")
    after, told, more = "", [], True
    while more:
        page = web.get(f"{FEED}?limit=2{after}").json()
        after, more = f"&after={page['next']}", page["more"]
        told += [each["event"]["data"]["video_id"] for each in page["events"]]
    assert told == [f"grok:{number}" for number in range(5)]
    assert web.get(f"{FEED}?limit=2{after}").json()["events"] == []


def test_types_and_accounts_are_chosen(web: Web, url: str) -> None:
    complete(url, "grok:a")
    assert (
        len(web.get(f"{FEED}?types=video.completed,failed&account=default").json()["events"]) == 1
    )
    assert web.get(f"{FEED}?types=failed").json()["events"] == []
    assert web.get(f"{FEED}?account=acme").json()["events"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("after=nonsense", "after"),
        ("after=%00", "after"),
        ("types=video.done", "types"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("wait=61", "wait"),
        ("wait=nan", "wait"),
        ("wait=-1", "wait"),
    ],
)
def test_what_can_not_be_asked_is_refused_by_its_field(web: Web, query: str, field: str) -> None:
    answer = web.get(f"{FEED}?{query}")
    assert answer.status_code == 422
    assert [each["field"] for each in answer.json()["errors"]] == [field]


@pytest.mark.parametrize(
    ("role", "events", "actions"),
    [(None, 401, 401), ("read", 200, 200), ("produce", 200, 403), ("operate", 200, 200)],
)
def test_who_may_read_the_feed_and_the_actions(
    url: str, monkeypatch: pytest.MonkeyPatch, role: str | None, events: int, actions: int
) -> None:
    monkeypatch.setenv("REELWATCH_API_TOKENS", VARIABLE)
    with served() as web:
        assert web.get(FEED, role=role).status_code == events
        assert web.get("/api/v1/actions", role=role).status_code == actions


def test_deleted_events_that_were_not_read_are_gone_and_said_to_be(web: Web, url: str) -> None:
    complete(url, "grok:read")
    after = web.get(FEED).json()["next"]
    complete(url, "grok:old")
    complete(url, "grok:new")
    with db.transaction(url) as session:
        old = update(Job).where(Job.video_id == "grok:old")
        session.execute(old.values(finished_at=seeding.at(days=99)))
    list(pruning.prune(url, seeding.at(days=90)))
    answer = web.get(f"{FEED}?after={after}")
    assert answer.status_code == 410
    assert answer.headers["content-type"] == "application/problem+json"
    page = web.get(f"{FEED}?after={answer.json()['next']}").json()
    assert [each["event"]["data"]["video_id"] for each in page["events"]] == ["grok:new"]


# ----------------------------------------------------------------- waiting


@pytest.fixture
def asked(url: str) -> Iterator[list[str]]:
    """The statements of this process; the first of each question is about the feed's head."""
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("BEGIN"):
            said.append(statement)

    event.listen(db.engine(url), "before_cursor_execute", note)
    yield said
    event.remove(db.engine(url), "before_cursor_execute", note)


def questions(asked: Sequence[str]) -> int:
    return sum("last_position" in each for each in asked)


def test_who_waits_is_told_as_soon_as_there_is_an_event(
    web: Web, url: str, asked: list[str]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(web.get, f"{FEED}?wait=60")
        eventually(lambda: questions(asked) > 3, 20)
        complete(url, "grok:a")
        answer = waiting.result(20)
    assert len(answer.json()["events"]) == 1


def test_who_waits_in_vain_gets_an_empty_page_and_goes_on_from_it(web: Web, url: str) -> None:
    complete(url, "grok:a")
    before = web.get(FEED).json()["next"]
    page = web.get(f"{FEED}?after={before}&wait=0.2").json()
    assert page == {"events": [], "next": before, "more": False}


def test_what_is_not_asked_for_wakes_nobody(web: Web, url: str, asked: list[str]) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(web.get, f"{FEED}?wait=60&types=failed,status_changed")
        eventually(lambda: questions(asked) > 3, 20)
        complete(url, "grok:a")
        complete(url, "grok:b", events=["failed", "completed"])
        tracking.track("grok:c", events=["status_changed"])
        tracking.cancel("grok:c")
        tracking.recheck("grok:c")
        (told,) = waiting.result(20).json()["events"]
    assert told["event"]["data"]["video_id"] == "grok:c"


def test_each_gets_what_it_asks_for_however_many_ask_at_the_same_time(
    web: Web, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What several read at once is read once: of those alone who ask for the same."""
    together, read = Barrier(2), feed.read

    def slowly(*of: Any, **asked: Any) -> feed.Page:
        together.wait(20)  # until the other reads as well
        return read(*of, **asked)

    monkeypatch.setattr(feed, "read", slowly)
    complete(url, "grok:a")
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(Web(web.server).get, f"{FEED}?types={each}") for each in TYPES]
        assert [len(each.result(30).json()["events"]) for each in asked] == [1, 0]


def test_who_waits_is_told_though_the_database_was_away_meanwhile(
    web: Web, url: str, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, advance = Event(), feed.advance

    def away_once(url: str) -> Any:
        if questions(asked) > 1 and not failed.is_set():
            failed.set()
            raise OperationalError("", {}, Exception("the database is away"))
        return advance(url)

    monkeypatch.setattr(feed, "advance", away_once)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(web.get, f"{FEED}?wait=60")
        assert failed.wait(20)
        complete(url, "grok:a")
        assert len(waiting.result(20).json()["events"]) == 1


def test_nothing_is_asked_once_nobody_waits_until_somebody_does_again(
    web: Web, url: str, asked: list[str]
) -> None:
    web.get(f"{FEED}?wait=0.1")
    waiting = web.server.app.state.waiting
    eventually(lambda: waiting._asking is None, 20)
    assert waiting._waiting == 0
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(web.get, f"{FEED}?wait=60")
        eventually(lambda: waiting._waiting == 1, 20)
        complete(url, "grok:a")
        assert len(again.result(20).json()["events"]) == 1


CLIENTS = 200


def test_two_hundred_who_wait_cost_one_question_a_second(
    web: Web, url: str, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And hold no connection to the database meanwhile."""
    waiting: list[int] = []
    beyond = Waiting.beyond

    async def counted(self: Waiting, position: int, seconds: float) -> None:
        waiting.append(position)
        await beyond(self, position, seconds)

    monkeypatch.setattr(Waiting, "beyond", counted)
    request = f"GET {FEED}?wait=60 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with ExitStack() as stack:
        sockets = []
        for _ in range(CLIENTS):
            sockets.append(stack.enter_context(socket.create_connection(web.address, 60)))
            sockets[-1].sendall(request.encode())
        eventually(lambda: len(waiting) == CLIENTS, 60)
        began, before = time.monotonic(), len(asked)
        eventually(lambda: len(asked) >= before + 3, 60)
        assert len(asked) - before <= time.monotonic() - began + 2
        assert all("last_position" in each for each in asked[before:])
        eventually(lambda: db.engine(url).pool.checkedout() == 0, 20)  # type: ignore[attr-defined]
        complete(url, "grok:a")
        answers = [received(each) for each in sockets]
    bodies = [json.loads(each.partition(b"\r\n\r\n")[2]) for each in answers]
    assert {len(each["events"]) for each in bodies} == {1}
    assert len({each["next"] for each in bodies}) == 1


def test_nobody_waits_for_a_server_that_ends(web: Web, asked: list[str]) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(web.get, f"{FEED}?wait=60")
        eventually(lambda: questions(asked) > 3, 20)
        web.server.stop()
        assert waiting.result(20).json()["events"] == []


# ----------------------------------------------------------------- actions


def test_who_does_something_by_the_api_is_known_by_the_name_of_the_token(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready(url)
    tracking.track("grok:a")
    with db.transaction(url) as session:
        event_id = seeding.add_owed(session, state="dead", next_attempt_at=None)["id"]
    monkeypatch.setenv("REELWATCH_API_TOKENS", VARIABLE)
    with served() as web:
        for method, path, body in (
            ("PATCH", "/jobs/grok:a", {"deadline": "3h"}),
            ("POST", "/jobs/grok:a/recheck", None),
            ("POST", "/jobs/grok:a/cancel", None),
            ("POST", f"/deliveries/{event_id}/redeliver", None),
            ("POST", "/redeliveries", {"state": "pending"}),
            ("POST", "/accounts/default/pause", {"reason": "maintenance"}),
            ("POST", "/accounts/default/resume", None),
        ):
            answer = web.ask(method, f"/api/v1{path}", body, role="operate")
            assert answer.status_code < 300, answer.text
        told = web.get("/api/v1/actions", role="read").json()["actions"]
        story = web.get("/api/v1/jobs/grok:a", role="read").json()
    assert {each["who"] for each in told} == {"operate-caller"}
    assert [each["action"] for each in told][::-1] == [
        "update", "recheck", "cancel", "redeliver", "redeliver", "pause", "resume",
    ]  # fmt: skip
    assert [each["action"] for each in story["actions"]] == ["update", "recheck", "cancel"]


def test_the_actions_are_listed_by_pages(web: Web) -> None:
    tracking.track("grok:a")
    for _ in range(3):
        tracking.recheck("grok:a", by="ops")
    first = web.get("/api/v1/actions?limit=2").json()
    assert [(each["who"], each["action"]) for each in first["actions"]] == [("ops", "recheck")] * 2
    last = web.get(f"/api/v1/actions?limit=2&before={first['next']}").json()
    assert (len(last["actions"]), last["next"]) == (1, None)
