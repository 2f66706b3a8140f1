"""The feed: events for producers that can't be called, who ask for them and wait if there is none.

The bodies are the texts that webhooks bring, byte for byte.
"""

import asyncio
import json
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from reelwatch.errors import CursorTooOld
from reelwatch.jobs import feed
from reelwatch.web import problems
from reelwatch.web.access import JobsReadCaller, settings_of
from reelwatch.web.waiting import Waiting

WAIT_MOST = 60.0  # seconds

router = APIRouter(prefix="/api/v1", tags=["events"])


class EventBody(BaseModel):
    """What a webhook would bring: type, time, and all that is known of the job."""

    type: str = Field(examples=["video.completed"])
    timestamp: str
    data: dict[str, Any]


class FeedEvent(BaseModel):
    """One event. `cursor` is the place behind it; `id` stays the same wherever it is told."""

    id: str
    cursor: str
    event: EventBody


class FeedPage(BaseModel):
    """Events in their order. `next` is for `after` of the next call; `more`: at once."""

    events: list[FeedEvent]
    next: str
    more: bool


TOO_OLD = {
    "description": "Events behind the cursor were deleted; `next` goes on with those that are kept",
    "content": {
        problems.MEDIA_TYPE: {
            "schema": {
                "allOf": [{"$ref": "#/components/schemas/Problem"}],
                "properties": {"next": {"type": "string"}},
                "required": ["next"],
            }
        }
    },
}


@router.get(
    "/events",
    response_model=FeedPage,
    responses={410: TOO_OLD},
    summary="Read the feed",
)
async def events(
    request: Request,
    _caller: JobsReadCaller,
    after: Annotated[
        str | None,
        Query(max_length=200, description="A cursor; `now`; without it the oldest that is kept"),
    ] = None,
    wait: Annotated[
        float, Query(ge=0, le=WAIT_MOST, description="Seconds to wait where there is none")
    ] = 0.0,
    types: Annotated[
        str | None, Query(max_length=1000, description="Of these types only, comma-separated")
    ] = None,
    account: Annotated[str | None, Query(max_length=64, description="Of this account only")] = None,
    limit: Annotated[int, Query(ge=1, le=feed.PAGE_MOST)] = feed.PAGE_USUAL,
) -> Response:
    """Every event once, in one order, to whoever goes on with `next`.

    What a job's `events` names is told here, whether or not it has a receiver. Without any event
    the answer comes after `wait` seconds, empty, with the cursor to go on with.
    """
    asked = {
        "types": tuple(feed.chosen([each for each in (types or "").split(",") if each])),
        "account": account,
        "limit": limit,
    }
    try:
        page = await _page(request, after, wait, asked)
    except CursorTooOld as error:
        return _too_old(error)
    return Response(_encoded(page), media_type="application/json")


async def _page(
    request: Request, after: str | None, wait: float, asked: dict[str, Any]
) -> feed.Page:
    """The first page with an event on it, or an empty one when the time is over."""
    loop, waiting = asyncio.get_running_loop(), waiting_of(request)
    over = loop.time() + wait
    head = await waiting.head()
    cursor = feed.start(head, after)
    while True:
        read = partial(feed.read, settings_of(request).database_url, head, cursor, **asked)
        page = await waiting.shared((head, cursor, *asked.values()), read)
        left = over - loop.time()
        if page.events or left <= 0 or request.app.state.ending.is_set():
            return page
        cursor = page.next
        await waiting.beyond(cursor.position, left)
        head = await waiting.head()


def waiting_of(request: Request) -> Waiting:
    """Who waits in this process: made by the first who does."""
    state = request.app.state
    if not hasattr(state, "waiting"):
        state.waiting = Waiting(settings_of(request).database_url, state.ending)
    found: Waiting = state.waiting
    return found


def _encoded(page: feed.Page) -> str:
    """The page as JSON. The bodies are JSON already, and stay the very texts that they are."""
    told = ",".join(
        f'{{"id":{json.dumps(each.id)},"cursor":"{each.cursor}","event":{each.body}}}'
        for each in page.events
    )
    more = json.dumps(page.more)
    return f'{{"events":[{told}],"next":"{page.next}","more":{more}}}'


def _too_old(error: CursorTooOld) -> Response:
    told = {"field": "after", "detail": error.said}
    response = problems.answer(410, error.said, [told])
    body = {**json.loads(bytes(response.body)), "next": error.next}
    return Response(json.dumps(body), 410, media_type=problems.MEDIA_TYPE)
