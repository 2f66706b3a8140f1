"""Events over the API: found by what is known of them, sent again as they were chosen."""

from datetime import datetime
from typing import Any

import pytest

from reelwatch.storage import db
from reelwatch.storage.models import Delivery, Endpoint
from reelwatch.web.api import deliveries
from tests import seeding
from tests.web import Web

DELIVERIES, ORDERS = "/api/v1/deliveries", "/api/v1/redeliveries"
OLD, NEW = "https://old.example.com/in", "https://new.example.com/in"


@pytest.fixture
def dead(url: str) -> dict[str, dict[str, Any]]:
    """Two dead events: one of a day ago that another account's job owes, and one of just now."""
    with db.transaction(url) as session:
        seeding.add_account(session, "studio")
        job = seeding.add_job(session, "completed", account="studio", tracked_at=seeding.at(days=1))
        step = seeding.add_transition(session, job, to_state="completed")
        old = seeding.add_delivery(session, job, step, "dead", target=OLD)
        new = seeding.add_owed(session, NEW, state="dead", next_attempt_at=None)
    return {"old": old, "new": new}


CHOICES = [
    ({"account": "studio"}, ["old"]),
    ({"endpoint": NEW}, ["new"]),
    ({"endpoint": "old.example.com"}, ["old"]),
    ({"since": "2h"}, ["new"]),
    ({"until": "2h"}, ["old"]),
    ({"state": "dead"}, ["new", "old"]),
    ({"state": "delivered"}, []),
]


@pytest.mark.parametrize(("chosen", "found"), CHOICES, ids=str)
def test_events_are_found_by_what_is_known_of_them(
    web: Web, dead: dict[str, dict[str, Any]], chosen: dict[str, str], found: list[str]
) -> None:
    query = "&".join(f"{name}={value}" for name, value in chosen.items())
    rows = web.get(f"{DELIVERIES}?{query}").json()["deliveries"]
    assert {row["id"] for row in rows} == {dead[name]["id"] for name in found}


def test_the_events_of_one_job_are_found_by_its_number(
    web: Web, dead: dict[str, dict[str, Any]]
) -> None:
    for event in dead.values():
        [row] = web.get(f"{DELIVERIES}?job={event['job_id']}").json()["deliveries"]
        assert row["id"] == event["id"]


@pytest.mark.parametrize(("chosen", "found"), CHOICES, ids=str)
def test_an_order_is_about_what_it_chooses_and_nothing_else(
    web: Web,
    url: str,
    dead: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    chosen: dict[str, str],
    found: list[str],
) -> None:
    """Done within the call, it is answered by 200."""
    monkeypatch.setattr(deliveries, "AT_ONCE_SECONDS", 30)
    answer = web.post(ORDERS, chosen)
    assert (answer.status_code, answer.json()["state"]) == (200, "done")
    with db.reading(url) as session:
        state = {name: session.get_one(Delivery, event["id"]).state for name, event in dead.items()}
    assert sorted(name for name in state if state[name] == "pending") == found


def test_an_order_that_takes_longer_is_answered_before_it_is_done(
    web: Web, dead: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "go_on", lambda _url, _number: None)
    answer = web.post(ORDERS, {"state": "dead"})
    assert (answer.status_code, answer.json()["state"]) == (202, "running")


@pytest.mark.parametrize("release", ["yes", 1, "true"])
def test_what_is_no_true_or_false_releases_nothing(
    web: Web, dead: dict[str, dict[str, Any]], release: object
) -> None:
    for path in (f"{DELIVERIES}/{dead['new']['id']}/redeliver", ORDERS):
        answer = web.post(path, {"release": release})
        assert answer.status_code == 422
        assert answer.json()["detail"].endswith("accepted: true or false")


def resting_until(web: Web) -> dict[str, datetime | None]:
    rows = web.get("/api/v1/endpoints").json()["endpoints"]
    return {row["name"]: row["open_until"] for row in rows if row["state"] == "resting"}


@pytest.mark.parametrize("release", [True, False])
@pytest.mark.parametrize("many", [True, False])
def test_only_who_says_that_an_endpoint_is_repaired_has_it_called_at_once(
    web: Web,
    url: str,
    dead: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    release: bool,
    many: bool,
) -> None:
    monkeypatch.setattr(deliveries, "AT_ONCE_SECONDS", 30)
    with db.transaction(url) as session:
        standing = {"failures": 9, "openings": 1, "allowance": 1, "changed_at": db.now(session)}
        rest = seeding.at(minutes=-10)
        session.add(Endpoint(name=NEW, host="new.example.com", open_until=rest, **standing))
    assert set(resting_until(web)) == {NEW}
    if many:
        answer = web.post(ORDERS, {"endpoint": NEW, "release": release})
    else:
        answer = web.post(f"{DELIVERIES}/{dead['new']['id']}/redeliver", {"release": release})
    assert answer.status_code == 200
    assert set(resting_until(web)) == (set() if release else {NEW})


@pytest.mark.parametrize("target", ["https://[::1@celery", "x://[@celery", "http://\u2100@celery"])
def test_a_task_whose_name_begins_like_a_url_and_is_none_hides_no_other_events(
    web: Web, url: str, target: str
) -> None:
    """Whoever may hand in jobs names their tasks."""
    failing = {
        "failures": 9,
        "allowance": 1,
        "failing_since": seeding.at(hours=1),
        "changed_at": seeding.at(),
    }
    with db.transaction(url) as session:
        odd = seeding.add_owed(session, target, channel="celery", destination="celery")
        well = seeding.add_owed(session, NEW)
        seeding.add(session, Endpoint, {"name": target, "host": "celery", "openings": 0, **failing})
    rows = web.get(DELIVERIES).json()["deliveries"]
    assert {row["id"] for row in rows} == {odd["id"], well["id"]}
    for path in ("/deliveries", "/endpoints", "/", f"/jobs/{odd['job_id']}", "/api/v1/endpoints"):
        assert web.get(path).status_code == 200
