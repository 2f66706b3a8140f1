"""Names that were asked for and that nothing goes by, with those that were meant, perhaps."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from reelwatch.rules.spelling import nearest
from reelwatch.storage import events, job_models
from reelwatch.storage.filters import EventFilter, JobFilter, accounts, jobs
from reelwatch.storage.paging import page

ENDPOINTS = "a callback URL, a host, a Celery task or task@queue"


@dataclass(frozen=True, slots=True)
class Unknown:
    """A name of some `kind` that is not known, and those that are, in their order."""

    kind: str
    name: str
    known: Sequence[str] = ()

    def __str__(self) -> str:
        """What is said of it on a line."""
        if self.kind == "endpoint":
            return f"endpoint: no event goes to {self.name!r}; accepted: {ENDPOINTS}"
        near = nearest(self.name, self.known)
        meant = f" (is {near!r} meant?)" if near else ""
        return f"{self.kind}: {self.name!r} is unknown{meant}; known: {', '.join(self.known)}"


def unknown_account(
    session: Session, name: str | None, configured: Iterable[str]
) -> Unknown | None:
    """Neither a process nor the configuration has ever named the account; None: it is known."""
    known = sorted({*session.scalars(select(accounts.c.name)), *configured})
    return None if name is None or name in known else Unknown("account", name, known)


def unknown_model(session: Session, name: str | None) -> Unknown | None:
    """No job was ever of that model, as far as a search comes; None: there is one, or may be."""
    known = job_models.models(session)
    if name is None or name in known:
        return None
    wanted = JobFilter(model=name)
    query = select(jobs.c.id, jobs.c.tracked_at, jobs.c.model)
    found = page(session, query, wanted.parts(session), wanted.sieve(session), limit=1)
    return None if found.rows or found.next else Unknown("model", name, known)


def unknown_endpoint(
    session: Session, name: str | None, *, to_the_end: bool = False
) -> Unknown | None:
    """No event was ever owed to that endpoint, as far as one search comes, or `to_the_end`."""
    if not name:
        return None
    wanted = EventFilter(endpoint=name)
    found = events.page_of_events(session, wanted, 1)
    while to_the_end and found.next and not found.rows:
        found = events.page_of_events(session, wanted, 1, found.next)
    return None if found.rows or found.next else Unknown("endpoint", name)
