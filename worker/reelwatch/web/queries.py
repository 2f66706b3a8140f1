"""What a query says has to be known: a mistyped filter would be left out, and all be listed."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from fastapi import Request

from reelwatch.web.problems import SHOWN_MOST, Problem, not_known, shown

METADATA = "metadata."


def check_query(request: Request) -> None:
    """Raises `Problem` for a parameter that the route does not have, or that is there twice."""
    given = Counter(name for name, _ in request.query_params.multi_items())
    if not given or (route := request.scope.get("route")) is None:
        return
    known = sorted(_names(route.dependant))
    by_key = "video_id" in known  # a list of jobs; their metadata may have any keys
    for name, times in given.items():
        field = name[:SHOWN_MOST]
        if name not in known and not (by_key and name.startswith(METADATA)):
            accepted = [*known, f"{METADATA}KEY"] if by_key else known
            raise Problem(
                422, f"{shown(name)}: {not_known('parameter', name, accepted)}", field=field
            )
        if times > 1:
            raise Problem(422, f"{field}: it is there twice; accepted: once", field=field)


def _names(dependant: Any) -> Iterator[str]:
    yield from (each.alias for each in dependant.query_params)
    for each in dependant.dependencies:
        yield from _names(each)
