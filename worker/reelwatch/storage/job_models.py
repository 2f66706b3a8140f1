"""Which models jobs are of, to choose from: found without reading what has piled up."""

from typing import Any

from sqlalchemy import ColumnElement, Integer, literal, literal_column, select
from sqlalchemy.orm import Session

from reelwatch.storage.models import table_of

NEWEST = 500  # jobs whose models are looked at, ended or not
OF_ACCOUNT_MOST = 100  # a producer may make up a prefix for each id
WALKED_MOST = 1_000

accounts = table_of("accounts")
jobs = table_of("jobs")
curves = table_of("duration_curves")


def models(session: Session) -> list[str]:
    """The models of jobs that have ended, of the newest ones, and those that were learned."""
    newest = select(jobs.c.model).order_by(jobs.c.tracked_at.desc(), jobs.c.id.desc())
    queries = (_ended(), newest.limit(NEWEST), select(curves.c.model).limit(WALKED_MOST))
    found = {model for query in queries for model in session.scalars(query)}
    return sorted(model for model in found if model)


def _ended() -> Any:
    """From model to model of each account along the index, past all jobs of each."""
    first = _behind(accounts.c.name, literal("")).label("model")
    place = literal_column("1", Integer()).label("place")
    walk = select(accounts.c.name, first, place).cte("walk", recursive=True)
    further = select(walk.c.name, _behind(walk.c.name, walk.c.model), walk.c.place + 1)
    further = further.where(walk.c.model.is_not(None), walk.c.place < OF_ACCOUNT_MOST)
    walk = walk.union_all(further)
    return select(walk.c.model).where(walk.c.model.is_not(None)).limit(WALKED_MOST)


def _behind(account: ColumnElement[str], model: ColumnElement[str]) -> ColumnElement[Any]:
    """The next model of the account's jobs that have ended."""
    behind = jobs.alias("behind")
    mine = (behind.c.account == account, behind.c.finished_at.is_not(None), behind.c.model > model)
    return select(behind.c.model).where(*mine).order_by(behind.c.model).limit(1).scalar_subquery()
