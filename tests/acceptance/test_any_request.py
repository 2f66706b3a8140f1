"""The API by its document: Schemathesis asks for all that it describes, and believes no answer."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode, checks
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks as openapi_checks

from reelwatch.storage import db
from tests import seeding
from tests.test_web_document import described
from tests.web import Web, served

CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]
SEARCH = settings(
    max_examples=15,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def lived_in(lite: str) -> str:
    """A database in which something has happened: a job, an event, an account."""
    with db.transaction(lite) as session:
        seeding.add_account(session)
        job = seeding.add_job(session, "completed")
        step = seeding.add_transition(session, job, answer={"status": "completed"})
        event = seeding.add_delivery(session, job, step, "dead", id="evt_1")
        seeding.add_attempt(session, event)
        seeding.add_error(session, job)
    return lite


@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
def test_no_request_brings_an_error_or_an_answer_that_is_not_described(
    lived_in: str, mode: GenerationMode
) -> None:
    with served() as web:
        schema = schemathesis.openapi.from_dict(described(web))
        for each in schema.get_all_operations():
            assert isinstance(each, Ok)
            search(web, each.ok(), mode)


def search(web: Web, operation: Any, mode: GenerationMode) -> None:
    """Ask for one operation in many ways; what is not described fails with the request in curl."""

    @SEARCH
    @given(operation.as_strategy(mode))
    def ask(case: Any) -> None:
        if isinstance((case.query or {}).get("wait"), float | int):
            case.query["wait"] = min(case.query["wait"], 0.1)  # nobody waits for events here
        case.validate_response(case.call(base_url=web.url), checks=CHECKS)

    ask()
