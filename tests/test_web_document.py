"""The document of the API, and the page that shows it."""

from enum import StrEnum
from typing import Any, get_args

import pytest

from reelwatch.rules.retry import DeliveryState
from reelwatch.rules.states import State
from reelwatch.storage.events import INTERNAL
from reelwatch.storage.models import table_of
from reelwatch.web.api import shapes
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
