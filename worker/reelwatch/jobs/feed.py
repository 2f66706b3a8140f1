"""Reading the feed: for producers that can't be called, and ask for events instead."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from reelwatch.errors import CursorTooOld, Refused
from reelwatch.rules import cursors
from reelwatch.rules.cursors import Cursor
from reelwatch.rules.events import SHORT_NAMES
from reelwatch.rules.states import EventType
from reelwatch.storage import db, feed
from reelwatch.storage.feed import Head

NOW = "now"  # the cursor of those who want nothing of what was
PAGE_MOST = 1000
PAGE_USUAL = 100
BATCHES_MOST = 5  # transactions that one reader spends on numbering before it reads
TYPES = tuple(event.value for event in EventType)


@dataclass(frozen=True, slots=True)
class Told:
    """One event, `body` being the JSON text that a webhook would bring; `cursor` is behind it."""

    id: str
    cursor: Cursor
    body: str


@dataclass(frozen=True, slots=True)
class Page:
    """Events in their order; `next` is the cursor to go on with. `more`: ask again at once."""

    events: list[Told]
    next: Cursor
    more: bool


def advance(url: str) -> Head:
    """Give what was committed since its place in the feed; returns how far the feed has come.

    One statement, where nothing was. Raises SQLAlchemy's errors.
    """
    for _ in range(BATCHES_MOST):
        with db.reading(url) as session:
            head = feed.head(session)
        if not head.unnumbered:
            return head
        with db.transaction(url) as session:
            feed.number(session)
    with db.reading(url) as session:
        return feed.head(session)


def start(head: Head, after: str | None) -> Cursor:
    """The cursor of a text: None is the oldest event that is kept, `now` the place behind all.

    Raises `Refused` for what is no cursor, and `CursorTooOld` where events were deleted before this
    reader had them, or where the database is older than the cursor.
    """
    if after is None:
        return Cursor(head.installation, 0, head.pruned_position)
    if after == NOW:
        return Cursor(head.installation, head.last_position, head.pruned_position)
    cursor = cursors.read(after, head.installation)
    if cursor.position > head.last_position:
        behind_all = Cursor(head.installation, head.last_position, head.pruned_position)
        raise CursorTooOld(
            "after: this cursor is ahead of the feed: the database was restored from a backup; "
            "`next` goes on at the feed's present end, without `after` it begins anew",
            str(behind_all),
        )
    _check_kept(cursor, head)
    return cursor


def _check_kept(cursor: Cursor, head: Head) -> None:
    if cursor.misses(head.pruned_position):
        known = Cursor(head.installation, cursor.position, head.pruned_position)
        raise CursorTooOld(
            "after: events behind this cursor were deleted before they were read (`prune`); "
            "`next` goes on with those that are kept",
            str(known),
        )


def read(
    url: str,
    head: Head,
    cursor: Cursor,
    *,
    types: Collection[str] = (),
    account: str | None = None,
    limit: int = PAGE_USUAL,
) -> Page:
    """The events behind the cursor, up to that head of the feed, at most `limit`.

    Raises `CursorTooOld` as `start` does.
    """
    with db.reading(url) as session:
        rows, end = feed.page(
            session, cursor.position, head.last_position, types=types, account=account, limit=limit
        )
        _check_kept(cursor, feed.head(session))  # what was deleted before they were read is seen
    told = [_told(row, cursor) for row in rows]
    return Page(told, _moved(cursor, end), end < head.last_position)


def chosen(types: Collection[str]) -> list[str]:
    """The types of these names, `video.completed` or `completed`; raises `Refused` for others."""
    full = [SHORT_NAMES.get(each, each) for each in types]
    for name, each in zip(full, types, strict=True):
        if name not in TYPES:
            raise Refused(f"types: {each!r} is not one of {', '.join(TYPES)}")
    return [str(name) for name in full]


def _told(row: Mapping[str, Any], cursor: Cursor) -> Told:
    return Told(row["event_id"], _moved(cursor, row["position"]), row["body"])


def _moved(cursor: Cursor, position: int) -> Cursor:
    return Cursor(cursor.installation, position, cursor.known)
