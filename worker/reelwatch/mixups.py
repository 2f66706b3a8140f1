"""Answers about another job: a relay's mixed-up cache must not give one job another's end.

An answer may name its job by an id that shares nothing with the one asked for: behind some relays
stands another, with names of its own. Only who knows the tracked jobs can tell the two apart.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from reelwatch.answers import Answer, ErrorKind, Report, Trouble
from reelwatch.models import table_of

jobs = table_of("jobs")

TRACKED = select(jobs.c.video_id).where(
    jobs.c.account == bindparam("account"),
    jobs.c.video_id.in_(bindparam("ids", expanding=True)),
)


def sorted_out(
    session: Session,
    asked: Sequence[tuple[Mapping[str, Any], Answer]],
    models: Collection[str],
) -> list[Answer]:
    """The answers, given with their jobs' rows; one about another tracked job is an error instead.

    `models` are those that the account's jobs are known to have: an answer's id may lack its
    prefix. Most answers name no foreign id, and cost nothing here.
    """
    names = {
        answer.foreign_id: _written(answer.foreign_id, {*models, row["model"], answer.model})
        for row, answer in asked
        if isinstance(answer, Report) and answer.foreign_id
    }
    if not names:
        return [answer for _, answer in asked]
    ids = sorted({each for written in names.values() for each in written})
    account = asked[0][0]["account"]  # a batch is one account's
    tracked = set(session.scalars(TRACKED, {"account": account, "ids": ids}))
    others = {foreign for foreign, written in names.items() if tracked & written}
    return [_unless(answer, others) for _, answer in asked]


def _written(foreign_id: str, models: Collection[str | None]) -> set[str]:
    """How a job that this id means may have been tracked: with a model's prefix or without."""
    bare = foreign_id.rpartition(":")[2]
    return {foreign_id, bare, *(f"{model}:{bare}" for model in models if model)}


def _unless(answer: Answer, others: Collection[str]) -> Answer:
    if not isinstance(answer, Report) or answer.foreign_id not in others:
        return answer
    message = f"the answer is about another tracked job: {answer.foreign_id}"
    return Trouble(ErrorKind.BAD_SHAPE, message, answer.http_status, body=answer.body)
