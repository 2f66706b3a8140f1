"""What went wrong, whoever found it: as `application/problem+json` (RFC 9457), or as a page."""

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, get_args

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from reelwatch.errors import HasEnded, ReelwatchError, Refused, UnknownJob, first_line
from reelwatch.rules.spelling import nearest
from reelwatch.storage import writing
from reelwatch.web.accepting import weight

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
API = "/api/"
FAULTS_MOST = 20  # told of one request
NAMED = re.compile(r"([\w-]+): ")
NUMBERED = re.compile(r"id (\d+) of ")
SHOWN_MOST = 80  # characters of a value that is refused
BUSY = {"Retry-After": "5"}


class Fault(BaseModel):
    """One value that was refused."""

    field: str
    detail: str  # what is wrong with it, and what is accepted


class ProblemBody(BaseModel):
    """What every answer that is an error holds."""

    model_config = ConfigDict(title="Problem")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[Fault] = []


# What is accepted, in the words of JSON and not of Python.
ACCEPTED = {
    "dict_type": "a JSON object",
    "model_attributes_type": "a JSON object",
    "list_type": "a JSON array",
    "string_type": "a string",
    "string_unicode": "a string without halves of surrogate pairs",
    "string_too_short": "at least {min_length} character",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "what matches {pattern}",
    "int_parsing": "an integer",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "too_short": "at least one",
    "too_long": "at most {max_length}",
}


class Problem(Exception):
    """Ends a request with that status and a sentence that says why."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers
        self.errors = [{"field": field, "detail": detail}] if field else []


class Told(Response):
    """A problem in the form that whoever asks can read: a page for a browser, JSON for programs."""

    def __init__(self, problem: ProblemBody, headers: Mapping[str, str] | None) -> None:
        # What was sent may hold half characters; escaped, they can be sent back.
        text = json.dumps(problem.model_dump())
        super().__init__(text, problem.status, headers, MEDIA_TYPE)
        self._problem, self._more = problem, headers or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        response: Callable[..., Awaitable[None]] = super().__call__
        if for_browser(scope):
            page = scope["app"].state.problem_page(Request(scope), self._problem)
            page.headers.update(self._more)
            response = page
        await response(scope, receive, send)


def for_browser(scope: Scope) -> bool:
    """Does somebody look at the answer? The API answers programs, whatever they say they read."""
    accepted = ",".join(Headers(scope=scope).getlist("accept"))
    page, program = (weight(accepted, kind) for kind in ("text/html", "application/json"))
    return page > 0 and page >= program and not scope["path"].startswith(API)


def answer(
    status: int,
    detail: str,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The response."""
    faults = [Fault(field=each["field"], detail=each["detail"]) for each in errors]
    title = HTTPStatus(status).phrase
    problem = ProblemBody(title=title, status=status, detail=detail, errors=faults)
    return Told(problem, headers)


def described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers with these statuses, for a route's description."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def install(app: FastAPI, page: Callable[[Request, ProblemBody], Response]) -> None:
    """Have the app tell every error as a problem, to browsers by that page."""
    app.state.problem_page = page
    app.exception_handler(Problem)(_of_problem)
    app.exception_handler(HTTPException)(_of_http)
    app.exception_handler(RequestValidationError)(_of_form)
    app.exception_handler(ReelwatchError)(_of_use_case)
    app.exception_handler(SQLAlchemyError)(_of_database)


def failed(error: Exception) -> Response:
    """The answer to what nobody has foreseen; the log has the rest."""
    log.error("request_failed", exc_info=error)
    return answer(500, "this is a bug; the log of the web process has more")


async def _of_problem(_request: Request, error: Any) -> Response:
    return answer(error.status, error.detail, error.errors, error.headers)


async def _of_http(request: Request, error: Any) -> Response:
    """What the framework itself answers: no such path, no such method, a body it can't read."""
    lists = "" if for_browser(request.scope) else "; /api/v1/docs lists what there is"
    detail = {
        400: "the body is not JSON",
        404: f"there is nothing at this path{lists}",
        405: f"this path does not know that method{lists}",
    }.get(error.status_code, str(error.detail))
    headers = {"Allow": ", ".join(_methods(request))} if error.status_code == 405 else error.headers
    return answer(error.status_code, detail, (), headers)


def _methods(request: Request) -> Iterator[str]:
    """Those that this path knows; the framework names one route's, and a path may have several."""
    for method in ("GET", "POST", "PATCH"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            yield from ("GET", "HEAD") if method == "GET" else (method,)


async def _of_form(request: Request, error: Any) -> Response:
    """Values of a wrong kind, each with its field, what was sent and what is accepted."""
    for each in error.errors():
        if each["type"] == "json_invalid":
            return answer(400, f"the body is not JSON: see its character {each['loc'][-1]}")
    faults = [_fault(each, request) for each in error.errors()[:FAULTS_MOST]]
    return answer(422, "; ".join(each["detail"] for each in faults), faults)


def _fault(error: Mapping[str, Any], request: Request) -> Mapping[str, str]:
    field = _path(error["loc"][1:]) or str(error["loc"][0])
    if error["type"] == "missing":
        return {"field": field, "detail": f"{field}: it is missing"}
    if error["type"] == "extra_forbidden":
        known = _fields(request.scope["route"].dependant)
        return {"field": field, "detail": f"{field}: {not_known('field', field, known)}"}
    ours = ACCEPTED.get(error["type"])
    accepted = ours.format_map(error.get("ctx", {})) if ours else error["msg"]
    accepted = accepted.removeprefix("Value error, ").removeprefix("Input should be ")
    return {"field": field, "detail": f"{field}: {shown(error['input'])}; accepted: {accepted}"}


def _fields(dependant: Any) -> list[str]:
    """What the bodies of a route may hold."""
    sent = [each.field_info.annotation for each in dependant.body_params]
    shapes = [shape for each in sent for shape in (each, *get_args(each))]
    return [name for shape in shapes for name in getattr(shape, "model_fields", ())]


def not_known(kind: str, name: str, known: Sequence[str]) -> str:
    """What is said of the name of a field or parameter that there is not."""
    near = nearest(name[:SHOWN_MOST], known)
    meant = f" (is {near!r} meant?)" if near else ""
    return f"there is no such {kind}{meant}; accepted: {', '.join(known) or 'none'}"


def _path(parts: Sequence[str | int]) -> str:
    """`video_ids[3]` of `("video_ids", 3)`."""
    named = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return named.removeprefix(".")


def shown(value: object) -> str:
    """A value as a message shows it: not all of it, if it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_MOST else text[:SHOWN_MOST] + "…"


async def _of_use_case(_request: Request, error: Any) -> Response:
    detail = error.said  # nobody types commands here
    if isinstance(error, UnknownJob):
        return answer(404, detail)
    if isinstance(error, HasEnded):
        return answer(409, detail)
    if isinstance(error, Refused):
        return answer(422, detail, [{"field": field_of(detail), "detail": detail}])
    return answer(503, detail, headers=BUSY)


def field_of(refusal: str) -> str:
    """The field that a refusal is about: most begin with its name."""
    numbered, named = NUMBERED.match(refusal), NAMED.match(refusal)
    if numbered:
        return f"video_ids[{int(numbered[1]) - 1}]"
    if "video id:" in refusal:
        return "video_id"
    if refusal.startswith("callback URL"):
        return "webhook_url"
    return named[1] if named and named[1] != "update" else "body"


async def _of_database(_request: Request, error: Any) -> Response:
    """Away or full: the same request may be made again later."""
    if isinstance(error, PoolTimeout) or writing.is_away(error):
        log.warning("database_away", error=first_line(error))
        return answer(503, "the database is not there at the moment", headers=BUSY)
    return failed(error)
