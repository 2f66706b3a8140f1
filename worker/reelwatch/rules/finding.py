"""Finding the job in an answer: its own object, and as a last resort a URL that stands anywhere.

Where things are by rights is the table in `places`. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from reelwatch.rules.cleaning import Json, excerpt
from reelwatch.rules.places import (
    ANY_STATUS,
    DEPTH_LIMIT,
    DETAIL,
    IDS,
    JOB_KEYS,
    NEVER,
    OTHER_FILES,
    RESULTS,
    SPEAKING,
    WRAPPED_DEEPEST,
    WRAPPERS,
    as_object,
    at,
    first_url,
    only_text,
    parsed,
    values,
)
from reelwatch.rules.result_urls import VIDEO_FILES, url

WRAPPED = frozenset(WRAPPERS)


@dataclass(frozen=True, slots=True)
class Objects:
    """An answer's objects: the job's own, those within it, and those around it."""

    own: dict[str, Json]
    within: tuple[dict[str, Json], ...] = ()
    around: tuple[dict[str, Json], ...] = ()
    named_within: bool = False  # not the own object names the job, but one within it
    elsewhere: bool = False  # at no known place

    @property
    def all(self) -> tuple[dict[str, Json], ...]:
        """All of them, in the order in which they are asked."""
        return (self.own, *self.within, *self.around)


def objects(document: Json, video_id: str) -> Objects:
    """Find the job's own object among those that have a status.

    It is the first that names the id that was asked for, else the first with any id, else the first
    that says something else about a job, else the innermost. A status around it tells how the
    request went, and one within it what the channel behind the relay said. If there is none at the
    known places, it is the only one anywhere that names the asked id.
    """
    found = list(_members(document, video_id, 0))
    if len(found) == 1 and WRAPPED.isdisjoint(found[0]) and has_status(found[0]):
        return Objects(found[0])  # as most answers are
    named = [each for each in found if names(each, video_id)]
    if not named and not any(has_status(each) or each.get("error") for each in found):
        elsewhere = list(_elsewhere(document, video_id, 0))
        if len(elsewhere) == 1:
            inner = objects(elsewhere[0], video_id)
            return replace(inner, around=(*found, *inner.around), elsewhere=True)
    speaking = [each for each in found if has_status(each)] or named or found[:1]
    own = (
        next((each for each in speaking if names(each, video_id)), None)
        or next((each for each in speaking if any(answered_ids(each))), None)
        or next((each for each in speaking if speaks_of_a_job(each)), None)
        or (speaking[-1] if speaking else {})
    )
    place = next((index for index, each in enumerate(found) if each is own), 0)
    within = tuple(each for each in found[place + 1 :] if not names_another(each, video_id))
    own = {key: inner for key, inner in own.items() if not _is_others(key, inner, video_id)}
    named_within = not any(answered_ids(own)) and any(names(each, video_id) for each in within)
    return Objects(own, within, tuple(found[:place]), named_within=named_within)


def _members(value: Json, video_id: str, depth: int) -> Iterator[dict[str, Json]]:
    """The object that a value is, and those within it, from the outside in.

    Of a list, the one that names the job, or the only one.
    """
    value = parsed(value)
    if isinstance(value, list):
        items = list(filter(None, map(as_object, value)))
        named = (each for each in items if has_status(each) and names(each, video_id))
        value = items[0] if len(value) == 1 and items else next(named, None)
    if not isinstance(value, dict) or not value:
        return
    yield value
    for key in WRAPPERS if depth < WRAPPED_DEEPEST else ():
        if key in value:
            yield from _members(value[key], video_id, depth + 1)


def _is_others(key: str, value: Json, video_id: str) -> bool:
    """Does another job stand there, within the job's own object?"""
    if key not in WRAPPERS:
        return False
    value = parsed(value)
    items = value if isinstance(value, list) else [value]
    return any(names_another(as_object(each), video_id) for each in items)


def _elsewhere(value: Json, video_id: str, depth: int) -> Iterator[dict[str, Json]]:
    """The objects anywhere that have a status and name the job, or lie under its id as a key."""
    value = parsed(value)
    if depth > DEPTH_LIMIT or not isinstance(value, dict | list):
        return
    if isinstance(value, list):
        for inner in value:
            yield from _elsewhere(inner, video_id, depth + 1)
    elif has_status(value) and names(value, video_id):
        yield value
    else:
        for key, inner in value.items():
            if same_id(key, video_id) and has_status(under := as_object(inner)):
                yield {"id": video_id, **under}
            elif not NEVER.search(key):
                yield from _elsewhere(inner, video_id, depth + 1)


def has_status(document: dict[str, Json]) -> bool:
    """Does it have a status, its own or in its detail?"""
    return any(map(only_text, values(document, ANY_STATUS)))


def speaks_of_a_job(document: dict[str, Json]) -> bool:
    """Does it hold anything but how a look-up went?"""
    return (
        not JOB_KEYS.isdisjoint(document)
        or any(answered_ids(document))
        or bool(as_object(at(document, DETAIL)))
        or first_url(document, RESULTS) is not None
    )


def answered_ids(document: dict[str, Json]) -> Iterator[str]:
    """The ids by which an object names its job."""
    return filter(None, map(only_text, values(document, IDS)))


def names(document: dict[str, Json], video_id: str) -> bool:
    """Does it name that job? Its id may lack its prefix."""
    return any(same_id(each, video_id) for each in answered_ids(document))


def names_another(document: dict[str, Json], video_id: str) -> bool:
    """Does it name another job of the same prefix? A channel's own names have no such prefix."""
    prefix, colon, _ = video_id.strip().rpartition(":")
    ids = list(answered_ids(document))
    return (
        bool(colon)
        and any(each.strip().startswith(prefix + colon) for each in ids)
        and not any(same_id(each, video_id) for each in ids)
    )


def foreign_id(video_id: str, document: dict[str, Json]) -> str | None:
    """The id by which an object names its job, where none of its ids is the one asked for."""
    answered = list(answered_ids(document))
    return excerpt(answered[0]) if answered and not names(document, video_id) else None


def same_id(one: str, other: str) -> bool:
    """Are they one id, but for a prefix that one of them lacks?"""
    return one == other or bare_id(one) == bare_id(other)


def bare_id(video_id: str) -> str:
    """An id without its prefix, as it is compared."""
    return video_id.strip().rpartition(":")[2].casefold()


# ------------------------------------------------------------- last resort


def search(document: Json, video_id: str) -> frozenset[str]:
    """The URLs that stand anywhere where a result could: the last resort for a success."""
    return frozenset(_searched(document, video_id, "", 0))


def _searched(value: Json, video_id: str, key: str, depth: int) -> Iterator[str]:
    if depth > DEPTH_LIMIT or NEVER.search(key):
        return
    value = parsed(value)
    if isinstance(value, dict):
        for name, inner in ({} if names_another(value, video_id) else value).items():
            yield from _searched(inner, video_id, name, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _searched(inner, video_id, key, depth + 1)
    elif (found := url(value)) and _could_be_a_result(key, found):
        yield found


def _could_be_a_result(key: str, found: str) -> bool:
    if len(found.split()) > 1:  # a sentence that begins with a URL
        return False
    file = urlsplit(found).path.casefold()
    spoken = SPEAKING.search(key) is not None and not file.endswith(OTHER_FILES)
    return spoken or file.endswith(VIDEO_FILES)
