"""A problem as a page: for whoever opened an address, or sent a form, with a browser."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import HTMLResponse

from reelwatch.web import access
from reelwatch.web.pages import frame
from reelwatch.web.problems import ProblemBody

# By status: what is wrong, and what to do about it.
ADVICE: Mapping[int, tuple[str, str]] = {
    401: ("Nobody has signed in", "Sign in, then do it again."),
    403: ("This is refused", "Whoever runs Reelwatch gives out tokens, and says who may do what."),
    404: (
        "There is no such thing here",
        "Was it pruned, or mistyped? Search for its id above.",
    ),
    405: ("This address is for a form", "Open the page that has the form, and send it from there."),
    500: ("Something broke", "Do it again; if it stays so, tell whoever runs Reelwatch."),
    503: ("Not at the moment", "Do it again in some seconds; nothing is lost meanwhile."),
}
REFUSED = ("This can't be done so", "Correct it, or begin anew from a page below.")
UNCHANGED = "Nothing was changed."


@dataclass(frozen=True, slots=True)
class Shown:
    """The page: a heading, a sentence, what to do, and links that lead on, by their names."""

    title: str
    said: str
    advice: str
    links: Mapping[str, str]


def show(request: Request, problem: ProblemBody) -> Response:
    """The page that tells of the problem. It reads no database: that may be what is missing."""
    title, advice = ADVICE.get(problem.status, REFUSED)
    said = problem.detail[:1].upper() + problem.detail[1:].rstrip(".") + "."
    if request.method != "GET" and problem.status < 500:
        advice = f"{UNCHANGED} {advice}"
    view = Shown(title, said, advice, dict(_links(request, problem.status)))
    page = frame.Page("problem.html", title, (), lambda _session: view)
    body = frame.rendered(request, page, view, datetime.now(UTC))
    return HTMLResponse(body, problem.status)


def _links(request: Request, status: int) -> Iterator[tuple[str, str]]:
    """Where to go on: the page itself again, the one that a form was on, or signed in otherwise."""
    path, query = request.url.path, request.url.query
    page = _page_of(path)
    if request.method == "GET" and status in (500, 503):
        yield "The same again", f"{path}?{query}" if query else path
    elif page not in (None, path) or (page and query):
        yield "Back to the page", str(page)
    if status in (401, 403) and access.settings_of(request).api_tokens:
        then = str(page or "/")
        yield "Sign in", f"{access.SIGN_IN}?next={quote(then, safe='/')}"
    yield "How things stand", "/"
    yield "All jobs", "/jobs"


def _page_of(path: str) -> str | None:
    """The page that an address belongs to; None if it is of no page."""
    first, second = (*path.strip("/").split("/"), "")[:2]
    if first == "jobs" and second.isascii() and second.isdigit():
        return f"/jobs/{second}"
    own = {href for href, _ in frame.NAVIGATION}
    return f"/{first}" if f"/{first}" in own else None
