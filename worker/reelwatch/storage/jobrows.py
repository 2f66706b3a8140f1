"""The rows that producers' calls work on: in whose transaction, found and locked in one order."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from reelwatch.config import accounts, settings
from reelwatch.config.naming import HERE, VARIABLE
from reelwatch.errors import SettingsError, first_line
from reelwatch.rules.video_ids import several
from reelwatch.storage import db, job_columns
from reelwatch.storage.filters import unknown
from reelwatch.storage.models import Account, Job

T = TypeVar("T")
Row = dict[str, Any]  # all columns of a job

CHUNK = 500  # rows in one statement


@contextmanager
def joined(session: Session | None) -> Iterator[Session]:
    """The caller's session, or one of our own that is committed at the end."""
    if session is not None:
        _check_place(session)
        try:
            yield session
            session.flush()
        except DBAPIError as error:
            if not any(sign in db.said_by(error.orig) for sign in (*db.NO_TABLE, *db.NO_COLUMN)):
                raise
            said = first_line(error.orig or error)
            raise db.NotMigrated(
                f"the session's database has not Reelwatch's tables in this place ({said}): "
                f"run `reelwatch migrate` there, and set {VARIABLE} here as its workers have it"
            ) from error
        return
    with db.transaction(settings.handing_in().database_url) as own:
        yield own


def _check_place(session: Session) -> None:
    """Raises `SettingsError` where our tables can't be what they are called here."""
    if HERE.guessed and db.dialect(session) == "postgresql":
        raise SettingsError(
            f"{VARIABLE}: with a name alone DATABASE_URL has to say that it is a schema of "
            "PostgreSQL; set it in this process too"
        )


def chunks(ids: Iterable[T]) -> Iterator[Sequence[T]]:
    """The distinct ids, in order, in parts that fit one statement."""
    distinct = list(dict.fromkeys(ids))
    return (distinct[start : start + CHUNK] for start in range(0, len(distinct), CHUNK))


def ensure_account(session: Session, account: accounts.Account) -> None:
    """Give the account its row, if it has none."""
    if has_account(session, account.name):
        return
    url = settings.handing_in().database  # whoever brings a session may name none
    if url and db.dialect(session) == "postgresql":
        # Committed at once: everybody else's first job of the account waits for its row, and the
        # caller's transaction may stay open for long.
        with suppress(SQLAlchemyError), db.transaction(url) as own:
            _add_account(own, account)
    if not has_account(session, account.name):  # SQLite; or the caller is in another database
        _add_account(session, account)


def has_account(session: Session, account: str) -> bool:
    """Has an account of that name been seen by any process?"""
    return session.execute(select(Account.name).where(Account.name == account)).first() is not None


def _add_account(session: Session, account: accounts.Account) -> None:
    statement = db.insert_if_absent(db.dialect(session), Account, "name")
    session.execute(
        statement.values(name=account.name, requests_per_second=account.requests_per_second)
    )


def locked(session: Session, video_ids: Iterable[str], account: str) -> list[Row]:
    """The jobs' rows in the order of the ids, locked in the one order in which all lock them."""
    jobs, wanted = job_columns.jobs, list(dict.fromkeys(several(video_ids)))
    found: dict[str, int] = {}
    for chunk in chunks(wanted):
        query = select(jobs.c.video_id, jobs.c.id).where(jobs.c.account == account)
        found.update(map(tuple, session.execute(query.where(jobs.c.video_id.in_(chunk)))))
    for video_id in wanted:
        if video_id not in found:
            raise unknown(session, video_id, account)
    rows: dict[str, Row] = {}
    for job_ids in chunks(sorted(found.values())):
        rows.update((row["video_id"], row) for row in locked_by_id(session, job_ids))
    return [rows[video_id] for video_id in wanted]


def locked_by_id(session: Session, job_ids: Sequence[int]) -> list[Row]:
    """The rows that are there, locked in the order of their ids."""
    jobs = job_columns.jobs
    these = select(jobs).where(jobs.c.id.in_(job_ids)).order_by(jobs.c.id)
    return [dict(row) for row in session.execute(these.with_for_update(key_share=True)).mappings()]


def job_now(session: Session, job_id: int) -> Job:
    """The job as it is in this transaction."""
    return session.get_one(Job, job_id, populate_existing=True)
