"""What people and programs did: the newest actions, for those who ask who it was."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from reelwatch.jobs import history
from reelwatch.storage import db
from reelwatch.storage.actions import NO_ID
from reelwatch.web.access import ReadCaller
from reelwatch.web.api import params, shapes
from reelwatch.web.api.bases import Given

router = APIRouter(prefix="/api/v1", tags=["actions"])

LIMIT_MOST = 500


class NamedJob(Given):
    """Which job it is."""

    id: int
    video_id: str
    account: str


class Action(shapes.JobAction):
    """What somebody did by page, API, command or message."""

    account: str | None = Field(description="The account that was paused or resumed.")
    jobs: list[NamedJob] = Field(
        description="Which jobs, or whose events: 10 at most, of those that were not pruned."
    )


class Actions(Given):
    """Actions, the newest first."""

    actions: list[Action]
    next: int | None = Field(description="The `before` of the next page; null: this is the last.")


@router.get("/actions", response_model=Actions, summary="Who did what, and when")
def actions(
    caller: ReadCaller,
    url: params.Database,
    limit: Annotated[int, Query(ge=1, le=LIMIT_MOST)] = 50,
    before: Annotated[int, Query(ge=1, le=NO_ID)] = NO_ID,
) -> Any:
    """Cancelled, rechecked, updated, sent again, paused, resumed, pruned: by whom."""
    with db.reading(url) as session:
        rows = history.list_actions(session, limit=limit, before=before)
    return {"actions": rows, "next": rows[-1]["id"] if len(rows) == limit else None}
