"""Why nothing was found: what was asked for by name may not be known at all."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from reelwatch.cli.errors import Failure
from reelwatch.config import settings
from reelwatch.storage import db, knowing
from reelwatch.storage.filters import EventFilter, JobFilter, jobs, named, unknown


def check_account(session: Session, account: str | None) -> None:
    """End the command where no process and no configuration has named the account."""
    found = knowing.unknown_account(session, account, settings.current().accounts)
    if found:
        raise Failure(str(found))


def check_id(session: Session, video_id: str | None, account: str | None) -> None:
    """End the command where no job has that id, of the account or of any."""
    if video_id is None:
        return
    query = select(jobs.c.id).where(named(session, [video_id], account)).limit(1)
    if session.execute(query).first() is None:
        raise unknown(session, video_id, account or "default")


def check_endpoint(session: Session, endpoint: str | None) -> None:
    """End the command where no event was ever owed to that endpoint."""
    found = knowing.unknown_endpoint(session, endpoint, to_the_end=True)
    if found:
        raise Failure(str(found))


def check_chosen(url: str, wanted: JobFilter | EventFilter) -> None:
    """End the command where a filter that chose nothing names what nobody has heard of."""
    with db.reading(url) as session:
        check_account(session, wanted.account)
        if isinstance(wanted, EventFilter):
            check_endpoint(session, wanted.endpoint)
