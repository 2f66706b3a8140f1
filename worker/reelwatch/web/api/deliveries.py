"""Events that are owed or told: list them, and send them again."""

from threading import Thread
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Body, Header, Path, Query, Response

from reelwatch.jobs import redelivery
from reelwatch.storage import db, events
from reelwatch.storage.filters import EventFilter
from reelwatch.web.access import OperateCaller, ReadCaller
from reelwatch.web.api import params, shapes
from reelwatch.web.problems import Problem, described

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/api/v1", tags=["deliveries"])

CHOICES = "one or more of state, endpoint, account, since, until"
AT_ONCE_SECONDS = 2.0  # an order that takes less is answered when it is done

EventId = Annotated[str, Path(description="The event's id.", max_length=40, examples=["evt_…"])]
Text = Annotated[str | None, Query(max_length=2_000)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Recommended: the same key means the same order, however often it is sent.",
    ),
]


@router.get(
    "/deliveries",
    response_model=shapes.Deliveries,
    response_model_exclude_unset=True,
    summary="List events",
)
def list_deliveries(
    caller: ReadCaller,
    url: params.Database,
    state: shapes.DeliveryState | None = None,
    endpoint: Annotated[
        str | None, Query(max_length=2_000, description="A callback URL, host, task or task@queue.")
    ] = None,
    job: Annotated[int | None, Query(ge=1, lt=10**18, description="A job's `id`.")] = None,
    account: Text = None,
    since: params.Time = None,
    until: params.Time = None,
    limit: params.Limit = 50,
    after: params.After = None,
) -> Any:
    """The newest first, by pages; a page may be short, or empty, and not the last."""
    wanted = EventFilter(
        state=state,
        endpoint=endpoint or None,
        job_id=job,
        account=account or None,
        since=params.moment("since", since),
        until=params.moment("until", until),
    )
    before = params.place_of(after, str)
    with db.reading(url) as session:
        found = events.page_of_events(session, wanted, limit, before)
        rows = events.with_last_attempt(session, found.rows)
    return {"deliveries": rows, "next": params.cursor_of(found.next)}


@router.get(
    "/deliveries/{event_id}",
    response_model=shapes.Delivery,
    response_model_exclude_unset=True,
    responses=described(404),
    summary="One event with its attempts",
)
def show(event_id: EventId, caller: ReadCaller, url: params.Database) -> Any:
    """As it is owed or was told, and how each attempt went."""
    with db.reading(url) as session:
        return _found(events.event(session, event_id, signatures=caller.may_act), event_id)


@router.post(
    "/deliveries/{event_id}/redeliver",
    response_model=shapes.Delivery,
    response_model_exclude_unset=True,
    responses=described(404),
    summary="Send one event again",
)
def redeliver(
    event_id: EventId,
    caller: OperateCaller,
    url: params.Database,
    sent: Annotated[shapes.Redeliver | None, Body()] = None,
) -> Any:
    """The same id and body, signature and timestamp anew; all attempts from the first."""
    release = sent is not None and sent.release
    with db.transaction(url) as session:
        _found(events.event(session, event_id), event_id)
        now = db.now(session)
        redelivery.redeliver(session, now, [event_id], release=release, by=caller.name)
        return events.event(session, event_id, signatures=True)


def _found(row: Any, event_id: str) -> Any:
    if row is None:
        raise Problem(404, f"there is no event {event_id!r}")
    return row


@router.post(
    "/redeliveries",
    status_code=202,
    response_model=shapes.Redelivery,
    responses={200: {"model": shapes.Redelivery, "description": "It is done already."}},
    summary="Send many events again",
)
def order(
    sent: Annotated[shapes.Redeliveries, Body()],
    response: Response,
    caller: OperateCaller,
    url: params.Database,
    key: Key = None,
) -> Any:
    """All that are found now, some hundreds at a time. A body that chooses nothing is refused.
    One without `state` takes what is dead alone, and with `release` what is pending, too.

    The answer has the order's number and how far it has come; `GET` of it tells how it goes on.
    """
    if not any((sent.state, sent.endpoint, sent.account, sent.since, sent.until)):
        raise Problem(422, f"body: it chooses no events; accepted: {CHOICES}", field="body")
    wanted = redelivery.Wanted(
        state=sent.state,
        endpoint=sent.endpoint,
        account=sent.account,
        since=params.moment("since", sent.since),
        until=params.moment("until", sent.until),
        release=sent.release,
    )
    number = redelivery.order(url, wanted, by=caller.name, key=key)
    at_work = go_on(url, number)
    if at_work is not None:
        at_work.join(AT_ONCE_SECONDS)
    told = progress(number, caller, url)
    if told["state"] == "done":
        response.status_code = 200
    return told


@router.get(
    "/redeliveries/{number}",
    response_model=shapes.Redelivery,
    responses=described(404),
    summary="How far such an order has come",
)
def progress(number: params.Number, caller: ReadCaller, url: params.Database) -> Any:
    """Its numbers as of now. One that was left when a web process ended is taken up again."""
    found = redelivery.progress(url, number)
    if found is None:
        raise Problem(404, f"there is no order {number}")
    if found["state"] == "running":
        go_on(url, number)
    return found


def go_on(url: str, number: int) -> Thread | None:
    """Go through an order beside the requests, unless somebody does."""
    if not redelivery.is_left(url, number):
        return None
    thread = Thread(target=_work, args=(url, number), name=f"redelivery-{number}", daemon=True)
    thread.start()
    return thread


def _work(url: str, number: int) -> None:
    try:
        redelivery.work(url, number)
    except Exception:  # a worker goes on with it later, or whoever asks for its progress
        log.exception("redelivery_interrupted", number=number)
