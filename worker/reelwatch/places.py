"""Where an answer keeps what: the one table of places, and the reader of its paths. Pure.

The same route answers in many shapes, by model and by the channel behind the relay. What is known
of them stands here, best place first, as `docs/upstream.md` tells it; for the next shape a path is
added here and nothing else changes. A path names keys and positions: `task_result.videos[0].url`.
Wherever a path leads through an object, a list of just that object or its JSON as a text will do.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from reelwatch.cleaning import Json, clean_text, unquoted

Path = tuple[str | int, ...]

STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
JSON_TEXT_LIMIT = 65_536  # characters; a longer text is not searched for an object inside it
URL_LIMIT = 8_192
URL_START = re.compile(r"https?://", re.IGNORECASE)
DEPTH_LIMIT = 12  # of the search for a URL


def path(text: str) -> Path:
    """The steps of a path's text; the empty text leads to the answer itself."""
    return tuple(key or int(index) for key, index in STEP.findall(text))


def _paths(*texts: str) -> tuple[Path, ...]:
    return tuple(map(path, texts))


# ------------------------------------------------------------------- table

# Keys under which the job's own object can lie, in the answer itself or in one another.
WRAPPERS = ("data", "output", "result", "response", "task")
WRAPPED_DEEPEST = 4

# All others lie within the job's own object.
STATUS_KEYS = ("status", "state", "task_status")
STATUS = _paths(*STATUS_KEYS)
INNER_STATUS = _paths(
    *(f"{record}.{key}" for record in ("detail", "detail.pending_info") for key in STATUS_KEYS)
)
IDS = _paths("id", "task_id")
RUNNING = _paths("running", "detail.running")
DETAIL = path("detail")

VIDEO_URLS = _paths("video_url", "detail.upsample_video_url", "detail.video_url", "detail.url")
RESULTS = VIDEO_URLS + _paths(  # of a success; of any other status these may be anything
    "url",
    "result_url",
    "video.url",
    "content.video_url",
    "output.video_url",
    "output",
    "detail.output.media_url",
    "detail.draft_info.downloadable_url",
    "data[0].url",
    "task_result.videos[0].url",
    "creations[0].url",
    "fail_reason",  # rows of an older version of the relay
)
NAMED_URLS = {
    "upsampled": _paths("detail.upsample_video_url"),
    "original": _paths("detail.video_url", "detail.url"),
}

# Error texts; below a success they are leftovers of retries.
ERRORS = _paths(
    "error",
    "error_message",
    "error_msg",
    "fail_reason",
    "failure_reason",
    "detail.error",
    "detail.error_message",
    "detail.error_msg",
    "detail.fail_reason",
    "detail.failure_reason",
    "detail.pending_info.failure_reason",
    "detail.draft_info.reason_str",
    "detail.video_generation_error",
    "video_generation_error",
)
# What gives a failure's reason where it has no error text: elsewhere it may say anything.
MESSAGES = _paths("message", "msg", "detail.message")
# Codes that stand beside such texts: reasons of their own where there is no text.
CODES = _paths("error_code", "err_code", "code", "detail.error_code", "detail.err_code")
# Not fit to be told, but a policy's name may stand there.
HINTS = _paths("error.code", "error.type", "detail.error.code", "detail.draft_info.kind")

PROGRESS_FRACTION = _paths("detail.pending_info.progress_pct")  # 0 to 1, an integer 1 included
PROGRESS = _paths("detail.progress_pct", "progress_pct", "progress", "detail.progress")

CREATED_AT = _paths("detail.created_at", "created_at", "submit_time")
COMPLETED_AT = _paths("detail.completed_at", "completed_at", "finish_time")
UPDATED_AT = _paths("status_update_time", "detail.status_update_time", "updated_at")
PROMPT = _paths("enhanced_prompt", "detail.enhanced_prompt")
MODEL = _paths("detail.req.model", "model")

# Keys by which an object without an id or a detail speaks of a job all the same.
JOB_KEYS = frozenset(
    {
        "video_url", "url", "result_url", "video", "videos", "output", "content", "task_result",
        "model", "req", "prompt", "enhanced_prompt", "seconds", "duration", "size", "usage",
        "progress", "running", "created_at", "completed_at", "status_update_time", "updated_at",
        "submit_time", "finish_time",
    }
)  # fmt: skip

# What is never a result: what went in, and pictures of what came out.
NEVER = re.compile(
    r"image|img|^req|request|^input|thumb|cover|gif|poster|preview|avatar|webhook|callback"
    r"|reference|^refs?$|frame|prompt|error|^message$|^msg$",
    re.IGNORECASE,
)
SPEAKING = re.compile(r"video|url|output|result|download", re.IGNORECASE)
VIDEO_FILES = (".mp4", ".mov", ".webm", ".m3u8")
PICTURE_FILES = (".png", ".jpg", ".jpeg", ".gif", ".webp")


# ------------------------------------------------------------------ reading


def at(value: Json, where: Path) -> Json:
    """What stands at a path; None where it leads nowhere."""
    for step in where:
        value = _stepped(value, step)
        if value is None:
            return None
    return value


def values(document: dict[str, Json], places: Iterable[Path]) -> Iterator[Json]:
    """What stands at each place, in order, but for what is missing or null."""
    for where in places:
        if where[0] not in document:  # most of them, in most answers
            continue
        value = at(document, where)
        if value is not None:
            yield value


def as_object(value: Json) -> dict[str, Json]:
    """The object that a value is, or consists of: listed alone, or as a text; else an empty one."""
    value = _parsed(value)
    if isinstance(value, list) and len(value) == 1:
        value = _parsed(value[0])
    return value if isinstance(value, dict) else {}


def only_text(value: Json) -> str | None:
    """The text that a value is, or that is alone in a list, without quotes around it."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return unquoted(value) or None if isinstance(value, str) else None


def url(value: Json) -> str | None:
    """The http(s) URL that a value is, if it is one: a text, the first in a list, or quoted."""
    for each in value if isinstance(value, list) else [value]:
        text = clean_text(unquoted(each)) if isinstance(each, str) else ""
        if URL_START.match(text) and len(text) <= URL_LIMIT:
            return text
    return None


def first_url(document: dict[str, Json], places: Iterable[Path]) -> str | None:
    """The first URL that stands at one of the places."""
    return next(filter(None, map(url, values(document, places))), None)


def search(document: Json) -> frozenset[str]:
    """The URLs that stand anywhere where a result could: the last resort for a success."""
    return frozenset(_searched(document, "", 0))


def _searched(value: Json, key: str, depth: int) -> Iterator[str]:
    if depth > DEPTH_LIMIT or NEVER.search(key):
        return
    value = _parsed(value)
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _searched(inner, name, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _searched(inner, key, depth + 1)
    elif (found := url(value)) and _could_be_a_result(key, found):
        yield found


def _could_be_a_result(key: str, found: str) -> bool:
    if len(found.split()) > 1:  # a sentence that begins with a URL
        return False
    try:
        file = urlsplit(found).path.casefold()
    except ValueError:
        return False
    spoken = SPEAKING.search(key) is not None and not file.endswith(PICTURE_FILES)
    return spoken or file.endswith(VIDEO_FILES)


def _stepped(value: Json, step: str | int) -> Json:
    if isinstance(step, int):
        value = _parsed(value)
        return value[step] if isinstance(value, list) and step < len(value) else None
    return (value if type(value) is dict else as_object(value)).get(step)


def _parsed(value: Json) -> Json:
    """The value, or what its text is as JSON."""
    if not isinstance(value, str) or len(value) > JSON_TEXT_LIMIT:
        return value
    if not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


# ----------------------------------------------------------- the job's own


@dataclass(frozen=True, slots=True)
class Objects:
    """An answer's objects: the job's own, those within it, and those around it."""

    own: dict[str, Json]
    within: tuple[dict[str, Json], ...] = ()
    around: tuple[dict[str, Json], ...] = ()
    named_within: bool = False  # not the own object names the job, but one within it

    @property
    def all(self) -> tuple[dict[str, Json], ...]:
        """All of them, in the order in which they are asked."""
        return (self.own, *self.within, *self.around)


def objects(document: Json, video_id: str) -> Objects:
    """Find the job's own object among those that have a status.

    It is the first that names the id that was asked for, else the first with any id, else the first
    that says something else about a job, else the innermost. A status around it tells how the
    request went, and one within it what the channel behind the relay said.
    """
    found = list(_members(document, video_id, 0))
    if len(found) < 2:  # most answers are the job's own object
        return Objects(found[0] if found else {})
    named = [each for each in found if names(each, video_id)]
    speaking = [each for each in found if has_status(each)] or named or found[:1]
    own = (
        next((each for each in speaking if names(each, video_id)), None)
        or next((each for each in speaking if any(answered_ids(each))), None)
        or next((each for each in speaking if speaks_of_a_job(each)), None)
        or (speaking[-1] if speaking else {})
    )
    place = next((index for index, each in enumerate(found) if each is own), 0)
    within = tuple(found[place + 1 :])
    named_within = not any(answered_ids(own)) and any(names(each, video_id) for each in within)
    return Objects(own, within, tuple(found[:place]), named_within=named_within)


def _members(value: Json, video_id: str, depth: int) -> Iterator[dict[str, Json]]:
    """The object that a value is, and those within it, from the outside in.

    Of a list, the one that names the job, or the only one.
    """
    value = _parsed(value)
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


def has_status(document: dict[str, Json]) -> bool:
    """Does it have a status, its own or in its detail?"""
    return any(map(only_text, values(document, (*STATUS, *INNER_STATUS))))


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


def same_id(one: str, other: str) -> bool:
    """Are they one id, but for a prefix that one of them lacks?"""
    return one == other or bare_id(one) == bare_id(other)


def bare_id(video_id: str) -> str:
    """An id without its prefix, as it is compared."""
    return video_id.strip().rpartition(":")[2].casefold()
