"""The HTTP API over real HTTP: what it takes, gives, refuses, and who may ask."""

import re
import threading
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import TimeoutError as PoolTimeout

from reelwatch.jobs import history, redelivery, tracking
from reelwatch.storage import db
from reelwatch.storage.models import Delivery, Endpoint, RedeliveryOrder
from reelwatch.web.api import jobs, params
from reelwatch.web.gate import BODY_MOST
from reelwatch.web.problems import FAULTS_MOST
from tests import seeding
from tests.processes import eventually
from tests.web import TOKENS, Web

JOBS = "/api/v1/jobs"


@pytest.fixture
def seeded(web: Web, url: str) -> dict[str, Any]:
    """An ended job whose webhook is dead, and one that runs."""
    with db.transaction(url) as session:
        seeding.add_account(session)
        done = seeding.add_job(session, "completed", metadata={"order": "7"})
        step = seeding.add_transition(session, done, to_state="completed")
        event = seeding.add_delivery(session, done, step, "dead")
        seeding.add_attempt(session, event, http_status=500)
        running = seeding.add_job(
            session, video_id="veo3.1:runs", model="veo3.1", next_poll_at=seeding.at(seconds=5)
        )
    return {"done": done, "running": running, "event": event}


# ----------------------------------------------------------------- handing in


def test_a_video_is_tracked_once_however_often_it_is_handed_in(web: Web) -> None:
    sent = {"video_id": "grok:a", "metadata": {"n": 1}, "deadline": "45m", "events": ["completed"]}
    first = web.post(JOBS, sent)
    again = web.post(JOBS, {"video_id": "grok:a", "metadata": {"n": 2}})
    assert (first.status_code, again.status_code) == (201, 200)
    [made], [known] = first.json()["jobs"], again.json()["jobs"]
    assert made["created"] is True
    assert made["deadline_seconds"] == 2700
    assert known == made | {"created": False, "differs": ["metadata"]}


def test_many_are_tracked_in_the_order_of_their_ids(web: Web) -> None:
    web.post(JOBS, {"video_id": "grok:b"})
    answer = web.post(JOBS, {"video_ids": ["grok:c", "grok:b", "grok:a"]})
    assert answer.status_code == 201
    told = [(job["video_id"], job["created"]) for job in answer.json()["jobs"]]
    assert told == [("grok:c", True), ("grok:b", False), ("grok:a", True)]


def test_the_same_id_handed_in_by_many_at_once_is_one_job(web: Web, url: str) -> None:
    answers: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(Web(web.server).post(JOBS, {"video_id": "grok:a"}))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert len({answer.json()["jobs"][0]["id"] for answer in answers}) == 1
    assert len(seeding.jobs_in(url)) == 1


DEEP: Any = []
for _ in range(20):
    DEEP = [DEEP]

BAD: list[tuple[Any, str]] = [
    ({}, "video_id"),
    ({"video_id": None}, "video_id"),
    ({"video_id": "grok:a", "video_ids": ["grok:b"]}, "video_id"),
    ({"video_id": ""}, "video_id"),
    ({"video_id": "x" * 201}, "video_id"),
    ({"video_id": "a\u0000b"}, "video_id"),
    ({"video_id": "a\ud800b"}, "video_id"),
    ({"video_id": "https://example.com/x"}, "video_id"),
    ({"video_id": 7}, "video_id"),
    ({"video_ids": []}, "video_ids"),
    ({"video_ids": "grok:a"}, "video_ids"),
    ({"video_ids": ["grok:a", 7]}, "video_ids[1]"),
    ({"video_ids": ["grok:a", "b c"]}, "video_ids[1]"),
    ({"video_ids": ["grok:a"] * 10_001}, "video_ids"),
    ({"video_id": "grok:a", "account": "nobody"}, "account"),
    ({"video_id": "grok:a", "account": "a b"}, "account"),
    ({"video_id": "grok:a", "account": "\u0000"}, "account"),
    ({"video_id": "grok:a", "webhook_url": "ftp://example.com"}, "webhook_url"),
    ({"video_id": "grok:a", "webhook_url": "http://127.0.0.1/x"}, "webhook_url"),
    ({"video_id": "grok:a", "webhook_url": 7}, "webhook_url"),
    ({"video_id": "grok:a", "callback_task": "a@b"}, "callback_task"),
    ({"video_id": "grok:a", "callback_queue": "q"}, "callback_queue"),
    ({"video_id": "grok:a", "channels": {"none": "x"}}, "channels"),
    ({"video_id": "grok:a", "channels": {"stream": "\u0000"}}, "channels"),
    ({"video_id": "grok:a", "channels": {"stream": 7}}, "channels"),
    ({"video_id": "grok:a", "metadata": [1]}, "metadata"),
    ({"video_id": "grok:a", "metadata": {"x": "y" * 17_000}}, "metadata"),
    ({"video_id": "grok:a", "metadata": {"x": float("nan")}}, "metadata"),
    ({"video_id": "grok:a", "metadata": {"x": "a\x00b"}}, "metadata"),
    ({"video_id": "grok:a", "metadata": {"x": [{"y\ud800": 1}]}}, "metadata"),
    ({"video_id": "grok:a", "deadline": "soon"}, "deadline"),
    ({"video_id": "grok:a", "deadline": -1}, "deadline"),
    ({"video_id": "grok:a", "deadline": 10**400}, "deadline"),
    ({"video_id": "grok:a", "deadline": True}, "deadline"),
    ({"video_id": "grok:a", "deadline": [1]}, "deadline"),
    ({"video_id": "grok:a", "events": "completed"}, "events"),
    ({"video_id": "grok:a", "events": ["nothing"]}, "events"),
    ({"video_id": "grok:a", "priority": 1}, "priority"),
    ([], "body"),
    ("grok:a", "body"),
]


@pytest.mark.parametrize(("body", "field"), BAD, ids=lambda each: str(each)[:40])
def test_what_is_wrong_is_refused_with_its_field_and_nothing_is_stored(
    web: Web, url: str, body: Any, field: str
) -> None:
    answer = web.post(JOBS, body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {each["field"].removesuffix(".stream") for each in problem["errors"]} == {field}
    assert len(problem["detail"]) < 1_000
    assert seeding.jobs_in(url) == []


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"\xff\xfe", b'{"video_id": "grok:a"', b"[" * 100_000,
        b'{"video_id": ' + b"9" * 5_000 + b"}",
    ],
    ids=lambda data: str(data[:20]),
)  # fmt: skip
def test_what_is_no_json_is_refused(web: Web, url: str, data: bytes) -> None:
    answer = web.post(JOBS, data=data, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert seeding.jobs_in(url) == []


def test_metadata_of_any_depth_and_size_comes_back_as_it_was(web: Web) -> None:
    odd = {"deep": DEEP, "big": 2**70, "text": "\u2028 \U0001f600", "": None, "a": {"b": [1.5]}}
    [job] = web.post(JOBS, {"video_id": "grok:a", "metadata": odd}).json()["jobs"]
    assert web.get(f"{JOBS}/{job['id']}").json()["job"]["metadata"] == odd


def test_ten_thousand_ids_fit_a_call(web: Web, url: str) -> None:
    ids = [f"veo3.1-fast:1770350082-{number:010}" for number in range(10_000)]
    answer = web.post(JOBS, {"video_ids": ids})
    assert answer.status_code == 201
    assert [job["video_id"] for job in answer.json()["jobs"]] == ids


# -------------------------------------------------------------------- reading


def test_pages_of_jobs_hold_each_once(web: Web) -> None:
    web.post(JOBS, {"video_ids": [f"grok:{number}" for number in range(5)]})
    for order in ("newest", "oldest"):
        told, cursor = [], ""
        while True:
            page = web.get(f"{JOBS}?limit=2&order={order}{cursor}").json()
            told += [job["video_id"] for job in page["jobs"]]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        expected = [f"grok:{number}" for number in range(5)]
        assert told == (expected if order == "oldest" else expected[::-1])


def test_jobs_are_found_by_what_is_known_of_them(web: Web, seeded: dict[str, Any]) -> None:
    done, running = seeded["done"], seeded["running"]
    for query, found in (
        ("state=completed", [done]),
        ("account=default&state=running", [running]),
        ("account=other", []),
        ("model=veo3.1", [running]),
        (f"video_id={done['video_id']}", [done]),
        ("metadata.order=7", [done]),
        ("metadata.order=8", []),
        ("q=runs", [running]),
        (f"q={seeded['event']['id']}", [done]),
        ("since=30m", []),
        ("until=30m", [running, done]),
    ):
        rows = web.get(f"{JOBS}?{query}").json()["jobs"]
        assert {row["id"] for row in rows} == {row["id"] for row in found}, query


@pytest.mark.parametrize(
    "query",
    [
        "state=odd", "limit=0", "limit=1001", "limit=x", "since=soon", "until=0001-01-01",
        "order=x",
        "since=2026-01-02&until=2026-01-01", "cursor=x", "cursor=%00", "cursor=WzEsMl0",
        "cursor=WyIyMDI2LTAxLTAxIiwgIngiXQ", "account=%00", "model=%ED%A0%80", "q=%00",
        "video_id=%00", "metadata.x=%00", "since=999999999999999999d",
    ],
)  # fmt: skip
def test_what_can_not_be_looked_for_is_refused_or_finds_nothing(
    web: Web, seeded: dict[str, Any], query: str
) -> None:
    answer = web.get(f"{JOBS}?{query}")
    assert answer.status_code in (200, 422)
    if answer.status_code == 200:
        assert answer.json()["jobs"] == []


def test_a_cursor_means_a_moment_in_utc_whatever_zone_somebody_wrote_into_it() -> None:
    cursor = urlsafe_b64encode(b'["2026-01-01T05:00:00+05:00", 7]').decode()
    place = params.place_of(cursor, int)
    assert place is not None
    assert (place[0].isoformat(), place[1]) == ("2026-01-01T00:00:00+00:00", 7)


def test_a_job_is_told_by_its_number_and_by_its_video_id(web: Web, seeded: dict[str, Any]) -> None:
    done = seeded["done"]
    by_number = web.get(f"{JOBS}/{done['id']}").json()
    by_name = web.get(f"{JOBS}/{done['video_id']}").json()
    assert by_number == by_name
    assert set(by_number) >= {"job", "transitions", "poll_errors", "deliveries"}
    [event] = by_number["deliveries"]
    assert [each["http_status"] for each in event["attempts_log"]] == [500]


@pytest.mark.parametrize("account", ["%00", "", "a%20b", "x" * 65, "%ED%A0%80"])
def test_no_account_has_such_a_name(web: Web, account: str) -> None:
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/recheck")):
        asked = f"{JOBS}/grok:a{path}?account={account}"
        assert web.ask(method, asked).status_code == 422


@pytest.mark.parametrize("name", ["999", "grok:none", "9" * 40, "0", "-1", "%F0%9F%98%80"])
def test_a_job_that_is_not_there_is_not_found(web: Web, name: str) -> None:
    for answer in (
        web.get(f"{JOBS}/{name}"),
        web.post(f"{JOBS}/{name}/cancel"),
        web.ask("PATCH", f"{JOBS}/{name}", {"deadline": "1h"}),
    ):
        assert answer.status_code == 404


@pytest.mark.parametrize(
    "query", ["endpoint=http://[", "cursor=WyIyMDI2LTAxLTAxVDAwOjAwOjAwKzAwOjAwIiwgIlx1ZDgwMCJd"]
)
def test_what_no_event_can_have_is_refused(web: Web, query: str) -> None:
    assert web.get(f"/api/v1/deliveries?{query}").status_code == 422


# ------------------------------------------------------------------- changing


def test_a_job_is_changed_stopped_and_taken_up_again(web: Web) -> None:
    [job] = web.post(JOBS, {"video_id": "grok:a"}).json()["jobs"]
    path = f"{JOBS}/{job['id']}"
    changed = web.ask("PATCH", path, {"metadata": {"a": 1}, "events": ["failed"]}).json()
    assert (changed["metadata"], changed["events"]) == ({"a": 1}, ["failed"])
    for changed in (True, False):
        job = web.post(f"{path}/cancel").json()
        assert (job["state"], job["changed"]) == ("cancelled", changed)
    refused = web.ask("PATCH", path, {"events": ["completed"]})
    assert (refused.status_code, "recheck" in refused.json()["detail"]) == (409, True)
    assert web.post(f"{JOBS}/grok:a/recheck").json()["state"] == "pending"


@pytest.mark.parametrize("body", [{}, {"video_id": "x"}, {"webhook_url": "x"}, {"deadline": []}])
def test_a_change_that_says_nothing_or_something_wrong_is_refused(web: Web, body: Any) -> None:
    web.post(JOBS, {"video_id": "grok:a"})
    assert web.ask("PATCH", f"{JOBS}/grok:a", body).status_code == 422


def test_an_event_is_sent_again(web: Web, seeded: dict[str, Any]) -> None:
    event = seeded["event"]["id"]
    [dead] = web.get("/api/v1/deliveries?state=dead").json()["deliveries"]
    assert dead["last_attempt"]["http_status"] == 500
    again = web.post(f"/api/v1/deliveries/{event}/redeliver", {"release": True})
    assert (again.status_code, again.json()["state"], again.json()["id"]) == (200, "pending", event)
    assert web.get(f"/api/v1/deliveries/{event}").json()["state"] == "pending"
    assert web.post("/api/v1/deliveries/evt_none/redeliver").status_code == 404


def test_an_answer_about_many_jobs_has_all_in_the_order_of_their_ids(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few of them are written out at a time."""
    monkeypatch.setattr(jobs, "TOLD_AT_ONCE", 2)
    ids = [f"grok:{name}" for name in "cadbe"]
    web.post("/api/v1/jobs", {"video_id": ids[1]})
    told = web.post("/api/v1/jobs", {"video_ids": ids})
    rows = told.json()["jobs"]
    assert (told.status_code, [row["video_id"] for row in rows]) == (201, ids)
    assert [row["created"] for row in rows] == [True, False, True, True, True]
    shown = web.get(f"/api/v1/jobs/{rows[-1]['id']}").json()["job"]
    assert shown.items() >= {k: v for k, v in rows[-1].items() if k in shown}.items()
    assert web.post("/api/v1/jobs", {"video_ids": ids}).status_code == 200


def test_many_events_are_sent_again_by_one_order(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        seeding.add_account(session)
        for number in range(7):
            state = "dead" if number < 5 else "delivered"
            job = seeding.add_job(session, "completed")
            seeding.add_delivery(session, job, seeding.add_transition(session, job), state)
    key = {"Idempotency-Key": "one"}
    for empty in ({}, {"release": True}, {"state": None}, {"endpoint": ""}):
        refused = web.post("/api/v1/redeliveries", empty, headers=key)
        assert (refused.status_code, "state, endpoint" in refused.text) == (422, True)
    first = web.post("/api/v1/redeliveries", {"state": "dead"}, headers=key).json()
    again = web.post("/api/v1/redeliveries", {"state": "dead"}, headers=key).json()
    assert again["id"] == first["id"]

    def done() -> Any:
        told = web.get(f"/api/v1/redeliveries/{first['id']}").json()
        return told if told["state"] == "done" else None

    assert (eventually(done)["total"], eventually(done)["done"]) == (5, 5)
    assert len(web.get("/api/v1/deliveries?state=pending").json()["deliveries"]) == 5
    other = web.post("/api/v1/redeliveries", {"state": "delivered"}, headers=key)
    assert other.status_code == 422


def test_an_order_that_was_left_is_gone_on_with(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        seeding.add_account(session)
        for _ in range(4):
            job = seeding.add_job(session, "completed")
            seeding.add_delivery(session, job, seeding.add_transition(session, job), "dead")
    number = redelivery.order(url, redelivery.Wanted(), by="test")
    assert redelivery.is_left(url, number)  # by a process that ends now
    assert not redelivery.is_left(url, number)
    with db.transaction(url) as session:
        session.execute(update(RedeliveryOrder).values(worked_at=seeding.at(minutes=2)))

    def done() -> Any:
        told = web.get(f"/api/v1/redeliveries/{number}").json()
        return told if told["state"] == "done" else None

    assert eventually(done)["done"] == 4


def test_an_account_is_paused_and_resumed(web: Web, seeded: dict[str, Any]) -> None:
    paused = web.post("/api/v1/accounts/default/pause", {"reason": "a new key"}).json()
    assert paused["pause_reason"] is not None
    assert "a new key" in paused["pause_reason"]
    assert paused["paused_since"] is not None
    assert web.post("/api/v1/accounts/default/resume").json()["pause_reason"] is None
    assert web.post("/api/v1/accounts/nobody/pause").status_code == 404
    [account] = web.get("/api/v1/accounts").json()["accounts"]
    assert (account["name"], account["open_jobs"]) == ("default", 1)


def test_endpoints_and_figures_say_how_things_stand(web: Web, seeded: dict[str, Any]) -> None:
    [endpoint] = web.get("/api/v1/endpoints").json()["endpoints"]
    assert endpoint["name"] == seeded["event"]["target"]
    assert endpoint["state"] == "well"
    stats = web.get("/api/v1/stats").json()
    assert (stats["open"], stats["due"], stats["dead_deliveries"]) == (1, 1, 1)
    assert stats["delay_seconds"] == {"jobs": 0, "p50": None, "p95": None, "p99": None}
    assert stats["oldest_due_at"] is not None
    assert stats["jobs"]["completed"] == 1


def test_old_jobs_that_are_handed_in_spoil_no_delay(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        noticed = db.now(session)
        seeding.add_account(session)
        seeding.add_job(
            session, "completed", tracked_at=noticed - timedelta(seconds=3), finished_at=noticed,
            upstream_finished_at=noticed - timedelta(days=300),
        )  # fmt: skip
    delay = web.get("/api/v1/stats").json()["delay_seconds"]
    assert delay == {"jobs": 1, "p50": 3.0, "p95": 3.0, "p99": 3.0}


def test_an_endpoint_that_refuses_its_events_is_not_called_well(web: Web, url: str) -> None:
    with db.transaction(url) as session:
        event = seeding.add_owed(session, failures=3)
        host, name = event["destination"], event["target"]
        standing = {"failures": 0, "openings": 0, "allowance": 1, "changed_at": db.now(session)}
        session.add(Endpoint(name=name, host=host, failing_since=seeding.at(hours=2), **standing))
    [endpoint] = web.get("/api/v1/endpoints").json()["endpoints"]
    assert (endpoint["state"], endpoint["failures"]) == ("refusing", 0)


def test_an_endpoint_says_since_when_it_takes_nothing_and_what_it_said(web: Web, url: str) -> None:
    """As long as events are dead there: those are none that it will be sent again."""
    since = seeding.at(hours=2)
    with db.transaction(url) as session:
        event = seeding.add_owed(session, state="dead", next_attempt_at=None)
        seeding.add_attempt(session, event, error="HTTP 404", http_status=404)
        host, name = event["destination"], event["target"]
        standing = {"failures": 0, "openings": 0, "allowance": 1, "changed_at": db.now(session)}
        session.add(Endpoint(name=name, host=host, failing_since=since, **standing))
    [endpoint] = web.get("/api/v1/endpoints").json()["endpoints"]
    assert (endpoint["state"], endpoint["pending"], endpoint["dead"]) == ("refusing", 0, 1)
    assert datetime.fromisoformat(endpoint["failing_since"]) == since
    assert (endpoint["last_http_status"], endpoint["last_error"]) == (404, "HTTP 404")
    with db.transaction(url) as session:
        session.execute(delete(Delivery).where(Delivery.id == event["id"]))
    assert [row["state"] for row in web.get("/api/v1/endpoints").json()["endpoints"]] == []


def test_without_a_database_it_says_so(web: Web, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on once it is there again."""
    gone = "postgresql+psycopg://x@127.0.0.1:1/x"
    settings = web.server.app.state.settings
    web.server.app.state.settings = replace(settings, database=gone)
    answer = web.get(JOBS)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "127.0.0.1:1" not in answer.text
    web.server.app.state.settings = settings
    assert web.get(JOBS).status_code == 200


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PoolTimeout(), "the database is not there at the moment"),
        (db.NotMigrated("it has no tables"), "it has no tables"),
    ],
    ids=["pool", "tables"],
)
def test_what_ends_by_itself_is_told_with_when_to_ask_again(
    web: Web, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    monkeypatch.setattr(history, "page_of_jobs", Mock(side_effect=error))
    answer = web.get(JOBS)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["detail"] == said


def test_what_nobody_has_foreseen_is_told_as_a_bug_without_its_words(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "page_of_jobs", Mock(side_effect=RuntimeError("s3cret")))
    answer = web.get(JOBS)
    assert (answer.status_code, "s3cret" in answer.text) == (500, False)
    assert answer.headers["content-type"] == "application/problem+json"


# ---------------------------------------------------------------------- roles


OPEN = {
    "/sign-in", "/sign-out", "/live", "/ready", "/assets/{name}", "/favicon.ico",
    "/api/v1/openapi.json", "/api/v1/docs", "/api/v1/docs.css",
}  # fmt: skip
READ, PRODUCE, OPERATE = {"read"}, {"produce"}, set[str]()
ROLES: dict[tuple[str, str], set[str]] = {
    ("POST", "/api/v1/jobs"): PRODUCE,
    ("GET", "/api/v1/jobs"): READ | PRODUCE,
    ("GET", "/api/v1/jobs/{job_id}"): READ | PRODUCE,
    ("PATCH", "/api/v1/jobs/{job_id}"): PRODUCE,
    ("POST", "/api/v1/jobs/{job_id}/cancel"): PRODUCE,
    ("POST", "/api/v1/jobs/{job_id}/recheck"): PRODUCE,
    ("GET", "/api/v1/deliveries"): READ,
    ("GET", "/api/v1/deliveries/{event_id}"): READ,
    ("POST", "/api/v1/deliveries/{event_id}/redeliver"): OPERATE,
    ("POST", "/api/v1/redeliveries"): OPERATE,
    ("GET", "/api/v1/redeliveries/{number}"): READ,
    ("GET", "/api/v1/accounts"): READ,
    ("POST", "/api/v1/accounts/{name}/pause"): OPERATE,
    ("POST", "/api/v1/accounts/{name}/resume"): OPERATE,
    ("GET", "/api/v1/endpoints"): READ,
    ("GET", "/api/v1/stats"): READ,
    ("GET", "/api/v1/events"): READ | PRODUCE,
    ("GET", "/api/v1/actions"): READ,
}


def routes(web: Web) -> Iterator[tuple[str, str]]:
    """Every method and path that is served, as the app itself has them."""
    for path, methods in web.paths():
        yield from ((method, path) for method in methods)


def may_ask(method: str, path: str) -> set[str]:
    """The roles that may; of pages and metrics: whoever reads looks, whoever operates acts."""
    if path.startswith("/api/"):
        return ROLES[method, path] | {"operate"}
    return {"operate"} | (READ if method == "GET" else OPERATE)


def test_every_route_asks_for_its_role(guarded_web: Web) -> None:
    """A route of the API that is in neither table fails here: say who may use it."""
    walked = list(routes(guarded_web))
    assert len(set(walked)) == len(walked), "two routes for one method and path"
    for method, path in walked:
        if path in OPEN:
            continue
        may = may_ask(method, path)
        asked = re.sub(r"{\w+(:\w+)?}", "1", path)
        for role in (None, *TOKENS):
            status = ask_for(guarded_web, method, asked, role)
            refused = {401, 303} if role is None else {403}
            assert (status in refused) == (role not in may), (method, path, role, status)


def ask_for(web: Web, method: str, path: str, role: str | None) -> int:
    """The status; where the answer is endless, of its beginning."""
    changing = method in ("POST", "PATCH")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    if changing and not path.startswith("/api/"):
        return web.ask(method, path, data="x=1", role=role, headers=form).status_code
    return web.begin(method, path, {} if changing else None, role)


def test_what_is_no_token_is_not_known(guarded_web: Web) -> None:
    token = TOKENS["operate"]
    for said in (
        f"Bearer {token}x", f"Bearer {token[:-1]}", f"Basic {token}", "Bearer ", "Bearer \xff",
        f"Bearer operate-caller:operate:{token}", f"Bearer {token} {token}",
    ):  # fmt: skip
        answer = guarded_web.get(JOBS, headers={"Authorization": said})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert token not in answer.text
    assert guarded_web.get(f"{JOBS}?token={token}").status_code == 401


def test_nothing_huge_is_stored(web: Web, url: str) -> None:
    data = b'{"video_id": "grok:a", "x": "' + b"x" * BODY_MOST + b'"}'
    answer = web.post(JOBS, data=data, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert seeding.jobs_in(url) == []


def test_who_hands_in_by_python_and_by_http_sees_the_same_job(web: Web, url: str) -> None:
    job = tracking.track("grok:a")
    [told] = web.post(JOBS, {"video_id": "grok:a"}).json()["jobs"]
    assert told["id"] == job.id


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sate=failed", "is 'state' meant?"),
        ("state=failed&state=running", "state: it is there twice"),
        ("metadata=1", "there is no such parameter"),
        ("colour=1", ", metadata.KEY"),
        ("metadata.a=1&metadata.a=2", "metadata.a: it is there twice"),
        ("&".join(f"metadata.{key}=1" for key in range(21)), "metadata: 21 keys; accepted: at"),
    ],
)
def test_a_mistyped_parameter_lists_nothing(web: Web, query: str, said: str) -> None:
    answer = web.get(f"{JOBS}?{query}")
    assert (answer.status_code, said in answer.json()["detail"]) == (422, True)
    assert web.get(f"{JOBS}?metadata.a=1&metadata.b=2&state=failed").status_code == 200


def test_metadata_may_have_a_key_without_a_letter(web: Web) -> None:
    web.post(JOBS, {"video_ids": ["grok:a"], "metadata": {"": "x"}})
    web.post(JOBS, {"video_ids": ["grok:b"]})
    found = web.get(f"{JOBS}?metadata.=x").json()["jobs"]
    assert [job["video_id"] for job in found] == ["grok:a"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("limit=x", "limit: 'x'; accepted: an integer"),
        (f"q={'x' * 256}", "; accepted: at most 255 characters"),
    ],
)
def test_what_is_accepted_is_told_in_plain_words(web: Web, query: str, said: str) -> None:
    assert web.get(f"{JOBS}?{query}").json()["detail"].endswith(said)


def test_a_path_names_all_methods_that_it_knows(web: Web) -> None:
    for path, methods in ((JOBS, "GET, HEAD, POST"), (f"{JOBS}/1", "GET, HEAD, PATCH")):
        answer = web.ask("OPTIONS", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)


def test_a_mistyped_field_is_told_the_nearest_one_and_all_that_there_are(web: Web) -> None:
    answer = web.post(JOBS, {"video_id": "grok:a", "webhook_ur": "https://example.com/"})
    [fault] = answer.json()["errors"]
    assert fault["field"] == "webhook_ur"
    assert "is 'webhook_url' meant?" in fault["detail"]
    assert "accepted: webhook_url, callback_task" in fault["detail"]
    answer = web.post("/api/v1/accounts/default/pause", {"reasons": "x"})
    assert "is 'reason' meant?); accepted: reason" in answer.json()["detail"]


def test_open_jobs_are_listed_whatever_their_state(web: Web, seeded: dict[str, Any]) -> None:
    found = web.get(f"{JOBS}?state=open").json()["jobs"]
    assert [job["id"] for job in found] == [seeded["running"]["id"]]


def test_no_advice_is_about_a_command_line(web: Web) -> None:
    refused = web.post(JOBS, {"video_ids": ["grok:a", "ids.txt"]}).json()["detail"]
    assert refused.endswith("can't be a video id: it is a file's name; nothing was stored")
    web.post(JOBS, {"video_id": "grok:a"})
    detail = web.get(f"{JOBS}/grok:a?account=studio").json()["detail"]
    assert detail.endswith("it is for 'default'")


def test_what_was_sent_is_told_as_it_was_sent(web: Web) -> None:
    """Whatever it reads like."""
    sent = "grok:a; `reelwatch x` reads y"
    assert web.post(JOBS, {"video_id": sent}).json()["detail"].startswith(f"{sent!r} can't be")
    asked = web.get(f"{JOBS}/{quote('grok:a (--account)')}").json()["detail"]
    assert asked.startswith("no job 'grok:a (--account)' is tracked")


def test_each_value_of_a_wrong_kind_is_told_once(web: Web) -> None:
    answer = web.post(JOBS, {"video_id": 5, "deadline": True, "metadata": [1]})
    fields = [each["field"] for each in answer.json()["errors"]]
    assert sorted(fields) == ["deadline", "metadata", "video_id"]


def test_of_many_wrong_values_the_first_are_told(web: Web) -> None:
    errors = web.post(JOBS, {"video_ids": [7] * 1_000}).json()["errors"]
    assert [each["field"] for each in errors] == [f"video_ids[{n}]" for n in range(FAULTS_MOST)]


def test_a_number_shows_and_changes_no_other_accounts_job(web: Web, seeded: dict[str, Any]) -> None:
    path = f"{JOBS}/{seeded['running']['id']}"
    assert web.get(f"{path}?account=studio").status_code == 404
    assert web.post(f"{path}/cancel?account=studio").status_code == 404
    assert web.get(f"{path}?account=default").json()["job"]["state"] == "running"
