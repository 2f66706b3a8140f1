"""The document of the API, and the page that shows it."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, get_args

import pytest

from reelwatch.rules.retry import DeliveryState
from reelwatch.rules.states import State
from reelwatch.storage import db
from reelwatch.storage.events import INTERNAL
from reelwatch.storage.models import RedeliveryOrder, table_of
from reelwatch.web.api import shapes
from tests import seeding
from tests.web import Web


def described(web: Web) -> dict[str, Any]:
    document: dict[str, Any] = web.get("/api/v1/openapi.json").json()
    return document


def test_it_is_openapi_3_1_and_describes_every_route(web: Web) -> None:
    document = described(web)
    assert document["openapi"].startswith("3.1.")
    api = {(p, m.lower()) for p, methods in web.paths() for m in methods if p.startswith("/api/")}
    unlisted = {"/api/v1/openapi.json", "/api/v1/docs", "/api/v1/docs.css"}
    told = {(path, method) for path, each in document["paths"].items() for method in each}
    assert {(path, method) for path, method in api if path not in unlisted} == told
    assert all(
        each["summary"] and each["security"]
        for methods in document["paths"].values()
        for each in methods.values()
    )


def test_whatever_takes_a_body_may_refuse_its_type(web: Web) -> None:
    """Where none is wanted, too."""
    for methods in described(web)["paths"].values():
        for method, each in methods.items():
            assert ("415" in each["responses"]) == (method != "get")


@pytest.mark.parametrize(
    ("table", "shape"),
    [
        ("jobs", shapes.Job),
        ("transitions", shapes.Transition),
        ("poll_errors", shapes.PollError),
        ("deliveries", shapes.Delivery),
        ("attempts", shapes.Attempt),
    ],
)
def test_every_public_column_is_described(table: str, shape: Any) -> None:
    columns = {column.name for column in table_of(table).c} - INTERNAL
    assert columns <= set(shape.model_fields)


@pytest.mark.parametrize(
    ("words", "names"), [(shapes.State, State), (shapes.DeliveryState, DeliveryState)]
)
def test_it_lists_the_states_that_there_are(words: Any, names: type[StrEnum]) -> None:
    assert get_args(words) == tuple(names)
    assert get_args(shapes.Asking) == ("open", *State)


def test_the_page_of_it_needs_nobody_elses_help(web: Web) -> None:
    page = web.get("/api/v1/docs").text
    assert "/api/v1/jobs/{job_id}/recheck" in page
    assert "//" not in page.replace("https://www.rfc-editor.org", "")
    assert "<script" not in page
    assert "style=" not in page
    assert web.get("/api/v1/docs.css").headers["content-type"].startswith("text/css")


def test_times_have_the_one_form_that_show_gives_whole_seconds_too(web: Web, url: str) -> None:
    at = datetime(2026, 2, 6, 3, 58, 49, tzinfo=UTC)
    with db.transaction(url) as session:
        seeding.add_account(session, paused_until=at, pause_reason="quota")
        job = seeding.add_job(session, "completed", tracked_at=at, upstream_finished_at=at)
        seeding.add_transition(session, job, to_state="completed", at=at, upstream_at=at)
        order = {"ordered_by": "ann", "wanted": {}, "state": "done", "created_at": at}
        seeding.add(session, RedeliveryOrder, order | {"worked_at": at, "finished_at": at})
    told = "2026-02-06T03:58:49.000000Z"
    shown = web.get(f"/api/v1/jobs/{job['id']}").json()
    assert shown["transitions"][0].items() >= {"at": told, "upstream_at": told}.items()
    again = web.post("/api/v1/jobs", {"video_id": job["video_id"]}).json()["jobs"]
    for row in (shown["job"], *web.get("/api/v1/jobs").json()["jobs"], *again):
        assert row.items() >= {"tracked_at": told, "upstream_finished_at": told}.items()
    [account] = web.get("/api/v1/accounts").json()["accounts"]
    assert account["paused_until"] == told
    told_of = web.get("/api/v1/redeliveries/1").json()
    assert told_of.items() >= {"created_at": told, "worked_at": told}.items()
