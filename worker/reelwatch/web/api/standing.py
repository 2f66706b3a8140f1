"""How things stand: accounts, endpoints and figures; and accounts paused and resumed by hand."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path
from pydantic import Field

from reelwatch.errors import Refused
from reelwatch.jobs import history, pausing
from reelwatch.storage import db, figures
from reelwatch.web.access import OperateCaller, ReadCaller
from reelwatch.web.api import params, shapes
from reelwatch.web.api.bases import Given, Moment
from reelwatch.web.problems import Problem, described

router = APIRouter(prefix="/api/v1", tags=["standing"])

Name = Annotated[str, Path(description="The account's name.", max_length=64)]


class Delay(Given):
    """From upstream's end of a job to our notice, in seconds, of the last hour."""

    jobs: int
    p50: float | None
    p95: float | None
    p99: float | None


class Stats(Given):
    """How things stand. Nothing is counted beyond 10000, which then means so many or more."""

    open: int
    due: int = Field(description="Jobs to be polled now, of accounts that may be asked.")
    oldest_due_at: Moment | None
    jobs: dict[str, int] = Field(description="By state.")
    pending_deliveries: int
    dead_deliveries: int
    oldest_undelivered_at: Moment | None
    delay_seconds: Delay
    last_tick_at: Moment | None


@router.get("/accounts", response_model=shapes.Accounts, summary="List accounts")
def accounts(caller: ReadCaller, url: params.Database) -> Any:
    """Each account's standing: the rate now in force, until when it is paused, and why."""
    with db.reading(url) as session:
        return {"accounts": history.list_accounts(session)}


@router.post(
    "/accounts/{name}/pause",
    response_model=shapes.Account,
    responses=described(404),
    summary="Pause an account",
)
def pause(
    name: Name,
    caller: OperateCaller,
    url: params.Database,
    sent: Annotated[shapes.Pause | None, Body()] = None,
) -> Any:
    """None of its jobs is polled until somebody resumes it; their deadlines are told as ever."""
    try:
        pausing.pause_account(name, sent.reason if sent else "", by=caller.name)
    except Refused as error:
        raise Problem(404, error.said) from None
    return _account(url, name)


@router.post(
    "/accounts/{name}/resume",
    response_model=shapes.Account,
    responses=described(404),
    summary="Resume an account",
)
def resume(name: Name, caller: OperateCaller, url: params.Database) -> Any:
    """Its due jobs are polled now, whatever it was paused, held or slowed for."""
    try:
        pausing.resume_account(name, by=caller.name)
    except Refused as error:
        raise Problem(404, error.said) from None
    return _account(url, name)


def _account(url: str, name: str) -> Any:
    with db.reading(url) as session:
        rows = history.list_accounts(session)
    return next(row for row in rows if row["name"] == name)


@router.get("/endpoints", response_model=shapes.Endpoints, summary="List endpoints")
def endpoints(caller: ReadCaller, url: params.Database) -> Any:
    """Those that are not well first. One that nothing is owed to, and that nothing was told to
    lately, is not listed.
    """
    with db.reading(url) as session:
        return {"endpoints": figures.endpoints_now(session, db.now(session))}


@router.get("/stats", response_model=Stats, summary="Figures of now")
def stats(caller: ReadCaller, url: params.Database) -> Any:
    """What is open, due, owed and dead, and how long it took to notice ends in the last hour."""
    with db.reading(url) as session:
        return figures.figures_now(session, db.now(session))
