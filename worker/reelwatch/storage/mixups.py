"""Answers about another job: a relay's mixed-up cache must not give one job another's end.

An answer may name its job by an id that shares nothing with the one asked for: behind some relays
stands another, with names of its own. Only who knows the tracked jobs can tell the two apart.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import BindParameter, Row, bindparam, or_, select
from sqlalchemy.orm import Session

from reelwatch.rules.answers import Answer, AnswerError, ErrorKind, Report
from reelwatch.rules.status import ENDS
from reelwatch.storage.job_columns import jobs

IDS: BindParameter[Any] = bindparam("ids", expanding=True)
OWNERS = select(jobs.c.id, jobs.c.video_id, jobs.c.upstream_id).where(
    jobs.c.account == bindparam("account"),
    or_(jobs.c.video_id.in_(IDS), jobs.c.upstream_id.in_(IDS)),
)


def sorted_out(
    session: Session,
    asked: Sequence[tuple[Mapping[str, Any], Answer]],
    models: Collection[str],
) -> list[Answer]:
    """The answers, given with their jobs' rows; one about another tracked job is an error instead.

    `models` are those that the account's jobs are known to have: an answer's id may lack its
    prefix. An answer by the asked id costs nothing, and unless it is an end, nor does one by the
    name its job had in the last one: a job may have been tracked under that since.
    """
    written = {
        row["id"]: _written(answer.foreign_id, {*models, row["model"], answer.model})
        for row, answer in asked
        if isinstance(answer, Report) and _may_be_anothers(answer, row["upstream_id"])
    }
    if not written:
        return [answer for _, answer in asked]
    account = asked[0][0]["account"]  # a batch is one account's
    ids = sorted(set().union(*written.values()))
    owners = session.execute(OWNERS, {"account": account, "ids": ids}).all()
    return [
        _another(answer) if _is_anothers(row, written, owners) else answer for row, answer in asked
    ]


def _may_be_anothers(report: Report, name: str | None) -> bool:
    foreign = report.foreign_id
    return foreign is not None and (foreign != name or report.meaning in ENDS)


def _written(foreign_id: str | None, models: Collection[str | None]) -> set[str]:
    """How a job that this id means may have been tracked: with a model's prefix or without."""
    bare = (foreign_id or "").rpartition(":")[2]
    return {foreign_id or "", bare, *(f"{model}:{bare}" for model in models if model)}


def _is_anothers(
    row: Mapping[str, Any],
    written: Mapping[int, set[str]],
    owners: Sequence[Row[int, str, str | None]],
) -> bool:
    names = written.get(row["id"], set())
    return any(
        owner != row["id"]
        and (video_id in names or (upstream_id in names and upstream_id != row["upstream_id"]))
        for owner, video_id, upstream_id in owners
    )


def _another(answer: Answer) -> Answer:
    assert isinstance(answer, Report)
    message = f"the answer is about another tracked job: {answer.foreign_id}"
    return AnswerError(ErrorKind.BAD_SHAPE, message, answer.http_status, body=answer.body)
