"""What people do on the pages: each a form that is posted, done by the API's use cases, and then
back to where they were.

What is sent twice is done once (`reelwatch.web.pages.once`). That no other site's page posts them
is the gate's business (`reelwatch.web.gate.check_page`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated
from urllib.parse import quote, urlencode

import anyio.to_thread
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from reelwatch.errors import HasEnded, Refused
from reelwatch.jobs import pausing, redelivery, tracking, updating
from reelwatch.storage import db
from reelwatch.storage.models import Job
from reelwatch.web import access
from reelwatch.web.api.deliveries import go_on
from reelwatch.web.api.params import Number
from reelwatch.web.pages import deliveries, frame, job, routes
from reelwatch.web.pages.once import DoneOnce
from reelwatch.web.sign_in import Posted, fields

router = APIRouter(include_in_schema=False, route_class=DoneOnce)
Operator = Annotated[access.Caller, Depends(access.require_page("operate"))]

SELECTED_MOST = 200


@router.post("/jobs/{job_id}/recheck")
async def recheck(request: Request, caller: Operator, job_id: Number) -> Response:
    """Poll it now, or take it up again."""
    return await _to_job(
        request,
        caller,
        job_id,
        lambda name, account: tracking.recheck(name, account=account, by=caller.name),
    )


@router.post("/jobs/{job_id}/cancel")
async def cancel(request: Request, caller: Operator, job_id: Number) -> Response:
    """Stop tracking it."""
    return await _to_job(
        request,
        caller,
        job_id,
        lambda name, account: tracking.cancel(name, account=account, by=caller.name),
    )


@router.post("/jobs/{job_id}/update")
async def update(request: Request, caller: Operator, job_id: Number, form: Posted) -> Response:
    """Tell another URL from now on."""
    url = form.get("webhook_url", "")
    return await _to_job(
        request,
        caller,
        job_id,
        lambda name, account: updating.update(
            name, account=account, webhook_url=url, by=caller.name
        ),
        typed=url,
    )


async def _to_job(
    request: Request,
    caller: access.Caller,
    job_id: int,
    do: Callable[[str, str], Job],
    typed: str = "",
) -> Response:
    """Do it to the job, and show its page again: with the reason, if nothing was changed."""

    def done() -> None:
        with db.reading(access.settings_of(request).database_url) as session:
            found = job.named(session, job_id)
        if found is None:
            raise HTTPException(404)
        changed = do(*found)
        if not changed.changed:
            raise HasEnded(f"nothing was changed: the job has ended, {changed.state}")

    try:
        await anyio.to_thread.run_sync(done)
    except (Refused, HasEnded) as error:
        page = replace(routes.page_of(job_id, request), typed=typed)
        return await frame.show(request, caller, page, status=422, problem=error.said)
    return _back(request, f"/jobs/{job_id}")


# --------------------------------------------------------------- deliveries


@router.post("/deliveries/{event_id}/redeliver")
async def redeliver(request: Request, caller: Operator, event_id: str) -> Response:
    """Send one event again; back to its job."""
    url = access.settings_of(request).database_url

    def done() -> int | None:
        with db.transaction(url) as session:
            job_id = job.of_event(session, event_id)
            if job_id is not None:
                redelivery.redeliver(
                    session, db.now(session), [event_id], release=True, by=caller.name
                )
            return job_id

    job_id = await anyio.to_thread.run_sync(done)
    if job_id is None:
        raise HTTPException(404)
    return _back(request, f"/jobs/{job_id}#{quote(event_id)}")


@router.post("/deliveries/redeliver")
async def redeliver_selected(
    request: Request, caller: Operator, asked: Annotated[deliveries.Asked, Depends()]
) -> Response:
    """Send the events again that were selected in the list; back to the list as it was filtered."""
    ids = [each for each in (await fields(request)).get("event", []) if each][:SELECTED_MOST]
    url = access.settings_of(request).database_url

    def done() -> int:
        return sum(map(len, redelivery.redeliver_chosen(url, ids, release=True, by=caller.name)))

    count = str(await anyio.to_thread.run_sync(done)) if ids else deliveries.NOTHING_SELECTED
    filters = f"{asked.query}&" if asked.query else ""
    return _back(request, f"/deliveries?{filters}{urlencode({'sent': count})}")


@router.post("/deliveries/redeliver/all")
async def redeliver_all(
    request: Request, caller: Operator, asked: Annotated[deliveries.Asked, Depends()]
) -> Response:
    """Order that all that match are sent again; to the page that shows how far it has come."""
    url = access.settings_of(request).database_url
    asked.check_order(request.query_params)

    def done() -> int:
        with db.reading(url) as session:
            wanted = asked.order(session, db.now(session))
        number = redelivery.order(url, wanted, by=caller.name)
        go_on(url, number)
        return number

    try:
        number = await anyio.to_thread.run_sync(done)
    except Refused as error:
        page = frame.Page(
            "redeliver.html",
            "Send again",
            (),
            lambda session: deliveries.order_view(session, asked),
            at=f"/deliveries/redeliver?{asked.query}",
        )
        return await frame.show(request, caller, page, status=422, problem=error.said)
    return _back(request, f"/redeliveries/{number}")


# ----------------------------------------------------------------- accounts


@router.post("/accounts/{name}/pause")
async def pause(request: Request, caller: Operator, name: str, form: Posted) -> Response:
    """Poll none of its jobs until somebody resumes it."""
    reason = form.get("reason", "")[:200]
    return await _to_accounts(
        request,
        caller,
        name,
        lambda: pausing.pause_account(name, reason, by=caller.name),
    )


@router.post("/accounts/{name}/resume")
async def resume(request: Request, caller: Operator, name: str) -> Response:
    """Poll its jobs again at once."""
    return await _to_accounts(
        request,
        caller,
        name,
        lambda: pausing.resume_account(name, by=caller.name),
    )


async def _to_accounts(
    request: Request, caller: access.Caller, name: str, do: Callable[[], object]
) -> Response:
    try:
        await anyio.to_thread.run_sync(do)
    except Refused as error:
        page = routes.page_of_accounts(request)
        return await frame.show(request, caller, page, status=422, problem=error.said)
    return _back(request, f"/accounts#{quote(name)}")


def _back(request: Request, to: str) -> Response:
    """The page is asked for anew: reloading it does nothing twice."""
    frame.forget(request)
    return RedirectResponse(to, 303)
