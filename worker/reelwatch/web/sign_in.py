"""Where a person types in a token, so that the browser may show the pages."""

from collections.abc import Mapping
from html import escape
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from reelwatch.web import access, problems
from reelwatch.web.pages import assets

router = APIRouter(include_in_schema=False)

FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Reelwatch: sign in</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="{icon}" type="image/svg+xml">
<link rel="stylesheet" href="{style}"></head>
<body><main class="signin"><h1><img src="{icon}" alt="" width="26" height="26"> Reelwatch</h1>
<form class="card" method="post" action="{action}">
<p><label for="token">A token of REELWATCH_API_TOKENS</label></p>
<p><input id="token" name="token" type="password" autocomplete="current-password" required
autofocus></p>
<p role="alert"{kind}>{said}</p>
<p><button>Sign in</button></p>
</form></main></body></html>
"""


async def fields(request: Request) -> Mapping[str, list[str]]:
    """The fields of a form that a page has sent."""
    body = (await request.body()).decode("utf-8", "replace")
    return parse_qs(body, keep_blank_values=True)


async def posted(request: Request) -> Mapping[str, str]:
    """The fields; of one that is there twice, the last."""
    return {name: values[-1] for name, values in (await fields(request)).items()}


Posted = Annotated[Mapping[str, str], Depends(posted)]


def install(app: FastAPI) -> None:
    """Send who has not signed in to the form, and back from it afterwards."""

    async def to_form(request: Request, _error: Any) -> Response:
        if request.method != "GET":
            return problems.answer(401, "nobody has signed in with this browser")
        asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{access.SIGN_IN}?next={quote(asked, safe='/')}", 303)

    app.exception_handler(access.SignInNeeded)(to_form)


@router.get(access.SIGN_IN)
async def ask(next: str = "/") -> Response:
    """The form."""
    return _form(next, "")


@router.post(access.SIGN_IN)
async def sign_in(request: Request, form: Posted, next: str = "/") -> Response:
    """Check the token and go where the browser wanted to."""
    response = RedirectResponse(_own(next), 303)
    https = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    tokens = access.settings_of(request).api_tokens
    if access.sign_in(response, tokens, form.get("token", "").strip(), https=https):
        return response
    return _form(next, "This is no token of the role read or operate.", 401)


@router.post("/sign-out")
async def sign_out() -> Response:
    """Forget who has signed in."""
    response = RedirectResponse(access.SIGN_IN, 303)
    access.sign_out(response)
    return response


def _form(then: str, said: str, status: int = 200) -> Response:
    action = f"{access.SIGN_IN}?next={quote(_own(then), safe='/')}"
    page = FORM.format(
        action=escape(action),
        said=escape(said),
        kind=' class="said"' if said else "",
        icon=assets.address("mark.svg"),
        style=assets.address("page.css"),
    )
    return HTMLResponse(page, status)


def _own(path: str) -> str:
    """A path of ours, whatever was asked for: no other site, which `//` and `\\` would lead to."""
    own = path.startswith("/") and path[1:2] not in ("/", "\\") and path.isprintable()
    return path if own else "/"
