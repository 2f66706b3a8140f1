"""The document of the API (OpenAPI 3.1), and a page that shows it without anybody else's help."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from reelwatch.web.problems import MEDIA_TYPE, ProblemBody, described

router = APIRouter(prefix="/api/v1", include_in_schema=False)

ABOUT = (
    "Hand in the ids of videos, ask what became of them, and hear of their ends. With tokens in "
    "REELWATCH_API_TOKENS each request brings one: `Authorization: Bearer TOKEN`. Every error is a "
    "problem (RFC 9457) whose `errors` name the field, what is wrong with its value, and what is "
    "accepted; nothing is stored then. Requests that were not answered may be made again: all are "
    "idempotent, but `POST /redeliveries` without an `Idempotency-Key`, which sends once more."
)
ALWAYS = (400, 401, 403, 408, 413, 422, 503)  # what any route may answer
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1a1a1a;background:#fff}code,pre{font-family:ui-monospace,monospace;font-size:.9em}
h2{margin-top:2.5rem;border-top:1px solid #ccc;padding-top:1rem}table{border-collapse:collapse}
td,th{text-align:left;vertical-align:top;padding:.2rem 1rem .2rem 0}a{color:#0b57d0}
@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#161616}a{color:#8ab4f8}}"""


def document(app: FastAPI) -> Mapping[str, Any]:
    """The document of what the app serves; made once."""
    if app.openapi_schema is None:
        made = app.openapi()
        made["info"]["description"] = ABOUT
        schemas = made["components"]["schemas"]
        problem = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {"Problem": problem, **problem.pop("$defs")}
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for _, method, operation in _operations(made):
            _complete(method, operation)
    return app.openapi_schema or {}


def _complete(method: str, operation: dict[str, Any]) -> None:
    """Describe the answers that any route may give; the framework's own is none of ours."""
    responses = operation["responses"]
    responses.pop("422", None)
    statuses = [*ALWAYS, *([415] if method != "get" else [])]
    for status, told in described(*statuses).items():
        responses.setdefault(str(status), told)
    for status, told in responses.items():
        if int(status) >= 400:
            told["content"] = {MEDIA_TYPE: told["content"][MEDIA_TYPE]}
    operation["responses"] = dict(sorted(responses.items()))


def _operations(made: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The document."""
    return Response(_encoded(request.app), media_type="application/json")


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The document for people."""
    return HTMLResponse(_page(request.app))


@router.get("/docs.css")
async def style() -> Response:
    """How it looks."""
    return Response(STYLE, media_type="text/css")


@lru_cache(1)
def _encoded(app: FastAPI) -> bytes:
    """Made once: it is open to everybody, and writing it takes longer than most answers."""
    return bytes(JSONResponse(document(app)).body)


@lru_cache(1)
def _page(app: FastAPI) -> str:
    made = document(app)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Reelwatch API</title>',
        '<meta name="viewport" content="width=device-width">',
        '<link rel="stylesheet" href="/api/v1/docs.css"></head><body><main>',
        f"<h1>Reelwatch API</h1><p>{escape(ABOUT)}</p>",
        '<p><a href="/api/v1/openapi.json">openapi.json</a> describes it for programs.</p>',
    ]
    for path, method, operation in _operations(made):
        parts += _of_operation(path, method, operation)
    parts.append("<h2>What is sent and answered</h2>")
    for name, schema in sorted(made["components"]["schemas"].items()):
        parts += _of_schema(name, schema)
    return "\n".join([*parts, "</main></body></html>"])


def _of_operation(path: str, method: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
    yield f"<p>{escape(operation.get('description') or operation.get('summary', ''))}</p>"
    rows = [
        (each["name"], f"{each['in']}: {_kind(each['schema'])}", each.get("description", ""))
        for each in operation.get("parameters", [])
    ]
    bodies = operation.get("requestBody", {}).get("content", {}).values()
    yield _table([*rows, *(("body", _kind(each["schema"]), "") for each in bodies)])
    yield "<p>Answers: "
    answers = operation["responses"].items()
    yield ", ".join(f"{code} {_answer(told)}" for code, told in answers) + "</p>"


def _answer(told: Mapping[str, Any]) -> str:
    kinds = [_kind(each["schema"]) for each in told.get("content", {}).values()]
    return ", ".join(kinds) if kinds else escape(told["description"])


def _of_schema(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h3 id="{escape(name)}"><code>{escape(name)}</code></h3>'
    yield f"<p>{escape(schema.get('description', ''))}</p>"
    fields = schema.get("properties", {}).items()
    yield _table([(field, _kind(told), str(told.get("description", ""))) for field, told in fields])


def _table(rows: list[tuple[str, str, str]]) -> str:
    cells = (
        f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td><td>{escape(said)}</td></tr>"
        for name, kind, said in rows
    )
    return f"<table>{''.join(cells)}</table>" if rows else ""


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, those that have a name as links."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(escape(str(each)) for each in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return escape(str(schema.get("format") or schema.get("type", "any JSON")))
