"""Which texts can be the id of a video, and what a text that can't be one was meant to be. Pure.

An id is whatever upstream gave: letters, digits and marks, in no form that could be relied on. So
only what is evidently something else is refused here; upstream would answer "not found" to it for
minutes, and the video that was meant would be forgotten.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

from reelwatch.errors import Refused, UnknownJob

ID_LIMIT = 200
# What is told of a character, by its category in Unicode: no id holds one of these.
_UNSEEN = {"Cc": "control", "Cf": "invisible", "Cs": "half", "Co": "private", "Cn": "unassigned"}

_ONE = (str, bytes, bytearray, memoryview, Mapping)  # can be gone through, and are no lists

T = TypeVar("T")

_FILE_ENDS = "txt|csv|tsv|json|jsonl|ndjson|list|log|md|ya?ml|xlsx?|ods|py|sh|mp4|mov|webm|m3u8|mkv"
_NO_VALUES = "none|null|nil|undefined|nan|true|false|id|video_?id|task_?id"
_TYPED_QUOTES = "\u00b4\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb"
_BY_FILE = "`reelwatch track --file FILE` reads ids from a file"

# What is evidently no id, what to do about it, and which command may help. The first that is found
# is told.
_MIX_UPS: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), hint, "".join(at_command))
    for pattern, hint, *at_command in (
        (r"\w+://|^www\.", "it is a URL; the id is what upstream answered when it took the job"),
        (r"\s#", "it has a comment behind it; leave that out",
         f"{_BY_FILE}, with comments on lines of their own"),
        (r"^#", "it is a comment"),
        (r"[{}\[\]]", "it is a piece of JSON, or of a template; hand in the text of its id alone"),
        (rf"[\"'`{_TYPED_QUOTES}]", "it has quotes; leave them out"),
        (r"[,;]", "it has a comma or semicolon; several ids are separated by blanks",
         f"{_BY_FILE}, a CSV file too"),
        (r"\s", "it has a blank; several ids are separate arguments, or items of a list"),
        (r"[<>*?|]|^\$", "it is a placeholder or a pattern, not the id of one job"),
        (r"\\", "it has a backslash, as the name of a file may have", _BY_FILE),
        (r"^\.{1,2}/|^~/", "it is a file's name", _BY_FILE),
        (rf"^[^:]*\.({_FILE_ENDS})$", "it is a file's name", _BY_FILE),
        (r"^-$|^--", "it is an option, not an id"),
        (r"%[0-9a-f]{2}", "it is percent-encoded, as in a URL; hand it in decoded"),
        (r"^(video_|task_)?id=", "what stands before its `=` is no part of it"),
        (r"…|\.{3}$", "it has been cut; copy the whole of it"),
        (r"\uff1a", "its colon is a full-width one (U+FF1A), `:` is meant"),
        (r":$", "nothing stands behind its colon"),
        (rf"^(.*:)?({_NO_VALUES})$", "it ends in `{end}`, a placeholder or what an empty variable "
         "leaves"),
    )
)  # fmt: skip

# model:rest of nothing but letters, digits, `-` and `_`: none of the above finds anything in it.
_PLAIN = re.compile(rf"[a-z0-9][\w.-]*:(?!({_NO_VALUES})$)[\w-]+", re.IGNORECASE | re.ASCII)

# What most ids look like: model:rest, a bare uuid, task_…. To find them beside other values.
_USUAL = re.compile(
    r"[a-z][\w.-]*:[^:\s]+|task_\w+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I
)


def check_video_id(video_id: object) -> str:
    """The id of a video to be tracked, without blanks around it. Raises `Refused`, with a hint."""
    stripped = check_tracked_id(video_id)
    if _PLAIN.fullmatch(stripped):
        return stripped
    for pattern, hint, at_command in _MIX_UPS:
        if pattern.search(stripped):
            why = hint.format(end=stripped.rpartition(":")[2])
            raise Refused(f"{stripped!r} can't be a video id: {why}", at_command=at_command)
    return stripped


def check_tracked_id(video_id: object) -> str:
    """The same for an id that may be tracked already: only what could not be stored is refused."""
    if not isinstance(video_id, str):
        raise Refused(f"video id: {video_id!r} is not a text")
    stripped = video_id.strip(" ")
    if not stripped:
        raise Refused("video id: it is empty")
    if len(stripped) > ID_LIMIT:
        raise Refused(f"video id: {len(stripped)} characters, at most {ID_LIMIT} are accepted")
    refuse_controls("video id", stripped)
    return stripped


def check_video_ids(video_ids: Iterable[object]) -> list[str]:
    """The ids without blanks around them. Of several, the `Refused` says which one is wrong."""
    ids = several(video_ids)
    checked: list[str] = []
    for number, video_id in enumerate(ids, 1):
        try:
            checked.append(check_video_id(video_id))
        except Refused as error:
            if len(ids) == 1:
                raise
            said = f"id {number} of {len(ids)}, {error.said}; nothing was stored"
            raise Refused(said, at_command=error.at_command) from None
    return checked


def several(video_ids: Iterable[T]) -> list[T]:
    """The ids as a list. Raises `Refused` for a text or mapping, whose parts would pass for ids."""
    if isinstance(video_ids, Iterable) and not isinstance(video_ids, _ONE):
        return list(video_ids)
    kind = "the text " if isinstance(video_ids, str) else ""
    shown = repr(video_ids)
    shown = shown if len(shown) <= ID_LIMIT else f"{shown[:ID_LIMIT]}…"
    raise Refused(f"video_ids: a list of ids is accepted, not {kind}{shown}")


def refuse_controls(what: str, text: str) -> None:
    """Raise `Refused` for a text with a character that is not to be seen."""
    if text.isprintable():  # most are; what is not may still hold none
        return
    for character in text:
        kind = _UNSEEN.get(unicodedata.category(character))
        if kind:
            raise Refused(f"{what}: it holds the {kind} character U+{ord(character):04X}")


def unknown_id(said: str, text: str) -> UnknownJob:
    """What is said where nobody knows a job of that id: also why it can't be one, if that is so."""
    try:
        check_video_id(text)
    except Refused as error:
        return UnknownJob(f"{said}; {error.said}", at_command=error.at_command)
    return UnknownJob(said)


def can_be(text: str) -> bool:
    """Would it be accepted?"""
    try:
        check_video_id(text)
    except Refused:
        return False
    return True


def looks_usual(text: str) -> bool:
    """Does it look as most ids do? Those that don't are ids all the same."""
    return _USUAL.fullmatch(text) is not None and can_be(text)
