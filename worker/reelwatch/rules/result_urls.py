"""The URL that a text of upstream's is, and why it is not taken where it can't be used. Pure.

What is signed must stay as it came: only what stands around a URL is taken off, and what was done
to all of it, such as escaping it twice, is undone.
"""

import json
import re
from urllib.parse import urlsplit

from reelwatch.rules.cleaning import Json, clean_text, unquoted

URL_LIMIT = 8_192  # characters
SHOWN_LIMIT = 80  # characters of one that is not taken
VIDEO_FILES = (".mp4", ".mov", ".webm", ".m3u8")

_START = re.compile(r"https?://", re.IGNORECASE)
_MARKED = re.compile(r"<(https?://[^\s<>]+)>|!?\[[^\]]*\]\((https?://[^\s()]+)\)", re.IGNORECASE)
_ESCAPED = re.compile(r"(?:https?:)?\\/\\/", re.IGNORECASE)
_NO_SCHEME = re.compile(r"//[\w-]+(?:\.[\w-]+)+(?::\d+)?/\S", re.ASCII)
_NEXT = re.compile(r"[,;\s]+(?=https?://)", re.IGNORECASE)
# An address of any kind, and not just a word: with a scheme, a path, or a video file's name.
_ADDRESS = re.compile(
    r"[a-z][a-z0-9+.-]*:\S+|[./\\]*[/\\]\S+|\S+\.(?:mp4|mov|webm|m3u8)(?:[?#]\S*)?", re.IGNORECASE
)


def url(value: Json) -> str | None:
    """The http(s) URL that a value is, if it is one: a text, the first in a list, or quoted.

    Angle brackets and a Markdown link count as quotes.
    """
    texts = map(_text, value if isinstance(value, list) else [value])
    return next((text for text in texts if _START.match(text) and _flaw(text) is None), None)


def unusable(value: Json) -> str | None:
    """What a value gives as a URL that nobody can use, and why; None where it gives none."""
    for text in map(_text, value if isinstance(value, list) else [value]):
        if _START.match(text) or (_ADDRESS.fullmatch(text[:URL_LIMIT])):
            plain = re.split(r"[?#]", text[:URL_LIMIT], maxsplit=1)[0]  # the rest may be signed
            shown = plain if len(plain) <= SHOWN_LIMIT else f"{plain[:SHOWN_LIMIT]}…"
            return f"{shown} ({_flaw(text)})"
    return None


def is_video_file(text: str) -> bool:
    """Does its path end as a video's does?"""
    try:
        return urlsplit(text).path.casefold().endswith(VIDEO_FILES)
    except ValueError:
        return False


def _text(value: Json) -> str:
    """What a text says, without what stands around it; of several videos' URLs the first."""
    text = clean_text(unquoted(value)) if isinstance(value, str) else ""
    if marked := _MARKED.fullmatch(text):
        text = marked[1] or marked[2]
    if _ESCAPED.match(text):
        text = _unescaped(text)
    if _NO_SCHEME.match(text):
        text = f"https:{text}"
    several = _NEXT.split(text) if text.count("://") > 1 else []
    return several[0] if several and all(map(is_video_file, several)) else text


def _unescaped(text: str) -> str:
    """The text that stands in JSON as this one does."""
    try:
        return clean_text(json.loads(f'"{text}"'))
    except ValueError:
        return text


def _flaw(text: str) -> str | None:
    """Why nobody can use it; None where nothing speaks against it."""
    if not _START.match(text):
        return "no http(s) URL"
    if len(text) > URL_LIMIT:
        return f"of {len(text):,} characters, and {URL_LIMIT:,} are kept at most"
    try:
        parts = urlsplit(text)
        is_there = parts.hostname and parts.port != 0  # reading the port checks it
    except ValueError:
        is_there = False
    return None if is_there else "no host or port to ask"
