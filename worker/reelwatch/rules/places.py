"""Where an answer keeps what: the one table of places, and the reader of its paths. Pure.

The same route answers in many shapes, by model and by the channel behind the relay. What is known
of them stands here, best place first, as `docs/upstream.md` tells it; for the next shape a path is
added here and nothing else changes. A path names keys and positions: `task_result.videos[0].url`.
Wherever a path leads through an object, a list of just that object or its JSON as a text will do.
Keys are written as here, `task_id`; `snaked` brings others (`taskId`, `Status`) to that form.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

from reelwatch.rules.cleaning import Json, unquoted
from reelwatch.rules.result_urls import unusable, url

Path = tuple[str | int, ...]

STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
JSON_TEXT_LIMIT = 65_536  # characters; a longer text is not searched for an object inside it
DEPTH_LIMIT = 12  # of what goes through all of an answer
WORD_BEGINS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # within a key


def path(text: str) -> Path:
    """The steps of a path's text; the empty text leads to the answer itself."""
    return tuple(key or int(index) for key, index in STEP.findall(text))


class Places(tuple[Path, ...]):
    """Some places, the best first."""

    by_key: tuple[tuple[str, tuple[Path, ...]], ...]  # the key that some begin with, and their rest

    def __new__(cls, paths: Iterable[Path]) -> "Places":
        """Group those that follow each other and begin alike: a look-up for all of them."""
        made = super().__new__(cls, paths)
        groups = groupby(made, key=itemgetter(0))
        made.by_key = tuple((key, tuple(each[1:] for each in group)) for key, group in groups)
        return made


def _paths(*texts: str) -> Places:
    return Places(map(path, texts))


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
ANY_STATUS = Places((*STATUS, *INNER_STATUS))
IDS = _paths("id", "task_id")
RUNNING = _paths("running", "is_running", "detail.running")
DETAIL = path("detail")

VIDEO_URL_TEXTS = ("video_url", "detail.upsample_video_url", "detail.video_url", "detail.url")
VIDEO_URLS = _paths(*VIDEO_URL_TEXTS)
RESULTS = _paths(  # of a success; of any other status these may be anything
    *VIDEO_URL_TEXTS,
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
# Where nothing but a URL is expected.
URLS_ALONE = Places(each for each in RESULTS if each not in (("output",), ("fail_reason",)))
NAMED_URLS = {
    "upsampled": _paths("detail.upsample_video_url"),
    "original": _paths("detail.video_url", "detail.url"),
}

# Error texts; below a success they are leftovers of retries.
ERRORS = _paths(
    "error",
    "error_message",
    "error_msg",
    "err_msg",
    "error_detail",
    "errors",
    "fail_reason",
    "failure_reason",
    "failure_message",
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
MESSAGES = _paths(
    "message", "msg", "task_status_msg", "reason", "failure", "detail.message", "detail.reason",
    "detail",
)  # fmt: skip
# Codes that stand beside such texts: reasons of their own where there is no text.
CODES = _paths("error_code", "err_code", "code", "detail.error_code", "detail.err_code")
# Not fit to be told, but a policy's name may stand there.
HINTS = _paths("error.code", "error.type", "detail.error.code", "detail.draft_info.kind")

PROGRESS_FRACTION = _paths("detail.pending_info.progress_pct")  # 0 to 1, an integer 1 included
PROGRESS = _paths("detail.progress_pct", "progress_pct", "progress", "detail.progress")
ANY_PROGRESS = Places((*PROGRESS_FRACTION, *PROGRESS))

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
    r"|reference|^refs?$|frame|prompt|error|^message$|^msg$|^param|^source_|remix|^audio|^music"
    r"|notif|^status_|^response_url|^cancel|^docs?_|^help$",
    re.IGNORECASE,
)
SPEAKING = re.compile(r"video|url|uri|output|result|download", re.IGNORECASE)
OTHER_FILES = (
    ".png", ".jpg", ".jpeg", ".gif", ".webp", ".mp3", ".wav", ".m4a", ".srt", ".vtt", ".json",
)  # fmt: skip


# ------------------------------------------------------------------ reading


def at(value: Json, where: Path) -> Json:
    """What stands at a path; None where it leads nowhere."""
    for step in where:
        value = _stepped(value, step)
        if value is None:
            return None
    return value


def values(document: dict[str, Json], places: Places) -> Iterator[Json]:
    """What stands at each place, in order, but for what is missing or null."""
    for key, rests in places.by_key:
        inner = document.get(key)
        if inner is None:  # most of them, in most answers
            continue
        for rest in rests:
            if rest and type(inner) is dict and rest[0] not in inner:
                continue
            value = at(inner, rest)
            if value is not None:
                yield value


def as_object(value: Json) -> dict[str, Json]:
    """The object that a value is, or consists of: listed alone, or as a text; else an empty one."""
    value = parsed(value)
    if isinstance(value, list) and len(value) == 1:
        value = parsed(value[0])
    return value if isinstance(value, dict) else {}


def only_text(value: Json) -> str | None:
    """The text that a value is, or that is alone in a list, without quotes around it."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return unquoted(value) or None if isinstance(value, str) else None


def first_url(document: dict[str, Json], places: Places) -> str | None:
    """The first URL that stands at one of the places."""
    return next(filter(None, map(url, values(document, places))), None)


def first_unusable(document: dict[str, Json]) -> str | None:
    """The first that is given as the video's URL and that nobody can use, and why."""
    return next(filter(None, map(unusable, values(document, URLS_ALONE))), None)


def _stepped(value: Json, step: str | int) -> Json:
    if isinstance(step, int):
        value = parsed(value)
        return value[step] if isinstance(value, list) and step < len(value) else None
    return (value if type(value) is dict else as_object(value)).get(step)


def parsed(value: Json) -> Json:
    """The value, or what its text is as JSON."""
    if not isinstance(value, str) or len(value) > JSON_TEXT_LIMIT:
        return value
    if not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def snaked(value: Json, *, texts: bool = True, depth: int = 0) -> Json:
    """The value with its keys in the table's form, with `texts` also within JSON that is a text.

    Of two keys that come to one, the one that is in that form already counts.
    """
    value = parsed(value) if texts else value
    if depth > DEPTH_LIMIT:
        return value
    if isinstance(value, list):
        return [snaked(each, texts=texts, depth=depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    keys = {key: WORD_BEGINS.sub("_", key).casefold() for key in value}
    keys |= {key: key for key in set(keys.values()) & keys.keys()}
    free = {key for key in value if keys[key] == key or keys[key] not in value}
    return {
        keys[key]: snaked(value[key], texts=texts, depth=depth + 1) for key in value if key in free
    }
