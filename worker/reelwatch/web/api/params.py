"""What lists are asked by: filters, and the cursor that the next page begins at."""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request

from reelwatch.rules import durations
from reelwatch.storage.paging import Place
from reelwatch.web.access import settings_of
from reelwatch.web.problems import Problem, shown
from reelwatch.web.queries import METADATA

PAGE_MOST = 1_000
KEYS_MOST = 20  # of metadata; a statement has a bound on what it may hold
NUMBER = re.compile(r"[1-9][0-9]{0,17}")  # a row's id; what is longer no database could hold
EVENT = re.compile(r"[A-Za-z0-9_-]{1,40}")

Limit = Annotated[int, Query(ge=1, le=PAGE_MOST, description="So many at most.")]
After = Annotated[
    str | None, Query(alias="cursor", description="The `next` of the page before.", max_length=500)
]
Number = Annotated[int, Path(ge=1, lt=10**18, description="The row's `id`.")]
Time = Annotated[str | None, Query(description=durations.MOMENT_FORMS, max_length=100)]


async def database_url(request: Request) -> str:
    """The database that the app was made for."""
    return settings_of(request).database_url


Database = Annotated[str, Depends(database_url)]


def moment(field: str, text: str | None) -> datetime | None:
    """The time that a text says. Raises `Problem`."""
    if text is None:
        return None
    try:
        return durations.parse_moment(text.strip(), datetime.now(UTC))
    except (ValueError, OverflowError):
        raise refused(field, text, durations.MOMENT_FORMS) from None


def refused(field: str, value: object, accepted: str) -> Problem:
    """What is said of a value that is not accepted."""
    return Problem(422, f"{field}: {shown(value)}; accepted: {accepted}", field=field)


def cursor_of(place: Place | None) -> str | None:
    """A place in a list as the text that is handed out; None for the end."""
    if place is None:
        return None
    text = json.dumps([place[0].isoformat(), place[1]])
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def place_of(cursor: str | None, kind: type[int] | type[str]) -> Place | None:
    """The place that a cursor means; rows have ids of that kind. Raises `Problem`."""
    if cursor is None:
        return None
    try:
        at, row_id = json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        place = (datetime.fromisoformat(at).astimezone(UTC), row_id)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise refused("cursor", cursor, "the `next` of a page") from None
    form = NUMBER if kind is int else EVENT
    if type(row_id) is not kind or not form.fullmatch(str(row_id)):
        raise refused("cursor", cursor, "the `next` of a page")
    return place


def metadata_of(request: Request) -> Mapping[str, Any]:
    """What is asked of metadata: `metadata.KEY=VALUE` of the query. Raises `Problem`."""
    asked = request.query_params.multi_items()
    found = {
        name.removeprefix(METADATA): value for name, value in asked if name.startswith(METADATA)
    }
    if len(found) > KEYS_MOST:
        raise Problem(
            422, f"metadata: {len(found)} keys; accepted: at most {KEYS_MOST}", field="metadata"
        )
    return found
