"""What stands in front of every route: what a browser's foreign page, a slow or a huge request may
not do. Pure ASGI: nothing here waits for a thread.
"""

import asyncio
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from fastapi import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelwatch.web import problems
from reelwatch.web.problems import API, Problem

BODY_MOST = 1024 * 1024  # bytes
FORM_MOST = 64 * 1024  # a page's form needs no token, and a large one takes a second to take apart
BODY_SECONDS = 10.0  # in which a body has to arrive
ANSWER_SECONDS = 70.0  # until an answer begins; the longest poll of the feed waits for 60

CHANGING = ("POST", "PUT", "PATCH", "DELETE")
FORMS = ("application/x-www-form-urlencoded",)

# Ways to write a path that a proxy in front may read otherwise than we do.
TRICKS = re.compile(rb"%2f|%5c|%00|%2e|\\|//|/\.{1,2}(/|$)", re.IGNORECASE)
NUL = b"%00"
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# A route that needs another policy sets its own.
CLOSED = {"connection": "close"}  # what is left of a request that is refused is not kept
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Gate:
    """Lets through what may pass; refusals and the headers of every answer are made here."""

    def __init__(self, app: ASGIApp, *, local: bool) -> None:
        self._app = app
        self._local = local  # no tokens: only this machine's programs and pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # the server itself leaves the body out
            scope = {**scope, "method": "GET"}
        scope = {**scope, "headers": list(_plain_cookies(scope["headers"]))}
        begun, sent = False, _Sent(receive)

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                waiting.reschedule(None)
                _add_headers(message)
            await send(message)

        try:
            async with asyncio.timeout(ANSWER_SECONDS) as waiting:
                self._check(scope)
                body = await _body(scope, sent)
                _check_form(scope, body)
                await self._app(scope, _replay(body, receive), sending)
        except Problem as refusal:
            refused = problems.answer(refusal.status, refusal.detail, refusal.errors, CLOSED)
        except TimeoutError:
            refused = problems.answer(503, "this takes too long", headers=problems.BUSY)
        except Exception as error:
            refused = problems.failed(error)
        else:
            return
        if not begun:
            await _answer(refused, scope, sent, send)

    def _check(self, scope: Scope) -> None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        if TRICKS.search(scope["raw_path"]):
            raise Problem(400, "this path is not written plainly")
        if "content-length" in headers and "transfer-encoding" in headers:
            raise Problem(400, "Content-Length and Transfer-Encoding: one of them is accepted")
        _check_query(scope["query_string"])
        if self._local:
            check_local(headers)
        if self._local or scope["method"] in CHANGING:
            check_page(headers)
        if scope["method"] in CHANGING:
            _check_kind(scope["path"], headers)


def _plain_cookies(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """The headers without cookies that stand in quotes; ours has none.

    Each route has all of them read, and Python up to 3.11.9 and 3.12.5 takes seconds for a long
    one in quotes.
    """
    for name, value in headers:
        if name == b"cookie":
            plain = (each for each in value.split(b";") if b'"' not in each)
            yield name, b";".join(plain)
        else:
            yield name, value


def check_local(headers: Mapping[str, str]) -> None:
    """Refuse what came by a name of other machines, or through a proxy.

    A foreign page whose name leads here (DNS rebinding) sends its own name as Host.
    """
    if not is_loopback(host_of(headers.get("host", ""))):
        raise Problem(
            403,
            "Host: without REELWATCH_API_TOKENS only localhost, 127.0.0.1 and [::1] are served",
        )
    if any(name in headers for name in FORWARDED):
        raise Problem(403, "a proxy sent this: REELWATCH_API_TOKENS has to be set for that")


def check_page(headers: Mapping[str, str]) -> None:
    """Refuse what another site's page made a browser send; programs send none of these headers."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        origin = headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
    if foreign:
        raise Problem(403, "a page of another site sent this; open the address by hand")


def _check_kind(path: str, headers: Mapping[str, str]) -> None:
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Problem(415, "Content-Encoding: a body that is not compressed is accepted")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    some = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    if path.startswith(API):
        if kind != "application/json" and (kind or some):
            raise Problem(415, "Content-Type: application/json is accepted")
    elif kind and kind not in FORMS:
        raise Problem(415, f"Content-Type: {FORMS[0]} is accepted")


def _check_query(query: bytes) -> None:
    for part in query.split(b"&"):
        if NUL in part:
            field = part.partition(b"=")[0].decode("latin-1")
            raise Problem(422, f"{field}: no NUL character, %00, is stored anywhere", field=field)


def _check_form(scope: Scope, body: bytes) -> None:
    """Refuse a NUL in a form; JSON's are the routes' affair, which know what each text is for."""
    if not scope["path"].startswith(API) and (NUL in body or b"\0" in body):
        raise Problem(422, "a NUL character is in the form: nothing that is stored has one")


def host_of(host: str) -> str:
    """A Host header without its port."""
    found = re.fullmatch(r"\[([0-9a-fA-F:.]+)\](?::\d+)?|([^:\[\]]+)(?::\d+)?", host)
    return (found[1] or found[2]) if found else ""


def is_loopback(host: str) -> bool:
    """Is it a name or an address of this machine alone?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


# ------------------------------------------------------------------- bodies


class _Sent:
    """A body as it comes; `more`: not all of it is there. `end`: the loop's time for it is over."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self.more = receive, True
        self.end = asyncio.get_running_loop().time() + BODY_SECONDS

    async def __call__(self) -> Message:
        message = await self._receive()
        self.more = message.get("more_body", False)
        return message


async def _body(scope: Scope, sent: _Sent) -> bytes:
    """The whole body, before anybody works on it. Raises `Problem` for a huge or a slow one."""
    most = BODY_MOST if scope["path"].startswith(API) else FORM_MOST
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if int(length) > most:
        raise _too_large(most)
    pieces, size = [], 0
    try:
        async with asyncio.timeout_at(sent.end):
            while True:
                message = await sent()
                if message["type"] == "http.disconnect":
                    raise Problem(400, "the body did not arrive")
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                if size > most:
                    raise _too_large(most)
                if not message.get("more_body", False):
                    return b"".join(pieces)
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None


def _too_large(most: int) -> Problem:
    return Problem(413, f"a body of at most {most} bytes is accepted")


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once


# ------------------------------------------------------------------ answers


def _add_headers(start: Message) -> None:
    there = {name.lower() for name, _ in start["headers"]}
    start["headers"] = [
        *start["headers"],
        *(
            (name.encode(), value.encode())
            for name, value in HEADERS.items()
            if name.encode() not in there
        ),
    ]


async def _answer(response: Response, scope: Scope, sent: _Sent, send: Send) -> None:
    """Send it, and end it when the request has been read: who is cut off might never see it."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            _add_headers(message)
            await send(message)
        else:
            await send({**message, "more_body": True})

    await response(scope, sent, sending)
    with suppress(TimeoutError):
        async with asyncio.timeout_at(sent.end):
            while sent.more:
                await sent()
    await send({"type": "http.response.body"})
