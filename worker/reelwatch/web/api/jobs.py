"""Jobs: hand ids in, ask what became of them, change and stop them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from sqlalchemy.orm import Session

from reelwatch.config.accounts import ACCOUNT_NAME
from reelwatch.errors import UnknownJob
from reelwatch.jobs import history, tracking, updating
from reelwatch.rules.video_ids import check_tracked_id
from reelwatch.storage import db
from reelwatch.storage.filters import JobFilter
from reelwatch.storage.models import Job
from reelwatch.web.access import JobsReadCaller, ProduceCaller
from reelwatch.web.api import params, shapes
from reelwatch.web.problems import Problem, described

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"])

JobId = Annotated[
    str,
    Path(
        description="The job's `id`, or its video id with `account`; one with a `/` has no path.",
        max_length=250,
    ),
]
AccountOf = Annotated[
    str | None,
    Query(
        alias="account",
        description="Whose job; of a video id `default`.",
        pattern=f"^{ACCOUNT_NAME.pattern}$",
    ),
]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=255,
        description="Accepted: every call is idempotent.",
    ),
]
TOLD_AT_ONCE = 200
Sent = Annotated[shapes.NewJobs, Body()]
Change = Annotated[shapes.Order, Body()]
Text = Annotated[str | None, Query(max_length=255)]


@router.post(
    "",
    status_code=201,
    response_model=shapes.Tracked,
    response_model_exclude_unset=True,
    responses={200: {"model": shapes.Tracked, "description": "All were tracked before."}},
    summary="Track videos",
)
def track(sent: Sent, caller: ProduceCaller, url: params.Database, key: Key = None) -> Any:
    """Track one video or many until their fate is known; all of them or, if one is wrong, none.

    Idempotent per account and video id: handed in again, a job is the same and unchanged, and its
    `differs` names what this call says otherwise. 201 where one is new, else 200.
    """
    given = sent.model_dump(exclude_unset=True)
    one, many = given.pop("video_id", None), given.pop("video_ids", None)
    if (one is None) == (many is None):
        raise Problem(422, "video_id: give either it or video_ids", field="video_id")
    with db.transaction(url) as session:
        jobs = tracking.track_many([one] if many is None else many, session=session, **given)
    status = 201 if any(job.created for job in jobs) else 200
    return Response(b"".join(_told(jobs)), status, media_type="application/json")


def _told(jobs: list[Job]) -> Iterator[bytes]:
    """The answer about these jobs, made of some at a time: all of its forms at once take 40 MiB."""
    separator = b'{"jobs":['
    jobs.reverse()
    while jobs:
        rows: list[dict[str, Any]] = []
        while jobs and len(rows) < TOLD_AT_ONCE:
            job = jobs.pop()
            rows.append(history.job_row(job) | {"created": job.created, "differs": job.differs})
        yield (
            separator
            + shapes.TRACKED_JOBS.dump_json(
                shapes.TRACKED_JOBS.validate_python(rows), exclude_unset=True
            )[1:-1]
        )
        separator = b","
    yield b"]}"


@router.get(
    "",
    response_model=shapes.Jobs,
    response_model_exclude_unset=True,
    summary="List jobs",
    openapi_extra={
        "parameters": [
            {
                "name": "metadata.KEY",
                "in": "query",
                "description": "Whose metadata has this value under KEY; of several, all hold.",
                "schema": {"type": "string"},
            }
        ]
    },
)
def list_jobs(
    request: Request,
    caller: JobsReadCaller,
    url: params.Database,
    state: Annotated[
        shapes.Asking | None, Query(description="`open`: any state, but polled still.")
    ] = None,
    account: Text = None,
    model: Text = None,
    video_id: Text = None,
    q: Annotated[
        str | None,
        Query(max_length=255, description="A part of the video id, an event's id, upstream's id of "
              "the job or of the request that failed, a value of the metadata."),
    ] = None,
    since: params.Time = None,
    until: params.Time = None,
    order: Annotated[Literal["newest", "oldest"], Query(description="By `tracked_at`.")] = "newest",
    limit: params.Limit = 50,
    after: params.After = None,
) -> Any:  # fmt: skip
    """Jobs for which all of this holds, by pages; the `cursor` of the next is this one's `next`.

    What no index answers (`model`, `metadata.KEY`, `q`) is looked for among so many jobs at a time:
    a page may be short, or empty, and not the last.
    """
    wanted = JobFilter(
        state=None if state == "open" else state,
        account=account or None,
        model=model or None,
        metadata=params.metadata_of(request),
        since=params.moment("since", since),
        until=params.moment("until", until),
        ids=[check_tracked_id(video_id)] if video_id else None,
        text=q or None,
    )
    before = params.place_of(after, int)
    with db.reading(url) as session:
        found = history.page_of_jobs(
            session, wanted, limit, before, oldest=order == "oldest", unended=state == "open"
        )
    return {"jobs": found.rows, "next": params.cursor_of(found.next)}


@router.get(
    "/{job_id}",
    response_model=shapes.Story,
    response_model_exclude_unset=True,
    responses=described(404),
    summary="One job's whole story",
)
def show(
    job_id: JobId, caller: JobsReadCaller, url: params.Database, account: AccountOf = None
) -> Any:
    """Its row, transitions, errors of polls, events and their attempts."""
    signatures = caller.may_act
    with db.reading(url) as session:
        if params.NUMBER.fullmatch(job_id):
            _names(session, job_id, account)
            return history.story_of(session, int(job_id), signatures=signatures)
        return history.story(session, job_id, account or "default", signatures=signatures)


@router.patch(
    "/{job_id}",
    response_model=shapes.ChangedJob,
    response_model_exclude_unset=True,
    responses=described(404, 409),
    summary="Change what was ordered",
)
def change(
    job_id: JobId,
    sent: Change,
    caller: ProduceCaller,
    url: params.Database,
    account: AccountOf = None,
) -> Any:
    """What is not sent, or null, stays. Events that are owed already keep their endpoint and text.

    409 for a job that has ended.
    """
    given = sent.model_dump(exclude_unset=True)

    def update(video_id: str, *, account: str, session: Session) -> Job:
        return updating.update_many(
            [video_id], account=account, session=session, by=caller.name, **given
        )[0]

    return _changed(url, job_id, account, update)


@router.post(
    "/{job_id}/cancel",
    response_model=shapes.ChangedJob,
    response_model_exclude_unset=True,
    responses=described(404),
    summary="Stop tracking it",
)
def cancel(
    job_id: JobId, caller: ProduceCaller, url: params.Database, account: AccountOf = None
) -> Any:
    """Upstream goes on with it; nobody is told how it ends.

    A job that has ended stays as it is; `changed` is false then.
    """
    return _changed(url, job_id, account, partial(tracking.cancel, by=caller.name))


@router.post(
    "/{job_id}/recheck",
    response_model=shapes.ChangedJob,
    response_model_exclude_unset=True,
    responses=described(404),
    summary="Poll it now",
)
def recheck(
    job_id: JobId, caller: ProduceCaller, url: params.Database, account: AccountOf = None
) -> Any:
    """Takes up again what is expired, cancelled or was not known to upstream.

    Asks once more for the URL of one that was completed without. Another end stays as it is;
    `changed` is false then.
    """
    return _changed(url, job_id, account, partial(tracking.recheck, by=caller.name))


def _changed(url: str, job_id: str, account: str | None, change: Callable[..., Job]) -> Any:
    with db.transaction(url) as session:
        video_id, of = _names(session, job_id, account)
        changed = change(video_id, account=of, session=session).changed
        [row] = history.page_of_jobs(session, JobFilter(ids=[video_id], account=of)).rows
    return row | {"changed": changed}


def _names(session: Session, job_id: str, account: str | None) -> tuple[str, str]:
    """The video id and account of what a path names. Raises `UnknownJob`: of none, or another's."""
    if not params.NUMBER.fullmatch(job_id):
        return job_id, account or "default"
    video_id, of = history.names_of(session, int(job_id))
    if account not in (None, of):
        raise UnknownJob(f"the account {account!r} has no job {job_id}")
    return video_id, of
