"""The pages by their addresses. Each reads a view and shows it; nothing here changes anything."""

from collections.abc import Sequence
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException

from reelwatch.jobs import redelivery
from reelwatch.storage import db, searching
from reelwatch.web import access
from reelwatch.web.api.deliveries import go_on
from reelwatch.web.api.params import NUMBER
from reelwatch.web.pages import deliveries, frame, job, listing, models, now, standing
from reelwatch.web.pages.frame import Page

router = APIRouter(include_in_schema=False)
Reader = Annotated[access.Caller, Depends(access.require_page("read"))]

IDS_MOST = 200
ANYWHERE = "http: https:"


@router.get("/")
async def now_page(request: Request, caller: Reader, ids: str | None = None) -> Response:
    """How things stand."""
    same = _numbers(ids)
    topics = (
        "jobs",
        "transitions",
        "attempts",
        "deliveries",
        "poll_errors",
        "accounts",
        "endpoints",
        "time",
    )
    page = Page("now.html", "Now", topics, lambda session: now.view(session, same))
    return await frame.show(request, caller, page)


@router.get("/jobs")
async def jobs_page(
    request: Request,
    caller: Reader,
    asked: Annotated[listing.Asked, Depends()],
    before: str = "",
    ids: str | None = None,
) -> Response:
    """A page of jobs."""
    place = listing.place_of(before)
    same = _numbers(ids)
    page = Page(
        "jobs.html",
        "Jobs",
        ("jobs", "transitions", "poll_errors", "accounts", "time"),
        lambda session: listing.view(
            session, asked, place, same, access.settings_of(request).accounts
        ),
    )
    return await frame.show(request, caller, page)


@router.get("/jobs/{job_id}")
async def job_page(request: Request, caller: Reader, job_id: str) -> Response:
    """One job."""
    if not NUMBER.fullmatch(job_id):
        raise HTTPException(404)
    return await frame.show(request, caller, page_of(int(job_id), request))


def page_of(job_id: int, request: Request) -> Page:
    """The page of one job."""
    topics = (f"job:{job_id}", "attempts", "deliveries", "transitions", "accounts", "endpoints")
    until_end = request.query_params.get("until") == "end"
    playing = "video" in request.query_params.getlist("show")
    return Page(
        "job.html",
        "Job",
        topics,
        lambda session: job.view(session, job_id, until_end=until_end),
        media=ANYWHERE if playing else "'none'",
        at=f"/jobs/{job_id}",
    )


@router.get("/deliveries")
async def deliveries_page(
    request: Request,
    caller: Reader,
    asked: Annotated[deliveries.Asked, Depends()],
    before: str = "",
    ids: str | None = None,
) -> Response:
    """A page of events, of all jobs."""
    place = listing.place_of(before, str)
    same = None if ids is None else _listed(ids)
    page = Page(
        "deliveries.html",
        "Deliveries",
        ("transitions", "attempts", "deliveries", "endpoints"),
        lambda session: deliveries.view(
            session, asked, place, same, access.settings_of(request).accounts
        ),
    )
    return await frame.show(request, caller, page)


@router.get("/deliveries/redeliver")
async def redeliver_page(
    request: Request, caller: Reader, asked: Annotated[deliveries.Asked, Depends()]
) -> Response:
    """What sending all that match would be about; a button orders it."""
    asked.check_order(request.query_params)
    page = Page(
        "redeliver.html", "Send again", (), lambda session: deliveries.order_view(session, asked)
    )
    return await frame.show(request, caller, page)


@router.get("/redeliveries/{number}")
async def redelivery_page(request: Request, caller: Reader, number: str) -> Response:
    """How far an order has come; one that was left is taken up again, as by the API."""
    if not NUMBER.fullmatch(number):
        raise HTTPException(404)
    url = access.settings_of(request).database_url

    def read(session: Session) -> Any:
        found = redelivery.progress(url, int(number))
        if found is None:
            return None
        if found["state"] == "running":
            go_on(url, int(number))
        return {**found, "filters": deliveries.filters_of(session, found["wanted"])}

    page = Page("redelivery.html", "Sent again", ("deliveries", "redeliveries"), read)
    return await frame.show(request, caller, page)


@router.get("/endpoints")
async def endpoints_page(request: Request, caller: Reader) -> Response:
    """Where events go."""
    topics = ("attempts", "deliveries", "transitions", "endpoints", "time")
    page = Page("endpoints.html", "Endpoints", topics, deliveries.endpoints_view)
    return await frame.show(request, caller, page)


@router.get("/accounts")
async def accounts_page(request: Request, caller: Reader) -> Response:
    """Whose rate it is."""
    return await frame.show(request, caller, page_of_accounts(request))


def page_of_accounts(request: Request) -> Page:
    """The page of all accounts."""
    return Page(
        "accounts.html",
        "Accounts",
        ("accounts", "jobs", "transitions", "time"),
        standing.view,
        at="/accounts",
    )


@router.get("/models")
async def models_page(
    request: Request, caller: Reader, account: str = "", model: str = ""
) -> Response:
    """How long jobs take."""
    page = Page(
        "models.html", "Models", ("time",), lambda session: models.view(session, account, model)
    )
    return await frame.show(request, caller, page)


@router.get("/search")
async def search_page(request: Request, caller: Reader, q: str = "") -> Response:
    """What a text leads to; to the job itself, if it is one by its own id."""
    url = access.settings_of(request).database_url

    def found() -> Sequence[searching.Found]:
        with db.reading(url) as session:
            return searching.search(session, q[:500])

    jobs = await anyio.to_thread.run_sync(found)
    if len(jobs) == 1 and jobs[0].by == searching.VIDEO_ID:
        return RedirectResponse(f"/jobs/{jobs[0].job_id}", 303)
    page = Page("search.html", "Search", (), lambda _session: jobs)
    return await frame.show(request, caller, page)


@router.get("/changes")
async def changes(
    request: Request, caller: Reader, token: str, topics: Annotated[str, Query(max_length=2_000)]
) -> dict[str, bool]:
    """Wait until something of these topics has changed."""
    wanted = _listed(topics)
    changed = await frame.watcher(request).changed(wanted, token, request.app.state.ending)
    return {"changed": changed}


def _numbers(text: str | None) -> Sequence[int] | None:
    if text is None:
        return None
    return [int(each) for each in _listed(text) if NUMBER.fullmatch(each)]


def _listed(text: str) -> Sequence[str]:
    return [each for each in text.split(",") if each][:IDS_MOST]
